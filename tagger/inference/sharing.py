"""Shares a model on Hugging Face's hub, with all that others need to use it.

README.md      the model card
model.keras    the model, unless it is a graph alone
model.onnx     its graph
labels.txt     one tag per line, in the order of the scores
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from tagger.models import graphs
from tagger.models.metadata import read_graph
from tagger.text import TaggerError
from tagger.weights import cards, composition, hub, pretrained

CARD_NAME = "README.md"


def share(
    model: str | os.PathLike,
    name: str,
    evaluations: Sequence[str | os.PathLike] = (),
    is_private: bool = False,
    replaces_card: bool = False,
) -> str:
    """Uploads a model in one commit.

    Keras' own `save("hf://…")` replaces a card that somebody has written; this keeps it
    unless told otherwise.

    Args:
        model: Name of a pretrained model, or model file.
        name: Repository, hf://user/name; created if it does not exist.
        evaluations: See `cards.card`.
        is_private: Whether a new repository is private.
        replaces_card: Whether to replace an existing card.

    Returns:
        URL of the repository.

    Raises:
        ValueError: the name is wrong, a card would hide the evaluations, or see
            `cards.card`.
        OSError: the hub did not answer, or refused; or see `cards.card`.
        ImportError: huggingface_hub is not installed.
    """
    repository = hub.Repository.of(name)
    if repository.revision:
        raise TaggerError(f"{name!r} names a revision. Give hf://user/name.")
    api = hub.library().HfApi(library_name="tagger")
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        write_repository(model, folder, str(repository), evaluations)
        with hub.explained(repository):
            url = api.create_repo(
                repository.repo_id, private=is_private or None, exist_ok=True
            )
            if not replaces_card and api.file_exists(repository.repo_id, CARD_NAME):
                if evaluations:
                    raise TaggerError(
                        f"{repository} has a card already, so the evaluations would"
                        " not be seen. Add `replace_card=`, or leave them out."
                    )
                warnings.warn(
                    f"The card of {repository} stays; `replace_card=` replaces it.",
                    stacklevel=2,
                )
                (folder / CARD_NAME).unlink()
            api.upload_folder(
                repo_id=repository.repo_id,
                folder_path=folder,
                commit_message="Upload with tagger models share",
            )
    return str(url)


def write_repository(
    model: str | os.PathLike,
    folder: Path,
    reference: str,
    evaluations: Sequence[str | os.PathLike] = (),
) -> None:
    """Writes the files of a repository into an empty folder.

    Args:
        model: See `share`.
        folder: Folder to write to.
        reference: What users give as MODEL, for the card.
        evaluations: See `cards.card`.
    """
    text = cards.card(model, evaluations, reference)
    (folder / CARD_NAME).write_text(text, encoding="utf-8")
    path, graph = pretrained.path_of(model), composition.graph_of(model)
    if path.suffix == ".keras":
        copy = folder / hub.KERAS_NAME
        shutil.copyfile(path, copy)
        if read_graph(copy) is None:
            graphs.attach(graph, copy)
    graphs.save(graph, folder / hub.GRAPH_NAME)
    tags = graphs.info_of(graph).tags or ()
    (folder / "labels.txt").write_text("".join(f"{tag}\n" for tag in tags), "utf-8")
