"""Threads for the NumPy engine: ours over groups of images, none of BLAS's own below them."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from faceresnet.nn.memory import Workspace
from faceresnet.processors import cores

T = TypeVar("T")
R = TypeVar("R")

#: What OpenBLAS calls these functions in the wheels of NumPy, and in builds by others.
_AFFIXES = (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", ""))


class Team:
    """Some threads that work through a list together.

    NumPy releases Python's lock in matmul and in loops over arrays, so that they do run side by
    side. What a task computes must not depend on which thread runs it.

    A `ThreadPoolExecutor` would do, were it quicker: an iteration of `fcc` hands over work twenty
    times, and each time its futures would cost more than two operations on a whole batch.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or cores()
        self._local = threading.local()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        others = self.threads - 1  # the caller works too
        for _ in range(others):
            threading.Thread(target=_work, args=(self._jobs,), daemon=True).start()
        weakref.finalize(self, _end, self._jobs, others)

    @property
    def work(self) -> Workspace:
        """Memory of the thread that asks."""
        if not hasattr(self._local, "work"):
            self._local.work = Workspace()
        return self._local.work

    def each(self, task: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Results of a task for every item, in their order."""
        if len(items) < 2:
            return [task(item) for item in items]
        return self.begin(task, items)()

    def begin(self, task: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        """Let the other threads start on what `each` does, while the caller goes on.

        Returns:
            what takes a share of the items that are left, waits, and gives the results.
        """
        results: dict[int, R] = {}
        errors: list[BaseException] = []
        left, ended = iter(range(len(items))), count(1)  # next() on them is atomic
        done = threading.Lock()
        if items:
            done.acquire()

        def take() -> None:
            for index in left:
                try:
                    results[index] = task(items[index])
                except BaseException as error:  # whatever it is, the caller has to have it
                    errors.append(error)
                if next(ended) == len(items):
                    done.release()

        for _ in range(min(self.threads - 1, len(items))):
            self._jobs.put(take)

        def finish() -> list[R]:
            take()
            done.acquire()
            if errors:
                raise errors[0]
            return [results[index] for index in range(len(items))]

        return finish


def _work(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    """Do jobs until there comes a None."""
    while (job := jobs.get()) is not None:
        job()
        del job  # it holds arrays


def _end(jobs: SimpleQueue[Callable[[], None] | None], threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep OpenBLAS from using threads of its own, which would fight with ours for the cores.

    Other libraries are left as they are: for MKL set ``MKL_NUM_THREADS=1`` in the environment.
    """
    functions = _openblas()
    if functions is None:
        yield
        return
    get, set_ = functions
    before = get()
    set_(1)
    try:
        yield
    finally:
        set_(before)


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """OpenBLAS's functions that get and set its number of threads, if NumPy uses it."""
    try:
        # Symbols of the libraries that an extension module is linked to are found through it.
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
    for prefix, suffix in _AFFIXES:
        with contextlib.suppress(AttributeError):
            get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
            return get, getattr(library, f"{prefix}openblas_set_num_threads{suffix}")
    return None
