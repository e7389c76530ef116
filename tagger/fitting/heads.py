"""Heads of taggers: from embeddings to scores, fitted and cross-validated.

embeddings [num_segments, channels] of each clip, labels, folds -> `Head`, and scores of
every clip by a head that was fitted without the clip's group.

A head is one logistic regression per tag, fitted to the mean embedding of each clip. A
clip's score is the mean of its segments' scores, as in `inference.tagger`, so
thresholds found here hold there.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from tagger.models.head import Head

# Penalties to choose from, the strongest first: scikit-learn's C, the inverse of the L2
# penalty, for standardised embeddings. Below the first C, every score is close to the
# share of the clips that have the tag.
PENALTIES = tuple(float(c) for c in 10.0 ** np.arange(-3.5, 0.6, 0.5))
USUAL = 1  # number of the penalty if no tag can be judged
MAX_ITERATIONS = 2000
EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class Examples:
    """The embeddings of labelled clips.

    Attributes:
        rows: float32 [num_segments of all clips, channels], clip after clip.
        num_segments: int [num_clips].
        labels: uint8 0/1 [num_clips, num_tags].
    """

    rows: np.ndarray
    num_segments: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def means(self) -> np.ndarray:
        """Returns the mean embedding of each clip, float32 [num_clips, channels]."""
        return self._mean_of_clips(self.rows)

    def scores(self, head: Head) -> np.ndarray:
        """Returns the mean score of each clip's segments [num_clips, num_tags]."""
        return self._mean_of_clips(head.scores(self.rows))

    def chosen(self, clips: np.ndarray) -> "Examples":
        """Returns some of the clips, given by a mask [num_clips]."""
        rows = self.rows[np.repeat(clips, self.num_segments)]
        return Examples(rows, self.num_segments[clips], self.labels[clips])

    def _mean_of_clips(self, values: np.ndarray) -> np.ndarray:
        starts = np.cumsum(self.num_segments) - self.num_segments
        return np.add.reduceat(values, starts) / self.num_segments[:, None]


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """Scores of every clip by a head that was fitted without the clip's fold.

    Attributes:
        scores: float32 [num_clips, num_tags]; NaN for clips that are in no fold, and
            for tags that cannot be judged.
        penalties: Best penalty of each tag: values of PENALTIES.
    """

    scores: np.ndarray
    penalties: tuple[float, ...]

    @property
    def is_judged(self) -> np.ndarray:
        """Whether each tag has scores, bool [num_tags]."""
        return ~np.isnan(self.scores).all(axis=0)


def cross_validate(examples: Examples, folds: np.ndarray) -> CrossValidation:
    """Scores every clip by a head that was fitted without its fold.

    The clips of the other folds choose the penalty for the clips of a fold, so that no
    clip chooses the penalty of its own head.

    Args:
        examples: Embeddings and labels.
        folds: Fold of each clip [num_clips], from 0; clips with -1 are always fitted.
    """
    num_clips, num_tags = examples.labels.shape
    candidates = np.full((len(PENALTIES), num_clips, num_tags), np.nan, np.float32)
    numbers = [int(fold) for fold in np.unique(folds) if fold >= 0]
    bar = tqdm(
        total=len(numbers) * num_tags,
        desc="Cross-validating",
        unit="tag",
        disable=None,
        leave=False,
    )
    with bar:
        for fold in numbers:
            held_out = folds == fold
            fitted, scored = examples.chosen(~held_out), examples.chosen(held_out)
            is_learnable = _has_both(fitted.labels)
            for number, head in enumerate(_path(fitted, is_learnable, bar)):
                values = scored.scores(head)
                candidates[number, held_out] = np.where(is_learnable, values, np.nan)
    in_folds = folds >= 0
    is_judged = _has_both(examples.labels[in_folds])
    is_judged &= ~np.isnan(candidates[:, in_folds]).any(axis=(0, 1))
    candidates[:, :, ~is_judged] = np.nan
    losses = _losses(candidates, examples.labels)
    scores = np.full((num_clips, num_tags), np.nan, np.float32)
    for fold in numbers:
        others = np.where(folds == fold, -1, folds)
        # The only fold, a validation set, has to choose for itself.
        best = _best(losses, others if (others >= 0).any() else folds)
        for tag in np.flatnonzero(is_judged):
            scores[folds == fold, tag] = candidates[best[tag], folds == fold, tag]
    best = _best(losses, folds)
    return CrossValidation(scores, tuple(PENALTIES[number] for number in best))


def fit(examples: Examples, penalties: Sequence[float]) -> Head:
    """Fits a head to all clips.

    Args:
        examples: Embeddings and labels; every tag has a clip with and one without it.
        penalties: Penalty of each tag, from `cross_validate`.
    """
    scaler = StandardScaler().fit(examples.means())
    standard = scaler.transform(examples.means())
    pairs = zip(examples.labels.T, penalties, strict=True)
    bar = tqdm(pairs, "Fitting", len(penalties), unit="tag", disable=None, leave=False)
    columns = [_logistic(standard, labels, [penalty])[0] for labels, penalty in bar]
    return _unscaled(scaler, columns)


def _path(examples: Examples, is_learnable: np.ndarray, bar: tqdm) -> Iterator[Head]:
    """Yields the head of each of PENALTIES; tags that are not learnable score .5.

    The bar advances by one per tag.
    """
    scaler = StandardScaler().fit(examples.means())
    standard = scaler.transform(examples.means())
    nothing = [(np.zeros(standard.shape[1]), 0.0)] * len(PENALTIES)
    columns = []
    for learnable, labels in zip(is_learnable, examples.labels.T, strict=True):
        fitted = _logistic(standard, labels, PENALTIES) if learnable else nothing
        columns.append(fitted)
        bar.update()
    for of_penalty in zip(*columns, strict=True):
        yield _unscaled(scaler, of_penalty)


def _logistic(
    standard: np.ndarray, labels: np.ndarray, penalties: Sequence[float]
) -> list[tuple[np.ndarray, float]]:
    """Returns coefficients and intercept per penalty; each starts from the last."""
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    found = []
    for penalty in penalties:
        model.set_params(C=penalty)
        with warnings.catch_warnings():
            # A rarely reached limit; cross-validation rejects a bad fit.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(standard, labels)
        found.append((model.coef_[0].copy(), float(model.intercept_[0])))
    return found


def _unscaled(
    scaler: StandardScaler, columns: Sequence[tuple[np.ndarray, float]]
) -> Head:
    """Returns the head of all tags for embeddings that are not standardised."""
    kernels, biases = zip(*columns, strict=True)
    kernel = np.stack(kernels, axis=1) / scaler.scale_[:, None]
    bias = np.array(biases) - scaler.mean_ @ kernel
    return Head(kernel.astype(np.float32), bias.astype(np.float32))


def _has_both(labels: np.ndarray) -> np.ndarray:
    """Returns whether each tag has a clip with and one without it [num_tags]."""
    return labels.any(axis=0) & ~labels.all(axis=0)


def _losses(candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the log loss of each score; candidates [penalties, clips, tags]."""
    bounded = np.clip(candidates.astype(np.float64), EPSILON, 1 - EPSILON)
    return -np.where(labels == 1, np.log(bounded), np.log1p(-bounded))


def _best(losses: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Chooses the penalty of each tag by the rule of one standard error.

    That is the strongest penalty whose loss is within one standard error, over the
    folds, of the lowest loss (Hastie, Tibshirani and Friedman, The Elements of
    Statistical Learning, section 7.10). Tags that cannot be judged take the penalty
    that is best for the mean of all others.

    Args:
        losses: Log losses [num_penalties, num_clips, num_tags].
        folds: Fold of each clip; clips with -1 do not count.

    Returns:
        int [num_tags], numbers of penalties.
    """
    numbers = np.unique(folds[folds >= 0])
    if len(numbers) == 1:  # a validation set: its clips in the place of folds
        units = losses[:, folds >= 0]
    else:
        units = np.stack([losses[:, folds == n].mean(axis=1) for n in numbers], axis=1)
    is_judged = ~np.isnan(units).any(axis=(0, 1))
    shared = USUAL
    if is_judged.any():
        shared = _strongest(units[:, :, is_judged].mean(axis=2))
    best = np.full(losses.shape[2], shared)
    for tag in np.flatnonzero(is_judged):
        best[tag] = _strongest(units[:, :, tag])
    return best


def _strongest(units: np.ndarray) -> int:
    """Returns the first of [penalties, units] within a standard error of the best."""
    lowest = int(np.argmin(units.mean(axis=1)))
    excess = units - units[lowest]
    error = excess.std(axis=1, ddof=min(1, units.shape[1] - 1)) / units.shape[1] ** 0.5
    return int(np.argmax(excess.mean(axis=1) <= error))
