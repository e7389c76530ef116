"""The last layers of a tagger as arrays: from an embedding to the scores of tags.

The same `Head` is joined to Keras networks (`derivation.with_head`) and to graphs of
ONNX (`graphs.with_head`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

NO_HEAD = (
    "is an average of models, or its last layer is no sigmoid: it cannot be trained or"
    " extended. Give a single model."
)


@dataclasses.dataclass(frozen=True)
class Head:
    """A dense layer with a sigmoid, and, in an average, the means of its scores.

    Attributes:
        kernel: float32 [channels, num_scores].
        bias: float32 [num_scores].
        tags: Names of the tags; None: unknown.
        shares: float32 [num_scores, num_tags]: how much each score counts in each tag
            of an average; None: each score is that of a tag.
    """

    kernel: np.ndarray
    bias: np.ndarray
    tags: tuple[str, ...] | None = None
    shares: np.ndarray | None = None

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns scores [num_rows, num_tags] of embeddings [num_rows, channels]."""
        logits = rows @ self.kernel + self.bias
        scores = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
        return scores if self.shares is None else scores @ self.shares


def kept_tags(bases: Sequence[Head], new_tags: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the tags of heads that are not among the new ones, each once."""
    held = dict.fromkeys(tag for base in bases for tag in base.tags)
    return tuple(tag for tag in held if tag not in new_tags)


def joined(heads: Sequence[Head]) -> Head:
    """Returns a head of all scores on concatenated embeddings, without tags."""
    before = np.cumsum([0, *(len(one.kernel) for one in heads)])
    kernels = [
        np.pad(one.kernel, ((start, before[-1] - start - len(one.kernel)), (0, 0)))
        for start, one in zip(before, heads, strict=False)
    ]
    biases = [one.bias for one in heads]
    return Head(np.concatenate(kernels, axis=1), np.concatenate(biases))


def appended(bases: Sequence[Head], new: Head) -> Head:
    """Returns a head that scores the tags of others as they do, then new ones.

    Args:
        bases: Heads with tags; of a tag that several have, the first counts.
        new: Head on their concatenated embeddings.
    """
    kept, held = kept_tags(bases, new.tags), joined(bases)
    names = [tag for base in bases for tag in base.tags]
    columns = [names.index(tag) for tag in kept]
    return Head(
        np.concatenate([held.kernel[:, columns], new.kernel], axis=1),
        np.concatenate([held.bias[columns], new.bias]),
        (*kept, *new.tags),
    )


def averaged(members: Sequence[Head]) -> Head:
    """Returns a head that scores each tag by the mean of all heads that have it."""
    tags, held = kept_tags(members), joined(members)
    names = [tag for member in members for tag in member.tags]
    shares = np.equal.outer(names, tags).astype(np.float32)
    return dataclasses.replace(held, tags=tags, shares=shares / shares.sum(axis=0))
