"""Photos and videos with every face covered and no metadata that could identify anybody.

A missed face is the costly error, so the detector is asked for more than it is sure of
(`least_score`), boxes grow by a margin, and in videos and animations what was found in one frame
covers its neighbours as well. No detector finds every face: look at the result before it goes out.
"""

from __future__ import annotations

from faceresnet.apps.anonymise.covering import METHODS, SHAPES, Covering, cover
from faceresnet.apps.anonymise.photos import Covered, Locate, anonymise_photo
from faceresnet.detector import FaceDetector

#: Score from which a face is covered, as a part of the model's own threshold, which is where false
#: covers cost as much as missed faces. On 150 photos of WIDER FACE's validation set, faceresnet-n
#: leaves uncovered at its own threshold and at half of it: 11 and 6 % of the faces higher than
#: 40 px, 24 and 10 % of those of 16 to 40 px, 51 and 23 % of the smaller ones, for 1.1 and 10.4
#: covers a photo over something that is no labelled face (docs/results.md).
SHARE_OF_THRESHOLD = 0.5


def least_score(detector: FaceDetector) -> float:
    """Score from which faces are covered unless the user says otherwise."""
    share = SHARE_OF_THRESHOLD if detector.threshold is None else 1
    return detector.default_threshold * share


def locate_with(detector: FaceDetector) -> Locate:
    """The detector as what `anonymise_photo` asks for."""
    threshold = least_score(detector)
    return lambda image: detector(image, threshold).boxes


__all__ = [
    "METHODS",
    "SHAPES",
    "Covered",
    "Covering",
    "Locate",
    "anonymise_photo",
    "cover",
    "least_score",
    "locate_with",
]
