"""Mixes several datasets in every batch, such as labelled and unlabelled music."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tagger.data import pipeline
from tagger.segmentation import Segmentation


@dataclasses.dataclass(frozen=True)
class Source:
    """One of several datasets that are mixed in every batch.

    Attributes:
        shards: Shards to read.
        split: "train", or "student" for unlabelled music.
        weight: Share of every batch, relative to the weights of the other sources.
    """

    shards: pipeline.Shards
    split: str
    weight: float


def mixed_segments(
    sources: Sequence[Source],
    segmentation: Segmentation,
    batch_size: int,
    options: pipeline.ReadOptions = pipeline.ReadOptions(),
    first_batch: int = 0,
) -> tf.data.Dataset:
    """Returns endless batches with a share of each source, in the order of the sources.

    This mixes labelled and unlabelled music for the noisy student, or datasets with the
    same tags.

    Args:
        sources: Sources to mix.
        segmentation: How clips are cut.
        batch_size: Segments per batch, of all sources together.
        options: How to read; each source derives its own seed from options.seed.
        first_batch: Number of the first batch. Each source starts at the epoch, and at
            the batch within it, that it would have reached by then.

    Returns:
        Dataset of (segments [batch_size, *shape], labels float32 [batch_size,
        num_tags]); labels of unlabelled music are UNLABELLED.

    Raises:
        ValueError: the sources differ in tags, sample rate or kind of records, a weight
            is not positive, or the batch is too small for all sources.
    """
    # Labelled sources first, because unlabelled music has no tags to compare.
    first, *others = sorted(sources, key=lambda source: source.split == "student")
    num_tags = len(first.shards.manifest.tags)
    for source in others:
        fields = ["sample_rate", "features", "segment_dtype"]
        fields += ["tags"] * (source.split != "student")
        for field in fields:
            one, other = (getattr(s.shards.manifest, field) for s in (first, source))
            if one != other:
                raise ValueError(
                    f"{first.shards.directory} and {source.shards.directory} cannot be"
                    f" mixed: {field} is {one} in the first but {other} in the second."
                )
    places = split_batch([source.weight for source in sources], batch_size)
    parts = []
    for n, (source, share) in enumerate(zip(sources, places, strict=True)):
        own = dataclasses.replace(options, seed=options.seed + 7919 * n)
        part = source.shards, source.split, segmentation, share, own
        epoch = pipeline.batches_per_epoch(*part)
        if not epoch:
            raise ValueError(
                f"{source.shards.directory} holds fewer {source.split} segments than"
                f" the {share} that one batch needs. Choose a smaller --batch-size."
            )
        segments = pipeline.training_segments(*part, first_epoch=first_batch // epoch)
        parts.append(segments.skip(first_batch % epoch))

    def join(*batches):
        segments, labels = map(list, zip(*batches, strict=True))
        for n, source in enumerate(sources):
            if source.split == "student":  # its build may have other tags
                scores = labels[n][:, len(source.shards.manifest.tags) :]
                unlabelled = tf.fill([places[n], num_tags], pipeline.UNLABELLED)
                labels[n] = tf.concat([unlabelled, scores], axis=1)
        return tf.concat(segments, axis=0), tf.concat(labels, axis=0)

    mixed = tf.data.Dataset.zip(tuple(parts)).map(join, tf.data.AUTOTUNE)
    return mixed.prefetch(tf.data.AUTOTUNE)


def split_batch(weights: list[float], batch_size: int) -> list[int]:
    """Splits a batch by weights; the largest remainders are rounded up.

    Raises:
        ValueError: a weight is not positive, or a source gets no segment.
    """
    if min(weights) <= 0:
        raise ValueError(f"Weights of sources must be positive, not {min(weights):g}.")
    exact = np.array(weights) / sum(weights) * batch_size
    dealt = np.floor(exact).astype(int)
    dealt[np.argsort(dealt - exact, kind="stable")[: batch_size - dealt.sum()]] += 1
    if dealt.min() < 1:
        raise ValueError(
            f"A batch of {batch_size} is too small for {len(weights)} sources with the"
            f" weights {', '.join(f'{w:g}' for w in weights)}. Choose a larger"
            " --batch-size."
        )
    return dealt.tolist()
