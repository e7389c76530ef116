"""Comparison of a model's scores with published ones."""

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Evaluation
from tagger.models.registry import MODELS
from tagger.text import TaggerError

NUM_TAGS = 50  # in every published table


def scores_on(dataset: str) -> list[tuple]:
    """Returns model, ROC-AUC, PR-AUC and source with options of each published score.

    Raises:
        ValueError: there are no published scores for this dataset.
    """
    rows = [
        (
            model,
            row.roc_auc,
            row.pr_auc,
            ", ".join([row.source, *(f"{k} {v}" for k, v in row.options.items())]),
        )
        for model, entry in MODELS.items()
        for row in entry.published
        if row.dataset == dataset
    ]
    if not rows:
        known = {row.dataset for e in MODELS.values() for row in e.published}
        raise TaggerError(
            f"There are no published scores for {dataset}, only for"
            f" {', '.join(sorted(known))}."
        )
    return rows


def compare(scored: Evaluation, name: str) -> str:
    """Returns a table of the published scores and this model's, best first."""
    rows = sorted(scores_on(scored.dataset), key=lambda row: -row[1])
    macro = metrics.macro(scored)
    ours = f"this model, {scored.split} split"
    rows.append((name, macro["roc_auc"], macro["pr_auc"], ours))
    is_comparable = len(scored.tags) == NUM_TAGS
    if is_comparable:
        rows.sort(key=lambda row: -row[1])
    else:
        caveat = (
            f"This model is listed last because it was scored on {len(scored.tags)}"
            f" tags, the published ones on {NUM_TAGS}: the scores are not comparable.\n"
        )
    lines = "\n".join(
        f"{model:<21}  {roc_auc:<7.4f}  "
        + (f"{pr_auc:<6.4f}  {source}" if pr_auc else f"–       {source}")
        for model, roc_auc, pr_auc, source in rows
    )
    lines = f"{'model':<21}  ROC-AUC  PR-AUC  source\n{lines}"
    return (
        f"{lines}\n{'' if is_comparable else caveat}This model's split:"
        f" {scored.dataset}, {scored.split_rule}. The published splits contain other"
        " clips; above all they differ in whether untagged clips count, so compare"
        " PR-AUC with care."
    )
