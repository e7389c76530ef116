"""Models on Hugging Face's hub: `hf://user/name` in the place of a model file.

hf://user/name[@revision] ─▶ model.keras or model.onnx ─▶ a folder of the cache

`inference.sharing` writes such a repository. The extra `hub` installs huggingface_hub,
whose settings apply: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import contextlib
import dataclasses
import functools
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tagger import storage
from tagger.text import TaggerError

PREFIX = "hf://"
KERAS_NAME, GRAPH_NAME = "model.keras", "model.onnx"
LARGEST = 1 << 30  # bytes; our largest model has 100 MB
_NAME = re.compile(
    r"hf://([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@([\w.-]{1,100}))?",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        repo_id: "user/name".
        revision: Branch, tag or commit; None: the newest.
    """

    repo_id: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> "Repository":
        """Parses hf://user/name or hf://user/name@revision.

        Raises:
            ValueError: the text is no such name.
        """
        found = _NAME.fullmatch(text)
        if not found or ".." in text:
            raise TaggerError(f"{text!r} is not of the form hf://user/name.")
        user, name, revision = found.groups()
        return cls(f"{user}/{name}", revision)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo_id}"


def is_hub_name(name: object) -> bool:
    """Returns whether a model is named by its repository."""
    return isinstance(name, str) and name.startswith(PREFIX)


@functools.cache  # one process asks the hub once
def download(name: str, folder: Path) -> Path:
    """Downloads a model, unless this process or the cache has the newest one.

    Args:
        name: See `Repository.of`.
        folder: Folder for all repositories.

    Returns:
        Path of the `.keras` file, or of the `.onnx` file if there is no other.

    Raises:
        ValueError: the name is wrong, or the repository holds no model of ours or a
            very large one.
        OSError: there is no such repository, or no network.
        ImportError: huggingface_hub is not installed.
    """
    repository = Repository.of(name)
    hub = library()
    place = folder / repository.repo_id.replace("/", "--")
    if repository.revision:
        place = place.with_name(f"{place.name}@{repository.revision}")
    with storage.explained(place):
        place.mkdir(parents=True, exist_ok=True)
    with storage.file_lock(place, "$TAGGER_CACHE", waits=True), explained(repository):
        try:
            return _download(repository, KERAS_NAME, place)
        except hub.errors.EntryNotFoundError as error:
            is_silent = isinstance(error, hub.errors.LocalEntryNotFoundError)
            if is_silent and not (place / GRAPH_NAME).exists():
                raise  # the hub did not answer, so it will not for another file
            return _download(repository, GRAPH_NAME, place)


def _download(repository: Repository, name: str, place: Path) -> Path:
    hub = library()
    asked = {
        "repo_id": repository.repo_id,
        "filename": name,
        "revision": repository.revision,
    }
    num_bytes = 0
    with contextlib.suppress(Exception):  # the download says what is wrong
        num_bytes = hub.get_hf_file_metadata(hub.hf_hub_url(**asked)).size or 0
    if num_bytes > LARGEST:
        raise TaggerError(
            f"{name} of {repository} has {num_bytes / 1e9:.1f} GB, more than any"
            " tagger: it is not downloaded."
        )
    return Path(hub.hf_hub_download(**asked, local_dir=place, library_name="tagger"))


def library():
    """Returns the module huggingface_hub.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            "Models of the hub need huggingface_hub: pip install huggingface_hub."
        ) from error


@contextlib.contextmanager
def explained(repository: Repository) -> Iterator[None]:
    """Puts the name of a repository before what huggingface_hub says of a failure.

    Raises:
        ValueError: the repository holds no model.
        ConnectionError: the hub refused, or did not answer.
    """
    errors = importlib.import_module("huggingface_hub.errors")
    # Those of the HTTP library: httpx, or requests in versions before 1.0.
    of_library = errors.HfHubHTTPError.__bases__
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _failure(repository, error.__cause__ or error) from error
    except errors.EntryNotFoundError as error:
        raise TaggerError(
            f"{repository} was not published with tagger models share: no {KERAS_NAME}."
            " Download its file by hand, and run tagger models convert."
        ) from error
    except (errors.HfHubHTTPError, *of_library, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        raise _failure(repository, error) from error


def _failure(repository: Repository, error: BaseException) -> ConnectionError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConnectionError(f"{repository}: {textwrap.shorten(reason, 400)}")
