"""Who is who from frame to frame: ByteTrack, of the library `trackers`, over our detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faceresnet.detections import Detections
from faceresnet.errors import MissingExtraError, VideoError

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

#: The id of a detection that belongs to no track, or to one not confirmed yet.
UNCONFIRMED = -1

#: How faces are expected to move, in face heights: their speed in a second, how much that changes
#: in a second, and how far the edges of a detection jump from look to look.
SPEED, ACCELERATION, JITTER = 3.0, 3.0, 0.1
#: Least likeness (distance-IoU) of a face to where its track expects it, for looks at most
#: `SMOOTH_S` apart, and for those `JUMPY_S` apart or more: there the first step of a new track may
#: lead beyond its box.
SMOOTH_S, SMOOTH_LIKENESS = 1 / 15, 0.1
JUMPY_S, JUMPY_LIKENESS = 1 / 3, -0.3


class Tracker:
    """Gives the faces of one video stable ids; not for several threads at once.

        tracker = Tracker(rate=video.rate)
        ids = tracker(detector(frame.image), frame.time_s)

    A track is confirmed, and gets its id (1, 2, …), with its second detection in a row.

    Attributes:
        previous: (M,) ids of the faces of the call before the last, as they are known since.
    """

    def __init__(
        self,
        rate: float,
        *,
        threshold: float = 0.5,
        lost_s: float = 1.0,
        min_iou: float | None = None,
    ) -> None:
        """Args:
            rate: looks/s: the video's rate, divided by N when only every Nth frame is looked at.
            threshold: score from which a face starts a track; lower ones only continue tracks.
            lost_s: how long a face may be hidden and keep its id; three looks at least.
            min_iou: least likeness of a face to where its track expects it: their IoU less the
                distance of their centres, from -1 to 1. By default the lower, the rarer the looks.

        Raises:
            ValueError: a number is out of its range.
            MissingExtraError: the library is not installed.
            VideoError: the library cannot be loaded: the system lacks something.
        """
        if not rate > 0 or not lost_s >= 0:
            raise ValueError(f"rate must be positive and lost_s not negative: {rate}, {lost_s}")
        if min_iou is None:
            likenesses = SMOOTH_LIKENESS, JUMPY_LIKENESS
            min_iou = float(np.interp(1 / rate, (SMOOTH_S, JUMPY_S), likenesses))
        library = _import_trackers()
        self._rate = rate
        self._time_s = 0.0
        self._unconfirmed: dict[int, Any] = {}
        self._ids = np.zeros(0, dtype=np.int64)
        self.previous = self._ids
        self._tracker: ByteTrackTracker = library.ByteTrackTracker(
            lost_track_buffer=round(30 * max(lost_s, 3 / rate)),
            frame_rate=rate,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=min_iou,
            state_estimator_class=_motion(1 / rate),
            iou=library.utils.iou.DIoU(),
        )

    def __call__(self, faces: Detections, time_s: float | None = None) -> NDArray[np.int64]:
        """Take the faces of the next frame.

        Args:
            faces: (M,) of this frame.
            time_s: of this frame; by default one step of the rate after the last.

        Returns:
            (M,) id of each face, `UNCONFIRMED` where it has none (yet).
        """
        now_s = self._time_s + 1 / self._rate if time_s is None else time_s
        # The library refuses clocks that stand still.
        self._time_s = max(now_s, self._time_s + 1e-3)
        known = list(self._tracker.tracks)
        theirs = faces.to_supervision()
        theirs.data["index"] = np.arange(len(faces))
        tracked: Any = self._tracker.update(theirs, timestamp=self._time_s)
        ids = np.full(len(faces), UNCONFIRMED, dtype=np.int64)
        if len(tracked):
            ids[tracked.data["index"]] = np.where(
                tracked.tracker_id < 0, UNCONFIRMED, tracked.tracker_id + 1
            )
        self._revise()
        self._ids = ids
        self._unconfirmed = self._match_new(faces, known)
        return ids.copy()

    def _revise(self) -> None:
        """Tell `previous` what the faces before have become."""
        self.previous = self._ids.copy()
        for number, track in self._unconfirmed.items():
            if track.tracker_id >= 0:
                self.previous[number] = track.tracker_id + 1

    def _match_new(self, faces: Detections, known: list[Any]) -> dict[int, Any]:
        """Tracks that began with this frame, by the number of their face.

        `known` holds the tracks before it, and not their `id`s, which the library may give to new
        ones as soon as it has dropped the old.
        """
        begun = [track for track in self._tracker.tracks if track not in known]
        places = [np.abs(faces.boxes - track.get_state_bbox()).max(axis=1) for track in begun]
        return {int(place.argmin()): track for place, track in zip(places, begun, strict=True)}


def _motion(step_s: float) -> type[Any]:
    """The library's filter, with noise that fits the size of a face and the time between looks.

    Its own noise is the same in pixels for every face, rate and picture; a face that moves by ten
    pixels between looks is lost to it.
    """
    from trackers.utils.state_representations import XYXYStateEstimator

    class FaceMotion(XYXYStateEstimator):
        def _create_filter(self, bbox: NDArray[np.floating]) -> Any:
            made = super()._create_filter(bbox)
            height = max(1.0, float(bbox[3] - bbox[1]))
            speed, change = SPEED * height * step_s, ACCELERATION * height * step_s**2
            jitter = JITTER * height
            made.state_covariance = np.diag([jitter**2] * 4 + [speed**2] * 4)
            # ByteTrack's tracks take a tenth and a hundredth of these.
            made.measurement_noise = np.eye(4) * jitter**2 / 0.1
            made.process_noise = np.diag([(change / 2) ** 2] * 4 + [change**2] * 4) / 0.01
            return made

    return FaceMotion


def _import_trackers() -> Any:
    try:
        import trackers
    except ModuleNotFoundError as error:
        raise MissingExtraError("tracking", "video") from error
    except ImportError as error:  # its OpenCV draws windows, and is linked to their libraries
        hint = "apt install libgl1 libglib2.0-0" if "libG" in str(error) else "install it"
        raise VideoError(f"tracking needs a library of the system ({error}): {hint}") from error
    return trackers
