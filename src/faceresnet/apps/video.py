"""Faces in a video: looked for, followed, drawn and written down while it is read.

Reading, looking and writing overlap, each in threads of its own, so that the detector alone decides
how long it takes. On the CPU the detector runs as one instance of one thread (or a few) for each
worker: threads that share one look wait for each other whenever the encoder takes a core from one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np
from numpy.typing import NDArray

from faceresnet import images
from faceresnet.detections import Detections
from faceresnet.detector import FaceDetector
from faceresnet.errors import VideoError
from faceresnet.processors import cores
from faceresnet.video.between import between
from faceresnet.video.reading import Frame, VideoReader
from faceresnet.video.stages import Ahead, Behind
from faceresnet.video.tracks import UNCONFIRMED, Tracker
from faceresnet.video.writing import VideoWriter

#: Frames that wait between two stages.
ROOM = 4
#: Detectors that look at the same time, at most; each needs its own memory.
MOST_WORKERS = 4
#: The picture of a frame whose pixels nobody needs.
NO_PIXELS: images.Image = np.empty((0, 0, 3), dtype=np.uint8)
#: A tracked face may score this part of the threshold: ByteTrack tells it from noise by its place.
FAINT = 0.5


@dataclass(frozen=True)
class Options:
    """What to do with the frames.

    Attributes:
        every: look at every Nth frame only; in between, tracks move in straight lines.
        track: give the faces ids.
    """

    every: int = 1
    track: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    @property
    def follows(self) -> bool:
        """Ids are needed: they are wanted, or what lies between two looks follows them."""
        return self.track or self.every > 1


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame and its faces; `detected` is False where they were guessed from frames around it."""

    frame: Frame
    faces: Detections
    detected: bool


@dataclass
class Report:
    """How a run went.

    Attributes:
        frames: that passed.
        faces: found in them in all.
        tracks: how many people, where they were tracked.
        lost: broken frames.
        wall_s: from the first frame to the last.
        stages: of each stage its items and the seconds that it worked.
        stopped: it was ended before the video was.
        closed: by closing the window that showed it.
        left: by whoever read the lines and reads no more.
        broke_off: why a camera or an address came to an end too early.
        warnings: what of the source was not looked at, and what the film does not keep.
    """

    frames: int = 0
    faces: int = 0
    tracks: int = 0
    lost: int = 0
    wall_s: float = 0.0
    stages: dict[str, tuple[int, float]] = field(default_factory=dict)
    stopped: bool = False
    closed: bool = False
    left: bool = False
    broke_off: str | None = None
    warnings: tuple[str, ...] = ()


def open_detectors(make: Callable[[int], FaceDetector], threads: int | None) -> list[FaceDetector]:
    """As many detectors as shall look at the same time.

    Args:
        make: a detector of so many threads.
        threads: to share out among them; by default one for each core.

    Raises:
        ValueError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    threads = threads or cores()
    workers = min(threads, MOST_WORKERS)
    return [make(threads // workers) for _ in range(workers)]


class _Span:
    """The last look whose faces are followed, and the frames since."""

    def __init__(self) -> None:
        self._look: tuple[Frame, Detections] | None = None
        self.frames: list[Frame] = []

    def close(self, frame: Frame, faces: Detections, ids: NDArray[np.int64]) -> Iterator[Seen]:
        """Yield what lies before a new look, and keep the new one.

        Args:
            frame: of the new look.
            faces: in it, with tracks.
            ids: of the faces of the look before, as they are known now.
        """
        if self._look is not None:
            start, before = self._look
            before = _with(before, ids)
            yield Seen(start, before, detected=True)
            for held in self.frames:
                part = (held.time_s - start.time_s) / (frame.time_s - start.time_s)
                yield Seen(held, between(before, faces, part), detected=False)
        self._look, self.frames = (frame, faces), []

    def end(self) -> Iterator[Seen]:
        """Yield the last look; the frames after it keep its faces."""
        if self._look is not None:
            frame, faces = self._look
            yield Seen(frame, faces, detected=True)
            yield from (Seen(held, faces, detected=False) for held in self.frames)


def _with(faces: Detections, tracks: NDArray[np.int64] | None) -> Detections:
    return Detections(faces.boxes, faces.scores, faces.size, tracks)


def _is_ready(found: Future[Detections] | None) -> bool:
    return found is None or found.done()


class FaceFinder:
    """Faces of the frames of a video, in order, found by several detectors at the same time.

    Attributes:
        looks: how many frames the detectors have seen.
    """

    def __init__(
        self,
        detectors: Sequence[FaceDetector],
        options: Options,
        rate: float,
        *,
        pictures: bool = True,
    ) -> None:
        """Args:
        detectors: one for each look at the same time, of one model and threshold.
        options: which frames to look at.
        rate: of the video, frames/s.
        pictures: all frames keep their pixels; else only those that are looked at.
        """
        if not detectors:
            raise ValueError("at least one detector is needed")
        self._options, self._pictures = options, pictures
        self._idle: deque[FaceDetector] = deque(detectors)
        self._workers = len(detectors)
        self._threshold = detectors[0].default_threshold
        self._least = self._threshold * (FAINT if options.follows else 1)
        self._tracker = (
            Tracker(rate / options.every, threshold=self._threshold) if options.follows else None
        )
        self._lock = threading.Lock()
        self._spent_s = 0.0
        self.looks = 0

    @property
    def busy_s(self) -> float:
        """Time that each detector worked, on average."""
        return self._spent_s / self._workers

    def __call__(self, frames: Iterator[Frame]) -> Iterator[Seen]:
        """Yield every frame with its faces; a few frames are held, `every` of them at least.

        Without `pictures` those between two looks are held, and come, with `NO_PIXELS`.

        Stopping early is allowed at any point: closing the generator waits for looks under way.
        """
        room = max(self._options.every, self._workers) + 1
        waiting: deque[tuple[Frame, Future[Detections] | None]] = deque()
        span = _Span()
        with ThreadPoolExecutor(self._workers, "look") as pool:
            for number, frame in enumerate(frames):
                look = number % self._options.every == 0
                found = pool.submit(self._look, frame.image) if look else None
                if not (look or self._pictures):
                    frame = replace(frame, image=NO_PIXELS)
                waiting.append((frame, found))
                while len(waiting) > room or (waiting and _is_ready(waiting[0][1])):
                    yield from self._pass(span, *waiting.popleft())
            for frame, found in waiting:
                yield from self._pass(span, frame, found)
            for seen in span.end():
                yield self._shown(seen)

    def _pass(self, span: _Span, frame: Frame, found: Future[Detections] | None) -> Iterator[Seen]:
        if found is None:
            span.frames.append(frame)
            return
        faces = found.result()
        if self._tracker is None:
            yield Seen(frame, faces, detected=True)
            return
        ids = self._tracker(faces, frame.time_s)
        for seen in span.close(frame, _with(faces, ids), self._tracker.previous):
            yield self._shown(seen)

    def _shown(self, seen: Seen) -> Seen:
        """Leave out faint faces of no track, and ids that nobody asked for."""
        faces, tracks = seen.faces, seen.faces.tracks
        if tracks is None:
            return seen
        faces = faces[(faces.scores >= self._threshold) | (tracks != UNCONFIRMED)]
        faces = faces if self._options.track else _with(faces, None)
        return Seen(seen.frame, faces, seen.detected)

    def _look(self, image: images.Image) -> Detections:
        detector = self._idle.pop()
        start = time.perf_counter()
        try:
            return detector(image, self._least)
        finally:
            with self._lock:
                self._spent_s += time.perf_counter() - start
                self.looks += 1
            self._idle.append(detector)


def annotate(
    video: VideoReader,
    detectors: Sequence[FaceDetector],
    options: Options,
    *,
    film: VideoWriter | None = None,
    lines: IO[str] | None = None,
    show: Callable[[images.Image], bool] | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[Iterable[Seen]], Iterable[Seen]] = iter,
) -> Report:
    """Find the faces of a video, draw them, write them down and show them.

    Args:
        video: opened, with its sound if the film shall have it.
        detectors: as `open_detectors` makes them.
        options: which frames to look at and whether to give ids.
        film: entered writer of the drawn frames.
        lines: where to write a line of JSON for each frame. If their reader leaves while a film is
            written, the run ends as if it was stopped.
        show: is given each drawn frame, in the calling thread; False ends the run.
        stop: ends the run early; what was read until then is finished.
        progress: wrapped around the frames.

    Raises:
        VideoError: the film cannot be written.
        BrokenPipeError: the reader of the lines left, and there is no film.
    """
    stop = stop or threading.Event()
    pictures = film is not None or show is not None
    finder = FaceFinder(detectors, options, video.rate, pictures=pictures)
    _warm_up(detectors, video.size)
    report = Report()
    ids: set[int] = set()
    start = time.perf_counter()

    def write(item: tuple[Seen, images.Image | None]) -> None:
        seen, picture = item
        if film is not None:
            film.write(draw(seen) if picture is None else picture, seen.frame)
        if lines is None or report.left:
            return
        try:
            lines.write(to_json(seen) + "\n")
            if video.live:
                lines.flush()
        except BrokenPipeError:
            if film is None:
                raise
            report.left = True
            stop.set()

    with Ahead(video, ROOM, stop) as frames, Behind(write, ROOM) as writer:
        for seen in progress(finder(_whatever_comes(frames, report))):
            picture = draw(seen) if show is not None else None
            if show is not None and picture is not None and not show(picture):
                report.closed = True
                stop.set()
            writer.put((seen, picture))
            report.frames += 1
            report.faces += len(seen.faces)
            if seen.faces.tracks is not None:
                ids.update(seen.faces.tracks.tolist())
    report.wall_s = time.perf_counter() - start
    report.tracks = len(ids - {UNCONFIRMED})
    report.lost = video.broken
    report.stopped = stop.is_set()
    report.warnings = (*video.left_out, *(film.warnings if film is not None else ()))
    report.stages = {
        "decode": (frames.count, frames.busy_s),
        "detect": (finder.looks, finder.busy_s),
        "encode": (writer.count, writer.busy_s),
    }
    return report


def _whatever_comes(frames: Iterable[Frame], report: Report) -> Iterator[Frame]:
    """Frames up to the end, or to where the source breaks off: what came is worth keeping."""
    try:
        yield from frames
    except VideoError as error:
        report.broke_off = str(error)


def _warm_up(detectors: Sequence[FaceDetector], size: tuple[int, int]) -> None:
    """Have the models compiled for the video's size, so that the clock measures the video."""
    grey = images.grey(size)
    with ThreadPoolExecutor(len(detectors)) as pool:
        list(pool.map(lambda detector: detector(grey), detectors))


def draw(seen: Seen) -> images.Image:
    """Draw the faces on a copy of the frame: red boxes, and ids where there are any."""
    import cv2

    faces = seen.faces
    drawn = images.draw(seen.frame.image, faces.boxes)
    if faces.tracks is None:
        return drawn
    scale = max(0.4, max(drawn.shape[:2]) / 1600)
    for (x1, y1, _, _), track in zip(faces.boxes.tolist(), faces.tracks.tolist(), strict=True):
        if track == UNCONFIRMED:
            continue
        text, font, thick = str(track), cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale * 2))
        (width, height), _ = cv2.getTextSize(text, font, scale, thick)
        left, bottom = int(x1), max(int(y1), height + 4)
        corners = (left, bottom - height - 4), (left + width + 4, bottom)
        cv2.rectangle(drawn, *corners, images.RED, cv2.FILLED)
        cv2.putText(
            drawn, text, (left + 2, bottom - 2), font, scale, (255, 255, 255), thick, cv2.LINE_AA
        )
    return drawn


def to_json(seen: Seen) -> str:
    """One line: frame, time_s, detected, and faces with box, score and, if tracked, track."""
    return json.dumps(
        {
            "frame": seen.frame.index,
            "time_s": round(seen.frame.time_s, 6),
            "detected": seen.detected,
            "faces": seen.faces.to_dict()["faces"],
        }
    )
