"""Where events go: folders with pictures, lines of JSON, a webhook.

None of them may hold up detection, so each waits behind a queue of its own, with a thread of its
own, and a limit: what finds no place is dropped and counted.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from faceresnet import images
from faceresnet.apps.watch.events import Event
from faceresnet.errors import FaceResNetError, needs, one_line, reason, while_writing
from faceresnet.video.addresses import mask

if TYPE_CHECKING:
    import httpx

#: Events that wait for one outlet at most; crops wait with them, about 0.5 MB each.
CAPACITY = 200
#: A webhook's time-out for one attempt, s, and the pauses between attempts, s.
WEBHOOK_TIMEOUT_S = 5.0
WEBHOOK_PAUSES_S = (0.5, 2.0, 5.0)
#: How often to look whether everything is delivered, s.
POLL_S = 0.05
#: Name of the file of a day's events, beside its pictures.
EVENTS_FILE = "events.jsonl"
#: Answers that mean "not now"; others from 400 on mean "never".
TRY_AGAIN = frozenset({408, 425, 429, *range(500, 600)})


@dataclass(frozen=True)
class OutboxState:
    """Events delivered, failed and dropped so far, and those that wait."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0


class Outbox:
    """A bounded queue before an outlet; the oldest event is dropped when it is full.

    The outlet delivers one event at a time, as slowly as it likes; when `closing` is set, without
    further attempts. It raises whatever it likes where an event could not be delivered.

    Args:
        outlet: where the events go.
        capacity: events that may wait.
        report: called with one line when deliveries begin to fail, not for every failure.
    """

    def __init__(
        self,
        outlet: Outlet,
        *,
        capacity: int = CAPACITY,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = outlet.name
        self._outlet, self._capacity, self._report = outlet, capacity, report
        self._queue: deque[Event] = deque()
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._given_up = False
        self._taken = self._sent = self._failed = self._dropped = 0
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name=outlet.name, daemon=True)
        self._thread.start()

    @property
    def state(self) -> OutboxState:
        """What is known now."""
        with self._news:
            return OutboxState(self._sent, self._failed, self._dropped, len(self._queue))

    @property
    def undelivered(self) -> int:
        """Events that were not delivered, or not yet."""
        with self._news:
            return self._taken - self._sent

    @property
    def is_idle(self) -> bool:
        """Whether every event so far was delivered or given up."""
        with self._news:
            return self._taken == self._sent + self._failed + self._dropped

    def put(self, event: Event) -> None:
        """Queue an event; never waits."""
        with self._news:
            self._taken += 1
            if len(self._queue) >= self._capacity:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append(event)
            self._news.notify_all()

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, for so long at most; the rest is dropped."""
        self._closing.set()
        with self._news:
            self._news.notify_all()
        self._thread.join(max(0.0, timeout_s))
        with self._news:
            self._given_up = True
            self._dropped += len(self._queue)
            self._queue.clear()

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._outlet.deliver(event, self._closing)
            except Exception as error:  # whatever is wrong with an outlet, the watch goes on
                self._note(error)
            else:
                with self._news:
                    self._sent += 1
                    self._is_failing = False
        self._outlet.close()

    def _next(self) -> Event | None:
        with self._news:
            self._news.wait_for(lambda: self._queue or self._closing.is_set())
            return self._queue.popleft() if self._queue and not self._given_up else None

    def _note(self, error: Exception) -> None:
        with self._news:
            self._failed += 1
            news, self._is_failing = not self._is_failing, True
        if news:
            self._report(f"{self.name}: {mask(one_line(str(error)) or type(error).__name__)}")


class EventFolder:
    """``DIR/camera/day/``: a JPEG for each face, and ``events.jsonl``.

    Raises:
        FaceResNetError: the folder cannot be written to.
    """

    name = "events"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FaceResNetError(
                f"cannot make the folder {folder}: {reason(error)}: give another --save-events"
            ) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise FaceResNetError(f"the folder {folder} cannot be written to")

    def deliver(self, event: Event, closing: threading.Event) -> None:
        """Write the picture, then the line that names it."""
        if event.picture is not None and event.crop is not None:
            images.write(event.crop.image, self._folder / event.picture)
        line = json.dumps(event.to_dict(pictures=True), ensure_ascii=False)
        append_line(self._folder / event.day / EVENTS_FILE, line)

    def close(self) -> None:
        """Nothing stays open between events."""


class JsonLines:
    """One line for each event, at the end of a file, to a pipe or to standard output (``-``).

    Raises:
        FaceResNetError: the file cannot be written to.
    """

    name = "jsonl"

    def __init__(self, file: Path | str, *, pictures: bool) -> None:
        self._path = None if str(file) == "-" else Path(file)
        self._pictures = pictures
        self._pipe: FileIO | None = None
        if self._path is None or _is_pipe(self._path):  # a pipe may have to wait for its reader
            return
        with while_writing(self._path, FaceResNetError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.open("a").close()

    def deliver(self, event: Event, closing: threading.Event) -> None:
        """Write one line."""
        line = json.dumps(event.to_dict(pictures=self._pictures), ensure_ascii=False)
        if self._path is None:
            print(line, flush=True)
        elif _is_pipe(self._path):
            self._send(self._path, line)
        else:
            append_line(self._path, line)

    def _send(self, path: Path, line: str) -> None:
        """Write to a pipe. It stays open between events: for its reader, closing is the end."""
        if self._pipe is None:
            self._pipe = path.open("ab", buffering=0)
        try:
            _write(self._pipe, f"{line}\n".encode())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close a pipe; a file does not stay open between events."""
        if self._path is None:
            sys.stdout.flush()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _is_pipe(path: Path) -> bool:
    """Whether a path leads to a pipe or a device, where there is nothing to look back at."""
    return path.exists() and not path.is_file() and not path.is_dir()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all; one that a crash cut short is ended first.

    The file is opened each time, so that it may be moved away or deleted meanwhile.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        try:
            _write(file, f"{line}\n".encode())
        except OSError:
            if file.tell() == file.seek(0, os.SEEK_END):  # nobody else has added to it meanwhile
                file.truncate(end)
            raise


def _write(file: FileIO, content: bytes) -> None:
    """Write all of it: a single write may take a part only and not say why."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


class Webhook:
    """Posts each event as JSON; tries again when the other side fails for the moment.

    Args:
        url: http or https; a user name and a password in it are sent as basic authentication.
        pictures: name the crops' files.
        timeout_s: for one attempt, from looking up the server to the end of its answer.
        pauses_s: before each further attempt.

    Raises:
        ValueError: the address is none.
        MissingExtraError: httpx is not installed.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        *,
        pictures: bool = False,
        timeout_s: float = WEBHOOK_TIMEOUT_S,
        pauses_s: tuple[float, ...] = WEBHOOK_PAUSES_S,
    ) -> None:
        with needs("a webhook", "video"):
            import httpx
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"'{mask(url)}' is no address of a webhook: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"'{mask(url)}' is no address of a webhook: expected http(s)://…")
        self._url, self._pictures, self._pauses_s = url, pictures, pauses_s
        self._server = f"{parsed.scheme}://{parsed.host}"  # the path may be the secret itself
        self._timeout_s = timeout_s
        self._client = httpx.Client(timeout=timeout_s)

    def deliver(self, event: Event, closing: threading.Event) -> None:
        """Post an event.

        Raises:
            FaceResNetError: it was refused, or every attempt failed.
        """
        content = event.to_dict(pictures=self._pictures)
        for pause_s in (*self._pauses_s, None):
            problem, final = self._post(content)
            if problem is None:
                return
            if final or pause_s is None or closing.wait(pause_s):
                raise FaceResNetError(f"not delivered to {self._server}: {problem}")

    def _post(self, content: dict[str, object]) -> tuple[str | None, bool]:
        """What is wrong, if anything, and whether it is so for ever."""
        import httpx

        answer: Future[int] = Future()
        attempt = threading.Thread(
            target=self._attempt, args=(self._client, content, answer), name="post", daemon=True
        )
        attempt.start()
        try:
            status = answer.result(self._timeout_s)
        except TimeoutError:
            self._client.close()  # with its connection the attempt ends, too
            self._client = httpx.Client(timeout=self._timeout_s)
            return f"no answer within {self._timeout_s:g} s", False
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__, False
        if status >= 300:
            return f"the server answers {status}", status not in TRY_AGAIN
        return None, True

    def _attempt(
        self, client: httpx.Client, content: dict[str, object], answer: Future[int]
    ) -> None:
        """Post in a thread of its own: httpx times each read, and knows no time for all of them."""
        try:
            answer.set_result(client.post(self._url, json=content).status_code)
        except Exception as error:  # it is the other thread's to deal with
            answer.set_exception(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


Outlet: TypeAlias = EventFolder | JsonLines | Webhook


def drain(outboxes: Sequence[Outbox], patience_s: float, stop: threading.Event) -> None:
    """Let outboxes deliver what waits, until `stop`, or until none has delivered for so long."""
    left, since_s = -1, time.monotonic()
    while not all(outbox.is_idle for outbox in outboxes) and not stop.is_set():
        now_s, before = time.monotonic(), left
        left = sum(outbox.undelivered for outbox in outboxes)
        if left != before:
            since_s = now_s
        elif now_s - since_s >= patience_s:
            return
        time.sleep(POLL_S)  # the main thread must not wait for what its signal handlers set


def close_all(outboxes: list[Outbox], timeout_s: float) -> None:
    """Close outboxes together within a time."""
    end_s = time.monotonic() + timeout_s
    for outbox in outboxes:
        outbox._closing.set()
    for outbox in outboxes:
        outbox.close(end_s - time.monotonic())
