"""Compares penalties of `fit`, and folds that judge it, on artists it never heard.

    python benchmarks/penalty.py tracks.csv --from student

tracks.csv has the columns path, tags and artist. Artists are dealt to train and test
again and again; the heads hear the train clips and are scored on the test clips. Two
tables: the macro ROC-AUC and PR-AUC of each penalty, and how much higher than that the
score is that `fit` would print, by what is held out together in its folds.
"""

import argparse
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from tagger import fitting, models
from tagger.datasets.splitting import deal_folds
from tagger.fitting import heads, labelled_clips
from tagger.inference.embedding_cache import EmbeddingCache
from tagger.weights import pretrained

FACTORS = (0.05, 0.2, 0.4, 1.6)  # of C times the number of channels
GRID = 10.0 ** np.arange(-4, 1)
TEST_SHARE = 0.25


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv")
    parser.add_argument("--from", dest="base", default="student")
    parser.add_argument("--num-splits", type=int, default=20)
    parser.add_argument("--size", type=int, help="positive clips per tag, at most")
    args = parser.parse_args()
    clips, examples = embedded(args.csv, args.base)
    if clips.group_kind != "artist":
        parser.error(f"{args.csv} names no artists")
    random = np.random.default_rng(0)
    results, printed = [], []
    bar = tqdm(total=args.num_splits, disable=None)
    while len(results) < args.num_splits:
        is_test = split(clips.groups, random)
        train = thinned(clips.labels, ~is_test, args.size, random)
        kept = clips.labels[is_test].sum(axis=0) >= 3
        kept &= clips.labels[train].sum(axis=0) >= 5
        if kept.sum() < 2:
            continue
        held = Split(examples, clips.groups, train, is_test, kept)
        results.append(held.by_penalty())
        printed.append(held.printed_minus_true())
        bar.update()
    bar.close()
    print(f"{args.num_splits} splits of {len(clips)} clips, {args.base}")
    for title, rows in (("penalty", results), ("held out together", printed)):
        print(f"\n| {title} | ROC-AUC | PR-AUC |\n|---|---|---|")
        for name in rows[0]:
            values = np.array([row[name] for row in rows])
            mean = values.mean(axis=0)
            # Nadeau and Bengio 2003: the splits share clips.
            ratio = 1 / len(values) + TEST_SHARE / (1 - TEST_SHARE)
            error = 1.96 * values.std(axis=0, ddof=1) * ratio**0.5
            cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
            print(f"| {name} | {' | '.join(cells)} |")


def embedded(path: str, base: str):
    """Returns the clips of a csv, except those of its split test, and embeddings."""
    info = models.files.read_info(pretrained.path_of(base))
    clips = labelled_clips.read_clips(path, info)
    cache, backbones = EmbeddingCache(), [fitting.fit.backbone_of(base)]
    clips = labelled_clips.embed(clips, cache, backbones, info, 0.1, [])
    return clips, clips.examples(cache, backbones)


def split(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws artists until a quarter of the clips is test."""
    is_test = np.zeros(len(groups), bool)
    for group in random.permutation(np.unique(groups)):
        if is_test.mean() >= TEST_SHARE:
            break
        is_test |= groups == group
    return is_test


def thinned(labels, among: np.ndarray, size: int | None, random) -> np.ndarray:
    """Keeps at most so many positive clips per tag."""
    if not size:
        return among
    counts, kept = np.zeros(labels.shape[1]), np.zeros(len(labels), bool)
    for clip in random.permutation(np.flatnonzero(among)):
        if (counts[labels[clip] > 0] < size).all():
            kept[clip] = True
            counts += labels[clip]
    return kept


class Split:
    """One split of the clips to train and test."""

    def __init__(self, examples, groups, train, test, tags):
        self.train = heads.Examples(
            *_chosen(examples, train), examples.labels[train][:, tags]
        )
        self.test = heads.Examples(
            *_chosen(examples, test), examples.labels[test][:, tags]
        )
        self.groups = groups[train]

    def scores(self, head) -> tuple[float, float]:
        """Returns the macro ROC-AUC and PR-AUC on the test clips."""
        return macro(self.test.labels, self.test.scores(head))

    def by_penalty(self) -> dict:
        """Returns the test scores of each rule for the penalty."""
        channels = self.train.rows.shape[1]
        found = {}
        for factor in FACTORS:
            found[f"C = {factor} / channels"] = self.scores(
                heads.fit(self.train, factor / channels)
            )
        clips = np.arange(len(self.train))
        for name, groups in (("artists", self.groups), ("clips", clips)):
            found[f"search over {name}"] = self.scores(self.searched(groups))
        return found

    def searched(self, groups: np.ndarray):
        """Chooses the penalty of each tag by the log loss over five folds."""
        scaler = StandardScaler().fit(self.train.means())
        rows, columns = scaler.transform(self.train.means()), []
        for labels in self.train.labels.T:
            parts = GroupKFold(5).split(rows, labels, groups)
            parts = [p for p in parts if 0 < labels[p[0]].sum() < len(p[0])]
            model = LogisticRegressionCV(
                Cs=GRID, cv=parts, scoring=neg_log_loss, max_iter=500
            )
            with warnings.catch_warnings():  # names of attributes that will change
                warnings.simplefilter("ignore", FutureWarning)
                model.fit(rows, labels)
            columns.append((model.coef_[0], float(model.intercept_[0])))
        return heads.unscaled(scaler, columns)

    def printed_minus_true(self) -> dict:
        """Returns how much the printed scores exceed the true ones, for each folds."""
        true = np.array(self.scores(heads.fit(self.train)))
        found = {}
        for name, groups in (
            ("artists", self.groups),
            (
                "clips that sound alike",
                heads.groups_of_sound(self.train.means(), self.train.labels),
            ),
            ("single clips", np.arange(len(self.train)).astype(str)),
        ):
            folds = deal_folds(groups, self.train.labels, 5, 0)
            scores = heads.cross_validate(self.train, folds)
            known = ~np.isnan(scores).any(axis=0)
            parts = [
                macro(
                    self.train.labels[folds == n][:, known],
                    scores[folds == n][:, known],
                )
                for n in np.unique(folds)
            ]
            found[name] = np.nanmean(parts, axis=0) - true
        return found


def _chosen(examples, mask: np.ndarray) -> tuple:
    chosen = examples.chosen(mask)
    return chosen.rows, chosen.num_segments


def neg_log_loss(model, rows: np.ndarray, labels: np.ndarray) -> float:
    """Returns the log likelihood of labels, of which one class may be missing."""
    scores = np.clip(model.predict_proba(rows)[:, 1], 1e-7, 1 - 1e-7)
    return float(np.where(labels > 0, np.log(scores), np.log1p(-scores)).mean())


def macro(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Returns the mean ROC-AUC and PR-AUC of the tags with both kinds of clips."""
    both = labels.any(axis=0) & ~labels.all(axis=0)
    pairs = list(zip(labels.T[both], scores.T[both], strict=True))
    return tuple(
        float(np.mean([metric(*pair) for pair in pairs]))
        for metric in (roc_auc_score, average_precision_score)
    )


if __name__ == "__main__":
    main()
