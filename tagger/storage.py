"""Where files lie: on a disk, or behind a URL (gs://…) that `tf.io.gfile` opens.

`location(text)` gives a `pathlib.Path`, or a `Remote` that has the same methods as far
as shards, manifests and locks need them; callers do not ask which it is. TensorFlow is
loaded for URLs alone.
"""

import contextlib
import errno
import importlib
import os
import posixpath
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock; every writer's temporary names are its own
    fcntl = None

LOCK_NAME = ".lock"
# Of a lock behind a URL: how often its writer renews it, how many renewals a newcomer
# waits for before he takes it for a dead one's, and what two who come at once wait.
LOCK_RENEWAL_SECONDS, LOCK_RENEWALS_WAITED, LOCK_SETTLE_SECONDS = 5.0, 4, 2.0


class Remote:
    """A URL with the methods of `pathlib.Path` that this project calls.

    Args:
        url: `scheme://…`; any scheme that `tf.io.gfile` knows.
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
        return posixpath.basename(self._url)

    @property
    def parent(self) -> "Remote":
        return Remote(posixpath.dirname(self._url))

    def with_name(self, name: str) -> "Remote":
        return self.parent / name

    @contextlib.contextmanager
    def open(self, mode: str = "r"):
        with _as_os_errors(self._url), _gfile().GFile(self._url, mode) as file:
            yield file

    def read_text(self, encoding: str = "utf-8") -> str:
        with self.open() as file:
            return file.read()

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        with self.open("w") as file:
            file.write(text)

    def exists(self) -> bool:
        with _as_os_errors(self._url):
            return _gfile().exists(self._url)

    def is_dir(self) -> bool:
        with _as_os_errors(self._url):
            return _gfile().isdir(self._url)

    def is_file(self) -> bool:
        return self.num_bytes() is not None

    def num_bytes(self) -> int | None:
        """Size of the file; None if there is none."""
        with contextlib.suppress(FileNotFoundError), _as_os_errors(self._url):
            found = _gfile().stat(self._url)
            return None if found.is_directory else found.length

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        with _as_os_errors(self._url):
            _gfile().makedirs(self._url)

    def glob(self, pattern: str) -> Iterator["Remote"]:
        if self.is_dir():
            with _as_os_errors(self._url):
                urls = _gfile().glob(f"{self._url}/{pattern}")
            yield from map(Remote, urls)

    def replace(self, target: "Remote") -> None:
        with _as_os_errors(self._url):
            _gfile().rename(self._url, str(target), overwrite=True)

    def unlink(self, missing_ok: bool = False) -> None:
        if self.exists() or not missing_ok:
            with _as_os_errors(self._url):
                _gfile().remove(self._url)


def location(path: "str | os.PathLike | Remote") -> Path | Remote:
    """A local path, or a `Remote` where the text is a URL."""
    if isinstance(path, Remote):
        return path
    text = os.fspath(path)
    return Remote(text) if "://" in text else Path(text)


def num_bytes(path: Path | Remote) -> int | None:
    """Size of a file; None if it is not there."""
    if isinstance(path, Remote):
        return path.num_bytes()
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else None


def temporary(path: Path | Remote) -> Path | Remote:
    """A hidden name beside a file, this writer's alone on any machine."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def write_text_atomically(path: Path | Remote, text: str) -> None:
    """Writes a small file so that a reader sees the old or the new one, never half."""
    unfinished = temporary(path)
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the error on its way is the one to show
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def only_writer(directory: Path | Remote, option: str) -> Iterator[Callable[[], None]]:
    """Makes a folder and keeps a second writer out; a dead writer's lock never blocks.

    On a disk the operating system holds the lock and drops it with its process. Behind
    a URL it is a file that a living writer renews; one that is not renewed for 20 s is
    taken over. A full disk within the block is reported with what to do.

    Args:
        directory: The folder.
        option: The command's option that chooses it, for the messages.

    Yields:
        Function to call before something is written: it raises OSError where another
        run took this one for dead, because it did not renew its lock for so long.

    Raises:
        OSError: the folder cannot be written, is in use, or the disk is full.
    """
    lock = directory / LOCK_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = _RemoteLock(lock) if isinstance(lock, Remote) else _LocalLock(lock)
    except BlockingIOError as error:
        raise OSError(
            f"Another run is writing to {directory}. Wait for it, or choose another"
            f" {option}."
        ) from error
    except OSError as error:
        raise OSError(
            f"Cannot write to {directory}: {error.strerror}. Choose another {option}."
        ) from error
    with contextlib.closing(held):
        try:
            yield held.check
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"Cannot write to {directory}: {error.strerror}. Free some space, then"
                " run the same command again; it goes on with what is whole."
            ) from error


class _LocalLock:
    def __init__(self, path: Path):
        self._file = open(path, "w")
        if fcntl:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise

    def check(self) -> None:
        """The operating system lets nobody take it."""

    def close(self) -> None:
        self._file.close()


class _RemoteLock:
    """A file that its writer renews while he lives: its changes tell, no clock does."""

    def __init__(self, path: Remote):
        self._path = path
        self._name = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        found = self._content()
        if found is not None:
            for _ in range(LOCK_RENEWALS_WAITED):
                time.sleep(LOCK_RENEWAL_SECONDS)
                if self._content() not in (found, None):  # renewed, or just released
                    raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        self._renewals = 0
        self._is_lost = False
        self._renew()
        time.sleep(LOCK_SETTLE_SECONDS)
        # Of two that found no living writer, the one that wrote last has it.
        if not self._is_ours():
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        self._closed = threading.Event()
        self._renewal = threading.Thread(target=self._keep_renewing, daemon=True)
        self._renewal.start()

    def _content(self) -> str | None:
        with contextlib.suppress(OSError):
            return self._path.read_text()

    def _is_ours(self) -> bool:
        return self._name in (self._content() or "")

    def _renew(self) -> None:
        self._path.write_text(f"{self._name} {self._renewals}")
        self._renewals += 1

    def _keep_renewing(self) -> None:
        while not self._closed.wait(LOCK_RENEWAL_SECONDS):
            with contextlib.suppress(OSError):  # the network may come back
                if self._content() is not None and not self._is_ours():
                    # We were asleep for so long that another took us for dead.
                    self._is_lost = True
                    return
                self._renew()

    def check(self) -> None:
        if self._is_lost:
            raise OSError(
                f"Another run has taken {self._path.parent} over while this one did not"
                " answer. Wait for it."
            )

    def close(self) -> None:
        self._closed.set()
        self._renewal.join()
        if self._is_ours():
            self._path.unlink(missing_ok=True)


# --- tf.io.gfile ----------------------------------------------------------------------


def tensorflow():
    """Imports TensorFlow without its notes, and returns it.

    They are written to file descriptor 2 before its logging starts, so no setting holds
    them back. An import that fails still raises.
    """
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # later notes
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        return importlib.import_module("tensorflow")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _gfile():
    return tensorflow().io.gfile


@contextlib.contextmanager
def _as_os_errors(url: str) -> Iterator[None]:
    """TensorFlow's errors as the system's, so that callers know one kind."""
    tf = tensorflow()
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from error
    except tf.errors.ResourceExhaustedError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), url) from error
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, str(error.message), url) from error
