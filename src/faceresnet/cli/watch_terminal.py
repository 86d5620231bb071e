"""What ``faceresnet watch`` shows in a terminal, and how signals end it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live

    from faceresnet.apps.watch.events import Event
    from faceresnet.apps.watch.loop import Status

#: Times a second that the status line is drawn.
REFRESH_RATE = 2


class Terminal:
    """Events on standard output; problems and a status line on standard error.

    Args:
        events: print them.
    """

    def __init__(self, *, events: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._events = events
        self._lock = threading.Lock()
        self._console = Console(stderr=True, highlight=False)
        self._line: Live | None = None
        if self._console.is_terminal:
            self._line = Live(
                "connecting",
                console=self._console,
                refresh_per_second=REFRESH_RATE,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # else events belong where it leads
            )

    def __enter__(self) -> None:
        if self._line:
            self._line.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._line:
            self._line.stop()

    def event(self, event: Event) -> None:
        """Print an event; the loss and the return of a camera are problems."""
        from faceresnet.apps.watch.events import CAMERA_DOWN, CAMERA_UP

        if event.kind in (CAMERA_UP, CAMERA_DOWN):
            state = "up" if event.kind == CAMERA_UP else f"down: {event.reason}; trying again"
            self.note(f"{event.camera} is {state}")
        elif self._events:
            with self._lock:
                print(_sentence(event), flush=True)

    def note(self, line: str) -> None:
        """Print a line on standard error."""
        with self._lock:
            if self._line:  # rich moves the status line out of the way
                self._console.print(f"faceresnet: {line}", markup=False, soft_wrap=True)
            else:
                print(f"faceresnet: {line}", file=sys.stderr, flush=True)

    def status(self, status: Status) -> None:
        """Renew the status line."""
        if self._line:
            lost = f" · {status.undelivered} not delivered" if status.undelivered else ""
            self._line.update(
                f"{status.up} of {status.cameras} up · {status.rate:.1f} frames/s · "
                f"faces now: {status.faces} · events: {status.events}{lost}"
            )


def _sentence(event: Event) -> str:
    """An event for people."""
    from faceresnet.apps.watch.events import COUNT_CHANGED, FACE_ENTERED, iso

    when = iso(event.at)
    if event.kind == COUNT_CHANGED:
        return f"{when}  {event.camera}  {event.before} → {event.count} faces"
    seen = f"{event.score:.2f}" if event.kind == FACE_ENTERED else f"after {event.seen_s:.1f} s"
    verb = "enters" if event.kind == FACE_ENTERED else "leaves"
    return f"{when}  {event.camera}  face {event.track} {verb} ({seen})"


class Stop:
    """Remembers that a signal came, also before there was anything to stop."""

    def __init__(self) -> None:
        self._came = False
        self._stop: Callable[[], None] | None = None

    def call(self, stop: Callable[[], None]) -> None:
        """Call `stop` when a signal comes, or at once if one has come; it must take no lock."""
        self._stop = stop
        if self._came:
            stop()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._came:  # asked twice: at once
            raise KeyboardInterrupt
        self._came = True
        if self._stop:
            self._stop()


@contextmanager
def ended_by_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask for the end; only the main thread may ask for signals."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
