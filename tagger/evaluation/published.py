"""Comparison of a model's scores with those published for the same split."""

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Evaluation
from tagger.models.registry import Published, all_published
from tagger.text import TaggerError

NUM_TAGS = 50  # in every published table
# Column `split` of published.csv, by the start of a split rule.
SPLITS = {
    "as built by resemul": "clean",
    "resemul:": "clean",
    "lee:": "clean",
    "won:": "clean",
    "pons:": "all",
    "multi_scale:": "random",
    "classic:": "classic",
    "top50tags: split 0": "split 0",
}


def scores_on(dataset: str, split_rule: str) -> list[Published]:
    """Returns the scores that were published for a split, the best ROC-AUC first.

    Args:
        dataset: Key of `datasets.DATASETS`.
        split_rule: How the split was made, see `Evaluation`.

    Raises:
        ValueError: there are none.
    """
    starts = [start for start in SPLITS if split_rule.startswith(start)]
    split = SPLITS[starts[0]] if starts else None
    found = [row for row in all_published() if row.dataset == dataset]
    rows = [row for row in found if row.split == split]
    if not rows:
        where = found or all_published()
        known = sorted({f"{row.dataset} ({row.split})" for row in where})
        raise TaggerError(
            f"There are no published scores for {dataset}, {split_rule}, only for"
            f" {', '.join(known)}."
        )
    return sorted(rows, key=lambda row: -(row.roc_auc or 0))


def compare(scored: Evaluation, name: str) -> str:
    """Returns a table of the published scores and this model's, best first."""
    published = scores_on(scored.dataset, scored.split_rule)
    macro = metrics.macro(scored)
    rows = [(row.model, row.roc_auc, row.pr_auc, row.described()) for row in published]
    mine = f"this model, {scored.split} split, {len(scored.tags)} tags"
    rows.append((name, macro["roc_auc"], macro["pr_auc"], mine))
    rows.sort(key=lambda row: -(row[1] or 0))
    width = max(len(model) for model, *_ in rows)
    lines = [f"{'model':<{width}}  ROC-AUC  PR-AUC  source"]
    for model, *values, source in rows:
        roc_auc, pr_auc = (f"{value:.4f}" if value else "–" for value in values)
        lines.append(f"{model:<{width}}  {roc_auc:<7}  {pr_auc:<6}  {source}")
    lines.append(f"All on {scored.dataset}, test set {published[0].split!r}.")
    if len(scored.tags) != NUM_TAGS:
        lines.append(
            f"This model was scored on {len(scored.tags)} tags, the published ones on"
            f" {NUM_TAGS}: the scores are not comparable."
        )
    return "\n".join(lines)
