"""Model files without Keras: what they say of themselves, their digests, and copies.

.keras   config.json, model.weights.h5, and perhaps graph.onnx for ONNX Runtime
.onnx    a graph
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tagger import validation
from tagger.models import graphs
from tagger.models.metadata import (
    GRAPH_MEMBER,
    MAX_CONFIG_BYTES,
    ModelInfo,
    network_name,
    read_graph,
)
from tagger.storage import replacing, sha256
from tagger.text import TaggerError

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
NOTES = ("name", "thresholds", "provenance")  # what does not change scores


def read_info(path: str | os.PathLike) -> ModelInfo:
    """Reads the metadata in a `.keras` or `.onnx` file.

    Raises:
        ValueError: the file does not hold such metadata, or it cannot be right.
    """
    if str(path).endswith(".onnx"):
        return graphs.info_of(graphs.load(path), path)
    try:
        network = _read_network(path)
        layers = {one["class_name"]: one["config"] for one in network["layers"]}
        # AudioWindow: the name of AudioInput in older files.
        audio = layers.get("AudioWindow") or layers["AudioInput"]
        fields = audio | layers["TagScores"] | {"name": network["name"]}
    except validation.DAMAGED as error:
        if str(path).endswith((".hdf5", ".h5")):
            raise TaggerError(
                f"{str(path)!r} does not say what its scores are. Give a .keras file;"
                " tagger models convert makes one of the weights of other projects."
            ) from error
        raise TaggerError(
            f"{str(path)!r} was not made by this project: its sample rate, segmentation"
            " and tags are missing. Use a model made by train.py."
        ) from error
    return ModelInfo.from_dict(fields, path)


def digest(path: str | os.PathLike) -> str:
    """Returns a SHA-256 of what determines scores: the network and its weights.

    Name, thresholds, provenance, a graph beside the network and the date that Keras
    stores do not count.

    Raises:
        ValueError: the file was not made by this project.
    """
    if str(path).endswith(".onnx"):
        graph = graphs.load(path)
        held = graphs.info_of(graph).as_dict()
        for name in NOTES:
            held.pop(name)
        found = hashlib.sha256(graph.graph.SerializeToString(deterministic=True))
        found.update(json.dumps(held, sort_keys=True).encode())
        return found.hexdigest()
    if not zipfile.is_zipfile(path):  # resemul's .hdf5
        return sha256(path)
    read_info(path)  # says what is wrong with another file
    with _explained(path), zipfile.ZipFile(path) as file:
        network = json.loads(file.read(CONFIG))
        with file.open(WEIGHTS) as held:
            found = hashlib.file_digest(held, "sha256")
    network["config"].pop("name")
    for layer in network["config"]["layers"]:
        for name in ("thresholds", "provenance"):
            layer["config"].pop(name, None)
    found.update(json.dumps(network, sort_keys=True).encode())
    return found.hexdigest()


def copy_with(
    path: str | os.PathLike,
    output: str | os.PathLike,
    thresholds: Sequence[float] | None = None,
    provenance: dict[str, str] | None = None,
) -> None:
    """Copies a model with other thresholds, or more provenance, and its new name.

    Args:
        path: `.keras` or `.onnx` file.
        output: File to write, with the same ending; or `.onnx` if the `.keras` file
            holds a graph.
        thresholds: Decision threshold of each tag; None: as they are.
        provenance: What to add to `ModelInfo.provenance`.

    Raises:
        ValueError: the copy would lack a network for Keras or a graph, or see
            `read_info`.
    """
    info = read_info(path)
    about = {"network": info.architecture} | (info.provenance or {})
    changed = {"name": Path(output).stem, "provenance": about | (provenance or {})}
    if thresholds is not None:
        changed["thresholds"] = tuple(float(threshold) for threshold in thresholds)
    info = dataclasses.replace(info, **changed)
    graph = None
    if read_graph(path) is not None:
        graph = graphs.load(path)
        graphs.describe(graph, info)
    if str(output).endswith(".onnx"):
        if graph is None:
            raise TaggerError(
                f"{str(path)!r} holds no graph. Run tagger models export {path} --to"
                " onnx, and give what it writes."
            )
        graphs.save(graph, output)
        return
    if str(path).endswith(".onnx"):
        raise TaggerError(
            f"{str(path)!r} holds no network for Keras, so the copy must end in .onnx,"
            f" not {os.path.basename(output)!r}."
        )
    with (
        _explained(path),
        zipfile.ZipFile(path) as file,
        replacing(output) as unfinished,
        zipfile.ZipFile(unfinished, "w") as copy,
    ):
        network = json.loads(file.read(CONFIG))
        network["config"]["name"] = network_name(info.name)
        for layer in network["config"]["layers"]:
            if layer["class_name"] == "TagScores":
                layer["config"] |= {key: getattr(info, key) for key in NOTES[1:]}
        written = {CONFIG: json.dumps(network).encode()}
        if graph is not None:
            written[GRAPH_MEMBER] = graph.SerializeToString()
        for name in dict.fromkeys([*file.namelist(), WEIGHTS]):
            copy.writestr(name, written.get(name) or file.read(name))


@contextlib.contextmanager
def _explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns errors of a damaged archive into a sentence."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise TaggerError(
            f"{str(path)!r} is damaged: {str(error).strip(chr(39))}."
        ) from error


def _read_network(path: str | os.PathLike) -> dict:
    """Returns Keras' description of the network of a `.keras` file."""
    with zipfile.ZipFile(path) as file:
        if file.getinfo(CONFIG).file_size > MAX_CONFIG_BYTES:
            raise TaggerError("its description is too long")
        return json.loads(file.read(CONFIG))["config"]
