"""New models from others, as files: averages, and new heads on networks that exist.

    bases, by name or file ─▶ graphs ──▶ with_head ─▶ .onnx
                                  and, for Keras, the same again ─▶ .keras

The ending of the output decides. `.onnx` is the usual one: it needs no Keras, and every
installation runs it. A `.keras` file holds the network for Keras too, which `explain`,
`serve` and `train.py --from` need.
"""

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from tagger import models, storage
from tagger.models import graphs
from tagger.models.head import Head, averaged
from tagger.models.metadata import PENULTIMATE, ModelInfo, check_alike, read_graph
from tagger.text import TaggerError
from tagger.weights import pretrained


def graph_of(model: str | os.PathLike, layer: str = PENULTIMATE) -> onnx.ModelProto:
    """Returns the graph of a model; Keras makes it if the file holds none.

    Args:
        model: Name of a pretrained model, or model file.
        layer: Layer whose output is the embedding, see `models.embedding_network`; only
            Keras knows others than "penultimate".

    Raises:
        FileNotFoundError, ValueError, OSError: there is no such model or layer.
        ImportError: Keras has to make the graph and is not installed.
    """
    path = pretrained.path_of(model)
    if layer == PENULTIMATE and read_graph(path) is not None:
        return graphs.load(path)
    storage.load_tensorflow()
    return models.export.graph_of(pretrained.load(model), layer)


def check_output(path: str | os.PathLike, bases: Sequence[str | os.PathLike]) -> None:
    """Checks, before anything is computed, that `write` can write a file.

    Raises:
        ValueError: a base has no network for Keras, but the file needs one.
        ImportError: the file is for Keras, which is not installed.
    """
    if str(path).endswith(".onnx"):
        return
    if not importlib.util.find_spec("keras"):
        raise ImportError(
            f"{os.path.basename(path)!r} is for Keras, which is not installed. Write a"
            " file that ends in .onnx, or run pip install '.[train]' in the folder of"
            " tagger."
        )
    for base in bases:
        if pretrained.is_graph_alone(base):
            raise TaggerError(
                f"{base} holds no network for Keras, so what is made of it must end in"
                f" .onnx, not {os.path.basename(path)!r}."
            )


def write(
    path: str | os.PathLike,
    bases: Sequence[str | os.PathLike],
    networks: Sequence[onnx.ModelProto],
    head: Head,
    info: ModelInfo,
    layer: str = PENULTIMATE,
) -> None:
    """Writes a model that scores tags from the embeddings of others.

    Args:
        path: File to write, `.onnx` or `.keras`; see `check_output`.
        bases: Names of pretrained models, or model files.
        networks: Their graphs.
        head: Head on their concatenated embeddings.
        info: What the file says of itself.
        layer: Layer of the bases whose output is the embedding.

    Raises:
        OSError: the file cannot be written.
    """
    graph = graphs.with_head([graphs.network(one) for one in networks], head, info)
    if str(path).endswith(".onnx"):
        graphs.save(graph, path)
        return
    storage.load_tensorflow()
    parts = [models.embedding_network(pretrained.load(one), layer) for one in bases]
    with storage.replacing(path) as unfinished:
        models.save_model(models.with_head(parts, head, info), unfinished)
        graphs.attach(graph, unfinished)


def with_thresholds(
    model: str | os.PathLike,
    path: str | os.PathLike,
    thresholds: Sequence[float],
    provenance: dict[str, str] | None = None,
) -> None:
    """Writes a copy of a model with other thresholds.

    Args:
        model: Name of a pretrained model, or model file.
        path: File to write, `.onnx` or `.keras`; see `check_output`.
        thresholds: Decision threshold of each tag.
        provenance: What to add to `ModelInfo.provenance`.

    Raises:
        ValueError, OSError, ImportError: see `graph_of`.
    """
    held = pretrained.path_of(model)
    with tempfile.TemporaryDirectory() as folder:
        if str(path).endswith(".onnx") and read_graph(held) is None:
            held = Path(folder) / "copy.onnx"
            graphs.save(graph_of(model), held)
        elif str(path).endswith(".keras") and held.suffix != ".keras":
            held = Path(folder) / "copy.keras"
            models.export.save(pretrained.load(model), held)
        models.files.copy_with(held, path, thresholds, provenance)


def average(members: Sequence[str | os.PathLike], path: str | os.PathLike) -> ModelInfo:
    """Writes a model that scores each tag by the mean of all members that know it.

    Args:
        members: Names of pretrained models, or model files, that name their tags and
            hear the same segments.
        path: File to write, `.onnx` or `.keras`.

    Returns:
        What the file says of itself: the tags stand in the order of their first
        occurrence.

    Raises:
        ValueError: there is only one member, a member names no tags, its scores are
            means themselves, or members hear different segments.
        FileNotFoundError, OSError, ImportError: see `graph_of` and `check_output`.
    """
    if len(members) < 2:
        raise TaggerError("An average needs at least two models.")
    check_output(path, members)
    loaded = [graph_of(member) for member in members]
    infos = [graphs.info_of(graph) for graph in loaded]
    check_alike(infos, list(map(str, members)))
    for member, info in zip(members, infos, strict=True):
        if info.tags is None:
            raise TaggerError(
                f"{member} names no tags. Give trained models with tag names."
            )
    head = averaged([graphs.head_of(graph) for graph in loaded])
    info = ModelInfo(
        Path(path).stem,
        infos[0].sample_rate,
        infos[0].segmentation,
        len(head.tags),
        head.tags,
        provenance=pretrained.provenance_of(members, infos),
    )
    write(path, members, loaded, head, info)
    return info
