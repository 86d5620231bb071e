"""What ``faceresnet watch`` shows in a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection
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
        files: names of the sources that are files, which are not opened again.
    """

    def __init__(self, *, events: bool, files: Collection[str] = ()) -> None:
        from rich.console import Console
        from rich.live import Live

        self._events, self._files = events, files
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
            self._line.start(refresh=True)

    def __exit__(self, *error: object) -> None:
        if self._line:
            self._line.stop()

    def event(self, event: Event) -> None:
        """Print an event; the loss and the return of a camera are problems."""
        from faceresnet.apps.watch.events import CAMERA_DOWN, CAMERA_UP

        if event.kind in (CAMERA_UP, CAMERA_DOWN):
            state = "up" if event.kind == CAMERA_UP else f"down: {event.reason}"
            again = event.kind == CAMERA_DOWN and event.camera not in self._files
            self.note(f"{event.camera} is {state}{'; trying again' if again else ''}")
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
