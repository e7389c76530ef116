"""Excitations of SE blocks (Kim, Lee and Nam, ICASSP 2018).

https://arxiv.org/abs/1710.10451

model + shards -> a DataFrame of excitations per clip and block -> means per tag, their
distances and spread at each block, and how excitations depend on loudness (the paper's
poster).
"""

import os
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, leaves_list, optimal_leaf_ordering
from scipy.spatial.distance import pdist, squareform

from tagger import models, plotting
from tagger.data.clips import Shards
from tagger.evaluation import alignment, scoring
from tagger.interpretation import figures
from tagger.models.layers import SqueezeExcitation
from tagger.segmentation import INT16_SCALE, Segmentation
from tagger.storage import replacing
from tagger.text import TaggerError


def excitations(
    model: keras.Model,
    shards: Shards,
    split: str = "test",
    batch_size: int = scoring.BATCH_SIZE,
) -> pd.DataFrame:
    """Returns the mean excitations of each clip's segments, for every SE block.

    Args:
        model: Model with SE or ReSE blocks.
        shards: Data to read.
        split: "train", "val" or "test".
        batch_size: Number of segments per call of the model.

    Returns:
        One row per clip and block, index `clip_id`: `ex` (float32 [channels]), `depth`
        (block, counted from 0) and a 0/1 column per tag, as the notebook of the
        original project reads it.

    Raises:
        ValueError: the model has no SE blocks, or model and data do not match.
    """
    layers = [layer for layer in model.layers if isinstance(layer, SqueezeExcitation)]
    if not layers:
        raise TaggerError(
            f"Model {model.name} has no squeeze-and-excitation blocks, so there are no"
            " excitations. Train one with `block=se` or `block=rese`."
        )
    info = models.model_info(model)
    alignment.check_rate(info, shards)
    tags = alignment.tag_names(info, shards)
    probe = models.with_record_inputs(
        keras.Model(model.input, [layer.output for layer in layers], name=model.name),
        shards.dtype,
        shards.manifest.features,
    )
    clips = shards.clips(split)
    means = scoring.clip_means(
        lambda segments: [
            excitation[:, 0] for excitation in probe.predict_on_batch(segments)
        ],
        clips,
        info.segmentation,
        batch_size,
        "Extracting",
    )
    clip_ids, rows = [], []
    for clip_id, labels, of_blocks in zip(
        clips.ids, clips.labels.tolist(), means, strict=True
    ):
        for depth, mean in enumerate(of_blocks):
            clip_ids.append(clip_id)
            rows.append([mean.astype(np.float32), depth, *labels])
    index = pd.Index(clip_ids, name="clip_id")
    return pd.DataFrame(rows, index=index, columns=["ex", "depth", *tags])


def save_excitations(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes the table of `excitations`: Parquet for .parquet paths, else a pickle."""
    with replacing(path) as unfinished:
        if str(path).endswith(".parquet"):
            table.to_parquet(unfinished)
        else:
            table.to_pickle(unfinished)


def load_excitations(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a table that `save_excitations` or the original project wrote.

    A pickle can run code, so load only those from a source you trust.
    """
    return (
        pd.read_parquet(path)
        if str(path).endswith(".parquet")
        else pd.read_pickle(path)
    )


def clip_loudness(shards: Shards, split: str = "test") -> pd.Series:
    """Returns the root mean square of each clip's whole segments, 0 to 1, by id."""
    scale = INT16_SCALE if shards.dtype == "int16" else 1

    def mean_square(segments: np.ndarray) -> list[np.ndarray]:
        return [np.mean((segments.astype(np.float32) / scale) ** 2, axis=1)]

    clips = shards.clips(split)
    squares = scoring.clip_means(
        mean_square,
        clips,
        Segmentation(shards.manifest.segment_samples),
        scoring.BATCH_SIZE,
        "Measuring loudness",
    )
    loudness = [float(np.sqrt(square)) for (square,) in squares]
    loudness = dict(zip(clips.ids, loudness, strict=True))
    return pd.Series(loudness, name="loudness").rename_axis("clip_id")


def tag_excitations(
    table: pd.DataFrame, depth: int, tags: list[str] | None = None
) -> pd.DataFrame:
    """Returns the mean excitation of each tag's clips at one block, [tags, channels].

    Args:
        table: Table from `excitations`.
        depth: Index of the block, from 0.
        tags: Names of the tags; None: all. Tags without clips are left out.

    Raises:
        ValueError: the block or a tag is not in the table.
    """
    known = list(table.columns[2:])
    unknown = set(tags or []) - set(known)
    if unknown:
        raise TaggerError(
            f"Unknown tag {sorted(unknown)[0]!r}. The table has: {', '.join(known)}."
        )
    at_depth = table[table["depth"] == depth]
    if at_depth.empty:
        raise TaggerError(
            f"The table has no block of depth {depth}. Choose one of:"
            f" {', '.join(map(str, sorted(set(table['depth']))))}."
        )
    excitation = np.stack(at_depth["ex"].to_numpy())
    means = {
        tag: excitation[(at_depth[tag] == 1).to_numpy()].mean(axis=0)
        for tag in tags or known
        if (at_depth[tag] == 1).any()
    }
    return pd.DataFrame(means).T.rename_axis(index="tag", columns="channel")


def excitation_spread(table: pd.DataFrame) -> pd.Series:
    """Returns the standard deviation across tags of each block, averaged over channels.

    Args:
        table: Table from `excitations`.
    """
    spread = {
        depth: tag_excitations(table, depth).std(axis=0, ddof=0).mean()
        for depth in sorted(set(table["depth"]))
    }
    return pd.Series(spread, name="standard deviation").rename_axis("depth")


def most_different_tags(table: pd.DataFrame, num_tags: int = 3) -> list[str]:
    """Returns the tags whose mean excitations differ most from those of all tags.

    Args:
        table: Table from `excitations`.
        num_tags: Number of tags to return.
    """
    apart = 0.0
    for depth in sorted(set(table["depth"])):
        means = tag_excitations(table, depth)
        apart += ((means - means.mean()) ** 2).mean(axis=1) ** 0.5
    return list(apart.nlargest(num_tags).index)


def tag_distances(table: pd.DataFrame, depth: int) -> pd.DataFrame:
    """Returns the distances between tags' mean excitations at one block, [tags, tags].

    A distance is a root mean square over channels, so blocks of different width are
    comparable: 0 means the same excitation, and 1 is the maximum. Tags are ordered so
    that neighbours have small distances (leaves of average-linkage clustering, in
    optimal order).

    Raises:
        ValueError: the block is not in the table.
    """
    means = tag_excitations(table, depth)
    apart = pdist(means.to_numpy(np.float64)) / np.sqrt(means.shape[1])
    distances = pd.DataFrame(squareform(apart), means.index, means.index)
    if len(means) < 3:
        return distances
    leaves = leaves_list(optimal_leaf_ordering(average(apart), apart))
    return distances.iloc[leaves, leaves]


def nearest_tags(
    table: pd.DataFrame, depth: int, tag: str, num_tags: int = 5
) -> pd.Series:
    """Returns the tags whose mean excitation at one block is nearest to that of a tag.

    Args:
        table: Table from `excitations`.
        depth: Index of the block, from 0.
        tag: Name of the tag.
        num_tags: Number of tags to return.

    Returns:
        Distances as in `tag_distances`, nearest first, without the tag itself.

    Raises:
        ValueError: the block is not in the table, or the tag has no clip in it.
    """
    distances = tag_distances(table, depth)
    if tag not in distances:
        raise TaggerError(
            f"Tag {tag!r} has no clips in the table. Choose one of:"
            f" {', '.join(sorted(distances))}."
        )
    return distances[tag].drop(tag).nsmallest(num_tags)


def loudness_regression(
    table: pd.DataFrame, loudness: pd.Series, depth: int = 0
) -> pd.DataFrame:
    """Fits a line to each channel's excitation over clip loudness (the poster).

    Args:
        table: Table from `excitations`, indexed by clip id.
        loudness: Loudness from `clip_loudness`.
        depth: Index of the block, from 0.

    Returns:
        The least-squares line of each channel: slope, intercept, and error (root mean
        square of the residual).

    Raises:
        ValueError: the loudness of a clip is missing, or all clips are equally loud.
    """
    at_depth = table[table["depth"] == depth]
    missing = at_depth.index.difference(loudness.index)
    if len(missing):
        raise TaggerError(
            f"There is no loudness for clip {missing[0]!r}. Measure it with"
            " clip_loudness on the same split."
        )
    excitation = np.stack(at_depth["ex"].to_numpy()).astype(np.float64)
    x = loudness.loc[at_depth.index].to_numpy()
    deviation = x - x.mean()
    if not deviation.any():
        raise TaggerError("All clips are equally loud: no line can be fitted.")
    slope = deviation @ (excitation - excitation.mean(axis=0)) / (deviation @ deviation)
    intercept = excitation.mean(axis=0) - slope * x.mean()
    residual = excitation - (intercept + np.outer(x, slope))
    return pd.DataFrame(
        {
            "slope": slope,
            "intercept": intercept,
            "error": np.sqrt((residual**2).mean(axis=0)),
        }
    ).rename_axis("channel")


def save_figures(
    table: pd.DataFrame, loudness: pd.Series, directory: str | os.PathLike
) -> list[Path]:
    """Draws the figures of paper and poster: three blocks, their spread, and loudness.

    Args:
        table: Table from `excitations`.
        loudness: Loudness from `clip_loudness`.
        directory: Folder for the PNG and SVG files, created if necessary.

    Returns:
        Paths of the files.
    """
    last = int(table["depth"].max())
    blocks = {f"block {depth + 1}": depth for depth in (0, last // 2, last)}
    highlighted = most_different_tags(table)
    made = {
        f"excitations_block{depth + 1}": figures.plot_excitations(
            tag_excitations(table, depth), f"Excitations at {block}", highlighted
        )
        for block, depth in blocks.items()
    }
    order = tag_distances(table, 0).index
    made["excitation_distances"] = figures.plot_tag_distances(
        {
            title: tag_distances(table, depth).loc[order, order]
            for title, depth in blocks.items()
        }
    )
    made["excitation_spread"] = figures.plot_spread(excitation_spread(table))
    first = table[table["depth"] == 0]
    made["excitation_loudness"] = figures.plot_loudness(
        np.stack(first["ex"].to_numpy()),
        loudness.loc[first.index],
        loudness_regression(table, loudness),
        "Block 1",
    )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in made.items():
        for ending in ("png", "svg"):
            paths.append(directory / f"{name}.{ending}")
            plotting.save(figure, paths[-1])
    return paths
