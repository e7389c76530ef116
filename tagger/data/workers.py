"""Runs tasks in worker processes on this machine or on a Dask cluster.

Both are `concurrent.futures` executors, so one loop serves them. If a worker dies, only
its task is lost, and another worker gets it.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkersDied(OSError):
    """Workers died several times in a row without finishing a task."""


MAX_FRUITLESS = 3  # rounds in a row in which workers died and no task was finished


def run(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    on_result: Callable[[Task, Result], None],
    num_workers: int,
    scheduler: str | None = None,
) -> None:
    """Calls a function with every task, in any order.

    Args:
        function: Function of a task; the workers must be able to import it.
        tasks: Arguments of the function; they must be picklable.
        on_result: Function that is called in this process with each task and its
            result, in the order in which they finish. If the run is interrupted, it is
            also called for tasks that finish meanwhile.
        num_workers: Number of processes on this machine; a cluster has its own number.
        scheduler: Address of a Dask scheduler, `tcp://host:8786`; None means this
            machine.

    Raises:
        WorkersDied: workers died several times in a row without finishing a task.
        OSError: the scheduler cannot be reached.
        ImportError: Dask is not installed, here or on a worker.
        Exception: the function raised it.
    """
    waiting, fruitless = list(tasks), 0
    while waiting:
        with _executor(scheduler, min(num_workers, len(waiting))) as (pool, deaths):
            done, death = _run_round(pool, deaths, function, waiting, on_result)
        waiting = [task for number, task in enumerate(waiting) if number not in done]
        fruitless = 0 if done else fruitless + 1
        if waiting and fruitless == MAX_FRUITLESS:
            raise WorkersDied(
                f"Worker processes died {fruitless} times in a row without finishing a"
                " task, perhaps for lack of memory. Use fewer workers."
            ) from death


def _run_round(
    pool: concurrent.futures.Executor,
    deaths: tuple[type[Exception], ...],
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    on_result: Callable[[Task, Result], None],
) -> tuple[set[int], Exception | None]:
    """Returns the numbers of the finished tasks, and the error if a worker died."""
    done, death = set(), None

    def take(number: int, future: concurrent.futures.Future) -> None:
        on_result(tasks[number], future.result())
        done.add(number)

    futures = {}
    try:
        for number, task in enumerate(tasks):
            futures[pool.submit(function, task)] = number
        for future in concurrent.futures.as_completed(futures):
            try:
                take(futures[future], future)
            except deaths as error:
                death = error
    except deaths as error:  # the pool broke before it had all tasks
        death = error
    except BaseException:
        for future in futures:
            future.cancel()
        concurrent.futures.wait(futures)
        for future, number in futures.items():
            # Tasks that finished while we stopped are complete as well.
            whole = not future.cancelled() and not future.exception()
            if whole and number not in done:
                take(number, future)
        raise
    return done, death


@contextlib.contextmanager
def _executor(
    scheduler: str | None, num_workers: int
) -> Iterator[tuple[concurrent.futures.Executor, tuple[type[Exception], ...]]]:
    """Yields an executor, and the exceptions with which it reports dead workers."""
    if scheduler is None:
        # "spawn" on every system: a process that loaded TensorFlow must not be forked.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            num_workers, context, _start_process
        ) as pool:
            yield pool, (BrokenProcessPool,)
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
            " scheduler) and workers (dask worker tcp://host:8786), or omit --scheduler"
            " to use this machine."
        ) from error
    with client, client.get_executor(pure=False) as pool:
        try:
            yield pool, (KilledWorker,)
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
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the parent was killed, so nobody waits for this task
