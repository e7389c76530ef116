"""Heads of taggers: from embeddings to scores, fitted and cross-validated.

embeddings [num_segments, channels] of each clip, labels, folds -> `Head`, and scores of
every clip by a head that was fitted without the clip's group.

A head is one logistic regression per tag, fitted to the mean embedding of each clip,
with one penalty for all. A clip's score is the mean of its segments' scores, as in
`inference.tagger`, so thresholds found here hold there.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize
from tqdm import tqdm

from tagger.models.head import Head

# The prior variance of a clip's logit: scikit-learn's C is the variance of a
# coefficient, and the squared length of a standardised embedding is its number of
# channels. From .05 to .4, scores on other artists hardly differ
# (`benchmarks/penalty.py`); a search over folds that share artists chooses penalties a
# hundred times too weak.
LOGIT_VARIANCE = 0.2
MAX_ITERATIONS = 2000
ALIKE = 0.5  # cosine distance up to which clips are held out together
MAX_LINKED = 10_000  # clips whose distances fit into memory: 400 MB
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


def cross_validate(examples: Examples, folds: np.ndarray) -> np.ndarray:
    """Scores every clip by a head that was fitted without its fold.

    Args:
        examples: Embeddings and labels.
        folds: Fold of each clip [num_clips], from 0; clips with -1 are always fitted.

    Returns:
        float32 [num_clips, num_tags]; NaN for clips that are in no fold, and for tags
        that cannot be judged.
    """
    scores = np.full(examples.labels.shape, np.nan, np.float32)
    is_judged = _has_both(examples.labels[folds >= 0])
    numbers = [int(fold) for fold in np.unique(folds) if fold >= 0]
    for fold in tqdm(
        numbers, "Cross-validating", unit="fold", disable=None, leave=False
    ):
        held_out = folds == fold
        fitted = examples.chosen(~held_out)
        is_judged &= _has_both(fitted.labels)
        scores[held_out] = examples.chosen(held_out).scores(fit(fitted))
    scores[:, ~is_judged] = np.nan
    return scores


def fit(examples: Examples, penalty: float | None = None) -> Head:
    """Fits a head to all clips; a tag that all of them have, or none, scores .5.

    Args:
        examples: Embeddings and labels.
        penalty: scikit-learn's C, the inverse of the L2 penalty, for standardised
            embeddings; None: LOGIT_VARIANCE over the number of channels.
    """
    scaler = StandardScaler().fit(examples.means())
    standard = scaler.transform(examples.means())
    num_channels = standard.shape[1]
    model = LogisticRegression(
        C=penalty or LOGIT_VARIANCE / num_channels, max_iter=MAX_ITERATIONS
    )
    columns, has_both = [], _has_both(examples.labels)
    bar = tqdm(examples.labels.T, "Fitting", unit="tag", disable=None, leave=False)
    for labels, is_learnable in zip(bar, has_both, strict=True):
        if is_learnable:
            model.fit(standard, labels)
            columns.append((model.coef_[0].copy(), float(model.intercept_[0])))
        else:
            columns.append((np.zeros(num_channels), 0.0))
    return unscaled(scaler, columns)


def unscaled(
    scaler: StandardScaler, columns: Sequence[tuple[np.ndarray, float]]
) -> Head:
    """Returns the head of all tags for embeddings that are not standardised."""
    kernels, biases = zip(*columns, strict=True)
    kernel = np.stack(kernels, axis=1) / scaler.scale_[:, None]
    bias = np.array(biases) - scaler.mean_ @ kernel
    return Head(kernel.astype(np.float32), bias.astype(np.float32))


def groups_of_sound(means: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the group of each clip, str [num_clips], one for clips that sound alike.

    It stands in for artists that are not known: average linkage up to a cosine distance
    of ALIKE between standardised embeddings. Of more than MAX_LINKED clips, those
    connected by mutual three nearest neighbours are a group. Where a tag is a sound, as
    rain is, all clips with it would be one group that nothing can judge; then the
    distance is halved, twice at most, and at last every clip is its own group.

    Args:
        means: Mean embedding of each clip, float32 [num_clips, channels].
        labels: 0/1 [num_clips, num_tags].
    """
    rows, found = normalize(StandardScaler().fit_transform(means)), []
    if len(rows) > MAX_LINKED:
        near = NearestNeighbors(n_neighbors=3).fit(rows).kneighbors_graph()
        found = [connected_components(near.minimum(near.T), False)[1]]
    elif len(rows) > 1:
        tree = linkage(rows, "average", metric="cosine")
        found = [fcluster(tree, ALIKE / n, "distance") for n in (1, 2, 4)]
    repeated = labels[:, labels.sum(axis=0) > 1].T > 0
    for groups in found:
        if all(len(np.unique(groups[tag])) > 1 for tag in repeated):
            return groups.astype(str)
    return np.arange(len(rows)).astype(str)


def _has_both(labels: np.ndarray) -> np.ndarray:
    """Returns whether each tag has a clip with and one without it [num_tags]."""
    return labels.any(axis=0) & ~labels.all(axis=0)
