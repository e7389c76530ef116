"""Runs tasks in worker processes on this machine or on a Dask cluster.

Both are `concurrent.futures` executors, so one loop, `stream`, serves them. If a worker
dies, another gets its task; a task that kills its worker again is reported.
"""

import collections
import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from tagger import containers

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkersDied(OSError):
    """Workers died several times in a row without finishing a task."""


MAX_WINDOWS_WORKERS = 61  # more make ProcessPoolExecutor fail
MAX_FRUITLESS = 3  # rounds in a row in which workers died and no task was finished


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use.

    A container may allow fewer than the machine has (cgroup), and a scheduler may bind
    the process to some of them (affinity).
    """
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *_quotas(Path("/sys/fs/cgroup"))]))


def _quotas(folder: Path) -> list[int]:
    """Returns the number of cores that a cgroup (v2 or v1) allows, rounded up."""
    found = []
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            text = " ".join((folder / name).read_text() for name in names)
            quota, period = map(int, text.split())
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        if quota > 0:
            found.append(math.ceil(quota / period))
    return found


def stream(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    num_workers: int,
    scheduler: str | None = None,
    num_ahead: int = 4,
) -> Iterator[tuple[Task, Result | WorkersDied]]:
    """Calls a function with every task; yields the results in the tasks' order.

    Args:
        function: Function of a task; the workers must be able to import it.
        tasks: Arguments of the function; they must be picklable.
        num_workers: Number of processes on this machine; a cluster has its own number.
        scheduler: Address of a Dask scheduler, `tcp://host:8786`; None means this
            machine.
        num_ahead: Tasks per worker that may be started or finished before the reader
            takes their results.

    Yields:
        Each task with its result, or with an error if the task killed its worker.

    Raises:
        WorkersDied: MAX_FRUITLESS tasks in a row killed their workers: the machine is
            the cause.
        OSError: the scheduler cannot be reached.
        ImportError: Dask is not installed, here or on a worker.
        Exception: the function raised it.
    """
    tasks, window, fruitless = iter(tasks), collections.deque(), 0
    is_whole = False
    while not is_whole:
        with _executor(scheduler, num_workers) as (pool, deaths, size):
            try:
                for pair in window:  # from the pool that broke
                    pair[1] = pair[1] or pool.submit(function, pair[0])
                for result in _in_order(
                    pool, function, tasks, window, lambda: num_ahead * size()
                ):
                    yield result
                    fruitless = 0
                is_whole = True
            except deaths:
                _forget_lost(window)
            except BaseException:
                _stop(pool, [future for _, future in window if future])
                raise
        if not is_whole and window:
            # A task in the window is the cause: they run one at a time up to that one.
            for result in _one_by_one(function, window, scheduler):
                fruitless = fruitless + 1 if isinstance(result[1], WorkersDied) else 0
                if fruitless == MAX_FRUITLESS:
                    raise _died(fruitless) from result[1]
                yield result


def _in_order(pool, function, tasks, window, num_open):
    """Yields (task, result) from the left of a window of [task, future]."""
    while True:
        while len(window) < num_open():
            try:
                task = next(tasks)
            except StopIteration:
                break
            window.append([task, None])
            window[-1][1] = pool.submit(function, task)
        if not window:
            return
        result = window[0][1].result()
        yield window.popleft()[0], result


def _forget_lost(window) -> None:
    """Drops the futures that a broken pool did not finish."""
    for pair in window:
        future = pair[1]
        is_whole = future and future.done() and not future.cancelled()
        if not is_whole or future.exception():
            pair[1] = None


def _one_by_one(function, window, scheduler):
    """Runs the unfinished tasks of a window, each with a worker of its own."""
    while window:
        task, future = window.popleft()
        if future:
            yield task, future.result()
            continue
        with _executor(scheduler, 1) as (pool, deaths, _):
            try:
                yield task, pool.submit(function, task).result()
            except deaths:
                yield task, WorkersDied("it killed the process that worked on it")
                return  # the others may run together again


def _stop(pool: concurrent.futures.Executor, futures: list) -> None:
    """Ends tasks that nobody waits for: a long one would keep the program alive."""
    if not isinstance(pool, concurrent.futures.ProcessPoolExecutor):
        for future in futures:
            future.cancel()
        return
    processes = list((pool._processes or {}).values())
    # The pool cancels its futures itself: it would stumble over those that we cancel.
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(10)


def _died(number: int) -> WorkersDied:
    return WorkersDied(
        f"Worker processes died {number} times in a row without finishing a task,"
        " perhaps for lack of memory. Use fewer workers. (A script that uses workers"
        ' must start under `if __name__ == "__main__"`.)'
    )


@contextlib.contextmanager
def _executor(
    scheduler: str | None, num_workers: int
) -> Iterator[tuple[concurrent.futures.Executor, tuple, Callable[[], int]]]:
    """Yields an executor, the exceptions it raises if a worker dies, and its size."""
    if scheduler is None:
        # "spawn" on every system: a process that loaded TensorFlow must not be forked.
        context = multiprocessing.get_context("spawn")
        if sys.platform == "win32":
            num_workers = min(num_workers, MAX_WINDOWS_WORKERS)
        with concurrent.futures.ProcessPoolExecutor(
            num_workers, context, _start_process
        ) as pool:
            yield pool, (BrokenProcessPool,), lambda: num_workers
        return
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise ImportError(
            f"The scheduler {scheduler} needs Dask: pip install 'dask[distributed]'."
        ) from error
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise OSError(
            f"No Dask scheduler answers at {scheduler!r} ({error}). Start one (dask"
            " scheduler) and workers (dask worker tcp://host:8786), or omit"
            " `scheduler=` to use this machine."
        ) from error
    with client, client.get_executor(pure=False) as pool:
        try:
            yield pool, (KilledWorker,), lambda: sum(client.nthreads().values()) or 1
        except concurrent.futures.CancelledError as error:
            raise OSError(
                f"The connection to the scheduler at {scheduler} was lost. Run the same"
                " command again to resume."
            ) from error
        except ImportError as error:
            raise ImportError(
                f"A worker of {scheduler} lacks a package ({error}). Install this"
                " project and its requirements on every worker."
            ) from error


def _start_process() -> None:
    # Ctrl-C reaches every process of the terminal; only the parent reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    containers.become_worker()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the parent was killed, so nobody waits for this task
