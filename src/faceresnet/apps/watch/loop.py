"""The watch itself: newest frames of all cameras through one detector, in turn."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from faceresnet import images
from faceresnet.apps.watch.events import (
    CAMERA_DOWN,
    CAMERA_UP,
    Event,
    EventOptions,
    Scene,
    Tracking,
)
from faceresnet.apps.watch.metrics import Metrics
from faceresnet.apps.watch.outbox import (
    EVENTS_FILE,
    EventFolder,
    JsonLines,
    Outbox,
    Outlet,
    Webhook,
    close_all,
    drain,
)
from faceresnet.detections import Detections
from faceresnet.video.addresses import Source
from faceresnet.video.live import Feed, LiveFrame, LiveOptions

#: Longest sleep while nothing comes; also how late a stop is noticed, s.
TICK_S = 0.1
#: Time between two calls of `on_tick`, s.
STATUS_S = 0.5
#: Time between two calls of `give_back_memory`, s.
GIVE_BACK_S = 30.0
#: What ending may take: for events that wait, and for reads that hang, s.
DELIVER_S, JOIN_S = 0.8, 0.4
#: At the end of files, longest wait for a delivery, s: more than all attempts at one take.
PATIENCE_S = 30.0
#: Looks a second that a tracker expects where --max-fps gives no limit; what it reckons with are
#: the times of the frames.
USUAL_RATE = 10.0
#: Least time that a face may be hidden and keep its number, s.
LEAST_LOST_S = 1.0

Detect = Callable[[images.Image], Detections]


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Attributes:
        live: how to treat cameras.
        events: when a face is there.
        every: look only at each so many-th frame of a source.
        max_fps: looks at a source a second, at most; of a file, by its own time.
        duration_s: end after so long.
        frames: end after so many looks, at all sources together.
        save_events: folder for pictures and events.
        jsonl: file for events, or ``-``.
        webhook: address to post events to.
        metrics: ``PORT`` or ``HOST:PORT``.

    Raises:
        ValueError: a number is out of its range.
    """

    live: LiveOptions = field(default_factory=LiveOptions)
    events: EventOptions = field(default_factory=EventOptions)
    every: int = 1
    max_fps: float | None = None
    duration_s: float | None = None
    frames: int | None = None
    save_events: Path | None = None
    jsonl: str | None = None
    webhook: str | None = None
    metrics: str | None = None

    def __post_init__(self) -> None:
        for name in ("every", "max_fps", "duration_s", "frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class Status:
    """How the watch is going.

    Attributes:
        cameras: sources that are not at their end.
        up: those that send frames.
        looks: frames analysed so far.
        rate: looks/s since the status before.
        faces: there now, in front of all cameras.
        events: so far.
        undelivered: events that failed or were dropped, of all ways out.
    """

    cameras: int
    up: int
    looks: int
    rate: float
    faces: int
    events: int
    undelivered: int


class _Camera:
    """A feed, its scene, and when to look next."""

    def __init__(self, feed: Feed, scene: Scene, max_fps: float | None) -> None:
        self.feed, self.scene = feed, scene
        self.name = feed.source.name
        self.live = feed.source.live
        self.up = False
        self.ended = False
        self.error: str | None = None
        self.last_arrival_s = time.monotonic()
        self._period_s = 1 / max_fps if max_fps else 0.0
        self._due_s: float | None = None

    def take(self) -> LiveFrame | None:
        """The newest frame, if there is one and it is time to look."""
        due_s = float("-inf") if self._due_s is None else self._due_s
        if self.live and time.monotonic() < due_s:
            return None
        frame = self.feed.take()
        if frame is None:
            return None
        if not self.live and frame.time_s < due_s - 1e-3:
            return None  # all frames of a file come by; those too early are passed over
        now_s = time.monotonic() if self.live else frame.time_s
        if self._due_s is None:
            self._due_s = now_s
        self._due_s = max(self._due_s + self._period_s, now_s + self._period_s / 2)
        self.last_arrival_s = frame.arrived_s
        return frame


class Watch:
    """Watches sources until it is stopped, a limit is reached or all files are at their ends.

    Args:
        detect: finds the faces in an image; one for all sources, called from one thread.
        sources: cameras and files.
        options: how to watch.
        threshold: least score that `detect` reports.
        on_event: called with every event, from the watching thread.
        on_tick: called with the status about twice a second, from the watching thread.
        on_problem: called with one line when events cannot be delivered, or a camera stays away
            for another reason than before; from any thread.
        stop: ends `run` once it is set.

    Raises:
        ValueError, FaceResNetError: an outlet's address or file is none, is a film that is watched,
            or cannot be used.
        MissingExtraError: a library is not installed.
    """

    def __init__(
        self,
        detect: Detect,
        sources: Sequence[Source],
        options: WatchOptions | None = None,
        *,
        threshold: float = 0.5,
        on_event: Callable[[Event], None] = lambda event: None,
        on_tick: Callable[[Status], None] = lambda status: None,
        on_problem: Callable[[str], None] = lambda line: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._detect, self._options = detect, options or WatchOptions()
        self._threshold = threshold
        self._on_event, self._on_tick, self._on_problem = on_event, on_tick, on_problem
        self._wake = threading.Event()
        self._stop = stop or threading.Event()
        self._looks = self._events = 0
        _refuse_films(self._options, sources)
        self._cameras = [self._camera(source) for source in sources]
        self._tracking()  # here it fails early, should a library be missing
        outlets = _outlets(self._options)
        self._outboxes: list[Outbox] = []
        scenes = {camera.name: camera.scene for camera in self._cameras}
        self._metrics = Metrics([c.feed for c in self._cameras], scenes, self._outboxes)
        metrics = self._options.metrics
        self._server = None if metrics is None else self._metrics.serve(metrics)
        # Last, as each has a thread: nothing fails from here on.
        self._outboxes += [Outbox(outlet, report=on_problem) for outlet in outlets]

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served, if they are."""
        return self._server[0].server_port if self._server else None

    @property
    def failed(self) -> dict[str, str]:
        """Files that could not be read (to their end): name → why."""
        return {c.name: c.error for c in self._cameras if c.ended and c.error is not None}

    @property
    def undelivered(self) -> dict[str, int]:
        """Ways out that did not deliver all events: name → how many are lost, after `run`."""
        return {o.name: o.undelivered for o in self._outboxes if o.undelivered}

    @property
    def events(self) -> int:
        """Events so far; each goes to all ways out."""
        return self._events

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()

    def run(self) -> None:
        """Watch until `stop`, a limit or the end of all files.

        Where all sources are files, events that wait are delivered then, if anybody takes them.
        """
        start_s, patient = time.monotonic(), False
        try:
            for camera in self._cameras:
                camera.feed.start()
            self._loop(start_s)
            patient = not any(camera.live for camera in self._cameras)
        finally:
            self._close(patient=patient)

    def _camera(self, source: Source) -> _Camera:
        options = self._options
        feed = Feed(source, options.live, every=options.every, wake=self._wake)
        scene = Scene(source.name, options.events, self._tracking, file=not source.live)
        return _Camera(feed, scene, options.max_fps)

    def _tracking(self) -> Tracking:
        from faceresnet.video.tracks import Tracker

        lost_s = max(LEAST_LOST_S, self._options.events.leave_s)
        return Tracker(
            self._options.max_fps or USUAL_RATE, threshold=self._threshold, lost_s=lost_s
        )

    def _loop(self, start_s: float) -> None:
        told_s, told_looks, given_back_s = start_s, 0, start_s
        while not self._is_over(start_s):
            self._wake.clear()
            seen = [self._look(camera) for camera in self._cameras if not self._is_over(start_s)]
            now_s = time.monotonic()
            if now_s - told_s >= STATUS_S:
                self._on_tick(self._status((self._looks - told_looks) / (now_s - told_s)))
                told_s, told_looks = now_s, self._looks
            if now_s - given_back_s >= GIVE_BACK_S:
                give_back_memory()
                given_back_s = now_s
            if not any(seen):
                self._wake.wait(TICK_S)

    def _is_over(self, start_s: float) -> bool:
        limit = self._options
        return (
            self._stop.is_set()
            or (limit.frames is not None and self._looks >= limit.frames)
            or (limit.duration_s is not None and time.monotonic() - start_s >= limit.duration_s)
            or all(camera.ended for camera in self._cameras)
        )

    def _look(self, camera: _Camera) -> bool:
        """Look at a camera's newest frame; whether there was one."""
        state = camera.feed.state  # before the frame: a frame may wait behind the end
        frame = camera.take()
        if frame is None:
            waits = camera.feed.ready
            self._check(camera, state.up, state.ended and not waits, state.error)
            return False
        if not camera.up:
            self._up(camera, frame.at)
        start_s = time.monotonic()
        image = frame.image()
        faces = self._detect(image)
        detected_s = time.monotonic()
        self._tell(camera.scene.see(frame, image, faces))
        self._looks += 1
        metrics = self._metrics
        metrics.looks.labels(camera.name).inc()
        metrics.faces.labels(camera.name).inc(len(faces))
        metrics.detection_s.labels(camera.name).observe(detected_s - start_s)
        metrics.latency_s.labels(camera.name).observe(time.monotonic() - frame.arrived_s)
        return True

    def _check(self, camera: _Camera, up: bool, ended: bool, error: str | None) -> None:
        """Notice that a camera is gone or a file at its end."""
        now = datetime.now(UTC)
        if ended and not camera.ended:
            camera.ended, camera.up, camera.error = True, False, error
            self._tell(camera.scene.lose(now, error or "the file ended"))
            if error is not None:
                self._down(camera, error)
        if not camera.live or up:
            return
        if error is not None and error != camera.error:
            first = camera.error is None
            camera.up, camera.error = False, error
            if first:
                self._down(camera, error)
            else:
                self._on_problem(f"{camera.name} is still down: {error}")
        # A camera back at once goes on where it was.
        gone_s = time.monotonic() - camera.last_arrival_s
        if gone_s >= self._options.events.leave_s:
            self._tell(camera.scene.lose(now, f"the camera is gone: {camera.error}"))

    def _up(self, camera: _Camera, at: datetime) -> None:
        camera.up, camera.error = True, None
        if camera.live:
            self._tell([Event(CAMERA_UP, at, camera.name, camera.scene.count)])

    def _down(self, camera: _Camera, error: str) -> None:
        now, count = datetime.now(UTC), camera.scene.count
        self._tell([Event(CAMERA_DOWN, now, camera.name, count, reason=error)])

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events += 1
            self._metrics.events.labels(event.camera, event.kind).inc()
            for outbox in self._outboxes:
                outbox.put(event)
            self._on_event(event)

    def _status(self, rate: float) -> Status:
        states = [outbox.state for outbox in self._outboxes]
        return Status(
            cameras=sum(not camera.ended for camera in self._cameras),
            up=sum(camera.feed.state.up for camera in self._cameras),
            looks=self._looks,
            rate=rate,
            faces=sum(camera.scene.count for camera in self._cameras),
            events=self._events,
            undelivered=sum(state.failed + state.dropped for state in states),
        )

    def _close(self, *, patient: bool) -> None:
        """End within about two seconds, whatever hangs; later if outboxes may take their time."""
        for camera in self._cameras:
            camera.feed.stop()
        now = datetime.now(UTC)
        for camera in self._cameras:
            self._tell(camera.scene.lose(now, "the watch ended"))
        if patient:
            drain(self._outboxes, PATIENCE_S, self._stop)
        close_all(self._outboxes, DELIVER_S)
        end_s = time.monotonic() + JOIN_S
        for camera in self._cameras:
            camera.feed.join(end_s - time.monotonic())
        if self._server:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()


def give_back_memory() -> None:
    """Free what is unused and return it to the system.

    Requests of the webhook refer to themselves; Python counts objects, not bytes, so it looks for
    them too late. And glibc keeps freed memory, where one thread makes frames and another frees
    them.
    """
    import ctypes

    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc: nothing to do
        ctypes.CDLL(None).malloc_trim(0)


def _refuse_films(options: WatchOptions, sources: Sequence[Source]) -> None:
    """Make sure that no events are added to a film.

    Raises:
        ValueError: they would be.
    """
    films = [Path(str(source.address)) for source in sources if not source.live]
    files = [Path(options.jsonl)] if options.jsonl not in (None, "-") else []
    if options.save_events is not None:
        for source in sources:
            files += (options.save_events / source.name).glob(f"*/{EVENTS_FILE}")
    for file in files:
        if os.path.exists(file) and any(film.exists() and file.samefile(film) for film in films):
            raise ValueError(f"{file} is a video that is watched: choose another name for events")


def _outlets(options: WatchOptions) -> list[Outlet]:
    pictures = options.save_events is not None
    outlets: list[Outlet] = []
    if options.save_events is not None:
        outlets.append(EventFolder(options.save_events))
    if options.jsonl is not None:
        outlets.append(JsonLines(options.jsonl, pictures=pictures))
    if options.webhook is not None:
        outlets.append(Webhook(options.webhook, pictures=pictures))
    return outlets
