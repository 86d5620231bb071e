"""Stages of a pipeline that overlap: each in a thread of its own, with short queues between."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")

#: How often a waiting thread looks whether it shall stop, and how long closing waits for a thread
#: that hangs in a camera or a network.
LOOK_S, FAREWELL_S = 0.2, 2.0


class _Stage(Generic[T]):
    """A thread beside a queue; a context manager.

    Attributes:
        busy_s: time that it worked, without its waiting.
        count: items that passed it.
    """

    def __init__(self, room: int, name: str) -> None:
        self.busy_s = 0.0
        self.count = 0
        self._queue: queue.Queue[T | _End] = queue.Queue(room)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._stop.set()
        self._thread.join(FAREWELL_S)

    def _work(self) -> None:
        raise NotImplementedError

    def _put(self, item: T | _End, *, while_alive: bool = False) -> None:
        """Wait for room; give up when the stage stops or, if asked to heed it, has died."""
        while not self._stop.is_set():
            if while_alive and not self._thread.is_alive():
                return
            try:
                return self._queue.put(item, timeout=LOOK_S)
            except queue.Full:
                continue


class _End:
    """Marks the end of a queue, with the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Ahead(_Stage[T], Iterator[T]):
    """An iterator that works ahead of its consumer, in its own thread.

        with Ahead(video, room=4) as frames:
            for frame in frames:

    Errors of the source arrive where the next item would.
    """

    def __init__(self, source: Iterable[T], room: int, halt: threading.Event | None = None) -> None:
        """Args:
        source: what to iterate.
        room: items to have ready, at most.
        halt: once it is set, there is no next item.
        """
        super().__init__(room, "read ahead")
        self._source = source
        self._halt = halt or threading.Event()
        self._ended: _End | None = None

    def _work(self) -> None:
        end = _End()
        try:
            items = iter(self._source)
            while not self._stop.is_set():
                start = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    break
                self.busy_s += time.perf_counter() - start
                self.count += 1
                self._put(item)
        except BaseException as error:
            end = _End(error)
        self._put(end)

    def __next__(self) -> T:
        while self._ended is None and not self._halt.is_set():
            try:
                item = self._queue.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if not isinstance(item, _End):
                return item
            self._ended = item
        if self._ended is not None and self._ended.error is not None:
            raise self._ended.error
        raise StopIteration


class Behind(_Stage[T]):
    """A function that is called behind its producer's back, in its own thread and in order.

        with Behind(write, room=4) as writer:
            writer.put(frame)

    Leaving the ``with`` block waits for what was put; an error of the function is raised by the
    next `put`, or there.
    """

    def __init__(self, act: Callable[[T], None], room: int) -> None:
        super().__init__(room, "write behind")
        self._act = act
        self._error: BaseException | None = None

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                return
            start = time.perf_counter()
            try:
                self._act(item)
            except BaseException as error:
                self._error = error
                return
            self.busy_s += time.perf_counter() - start
            self.count += 1

    def put(self, item: T) -> None:
        """Hand over an item; waits while the queue is full.

        Raises:
            Exception: what the function raised.
        """
        self._put(item, while_alive=True)
        if self._error is not None:
            raise self._error

    def __exit__(self, kind: object, *error: object) -> None:
        self._put(_End(), while_alive=True)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
