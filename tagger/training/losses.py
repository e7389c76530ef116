"""Losses on logits, one value per example and tag.

LOSSES[name](targets [batch, num_tags], logits [batch, num_tags]) -> [batch, num_tags]

Targets are labels or a teacher's scores, 0 to 1. The gradient of a logit that is far
off does not vanish, as it does behind a clipped sigmoid. A loss of your own is one more
entry; `TrainingRecipe.loss` names it.
"""

from keras import ops

from tagger.text import TaggerError

EPSILON = 1e-6


def binary_crossentropy(targets, logits):
    """Returns -y log s(z) - (1 - y) log(1 - s(z)) of targets y and logits z."""
    return targets * ops.softplus(-logits) + (1 - targets) * ops.softplus(logits)


LOSSES = {"bce": binary_crossentropy}


def loss_of(name: str):
    """Returns an entry of LOSSES.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in LOSSES:
        raise TaggerError(f"There is no loss {name!r}, only {', '.join(LOSSES)}.")
    return LOSSES[name]


def softened(scores, temperature: float):
    """Returns scores whose logits are divided by a temperature, of the same shape.

    Reference:
        Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531, section 2.
    """
    if temperature == 1:
        return scores
    scores = ops.clip(scores, EPSILON, 1 - EPSILON)
    return ops.sigmoid((ops.log(scores) - ops.log(1 - scores)) / temperature)


def similarity(targets, embeddings):
    """Returns how differently two networks compare the examples of a batch, [batch].

    Each network gives a cosine for every pair of examples; the loss of an example is
    the mean squared difference of its cosines. The channels are standardised over the
    batch first, so that neither their scale nor their number matters.

    Args:
        targets: Teacher's embeddings [batch, channels].
        embeddings: Student's embeddings [batch, channels].

    Reference:
        Tung and Mori, ICCV 2019, https://arxiv.org/abs/1907.09682 (there without the
        standardisation).
    """
    difference = _cosines(targets) - _cosines(embeddings)
    return ops.mean(ops.square(difference), axis=-1)


def _cosines(embeddings):
    """Returns the cosines of all pairs, [batch, batch]."""
    mean = ops.mean(embeddings, axis=0, keepdims=True)
    variance = ops.var(embeddings, axis=0, keepdims=True)
    scaled = (embeddings - mean) / ops.sqrt(variance + EPSILON)
    length = ops.sqrt(ops.sum(ops.square(scaled), axis=1, keepdims=True) + EPSILON)
    unit = scaled / length
    return ops.matmul(unit, ops.transpose(unit))
