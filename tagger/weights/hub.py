"""Models on Hugging Face's hub: `hf://user/name` in the place of a model file.

hf://user/name[@revision] ─▶ SHA256SUMS, model.keras ─▶ a folder of the cache

`inference.sharing` writes such a repository. The extra `hub` installs huggingface_hub,
whose settings apply: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import contextlib
import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from tagger import storage

PREFIX = "hf://"
MODEL_NAME = "model.keras"
SUMS_NAME = "SHA256SUMS"
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
            raise ValueError(f"{text!r} is not of the form hf://user/name.")
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
        Path of the `.keras` file.

    Raises:
        ValueError: the name is wrong, the repository holds no model of ours, or the
            model differs from its checksum.
        OSError: there is no such repository, or no network.
        ImportError: huggingface_hub is not installed.
    """
    repository = Repository.of(name)
    hub = library()
    place = folder / repository.repo_id.replace("/", "--")
    if repository.revision:
        place = place.with_name(f"{place.name}@{repository.revision}")
    place.mkdir(parents=True, exist_ok=True)
    with storage.file_lock(place, "$TAGGER_CACHE", waits=True), explained(repository):
        paths = [
            Path(
                hub.hf_hub_download(
                    repository.repo_id,
                    file,
                    revision=repository.revision,
                    local_dir=place,
                    library_name="tagger",
                )
            )
            for file in (SUMS_NAME, MODEL_NAME)
        ]
    sums, path = paths
    digest = storage.sha256(path)
    if [digest, MODEL_NAME] not in map(str.split, sums.read_text().splitlines()):
        raise ValueError(
            f"{repository}: the SHA-256 of {MODEL_NAME} is {digest}, which {SUMS_NAME}"
            f" does not list. Delete {place} and try again, or tell its author."
        )
    return path


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
    """Turns errors of the hub into one sentence.

    Raises:
        ValueError: the repository lacks a file.
        OSError: there is no such repository, no permission, or no connection.
    """
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repository} asks its users to accept its terms. Accept them on its page,"
            " and log in with hf auth login."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no model {repository}, or you may not read it. Check the name;"
            " for a private one, log in with hf auth login."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repository} has no revision {repository.revision!r}."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise _offline(repository) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise _offline(repository) from error
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refusal(repository, error.__cause__) from error
        raise ConnectionError(
            f"The hub did not answer for {repository}, and the model is not in the"
            " cache. Check the network and try again."
        ) from error
    except errors.EntryNotFoundError as error:
        raise ValueError(
            f"{repository} holds no {MODEL_NAME} with {SUMS_NAME}: tagger share did not"
            " write it. Download its file by hand, and convert it with tagger convert."
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(repository, error) from error
    # Those of the HTTP library: httpx, or requests in versions before 1.0.
    except (*errors.HfHubHTTPError.__bases__, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"The hub did not answer for {repository} ({reason}). Check the network,"
            " and try again."
        ) from error


def _offline(repository: Repository) -> ConnectionError:
    return ConnectionError(
        f"HF_HUB_OFFLINE forbids asking the hub for {repository}, and the model is not"
        " in the cache. Unset it and try again."
    )


def _refusal(repository: Repository, error: Exception) -> OSError:
    reason = " ".join(str(error).split())
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    if status == 429 or status >= 500:
        return ConnectionError(
            f"The hub cannot answer for {repository} at the moment ({reason}). Try"
            " again later."
        )
    return PermissionError(
        f"The hub refused {repository} ({reason}). Check your login and the model's"
        " card."
    )
