"""Aligns the tags of a model and of data by name, and checks that they fit."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

from tagger import datasets, models
from tagger.data.clips import Shards
from tagger.data.manifest import MANIFEST_NAME
from tagger.text import TaggerError, suggest_names


def tag_names(info: models.ModelInfo, shards: Shards) -> tuple[str, ...]:
    """Returns the tag names of the data, or the model's if the shards have none."""
    fits = info.tags and len(info.tags) == len(shards.manifest.tags)
    return info.tags if fits and not shards.names_tags else shards.manifest.tags


@dataclasses.dataclass(frozen=True)
class CommonTags:
    """The tags that a model and the data have in common.

    Attributes:
        names: Tag names in the order of the data.
        model_columns: Column of each tag in the model's scores.
        data_columns: Column of each tag in the labels.
        note: Which tags were left out or reordered; empty if none were.
    """

    names: tuple[str, ...]
    model_columns: list[int]
    data_columns: list[int]
    note: str = ""


def check_map(
    tag_map: Mapping[str, str],
    infos: Sequence[models.ModelInfo],
    shards: Shards,
) -> None:
    """Checks that a map of tags names tags of the data and of at least one model.

    Args:
        tag_map: Name of a tag in the data -> its name in a model.
        infos: Metadata of the models to score.
        shards: Data with the tags.

    Raises:
        ValueError: it does not; the message suggests similar names.
    """
    in_models = list(dict.fromkeys(tag for info in infos for tag in info.tags or ()))
    model_names = " and ".join(info.name for info in infos)
    for name, in_model in tag_map.items():
        for one, held, where in (
            (name, tag_names(infos[0], shards), shards.directory),
            (in_model, in_models, f"model {model_names}"),
        ):
            if one not in held:
                raise TaggerError(
                    f"`tag_map={name}={in_model}`: {where} has no tag {one!r}."
                    f" {suggest_names(one, held)} Give DATA=MODEL."
                )


def common_tags(
    info: models.ModelInfo,
    shards: Shards,
    tag_map: Mapping[str, str] | None = None,
) -> CommonTags:
    """Aligns the tags of the model and the data by name.

    If one of them has no names, both must have the same number of tags; the order is
    then assumed to be the same.

    Args:
        info: Metadata of the model.
        shards: Data with the tags.
        tag_map: Name of a tag in the data -> its name in the model, where they differ.
            A model without the mapped name is searched for the name in the data.

    Raises:
        ValueError: they have no tag in common, or names are missing and the numbers of
            tags differ.
    """
    names = tag_names(info, shards)
    if info.tags is None or not shards.names_tags:
        if info.num_tags != len(names):
            raise TaggerError(
                f"Model {info.name} scores {info.num_tags} tags but {shards.directory}"
                f" holds {len(names)}. Rebuild with `num_tags={info.num_tags}`."
            )
        if info.tags is None and shards.names_tags:
            warnings.warn(
                f"Model {info.name} holds no tag names; using the names and order of"
                f" {shards.directory / MANIFEST_NAME}.",
                stacklevel=2,
            )
        every = list(range(len(names)))
        return CommonTags(names, every, every)
    mapped = {tag: name for tag, name in (tag_map or {}).items() if name in info.tags}
    in_model = {tag: tag for tag in names} | mapped
    shared = tuple(tag for tag in names if in_model[tag] in info.tags)
    if not shared:
        raise TaggerError(
            f"Model {info.name} and {shards.directory} share no tags: the model scores"
            f" {', '.join(info.tags[:5])} …, the data holds {', '.join(names[:5])} …"
            " If they only spell them differently, name pairs with"
            " `tag_map=DATA=MODEL`."
        )
    note = ""
    if len(shared) < max(len(names), info.num_tags):
        note = (
            f"{len(shared)} tags in common, of {len(names)} in the data and"
            f" {info.num_tags} in the model"
        )
    elif names != info.tags:
        note = "tags aligned by name: model and data order them differently"
    return CommonTags(
        shared,
        [info.tags.index(in_model[tag]) for tag in shared],
        [names.index(tag) for tag in shared],
        note,
    )


def check_rate(info: models.ModelInfo, shards: Shards) -> None:
    """Checks that the model and the data have the same sample rate.

    Raises:
        ValueError: the rates differ; the message gives the command that builds matching
            data.
    """
    manifest = shards.manifest
    if info.sample_rate != manifest.sample_rate:
        known = datasets.DATASETS
        built_by = known.get(manifest.dataset, known["magnatagatune"])  # "demo", too
        raise TaggerError(
            f"Model {info.name} expects {info.sample_rate} Hz but {shards.directory}"
            f" holds {manifest.sample_rate} Hz records. Rebuild the data in another"
            f" folder: {built_by.command} --sample-rate {info.sample_rate} --output"
            " DIR; then give `data_dir=DIR`."
        )


def check_comparable(
    info: models.ModelInfo,
    other: models.ModelInfo,
    shards: Shards,
    tag_map: Mapping[str, str] | None = None,
) -> None:
    """Checks that two models can be scored on the same tags of the data.

    Raises:
        ValueError: a sample rate differs from the data's, or the models have different
            tags in common with the data.
    """
    check_rate(info, shards)
    check_rate(other, shards)
    tags = common_tags(info, shards, tag_map).names
    others = common_tags(other, shards, tag_map).names
    if tags != others:
        only = sorted(set(tags) ^ set(others))
        raise TaggerError(
            f"Models {info.name} and {other.name} cannot be compared on"
            f" {shards.directory}: only one of them scores {', '.join(only[:5])}"
            f"{' …' if len(only) > 5 else ''}. Choose models with the same tags."
        )


def check_match(info: models.ModelInfo, shards: Shards) -> None:
    """Checks that the model and the data have the same sample rate, tags and order.

    Raises:
        ValueError: they differ; the message says how.
    """
    check_rate(info, shards)
    note = common_tags(info, shards).note
    if note:
        raise TaggerError(
            f"Model {info.name} and {shards.directory} have different tags ({note})."
            " Use data with exactly the model's tags, in the same order."
        )
