"""Notices audio files that arrive in a folder.

folders -> groups of files that were created, written or moved, once they are at rest
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from tagger.listing import AUDIO_EXTENSIONS, audio_files_in

REST_SECONDS = 2.0  # without a change, after which a file counts as complete
POLL_SECONDS = 30.0  # between looks at folders that do not report changes


class _Arrivals(FileSystemEventHandler):
    """Collects the paths of events, each with the time of the last one."""

    def __init__(self):
        self._changed, self._lock = {}, threading.Lock()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Notes a file, or the files in a folder that was moved here."""
        if event.event_type not in ("created", "modified", "closed", "moved"):
            return
        path = os.fsdecode(event.dest_path or event.src_path)
        if event.is_directory:
            if event.event_type in ("created", "moved"):
                for found in audio_files_in(path):
                    self._note(str(found))
        elif path.lower().endswith(AUDIO_EXTENSIONS):
            if not os.path.basename(path).startswith("."):
                self._note(path)

    def _note(self, path: str) -> None:
        with self._lock:
            self._changed[path] = time.monotonic()

    def at_rest(self) -> list[str]:
        """Returns the files without a change in the last REST_SECONDS, once."""
        latest = time.monotonic() - REST_SECONDS
        with self._lock:
            found = [path for path, when in self._changed.items() if when <= latest]
            for path in found:
                del self._changed[path]
        return sorted(path for path in found if os.path.isfile(path))


@contextlib.contextmanager
def arrivals(folders: Iterable[str], polls: bool = False) -> Iterator[Iterator[list]]:
    """Watches folders for the length of a `with` block.

    Args:
        folders: Folders to watch, with their subfolders.
        polls: Whether to look every POLL_SECONDS instead of waiting for reports, which
            network drives do not send.

    Yields:
        An endless iterator of lists of files, which may be empty.

    Raises:
        OSError: the system cannot watch so many folders.
    """
    handler = _Arrivals()
    observer = PollingObserver(timeout=POLL_SECONDS) if polls else Observer()
    try:
        for folder in folders:
            observer.schedule(handler, folder, recursive=True)
        observer.start()
    except OSError as error:
        raise OSError(
            f"Cannot watch {', '.join(folders)}: {error.strerror}. Add `poll=`, which"
            f" looks every {POLL_SECONDS:g} s instead."
        ) from error

    def found() -> Iterator[list]:
        while True:
            time.sleep(REST_SECONDS / 4)
            yield handler.at_rest()

    try:
        yield found()
    finally:
        observer.stop()
        observer.join()
