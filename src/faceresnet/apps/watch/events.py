"""From faces in frames to events: who enters, who leaves, how many are there.

A detector misses a face now and then, and sees one where there is none. So a face enters when it
was seen for `enter_s`, and leaves when it was not seen for `leave_s`; what is shorter is no event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.apps.watch.crops import Crop, better
from faceresnet.detections import Detections
from faceresnet.video.live import LiveFrame

FACE_ENTERED, FACE_LEFT, COUNT_CHANGED = "face_entered", "face_left", "count_changed"
CAMERA_UP, CAMERA_DOWN = "camera_up", "camera_down"
KINDS = (FACE_ENTERED, FACE_LEFT, COUNT_CHANGED, CAMERA_UP, CAMERA_DOWN)
#: Frames that a face must be seen in, or missed in, whatever the rate.
ENTER_FRAMES, LEAVE_FRAMES = 2, 3
#: Overlap with a face that is missing from which a new track is taken for that face.
SAME_IOU = 0.3

#: Gives the faces of the next frame their ids, -1 where there is none yet, from their time in s.
Tracking = Callable[[Detections, float], NDArray[np.int64]]


@dataclass(frozen=True)
class EventOptions:
    """When a face is there.

    Attributes:
        enter_s: seen for so long, and in `ENTER_FRAMES` frames at least, it has entered.
        leave_s: not seen for so long, and in `LEAVE_FRAMES` frames, it has left.
        min_size: shorter side of the smallest face that counts, px.

    Raises:
        ValueError: a number is negative.
    """

    enter_s: float = 0.3
    leave_s: float = 1.0
    min_size: float = 0.0

    def __post_init__(self) -> None:
        if not all(number >= 0 for number in (self.enter_s, self.leave_s, self.min_size)):
            raise ValueError(f"times and sizes must not be negative, got {self}")


@dataclass(frozen=True, eq=False)
class Event:
    """Something happened in front of a camera, or to it.

    Attributes:
        kind: one of `KINDS`.
        at: when it was noticed, UTC.
        camera: its name.
        count: faces there, after this event.
        before: faces there before a change of the count.
        track: number of the face; unique for the camera in one run.
        box: ``x1 y1 x2 y2`` px, where the face was last seen.
        size: (height, width) px of that frame.
        score: the best of the face so far, 0..1.
        since: when the face was first seen, UTC.
        seen_s: from the first to the last sight of the face.
        position_s: from the start of a video file; None for cameras.
        reason: why a camera is down, or why faces left without having been missed.
        crop: best picture of the face so far.
    """

    kind: str
    at: datetime
    camera: str
    count: int
    before: int | None = None
    track: int | None = None
    box: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    score: float | None = None
    since: datetime | None = None
    seen_s: float | None = None
    position_s: float | None = None
    reason: str | None = None
    crop: Crop | None = None

    @property
    def day(self) -> PurePath:
        """Folder of the camera and the day, UTC: ``door/2026-03-01``."""
        return PurePath(self.camera) / f"{self.since or self.at:%Y-%m-%d}"

    @property
    def picture(self) -> PurePath | None:
        """Where the crop belongs; the same for the entering and the leaving of a face."""
        if self.crop is None or self.since is None:
            return None
        since = self.since
        return self.day / f"{since:%H%M%S}.{since.microsecond // 1000:03d}_{self.track}.jpg"

    def to_dict(self, *, pictures: bool = False) -> dict[str, Any]:
        """Plain values, those that do not apply left out; `pictures`: name the crop's file."""
        picture = self.picture if pictures else None
        values = {
            "event": self.kind,
            "time": iso(self.at),
            "camera": self.camera,
            "count": self.count,
            "before": self.before,
            "track": self.track,
            "box": None if self.box is None else [round(x, 2) for x in self.box],
            "width": None if self.size is None else self.size[1],
            "height": None if self.size is None else self.size[0],
            "score": None if self.score is None else round(self.score, 4),
            "since": None if self.since is None else iso(self.since),
            "seen_s": None if self.seen_s is None else round(self.seen_s, 3),
            "position_s": None if self.position_s is None else round(self.position_s, 3),
            "reason": self.reason,
            "crop": None if picture is None else picture.as_posix(),
        }
        return {name: value for name, value in values.items() if value is not None}


def iso(time: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond: ``2026-03-01T12:34:56.789Z``."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(eq=False)
class _Face:
    """One face that is, or may be, in front of the camera."""

    track: int
    since: datetime
    first_s: float
    first_look: int
    last_s: float = 0.0
    last_look: int = 0
    sights: int = 0
    score: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    size: tuple[int, int] = (0, 0)
    crop: Crop | None = None
    present: bool = False


class Scene:
    """What one camera has in front of it.

    Args:
        camera: its name.
        options: when a face is there.
        make_tracking: makes what follows faces from frame to frame; called again for each new
            connection to the camera.
        file: the frames are those of a video file, their times positions in it.
    """

    def __init__(
        self,
        camera: str,
        options: EventOptions,
        make_tracking: Callable[[], Tracking],
        *,
        file: bool = False,
    ) -> None:
        self.camera = camera
        self._options = options
        self._make_tracking = make_tracking
        self._file = file
        self._tracking: Tracking | None = None
        self._connection = 0
        self._start_s = 0.0
        self._reference: tuple[int, int] | None = None
        self._faces: dict[int, _Face] = {}
        self._looks = 0
        self._tracks = 0
        self._count = 0

    @property
    def count(self) -> int:
        """Faces that are there."""
        return self._count

    def see(self, frame: LiveFrame, image: images.Image, faces: Detections) -> list[Event]:
        """Take what was found in the next frame; what has happened since the last one."""
        faces = faces.filter(min_size=self._options.min_size)
        ids = self._track(frame, faces)
        self._looks += 1
        # Known faces first: what is still missing then may be what a new track shows (`_same`).
        known = np.array([id >= 0 and id in self._faces for id in ids.tolist()], dtype=bool)
        confirmed = ids >= 0
        for index in (*np.flatnonzero(known), *np.flatnonzero(confirmed & ~known)):
            self._sight(int(ids[index]), frame, image, faces, int(index))
        events = [self._event(FACE_ENTERED, frame, face) for face in self._entering(frame.time_s)]
        gone = [id for id, face in self._faces.items() if self._is_gone(face, frame.time_s)]
        left = [self._faces.pop(id) for id in gone]
        events += [self._event(FACE_LEFT, frame, face) for face in left if face.present]
        return self._counted(events, frame.at, self._position_s(frame))

    def lose(self, at: datetime, reason: str) -> list[Event]:
        """Nothing more can be seen: all faces leave."""
        present = [face for face in self._faces.values() if face.present]
        self._faces.clear()
        self._tracking = None
        events = [self._face_event(FACE_LEFT, at, face, reason=reason) for face in present]
        return self._counted(events, at, None)

    def _track(self, frame: LiveFrame, faces: Detections) -> NDArray[np.int64]:
        """Id of each face. Boxes are brought to the first frame's size, should that change."""
        if self._tracking is None or frame.connection != self._connection:
            self._tracking, self._connection = self._make_tracking(), frame.connection
            self._start_s = frame.time_s
            # Ids begin anew: who is there is found again by place (`_same`).
            self._faces = {-1 - n: face for n, face in enumerate(self._faces.values())}
        if self._reference is None:
            self._reference = faces.size
        return self._tracking(faces.scaled_to(self._reference), frame.time_s - self._start_s)

    def _sight(
        self, id: int, frame: LiveFrame, image: images.Image, faces: Detections, index: int
    ) -> None:
        """Note that a face is seen."""
        face = self._faces.get(id)
        if face is None:
            face = self._same(faces[index])
            if face is None:
                self._tracks += 1
                face = _Face(self._tracks, frame.at, frame.time_s, self._looks)
            self._faces[id] = face
        face.last_s, face.last_look = frame.time_s, self._looks
        face.sights += 1
        face.score = max(face.score, float(faces.scores[index]))
        x1, y1, x2, y2 = faces.boxes[index].tolist()
        face.box, face.size = (x1, y1, x2, y2), faces.size
        face.crop = better(face.crop, image, faces, index)

    def _same(self, faces: Detections) -> _Face | None:
        """Take out the face that was missed in this frame so far and was where this new one is."""
        missing = [id for id, face in self._faces.items() if face.last_look < self._looks]
        if not missing:
            return None
        last = [(*self._faces[id].box, *self._faces[id].size) for id in missing]
        table = np.array(last, dtype=np.float32)
        fractions = table[:, :4] / table[:, [5, 4, 5, 4]]
        overlaps = boxes_.iou(faces.xyxyn, fractions)[0]
        best = int(overlaps.argmax())
        return self._faces.pop(missing[best]) if overlaps[best] >= SAME_IOU else None

    def _entering(self, now_s: float) -> Iterable[_Face]:
        """Faces seen long and often enough; they are there from now on."""
        for face in self._faces.values():
            if face.present or face.last_look != self._looks:
                continue
            looks = self._looks - face.first_look + 1
            long_enough = now_s - face.first_s >= self._options.enter_s
            if face.sights >= max(ENTER_FRAMES, looks / 2) and long_enough:
                face.present = True
                yield face

    def _is_gone(self, face: _Face, now_s: float) -> bool:
        missed = self._looks - face.last_look >= LEAVE_FRAMES
        return missed and now_s - face.last_s >= self._options.leave_s

    def _counted(self, events: list[Event], at: datetime, position_s: float | None) -> list[Event]:
        """Give the events the count after them, and add the change of the count."""
        before = count = self._count
        counted = []
        for event in events:
            count += 1 if event.kind == FACE_ENTERED else -1
            counted.append(replace(event, count=count))
        self._count = count
        if count != before:
            counted.append(
                Event(COUNT_CHANGED, at, self.camera, count, before=before, position_s=position_s)
            )
        return counted

    def _position_s(self, frame: LiveFrame) -> float | None:
        return frame.time_s if self._file else None

    def _event(self, kind: str, frame: LiveFrame, face: _Face) -> Event:
        return self._face_event(kind, frame.at, face, position_s=self._position_s(frame))

    def _face_event(
        self,
        kind: str,
        at: datetime,
        face: _Face,
        *,
        position_s: float | None = None,
        reason: str | None = None,
    ) -> Event:
        return Event(
            kind,
            at,
            self.camera,
            count=0,
            track=face.track,
            box=face.box,
            size=face.size,
            score=face.score,
            since=face.since,
            seen_s=face.last_s - face.first_s,
            position_s=position_s,
            reason=reason,
            crop=face.crop,
        )
