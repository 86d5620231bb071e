"""Videos with their faces covered, their sound kept and what they say about themselves left out.

A video is read twice: first every frame is looked at and the faces are tracked, then, with past and
future known, every frame is covered and written. So gaps of any length are filled without frames
waiting in memory, and memory stays flat however long the video is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from faceresnet import images
from faceresnet.apps.anonymise.covering import Covering, cover
from faceresnet.apps.anonymise.filling import Boxes, Filling, Look, count, fill
from faceresnet.detections import Detections
from faceresnet.errors import VideoError
from faceresnet.video.reading import Frame, open_video
from faceresnet.video.stages import Ahead
from faceresnet.video.tracks import Tracker
from faceresnet.video.writing import VideoWriter

#: Constant rate factor of H.264: what is not covered looks like the original.
QUALITY = 18
#: Frames decoded ahead of the detector and of the encoder.
AHEAD = 4
#: Overlap with where a track expects its face from which it goes on.
TRACK_IOU = 0.1

#: Called with the name of the pass and its frames, gives them back: a progress bar.
Watch = Callable[[str, int | None, Iterable[Frame]], Iterable[Frame]]


@dataclass(frozen=True)
class CoveredVideo:
    """What became of a video.

    Attributes:
        faces: tracks, and faces never found in two frames running.
        frames: written.
        broken: frames of the source that could not be decoded and are left out.
        notes: what of the source could not be kept, a line each.
    """

    faces: int
    frames: int
    broken: int = 0
    notes: tuple[str, ...] = ()


def anonymise_video(
    source: Path,
    target: Path,
    detect: Callable[[images.Image], Detections],
    covering: Covering,
    *,
    filling: Filling = Filling(),  # noqa: B008  it is frozen
    sound: bool = True,
    threads: int | None = None,
    watch: Watch = lambda title, total, frames: frames,
) -> CoveredVideo:
    """Write a video with its faces covered.

    Args:
        source: a file.
        target: appears whole or not at all; its suffix names the container.
        detect: finds the faces of a frame; every one of them is covered.
        covering: how.
        filling: how long faces count as there though the detector misses them.
        sound: keep it.
        threads: of the encoder.
        watch: goes along with both passes.

    Raises:
        VideoError: the source cannot be read, or the target not be written.
        MissingExtraError: the extra [video] is not installed.
        ValueError: the target is the source, or no container has its suffix.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target} is the video itself: choose another place for the result")
    pts, looks = _look(source, detect, filling, watch)
    boxes = fill(looks, filling)
    with open_video(source, sound=sound) as video:
        with VideoWriter(target, video, quality=QUALITY, threads=threads, metadata=False) as film:
            with Ahead(video, room=AHEAD) as frames:
                for frame in watch("Covering", len(boxes), frames):
                    film.write(_covered(frame, source, pts, boxes, covering), frame)
            if film.frames != len(boxes):
                raise _changed(source)
        notes = (*video.left_out, *film.warnings)
        return CoveredVideo(count(looks), film.frames, video.broken, notes)


def _look(
    source: Path,
    detect: Callable[[images.Image], Detections],
    filling: Filling,
    watch: Watch,
) -> tuple[list[int], list[Look]]:
    """First pass: the time of every frame, and the faces in it."""
    pts, looks = [], []
    with open_video(source) as video:
        if video.live:
            raise VideoError(f"{video.name} has no end: record it first, then name the file")
        tracker = Tracker(video.rate, threshold=0.0, lost_s=filling.bridge_s, min_iou=TRACK_IOU)
        with Ahead(video, room=AHEAD) as frames:
            for frame in watch("Looking", video.frame_count, frames):
                faces = detect(frame.image)
                pts.append(frame.pts)
                ids = tracker(faces, frame.time_s)
                looks.append(Look(frame.time_s, faces.boxes, faces.scores, ids))
    return pts, looks


def _covered(
    frame: Frame, source: Path, pts: list[int], boxes: list[Boxes], covering: Covering
) -> images.Image:
    """Second pass: a frame as it goes out."""
    if frame.index >= len(pts) or pts[frame.index] != frame.pts:
        raise _changed(source)
    image = frame.image if frame.image.flags.writeable else frame.image.copy()
    cover(image, boxes[frame.index], covering)
    return image


def _changed(source: Path) -> VideoError:
    return VideoError(f"{source} changed while it was read, or decodes differently each time")
