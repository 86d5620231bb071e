"""Who is who from frame to frame: ByteTrack, of the library `trackers`, over our detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faceresnet.detections import Detections
from faceresnet.errors import MissingExtraError

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

#: The id of a detection that belongs to no track, or to one not confirmed yet.
UNCONFIRMED = -1


class Tracker:
    """Gives the faces of one video stable ids; not for several threads at once.

        tracker = Tracker(rate=video.rate)
        ids = tracker(detector(frame.image), frame.time_s)

    A track is confirmed, and gets its id, with its second detection in a row.
    """

    def __init__(
        self, rate: float, *, threshold: float = 0.5, lost_s: float = 1.0, min_iou: float = 0.1
    ) -> None:
        """Args:
            rate: looks/s: the video's rate, divided by N when only every Nth frame is looked at.
            threshold: score from which a face starts a track; lower ones only continue tracks.
            lost_s: how long a face may be hidden and keep its id; three looks at least.
            min_iou: least overlap of a face with where its track expects it.

        Raises:
            ValueError: a number is out of its range.
            MissingExtraError: the library is not installed.
            ImportError: the library is installed but lacks a system library.
        """
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        buffer = round(30 * max(lost_s, 3 / rate))
        self._rate = rate
        self._time_s = 0.0
        self._tracker: ByteTrackTracker = _import_trackers().ByteTrackTracker(
            lost_track_buffer=buffer,
            frame_rate=rate,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=min_iou,
        )

    def __call__(self, faces: Detections, time_s: float | None = None) -> NDArray[np.int64]:
        """Take the faces of the next frame.

        Args:
            faces: (M,) of this frame.
            time_s: of this frame; by default one step of the rate after the last.

        Returns:
            (M,) id of each face, `UNCONFIRMED` where it has none (yet).
        """
        step_s = 1 / self._rate
        now_s = self._time_s + step_s if time_s is None else time_s
        self._time_s = max(now_s, self._time_s + 1e-3)
        theirs = faces.to_supervision()
        theirs.data["index"] = np.arange(len(faces))
        tracked: Any = self._tracker.update(theirs, timestamp=self._time_s)
        ids = np.full(len(faces), UNCONFIRMED, dtype=np.int64)
        if len(tracked):
            ids[tracked.data["index"]] = tracked.tracker_id
        return ids


def _import_trackers() -> Any:
    try:
        import trackers
    except ModuleNotFoundError as error:
        raise MissingExtraError("tracking", "video") from error
    return trackers
