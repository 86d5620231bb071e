"""Photos of many requests go through the network together.

    submit → waiting ──reader──→ ready ──detector──→ futures
             (bytes)   decode     (images)  batches

Nothing waits for a batch to fill: the detector, once free, takes the oldest image and what is ready
beside it of the same size. So one request alone is answered at once, and under load, while a batch
is in work, the next one gathers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from faceresnet import images
from faceresnet.apps.serve import photos
from faceresnet.apps.serve.refusals import Refusal
from faceresnet.detections import Detections
from faceresnet.detector import FaceDetector

#: Longest wait for the threads to end, in seconds.
JOIN_S = 10.0


@dataclass(frozen=True)
class Found:
    """What was found in one photo, and how long each step took.

    Attributes:
        faces: in px of the upright photo.
        wait_s: in queues.
        read_s: for decoding.
        detect_s: of its whole batch.
    """

    faces: Detections
    wait_s: float
    read_s: float
    detect_s: float


@dataclass(eq=False)
class Job:
    """One photo on its way.

    Attributes:
        content: the file; dropped when it is read.
        threshold: least score to report.
        max_side: reduce it to this longer side, px.
        future: of its `Found`; cancelled by `Batcher.forget`.
    """

    content: bytes
    threshold: float
    max_side: int | None = None
    future: Future[Found] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    size: tuple[int, int] = (0, 0)
    image: images.Image | None = None
    pixels: int = 0
    read_s: float = 0.0


class Batcher:
    """A thread that decodes photos, and one that detects faces in batches of one size.

    Args:
        detector: finds the faces.
        batch_size: images in a batch at most.
        queue_size: photos held at most, from `submit` to their result.
        max_pixels: largest photo; decoded photos wait only up to twice this size together.
        on_read: called, from the batcher's threads, with the seconds that a photo took to decode.
        on_detected: the same, with a batch's number of images and the seconds that it took.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        batch_size: int = 8,
        queue_size: int = 128,
        max_pixels: int = images.MAX_PIXELS,
        on_read: Callable[[float], None] = lambda seconds: None,
        on_detected: Callable[[int, float], None] = lambda count, seconds: None,
    ) -> None:
        self._detector = detector
        self._multiple = detector.spec.size_multiple
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._max_pixels = max_pixels
        self._on_read, self._on_detected = on_read, on_detected
        self._lock = threading.Lock()
        self._to_read = threading.Condition(self._lock)
        self._to_detect = threading.Condition(self._lock)
        self._waiting: deque[Job] = deque()
        self._ready: deque[Job] = deque()
        self._held = 0
        self._pixels = 0  # decoded or being decoded
        self._closed = False
        self._threads = [
            threading.Thread(target=self._read_all, name="reader", daemon=True),
            threading.Thread(target=self._detect_all, name="detector", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held(self) -> int:
        """Photos waiting or in work."""
        return self._held

    @property
    def full(self) -> bool:
        """Whether not even one more photo is taken."""
        return self._held >= self._queue_size

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take the photos of a request, all or none.

        Raises:
            Refusal: there is no room for them (queue_full), or the batcher is closed (not_ready).
        """
        with self._lock:
            if self._closed:
                raise Refusal("not_ready", "the service is about to stop")
            if self._held + len(jobs) > self._queue_size:
                raise queue_full(self._held)
            self._held += len(jobs)
            self._waiting.extend(jobs)
            self._to_read.notify(len(jobs))

    def forget(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these photos any more: those that nobody has begun with are let go."""
        with self._lock:
            for job in jobs:
                if job in self._waiting:
                    self._waiting.remove(job)
                    self._held -= 1
        for job in jobs:
            job.future.cancel()

    def close(self) -> None:
        """Stop the threads; what is waiting still is refused."""
        with self._lock:
            self._closed = True
            left = [*self._waiting, *self._ready]
            self._waiting.clear()
            self._ready.clear()
            self._held -= len(left)
            self._to_read.notify_all()
            self._to_detect.notify_all()
        for job in left:
            _settle(job, _stopped())
        for thread in self._threads:
            thread.join(JOIN_S)

    def _read_all(self) -> None:
        while (job := self._next_to_read()) is not None:
            try:
                self._reserve(job)
                self._read(job)
            except Exception as error:  # whatever it is, this photo's loss and not the thread's
                self._drop(job, error)

    def _next_to_read(self) -> Job | None:
        """The oldest photo waiting, when few are ready; None when closed."""
        with self._lock:
            self._to_read.wait_for(
                lambda: self._closed or (self._waiting and len(self._ready) < 2 * self._batch_size)
            )
            return None if self._closed else self._waiting.popleft()

    def _reserve(self, job: Job) -> None:
        """Wait for room for a photo's pixels."""
        if job.future.cancelled():
            raise Refusal("timeout", "nobody waits for the photo any more")
        pixels = photos.measure(job.content, self._max_pixels)
        with self._lock:
            self._to_read.wait_for(
                lambda: self._closed or self._pixels + pixels <= 2 * self._max_pixels
            )
            job.pixels = pixels
            self._pixels += pixels

    def _read(self, job: Job) -> None:
        start = time.perf_counter()
        image = photos.read(job.content, self._max_pixels)
        job.content = b""
        job.size = (image.shape[0], image.shape[1])
        job.image = image if job.max_side is None else images.shrink(image, job.max_side)
        job.read_s = time.perf_counter() - start
        self._on_read(job.read_s)
        with self._lock:
            if self._closed:
                raise _stopped()
            self._ready.append(job)
            self._to_detect.notify()

    def _drop(self, job: Job, error: Exception) -> None:
        """Let go of a photo that was not read."""
        with self._lock:
            self._held -= 1
            self._pixels -= job.pixels
            self._to_read.notify_all()
        _settle(job, error)

    def _detect_all(self) -> None:
        while batch := self._next_batch():
            wanted = [job for job in batch if not job.future.cancelled()]
            outcomes = self._detect(wanted)
            for job in batch:
                job.image = None
            # Before anyone hears of the results: who does finds the room that they leave.
            with self._lock:
                self._held -= len(batch)
                self._pixels -= sum(job.pixels for job in batch)
                self._to_read.notify_all()
            for job, outcome in zip(wanted, outcomes, strict=True):
                _settle(job, outcome)

    def _next_batch(self) -> list[Job]:
        """The oldest image and others of its size and threshold; empty when closed.

        A power of two of them: engines compile a network for each shape that they meet often.
        """
        with self._lock:
            self._to_detect.wait_for(lambda: self._ready or self._closed)
            if not self._ready:
                return []
            key = self._key(self._ready[0])
            alike = [job for job in self._ready if self._key(job) == key][: self._batch_size]
            batch = alike[: 1 << (len(alike).bit_length() - 1)]
            for job in batch:
                self._ready.remove(job)
            self._to_read.notify_all()
            return batch

    def _key(self, job: Job) -> tuple[object, ...]:
        assert job.image is not None
        shape = job.image.shape
        return images.padded_size((shape[0], shape[1]), self._multiple), job.threshold

    def _detect(self, jobs: Sequence[Job]) -> list[Found | Exception]:
        """Look at images of one size together; if that fails, at each alone."""
        if not jobs:
            return []
        start = time.perf_counter()
        try:
            found = self._detector.batch(
                [job.image for job in jobs if job.image is not None], jobs[0].threshold
            )
            whole = [faces.scaled_to(job.size) for faces, job in zip(found, jobs, strict=True)]
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [outcome for job in jobs for outcome in self._detect([job])]
        detect_s = time.perf_counter() - start
        self._on_detected(len(jobs), detect_s)
        return [
            Found(faces, start - job.submitted - job.read_s, job.read_s, detect_s)
            for faces, job in zip(whole, jobs, strict=True)
        ]


def queue_full(held: int) -> Refusal:
    """The refusal that asks a client to come back."""
    return Refusal("queue_full", f"{held} photos are waiting already: try again in a moment")


def _stopped() -> Refusal:
    return Refusal("not_ready", "the service stopped before it looked at the photo")


def _settle(job: Job, outcome: Found | Exception) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Found):
        job.future.set_result(outcome)
    else:
        job.future.set_exception(outcome)
