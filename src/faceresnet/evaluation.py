"""How well faces are found: the official protocol of WIDER FACE (Yang, Luo, Loy, Tang 2016).

It is the PASCAL VOC measure with four particulars, all kept here because published figures have
them:

- boxes are compared with the legacy ``+1``: a box from x1 to x2 is x2 − x1 + 1 wide. It raises the
  overlap of tiny faces a little and is used nowhere else in this package;
- scores are stretched to 0..1 over the whole set and precision and recall are read at 1,000
  evenly spaced thresholds, not at every score;
- a detection counts for the face it overlaps most, found before or not; from an IoU of 0.5 on the
  first one is right and every further one wrong. Where that face is to be ignored, the detection
  is neither;
- in a photo without a single listed face nothing is counted wrong.

"AP at IoU 0.5 over all faces" in this project's documents is this protocol with every face that is
not marked ``invalid``. It is VOC's AP to within the first two particulars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from faceresnet import boxes as boxes_
from faceresnet.protocols import EVALUATION_THRESHOLD, PROTOCOLS, check_protocol, predict
from faceresnet.widerface import Photo, Predictions

__all__ = [
    "EVALUATION_THRESHOLD",
    "PROTOCOLS",
    "Curve",
    "PhotoErrors",
    "Report",
    "SizeResult",
    "average_precision",
    "check_protocol",
    "evaluate",
    "legacy_iou",
    "predict",
]

#: Overlap from which a detection has found a face.
MATCH_IOU = 0.5
#: Points of a precision-recall curve, as in the official tools.
POINTS = 1000
#: Sides in px (√area) that part the rows of the report by size.
SIZE_EDGES = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, inf)


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of one set of photos and faces.

    Attributes:
        name: of the set, such as "all", "hard" or an event.
        photos: how many.
        faces: how many are to be found.
        ap: average precision; NaN where there is no face to find.
        recall: (1000,) at each threshold, from the highest to the lowest.
        precision: (1000,) likewise; 0 where nothing was detected.
        scores: (1000,) the thresholds, as the detector's own scores.
    """

    name: str
    photos: int
    faces: int
    ap: float
    recall: Float64[np.ndarray, "1000"]
    precision: Float64[np.ndarray, "1000"]
    scores: Float64[np.ndarray, "1000"]


@dataclass(frozen=True)
class SizeResult:
    """The faces of one size.

    Attributes:
        low: px, smallest side (√area).
        high: px, the first side beyond.
        faces: how many are to be found.
        ap: over these faces alone; detections of other sizes are ignored unless they match one.
        recall: share found at the report's threshold.
    """

    low: float
    high: float
    faces: int
    ap: float
    recall: float


@dataclass(frozen=True, eq=False)
class PhotoErrors:
    """What went wrong in one photo, at the report's threshold.

    Attributes:
        name: of the photo.
        faces: (G, 4) px.
        missed: (G,) faces to be found that were not.
        ignore: (G,) faces that do not count.
        boxes: (M, 4) px, detections from the threshold on, best first.
        scores: (M,) of these.
        wrong: (M,) detections of nothing, or of a face found already.
    """

    name: str
    faces: Float32[np.ndarray, "G 4"]
    missed: Bool[np.ndarray, "G"]
    ignore: Bool[np.ndarray, "G"]
    boxes: Float64[np.ndarray, "M 4"]
    scores: Float64[np.ndarray, "M"]
    wrong: Bool[np.ndarray, "M"]

    @property
    def cost(self) -> int:
        """Faces missed and detections wrong."""
        return int(self.missed.sum() + self.wrong.sum())


@dataclass(frozen=True, eq=False)
class Report:
    """Everything `evaluate` measured.

    Attributes:
        protocol: how the photos were shown to the detector; belongs beside every figure.
        threshold: score from which `sizes` and `photos` count detections.
        curves: the official sets ("easy", "medium", "hard") or "all"; the last has all its faces.
        events: each event evaluated on its own.
        sizes: by size of face.
        photos: in the order given.
        unanswered: photos without predictions; their faces count as missed.
    """

    protocol: str
    threshold: float
    curves: Mapping[str, Curve]
    events: Mapping[str, Curve]
    sizes: tuple[SizeResult, ...]
    photos: tuple[PhotoErrors, ...]
    unanswered: tuple[str, ...]

    @property
    def ap(self) -> float:
        """Average precision over the set with all faces ("all", or "hard")."""
        return list(self.curves.values())[-1].ap

    def to_json(self) -> dict[str, Any]:
        """Give the figures, without curves and boxes, as JSON: NaN and infinity become None."""

        def number(value: float) -> float | None:
            return value if np.isfinite(value) else None

        def curves(of: Mapping[str, Curve]) -> dict[str, Any]:
            return {
                name: {"ap": number(curve.ap), "photos": curve.photos, "faces": curve.faces}
                for name, curve in of.items()
            }

        sizes = [
            {
                "from_px": size.low,
                "below_px": number(size.high),
                "faces": size.faces,
                "ap": number(size.ap),
                "recall": number(size.recall),
            }
            for size in self.sizes
        ]
        return {
            "protocol": self.protocol,
            "iou": MATCH_IOU,
            "ap": curves(self.curves),
            "events": curves(self.events),
            "threshold": self.threshold,
            "sizes": sizes,
            "unanswered": list(self.unanswered),
        }


def evaluate(
    predictions: Predictions,
    photos: Sequence[Photo],
    *,
    protocol: str,
    threshold: float = 0.5,
    subsets: Mapping[str, Sequence[Bool[np.ndarray, "G"]]] | None = None,
) -> Report:
    """Measure predictions against the faces of photos.

    Args:
        predictions: by name of the photo; those of other photos are left out.
        photos: what is to be found.
        protocol: how the photos were shown to the detector, one of `PROTOCOLS` or any other words.
        threshold: score from which detections count in the report by size and photo.
        subsets: which faces of each photo to look for, by name of the set, from easy to hard, as
            `difficulties.read_difficulties` gives them; None for one set "all" of every face that
            is not to be ignored.

    Raises:
        ValueError: no photos, a name twice, or predictions of a wrong shape or not finite.
    """
    if not photos:
        raise ValueError("there are no photos to evaluate")
    if len({photo.name for photo in photos}) < len(photos):
        raise ValueError("a photo is given twice")
    found = _Found.collect(predictions, photos)
    if subsets is None:
        subsets = {"all": [~photo.ignore for photo in photos]}
    keeps = {name: np.concatenate(list(masks)) for name, masks in subsets.items()}
    curves = {name: _curve(name, found, keep) for name, keep in keeps.items()}
    keep = keeps[list(keeps)[-1]]
    return Report(
        protocol=protocol,
        threshold=threshold,
        curves=curves,
        events=_by_event(found, keep, photos),
        sizes=_by_size(found, keep, threshold),
        photos=_by_photo(found, keep, photos, threshold),
        unanswered=tuple(photo.name for photo in photos if photo.name not in predictions),
    )


def average_precision(recall: Float[np.ndarray, "T"], precision: Float[np.ndarray, "T"]) -> float:
    """Area under the curve whose precision never rises again (PASCAL VOC 2010 to 2012).

    Args:
        recall: rising.
        precision: at each recall.
    """
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def legacy_iou(
    a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]
) -> Float64[np.ndarray, "N M"]:
    """Intersection over union with the ``+1`` of the official tools, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    width, height = (
        np.minimum.outer(a[:, axis + 2], b[:, axis + 2])
        - np.maximum.outer(a[:, axis], b[:, axis])
        + 1
        for axis in (0, 1)
    )
    intersection = width * height
    area_a, area_b = ((box[:, 2] - box[:, 0] + 1) * (box[:, 3] - box[:, 1] + 1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - intersection
    overlapping = (width > 0) & (height > 0)
    overlap: Float64[np.ndarray, "N M"] = np.divide(
        intersection, union, out=np.zeros_like(union), where=overlapping
    )
    return overlap


@dataclass(frozen=True, eq=False)
class _Found:
    """All detections of a set in one table, best first in each photo.

    Attributes:
        boxes: (P, 4) px.
        scores: (P,).
        photo: (P,) index of the photo.
        face: (P,) index of the face it overlaps enough and most, among all faces; −1 for none.
        first: (P,) whether it is the best detection of that face.
        face_boxes: (G, 4) px of all faces.
        face_photo: (G,) index of the photo of each face.
        photo_count: how many photos.
    """

    boxes: Float64[np.ndarray, "P 4"]
    scores: Float64[np.ndarray, "P"]
    photo: Int64[np.ndarray, "P"]
    face: Int64[np.ndarray, "P"]
    first: Bool[np.ndarray, "P"]
    face_boxes: Float32[np.ndarray, "G 4"]
    face_photo: Int64[np.ndarray, "G"]
    photo_count: int

    @classmethod
    def collect(cls, predictions: Predictions, photos: Sequence[Photo]) -> _Found:
        """Match the predictions of every photo."""
        nothing = (np.zeros((0, 4)), np.zeros(0))
        columns: list[tuple[np.ndarray, ...]] = []
        face_count = 0
        for number, photo in enumerate(photos):
            found = np.asarray(predictions.get(photo.name, nothing)[0], np.float64)
            scores = np.asarray(predictions.get(photo.name, nothing)[1], np.float64)
            if found.shape != (len(scores), 4) or scores.ndim != 1:
                raise ValueError(
                    f"predictions for {photo.name} must be boxes (M, 4) and scores (M,), "
                    f"got {found.shape} and {scores.shape}"
                )
            if not (np.isfinite(found).all() and np.isfinite(scores).all()):
                raise ValueError(f"predictions for {photo.name} are not all finite numbers")
            order = np.argsort(-scores, kind="stable")
            face = _match(found[order], photo.faces)
            first = np.zeros(len(face), dtype=bool)
            first[np.unique(face, return_index=True)[1]] = True
            columns.append(
                (
                    found[order],
                    scores[order],
                    np.full(len(scores), number),
                    np.where(face >= 0, face + face_count, -1),
                    first & (face >= 0),
                )
            )
            face_count += len(photo.faces)
        counts = [len(photo.faces) for photo in photos]
        found, scores, index, face, first = map(np.concatenate, zip(*columns, strict=True))
        return cls(
            boxes=found,
            scores=scores,
            photo=index,
            face=face,
            first=first,
            face_boxes=np.concatenate([photo.faces for photo in photos]),
            face_photo=np.repeat(np.arange(len(photos)), counts),
            photo_count=len(photos),
        )

    def kept(self, keep: Bool[np.ndarray, "G"]) -> Bool[np.ndarray, "P"]:
        """Tell which detections are of a face that is looked for."""
        if not len(keep):
            return np.zeros(len(self.face), dtype=bool)
        mask: Bool[np.ndarray, "P"] = (self.face >= 0) & keep[self.face]
        return mask

    def counted(self, keep: Bool[np.ndarray, "G"]) -> Bool[np.ndarray, "P"]:
        """Tell which are right or wrong: not of an ignored face, nor in a faceless photo."""
        has_face = np.zeros(self.photo_count, dtype=bool)
        has_face[self.face_photo] = True
        mask: Bool[np.ndarray, "P"] = (self.kept(keep) | (self.face < 0)) & has_face[self.photo]
        return mask


def _match(
    found: Float64[np.ndarray, "P 4"], faces: Float32[np.ndarray, "G 4"]
) -> Int64[np.ndarray, "P"]:
    """Index of the face that each detection overlaps most, −1 below `MATCH_IOU`."""
    if not len(faces) or not len(found):
        return np.full(len(found), -1)
    overlap = legacy_iou(found, faces)
    best = overlap.argmax(axis=1)
    enough = overlap[np.arange(len(found)), best] >= MATCH_IOU
    return np.where(enough, best, -1)


def _curve(
    name: str,
    found: _Found,
    keep: Bool[np.ndarray, "G"],
    *,
    counted: Bool[np.ndarray, "P"] | None = None,
    photos: Bool[np.ndarray, "N"] | None = None,
) -> Curve:
    """Measure the photos and faces given; `counted` replaces which detections count."""
    within = np.ones(found.photo_count, dtype=bool) if photos is None else photos
    rows = within[found.photo]
    counted = (found.counted(keep) if counted is None else counted) & rows
    right = found.first & found.kept(keep) & rows
    scores = found.scores[rows]
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
    # All scores equal: the official tools divide by zero; here every detection has the top score.
    span = high - low
    normalised = (found.scores - low) / span if span > 0 else np.ones_like(found.scores)
    thresholds = 1 - np.arange(1, POINTS + 1) / POINTS
    proposals, hits = (
        np.count_nonzero(mask) - np.searchsorted(np.sort(normalised[mask]), thresholds)
        for mask in (counted, right)
    )
    faces = int((keep & within[found.face_photo]).sum())
    precision = hits / np.maximum(proposals, 1)
    recall = hits / max(faces, 1)
    ap = average_precision(recall, precision) if faces else np.nan
    return Curve(name, int(within.sum()), faces, ap, recall, precision, low + thresholds * span)


def _by_event(
    found: _Found, keep: Bool[np.ndarray, "G"], photos: Sequence[Photo]
) -> dict[str, Curve]:
    """Each event as if it were evaluated alone."""
    events = np.array([photo.event for photo in photos])
    return {
        event: _curve(event, found, keep, photos=events == event)
        for event in sorted(set(events.tolist()))
    }


def _side(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N"]:
    side: Float[np.ndarray, "N"] = np.sqrt(boxes_.area(boxes))
    return side


def _by_size(
    found: _Found, keep: Bool[np.ndarray, "G"], threshold: float
) -> tuple[SizeResult, ...]:
    face_side, found_side = _side(found.face_boxes), _side(found.boxes)
    reported = found.first & (found.scores >= threshold)
    results = []
    for low, high in pairwise(SIZE_EDGES):
        of_size = keep & (face_side >= low) & (face_side < high)
        stray = (found.face < 0) & (found_side >= low) & (found_side < high)
        counted = found.counted(of_size) & (found.kept(of_size) | stray)
        curve = _curve("", found, of_size, counted=counted)
        hits = int((reported & found.kept(of_size)).sum())
        recall = hits / curve.faces if curve.faces else np.nan
        results.append(SizeResult(low, high, curve.faces, curve.ap, recall))
    return tuple(results)


def _by_photo(
    found: _Found, keep: Bool[np.ndarray, "G"], photos: Sequence[Photo], threshold: float
) -> tuple[PhotoErrors, ...]:
    reported = found.scores >= threshold
    hit = np.zeros(len(keep), dtype=bool)
    hit[found.face[reported & found.first]] = True
    # Here a detection in a photo without faces is wrong, whatever the protocol says.
    wrong = ((found.face < 0) | found.kept(keep)) & ~found.first
    at = np.searchsorted(found.photo, np.arange(len(photos) + 1))
    face_at = np.searchsorted(found.face_photo, np.arange(len(photos) + 1))
    errors = []
    for index, photo in enumerate(photos):
        rows = np.arange(at[index], at[index + 1])
        rows = rows[reported[rows]]
        faces = slice(face_at[index], face_at[index + 1])
        errors.append(
            PhotoErrors(
                name=photo.name,
                faces=photo.faces,
                missed=keep[faces] & ~hit[faces],
                ignore=~keep[faces],
                boxes=found.boxes[rows],
                scores=found.scores[rows],
                wrong=wrong[rows],
            )
        )
    return tuple(errors)
