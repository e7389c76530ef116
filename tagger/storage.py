"""Files on a local disk, or behind a URL (gs://…) that `tf.io.gfile` opens.

`location(text)` returns a `pathlib.Path`, or a `Remote` with the methods of it that
builds and manifests need. Callers treat both alike. Only URLs load TensorFlow.

`epath` opens no `file://`, so that nothing would test it here, and `fsspec` needs a
package per cloud; `tf.io.gfile` opens gs:// and file:// with what training has anyway.
"""

import contextlib
import errno
import hashlib
import importlib
import importlib.util
import os
import posixpath
import shutil
import signal
import struct
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock
import google_crc32c
from tqdm import tqdm

CACHE_VARIABLE = "TAGGER_CACHE"
LOCK_NAME = ".lock"
UNFINISHED = ".tmp-"  # start of the names of files that are being written


class Remote:
    """A URL with the methods of `pathlib.Path` that this project calls.

    Args:
        url: `scheme://…`, with any scheme that `tf.io.gfile` supports.
    """

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    def __truediv__(self, name: str | os.PathLike) -> "Remote":
        return Remote(f"{self._url}/{os.fspath(name)}")

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"Remote({self._url!r})"

    def __eq__(self, other) -> bool:
        return isinstance(other, Remote) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._url)

    def __lt__(self, other: "Remote") -> bool:
        return self._url < other._url

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return posixpath.basename(self._url)

    @property
    def parent(self) -> "Remote":
        """The folder that contains this file or folder."""
        return Remote(posixpath.dirname(self._url))

    def with_name(self, name: str) -> "Remote":
        """Returns the URL with its last part replaced."""
        return self.parent / name

    @contextlib.contextmanager
    def open(self, mode: str = "r"):
        """Opens the file as a context manager; modes are those of `tf.io.gfile`."""
        with _as_os_errors(self._url), _gfile().GFile(self._url, mode) as file:
            yield file

    def read_text(self, encoding: str = "utf-8") -> str:
        """Reads the file as UTF-8 text; `encoding` is ignored."""
        with self.open() as file:
            return file.read()

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Writes UTF-8 text to the file; `encoding` is ignored."""
        with self.open("w") as file:
            file.write(text)

    def exists(self) -> bool:
        """Returns whether there is a file or folder at the URL."""
        with _as_os_errors(self._url):
            return _gfile().exists(self._url)

    def is_dir(self) -> bool:
        """Returns whether the URL is a folder."""
        with _as_os_errors(self._url):
            return _gfile().isdir(self._url)

    def is_file(self) -> bool:
        """Returns whether the URL is a file."""
        return self.num_bytes() is not None

    def num_bytes(self) -> int | None:
        """Returns the size of the file, or None if there is no such file."""
        with contextlib.suppress(FileNotFoundError), _as_os_errors(self._url):
            found = _gfile().stat(self._url)
            return None if found.is_directory else found.length

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Creates the folder and its parents, unless they exist."""
        with _as_os_errors(self._url):
            _gfile().makedirs(self._url)

    def glob(self, pattern: str) -> Iterator["Remote"]:
        """Yields the files and folders in this folder that match a pattern."""
        if self.is_dir():
            with _as_os_errors(self._url):
                urls = _gfile().glob(f"{self._url}/{pattern}")
            yield from map(Remote, urls)

    def replace(self, target: "Remote") -> None:
        """Renames the file and overwrites the target."""
        with _as_os_errors(self._url):
            _gfile().rename(self._url, str(target), overwrite=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file."""
        if self.exists() or not missing_ok:
            with _as_os_errors(self._url):
                _gfile().remove(self._url)


def location(path: "str | os.PathLike | Remote") -> Path | Remote:
    """Returns a `Remote` if the text is a URL, otherwise a local path."""
    if isinstance(path, Remote):
        return path
    text = os.fspath(path)
    return Remote(text) if "://" in text else Path(text)


def num_bytes(path: Path | Remote) -> int | None:
    """Returns the size of a file, or None if there is no such file."""
    if isinstance(path, Remote):
        return path.num_bytes()
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else None


def masked_crc(data: bytes) -> bytes:
    """Returns a CRC-32C as TensorFlow's files store it: 4 bytes."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def sha256(path: Path | Remote) -> str:
    """Returns the SHA-256 checksum of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Returns the folder of what can be downloaded or made again ($TAGGER_CACHE)."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tagger"


def copied(
    folder: Remote, sizes: dict[str, int], version: str, again: bool = False
) -> Path:
    """Copies files behind a URL to the cache, unless they are there.

    Args:
        folder: Folder of the files.
        sizes: Expected size in bytes of each file, by its name. Files that are missing
            are left out.
        version: Text that identifies the content of the files.
        again: Whether to copy files that are there, too.

    Returns:
        The local folder.

    Raises:
        OSError: a file cannot be read, or the disk has no room for the copies.
    """
    digest = hashlib.sha256(f"{folder}\n{version}".encode()).hexdigest()[:16]
    copies = cache_folder() / "shards" / digest
    copies.mkdir(parents=True, exist_ok=True)
    lacking = {
        name: (folder / name).num_bytes()
        for name, size in sizes.items()
        if again or num_bytes(copies / name) != size
    }
    lacking = {name: size for name, size in lacking.items() if size is not None}
    needed, free = sum(lacking.values()), shutil.disk_usage(copies).free
    if needed > free:
        raise OSError(
            f"Copies of the shards in {folder} need {needed / 1e9:.1f} GB, but"
            f" {str(copies)!r} has room for {free / 1e9:.1f} GB. Free some space, or"
            f" set {CACHE_VARIABLE} to a folder on another disk."
        )
    with tqdm(
        desc="Copying", total=needed, unit="B", unit_scale=True, disable=None
    ) as bar:
        for name in lacking:
            with (
                (folder / name).open("rb") as source,
                replacing(copies / name) as unfinished,
                unfinished.open("wb") as target,
            ):
                while block := source.read(1 << 22):
                    target.write(block)
                    bar.update(len(block))
    return copies


def temporary(path: Path | Remote) -> Path | Remote:
    """Returns a unique, hidden path in the folder of a file, with its extension."""
    # The prefix must not make a long name too long.
    name = path.name if len(os.fsencode(path.name)) < 200 else path.suffix
    return path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:12]}-{name}")


def write_text_atomically(path: Path | Remote, text: str) -> None:
    """Writes a small file; readers see the old or the new content, never a mix."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: str | os.PathLike | Remote) -> Iterator[Path | Remote]:
    """Yields a unique path to write to, which replaces `path` if the block succeeds.

    If the block fails, `path` stays as it was and nothing else is left.

    Args:
        path: File or URL to write. The yielded path has the same extension.

    Raises:
        OSError: the file cannot be written; the message says where and what to do.
    """
    path = location(path)
    if isinstance(path, Path):
        path = Path(os.path.realpath(path))  # the target of a link, not the link
        if path.exists() and not path.is_file():  # /dev/null, or a pipe
            with explained(path):
                yield path
            return
    unfinished = temporary(path)
    try:
        with explained(path):
            yield unfinished
            if isinstance(path, Path) and path.exists():
                shutil.copymode(path, unfinished)
            unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            unfinished.unlink(missing_ok=True)


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # some network file systems


class DiskFullError(OSError):
    """A file cannot be written, because the disk is full.

    Args:
        path: File or folder that was to be written.
        kept: What the message adds about what is already made.
        reason: What does not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        kept: str = "",
        reason: str = "no space is left on the disk",
    ):
        super().__init__(
            f"Cannot write {str(path)!r}: {reason}. Free some space, and run the same"
            f" command again{kept}."
        )
        self._arguments = path, kept, reason

    def __reduce__(self):  # so that a worker process can raise it
        return DiskFullError, self._arguments


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Explains errors of the disk within the block.

    Libraries report a full disk in many ways, some of them without an error number.

    Args:
        path: File or folder that is written in the block.

    Raises:
        DiskFullError: the disk is full.
        OSError: it cannot be written; the message says where and what to do.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if isinstance(path, Remote):  # whose errors name the URL
            if number in _FULL:
                raise DiskFullError(path) from error
            raise
        folder = os.path.dirname(os.path.abspath(path))
        if number in _FULL or (number is None and disk_is_full(folder)):
            raise DiskFullError(path) from error
        is_here = os.path.dirname(str(getattr(error, "filename", ""))) in ("", folder)
        if isinstance(error, OSError) and number is not None and is_here:
            reason = (error.strerror or str(error)).lower()
            raise OSError(f"Cannot write {str(path)!r}: {reason}.") from error
        raise


def disk_is_full(folder: str | os.PathLike) -> bool:
    """Returns whether a disk has less than 64 KiB left."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 16
    return False


@contextlib.contextmanager
def writer_lock(directory: Path | Remote, option: str) -> Iterator[None]:
    """Creates a folder and locks it against a second writer.

    A folder that it created is removed again if nothing was written to it. URLs are not
    locked: two builds at the same time write the same bytes. If the disk is full within
    the block, the error says what to do.

    Args:
        directory: Folder to create and lock.
        option: What chooses the folder, such as `output=`, for error messages.

    Raises:
        OSError: the folder cannot be written or is in use, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(directory, Path) and not directory.exists():
                stack.callback(_remove_if_empty, directory)
            directory.mkdir(parents=True, exist_ok=True)
            if isinstance(directory, Path):
                stack.enter_context(_lock(directory / LOCK_NAME))
        except OSError as error:
            raise _cannot_lock(directory, option, error) from error
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            kept = "; it keeps what is complete"
            raise DiskFullError(directory, kept, error.strerror) from error


@contextlib.contextmanager
def file_lock(
    path: str | os.PathLike, option: str, waits: bool = False
) -> Iterator[None]:
    """Locks a file that a command writes against a second process.

    Args:
        path: File to be written, which need not exist; its folder must.
        option: What chooses the file, such as `output=`, for error messages.
        waits: Whether to wait until the other process has finished.

    Raises:
        OSError: another process writes the file, or its folder cannot be written.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(path.with_name(f".{path.name}.lock"), waits))
        except OSError as error:
            raise _cannot_lock(path, option, error) from error
        yield


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def _cannot_lock(path: Path | Remote, option: str, error: OSError) -> OSError:
    if isinstance(error, BlockingIOError):
        then = f"Wait for it, or choose another {option}."
        return OSError(f"Another run is writing to {path}. {then}")
    then = f"Choose another {option}."
    return OSError(f"Cannot write to {path}: {error.strerror}. {then}")


@contextlib.contextmanager
def _lock(path: Path, waits: bool = False) -> Iterator[None]:
    """Holds a lock file, and deletes it at the end.

    The operating system releases the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    # A soft lock would stay behind a process that is killed.
    timeout = -1 if waits else 0
    lock = filelock.FileLock(path, timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        path.unlink(missing_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file
            path.unlink(missing_ok=True)
        lock.release()


# --- tf.io.gfile ----------------------------------------------------------------------


def tensorflow():
    """Imports TensorFlow without its log messages, and returns it.

    TensorFlow writes them to file descriptor 2 before its logging starts, so no setting
    suppresses them. A failed import still raises.
    """
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # later messages
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with _interrupts_deferred():
            return importlib.import_module("tensorflow")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_tensorflow() -> None:
    """Imports TensorFlow as `tensorflow` does, if it is installed.

    Call it before the first import of Keras, which would import TensorFlow with its
    log.
    """
    if importlib.util.find_spec("tensorflow"):
        tensorflow()


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Delays Ctrl-C until the block ends: TensorFlow's import would swallow it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []
    before = signal.signal(signal.SIGINT, lambda *_: received.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def _gfile():
    return tensorflow().io.gfile


@contextlib.contextmanager
def _as_os_errors(url: str) -> Iterator[None]:
    """Converts TensorFlow's errors to `OSError`, which callers handle."""
    tf = tensorflow()
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from error
    except tf.errors.ResourceExhaustedError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), url) from error
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, str(error.message), url) from error
