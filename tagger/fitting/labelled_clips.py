"""Reads labelled clips, embeds them and prepares them for fitting heads.

csv, folder or shards -> `LabelledClips`: labels, groups, folds, and keys in the cache.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from tagger import storage
from tagger.containers import AudioDecodeError, open_audio
from tagger.data.clips import Clips, Shards, open_shards
from tagger.datasets import csv_manifest
from tagger.datasets.splitting import deal_folds
from tagger.fitting.heads import Examples, groups_of_sound
from tagger.inference.embedding_cache import (
    Backbone,
    EmbeddingCache,
    embed_clips,
    embed_files,
    keys_of_clips,
)
from tagger.models.metadata import ModelInfo
from tagger.text import TaggerError

SAME_AUDIO = 1e-4  # largest difference of mean embeddings, relative to their spread


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """Clips with the labels to learn.

    Attributes:
        source: Csv, or folder of audio or shards.
        tags: Tag names in the order of the labels.
        names: Path of the file, or clip id, of each clip [num_clips].
        labels: uint8 0/1 [num_clips, num_tags].
        groups: Group of each clip [num_clips], str; no group is in two folds. It is the
            artist named by the csv or by the file's metadata, or else the clip.
        group_kind: What a group is: "artist", or "clip" if no artist is known.
        folds: Fold of each clip [num_clips], -1 for clips that are never held out; None
            if the data names no folds.
        splits: Split of each clip [num_clips].
        in_shards: The same clips in shards; None for audio files.
        keys: Key of each clip in the cache [num_clips]; empty before `embed`.
    """

    source: Path
    tags: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    group_kind: str
    folds: np.ndarray | None
    splits: np.ndarray
    in_shards: Clips | None = None
    keys: np.ndarray = dataclasses.field(default_factory=lambda: np.array([], object))

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, which: np.ndarray) -> "LabelledClips":
        """Returns some of the clips, given by a mask or by numbers."""
        per_clip = ("names", "labels", "groups", "folds", "splits", "keys")
        held = {name: getattr(self, name) for name in per_clip}
        in_shards = self.in_shards
        return dataclasses.replace(
            self,
            in_shards=in_shards if in_shards is None else in_shards.chosen(which),
            **{
                name: values[which]
                for name, values in held.items()
                if values is not None and len(values)
            },
        )

    def examples(
        self, cache: EmbeddingCache, backbones: Sequence[Backbone]
    ) -> Examples:
        """Returns the embeddings of all backbones, channel after channel."""
        rows = [
            np.concatenate([cache.load(b, key) for b in backbones], axis=1)
            for key in self.keys
        ]
        return Examples(
            np.concatenate(rows), np.array([len(one) for one in rows]), self.labels
        )


# --- Reading --------------------------------------------------------------------------


def read_clips(
    source: str | os.PathLike,
    info: ModelInfo | None = None,
    tags: tuple[str, ...] | None = None,
    tag_separator: str = ";",
    left_out_fold: int | None = None,
) -> LabelledClips:
    """Reads the labelled clips of train and val.

    Args:
        source: A csv or a folder with one subfolder per tag, see
            `datasets.csv_manifest`, or a folder of shards or its parent.
        info: Metadata of the model that will hear the clips; None checks nothing.
        tags: Tags to take, in order. Default: all.
        tag_separator: Separator of the tags in the column `tags` of a csv.
        left_out_fold: Fold whose clips are left out; None: none.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: there are no labelled clips, a tag is unknown, there is no such
            fold, or the shards do not hold what the model takes.
    """
    shards = None
    if storage.location(source).is_dir():
        try:
            shards = open_shards(source)
        except FileNotFoundError:
            pass  # a folder of audio
    if shards:
        if info:
            _check_waveforms(shards, info)
        clips = _clips_of_shards(shards, tags)
    else:
        clips = _clips_of_files(source, tags, tag_separator)
    used = np.isin(clips.splits, ("train", "val")) & clips.labels.any(axis=1)
    if not used.any():
        raise TaggerError(
            f"{source} holds no tagged clips in the splits train and val."
        )
    clips = clips.chosen(used)
    if left_out_fold is None:
        return clips
    if clips.folds is None or left_out_fold not in clips.folds:
        held = [] if clips.folds is None else sorted({*clips.folds.tolist()} - {-1})
        has = f"only {', '.join(map(str, held))}" if held else "because it has no folds"
        raise TaggerError(
            f"{source} has no fold {left_out_fold}, {has}. Add a column fold to the"
            " csv, or build shards with `folds=K`."
        )
    clips = clips.chosen(clips.folds != left_out_fold)
    # One fold alone cannot be held out from itself: it is dealt to new ones.
    is_one = len(np.unique(clips.folds)) == 1
    return dataclasses.replace(clips, folds=None) if is_one else clips


def _clips_of_files(
    source: str | os.PathLike, tags: tuple[str, ...] | None, tag_separator: str
) -> LabelledClips:
    read = csv_manifest.load_unsplit(source, tags, None, tag_separator)
    groups, kind = read.clip_ids, "clip"
    if read.groups is not None:
        groups, kind = np.where(read.groups == "", read.clip_ids, read.groups), "artist"
    return LabelledClips(
        Path(source),
        read.tags,
        np.array([str(read.audio_dir / path) for path in read.paths], object),
        read.labels,
        groups,
        kind,
        read.folds,
        read.splits,
    )


def _clips_of_shards(shards: Shards, tags: tuple[str, ...] | None) -> LabelledClips:
    manifest = shards.manifest
    unknown = sorted(set(tags or ()) - set(manifest.tags))
    if unknown:
        raise TaggerError(f"{shards.directory} holds no tag {unknown[0]!r}.")
    labelled = [split for split in ("train", "val") if manifest.num_clips(split)]
    if not labelled:
        raise TaggerError(f"{shards.directory} holds no clips in train and val.")
    held = shards.clips(*labelled)
    splits = np.array([manifest.shards[path.name].split for path in held.paths])
    splits, folds = splits[held.rows["shard"]], None
    if manifest.folds:
        folds = np.array([manifest.folds.get(one, -1) for one in held.ids.tolist()])
    elif len(labelled) == 2:  # splits do not share artists
        folds = np.where(splits == "val", 0, -1)
    columns = [manifest.tags.index(tag) for tag in tags or manifest.tags]
    ids = held.ids.astype(object)
    return LabelledClips(
        Path(str(shards.directory)),
        tuple(tags or manifest.tags),
        ids,
        held.labels[:, columns].astype(np.uint8),
        ids,
        "clip",
        folds,
        splits,
        held,
        np.array(keys_of_clips(held), object),
    )


# --- Embedding ------------------------------------------------------------------------


def embed(
    clips: LabelledClips,
    cache: EmbeddingCache,
    backbones: Sequence[Backbone],
    info: ModelInfo,
    max_skipped: float,
    report: list[str],
) -> LabelledClips:
    """Fills the cache with the embeddings of clips.

    Args:
        clips: Clips from `read_clips`.
        cache: Cache to fill.
        backbones: Networks to run.
        info: Sample rate and segmentation that they share.
        max_skipped: Largest share of the files that may be impossible to decode.
        report: Receives a sentence on each clip that was not embedded.

    Returns:
        The clips that were embedded.

    Raises:
        ValueError: too many files cannot be decoded. What was embedded stays in the
            cache.
    """
    if clips.in_shards is not None:
        embed_clips(cache, backbones, info, clips.in_shards)
        return clips
    found = embed_files(cache, backbones, info, clips.names.tolist())
    errors = [one.error for one in found if one.error]
    if len(errors) > max_skipped * len(clips):
        raise TaggerError(
            f"{len(errors)} of {len(clips)} files cannot be used, more than"
            f" `max_skipped={max_skipped:g}` allows; the first:"
            f" {errors[0]} The embeddings of the others are kept, so"
            " the next run is quick."
        )
    key_of_path = {one.path: one.value for one in found if not one.error}
    clips = clips.chosen(np.array([path in key_of_path for path in clips.names]))
    keys = np.array([key_of_path[path] for path in clips.names], object)
    report += [f"Left out: {error}" for error in errors]
    return dataclasses.replace(clips, keys=keys)


def _check_waveforms(shards: Shards, info: ModelInfo) -> None:
    manifest = shards.manifest
    held = f"{manifest.sample_rate} Hz records"
    if manifest.features:
        held = f"log-mel spectrograms ({manifest.features})"
    if manifest.features or info.sample_rate != manifest.sample_rate:
        raise TaggerError(
            f"Model {info.name} takes waveforms at {info.sample_rate} Hz, but"
            f" {shards.directory} holds {held}. Give the csv or the folder of the audio"
            f" files instead, or build with `sample_rate={info.sample_rate}` in another"
            " folder."
        )


# --- Checks ---------------------------------------------------------------------------


def without_copies(
    clips: LabelledClips, examples: Examples, report: list[str]
) -> LabelledClips:
    """Joins clips of the same audio into one, which has the tags of all of them.

    The same song in the folders of two tags has both tags. Kept apart, each copy would
    be a negative example of the other's tag, and a copy in the held-out fold would be
    scored by a head fitted to the other.

    Args:
        clips: Clips from `embed`.
        examples: Their embeddings.
        report: Receives a sentence on what was joined.

    Returns:
        The clips without copies.
    """
    _, firsts, groups = np.unique(
        _same_audio(examples), return_index=True, return_inverse=True
    )
    labels = np.zeros((len(firsts), len(clips.tags)), np.uint8)
    np.maximum.at(labels, groups, clips.labels)
    copies = np.setdiff1d(np.arange(len(clips)), firsts)
    if len(copies):
        originals = firsts[groups[copies]]
        differ = (clips.labels[copies] != clips.labels[originals]).any(axis=1)
        text = f"{len(copies)} clips hold the same audio as others and do not count"
        if differ.any():
            first = np.argmax(differ)
            text += (
                f" again. {differ.sum()} of them have different tags, and the clip gets"
                f" all of them ({clips.names[originals[first]]} and"
                f" {clips.names[copies[first]]})"
            )
        report.append(f"{text}.")
    order = np.argsort(firsts)
    kept = dataclasses.replace(clips.chosen(firsts[order]), labels=labels[order])
    return kept


def _same_audio(examples: Examples) -> np.ndarray:
    """Returns a number per clip, the same for clips whose embeddings are equal.

    Rounding, which depends on the other segments of a batch, does not count.
    """
    means = examples.means()
    means = means / (means.std(axis=0) + 1e-12)
    rows = np.c_[means, examples.num_segments]
    search = NearestNeighbors(
        radius=SAME_AUDIO, metric="chebyshev", algorithm="kd_tree"
    )
    near = search.fit(rows).radius_neighbors_graph()
    return connected_components(near, directed=False)[1]


def learnable(clips: LabelledClips, min_clips: int, report: list[str]) -> LabelledClips:
    """Leaves out the tags that no head can learn.

    Args:
        clips: Clips with their labels.
        min_clips: Fewest positive clips of a tag.
        report: Receives a sentence that lists the tags left out.

    Returns:
        The clips with the remaining tags.

    Raises:
        ValueError: no tag is left.
    """
    kept, reasons = [], []
    for number, tag in enumerate(clips.tags):
        count = int(clips.labels[:, number].sum())
        if count < max(min_clips, 1):
            needed = max(min_clips, 1)
            reasons.append(f"{tag} ({count} clips; it needs at least {needed})")
        elif count == len(clips):
            reasons.append(f"{tag} (every clip has it)")
        else:
            kept.append(number)
    if not kept:
        raise TaggerError(
            f"No tag of {clips.source} can be learnt: {', '.join(reasons)}. A tag is"
            " learnt from clips with it and clips without it: add clips with other"
            " tags, such as 'other'."
        )
    tags = tuple(clips.tags[number] for number in kept)
    if reasons:
        report.append(f"Left out: {', '.join(reasons)}.")
    return dataclasses.replace(clips, tags=tags, labels=clips.labels[:, kept])


def with_folds(
    clips: LabelledClips,
    means: np.ndarray,
    num_folds: int,
    seed: int,
    report: list[str],
) -> LabelledClips:
    """Deals the clips to folds by their groups, unless the data names folds.

    Args:
        clips: Clips from `embed`. If no artist is known, the metadata of their files is
            read; if they name none, clips that sound alike are held out together.
        means: Mean embedding of each clip, float32 [num_clips, channels].
        num_folds: Number of folds; fewer if there are fewer groups.
        seed: Seed of the folds.
        report: Receives a sentence on what makes the scores too high.

    Returns:
        The clips with folds.

    Raises:
        ValueError: all clips are in one group or one fold.
    """
    if clips.folds is not None and (clips.folds >= 0).any():
        if len(np.unique(clips.folds)) < 2:
            raise TaggerError(
                f"All clips of {clips.source} are in fold {int(clips.folds[0])}. Give"
                " them at least two folds, or remove the column fold."
            )
        _note_shared_artists(clips, report)
        return clips
    if clips.group_kind == "clip" and clips.in_shards is None:
        clips = _with_artists_of_files(clips, report)
    if clips.group_kind == "clip":
        groups = groups_of_sound(means, clips.labels)
        clips = dataclasses.replace(clips, groups=groups)
        report.append(
            "No artists are known, so clips that sound alike were held out together. A"
            " csv with a column artist judges better."
        )
    if len(np.unique(clips.groups)) < 2:
        what = f"{clips.source} holds only one clip"
        if clips.group_kind == "artist":
            what = f"All clips of {clips.source} are by {str(clips.groups[0])!r}"
        raise TaggerError(
            f"{what}, so no artist can be held out to judge the tags. Add music by"
            " others, or remove the column artist to hold out single files."
        )
    folds = deal_folds(clips.groups, clips.labels, num_folds, seed)
    return dataclasses.replace(clips, folds=folds)


def _with_artists_of_files(clips: LabelledClips, report: list[str]) -> LabelledClips:
    """Takes the artists from the files' metadata, if they name at least two."""
    bar = tqdm(clips.names, "Reading artists", unit="file", disable=None, leave=False)
    artists = np.array([_artist_of(path) for path in bar])
    named = artists != ""
    if len(np.unique(artists[named])) < 2:
        return clips
    if not named.all():
        report.append(
            f"The metadata of {(~named).sum()} of {len(clips)} files name no artist;"
            " each of these files counts as an artist of its own."
        )
    groups = np.where(named, artists, clips.groups)
    return dataclasses.replace(clips, groups=groups, group_kind="artist")


def _artist_of(path: str) -> str:
    """Returns the artist that a file's own metadata name, or ""."""
    try:
        with open_audio(path) as file:
            return file.fields.get("artist", "")
    except (AudioDecodeError, OSError):  # FFmpeg's errors are subclasses
        return ""


def _note_shared_artists(clips: LabelledClips, report: list[str]) -> None:
    folds_of = {}
    for group, fold in zip(clips.groups.tolist(), clips.folds.tolist(), strict=True):
        folds_of.setdefault(group, set()).add(fold)
    shared = sorted(group for group, folds in folds_of.items() if len(folds) > 1)
    if shared and clips.group_kind == "artist":
        report.append(
            f"{len(shared)} artists are in several folds, such as {shared[0]!r}; that"
            " makes the scores below too high."
        )
