"""How well faces are found: the official protocol of WIDER FACE (Yang, Luo, Loy, Tang 2016).

It is the PASCAL VOC measure with particulars, all kept here because published figures have them:

- boxes are compared with the legacy ``+1``: a box from x1 to x2 is x2 − x1 + 1 wide. It raises the
  overlap of tiny faces, and is used nowhere else in this package;
- scores are stretched to 0..1 over the whole set, and precision and recall are read at 1,000
  evenly spaced thresholds, not at every score;
- in a photo without a single listed face nothing is counted wrong. Here that holds for AP alone:
  precision by score, which thresholds are chosen by, counts what is found there.

As in VOC, a detection counts for the face it overlaps most, found before or not; from an IoU of
0.5 on, the first is right and every further one wrong. Where that face is to be ignored, the
detection is neither.

"AP at IoU 0.5 over all faces" in this project's documents is this protocol with every face that is
not marked ``invalid``. The report has the plain measure without the three particulars beside it:
YuNet on 300 photos of large faces (median side, √area, 64 px) has 0.895 by the protocol and 0.892
plain, on 191 crowds of tiny faces (median 10 px) 0.509 and 0.479. All of that is the ``+1``; the
thresholds change 0.0003.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from faceresnet import boxes as boxes_
from faceresnet.matching import MATCH_IOU, Matches, legacy_iou
from faceresnet.widerface import Photo, Predictions

#: Points of a precision-recall curve, as in the official tools.
POINTS = 1000
#: Scores that a report tells precision and recall at, beside its threshold.
SCORES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
#: Sides in px (√area) that part the rows of the report by size.
SIZE_EDGES = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, inf)


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of one set of photos and faces.

    Attributes:
        name: of the set, such as "all", "hard" or an event.
        photos: how many.
        faces: how many are to be found.
        ap: average precision by the official protocol; NaN where there is no face to find.
        plain_ap: without its particulars: no ``+1``, every score, every photo.
        recall: (1000,) at each threshold, from the highest to the lowest.
        precision: (1000,) likewise; 0 where nothing was detected.
        precision_everywhere: (1000,) likewise, but boxes in photos without a listed face are wrong:
            to choose a threshold by. The same where there are no such photos.
        scores: (1000,) the thresholds, as the detector's own scores.
    """

    name: str
    photos: int
    faces: int
    ap: float
    plain_ap: float
    recall: Float64[np.ndarray, "1000"]
    precision: Float64[np.ndarray, "1000"]
    precision_everywhere: Float64[np.ndarray, "1000"]
    scores: Float64[np.ndarray, "1000"]

    def at(self, score: float) -> tuple[float, float]:
        """Precision and recall of the detections from a score on; NaN and 0 where there are none.

        A detection in a photo without a listed face is wrong. Exact to a thousandth of the span of
        the scores.
        """
        count = int((self.scores >= score).sum())
        if not count:
            return np.nan, 0.0
        return float(self.precision_everywhere[count - 1]), float(self.recall[count - 1])

    def best_score(self) -> float:
        """Score from which on precision, in all photos, and recall have the highest F1."""
        precision, recall = self.precision_everywhere, self.recall
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        return float(self.scores[int(f1.argmax())])


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
    def whole(self) -> Curve:
        """Of the set with all faces ("all", or "hard")."""
        return list(self.curves.values())[-1]

    @property
    def ap(self) -> float:
        """Average precision over the set with all faces."""
        return self.whole.ap

    @property
    def faceless(self) -> tuple[int, int, int]:
        """Photos without a listed face, those of them with a detection, and these detections.

        No AP by the protocol counts them; of a set that shows what a camera sees they are most of
        the photos. `by_score` does.
        """
        counts = [len(photo.scores) for photo in self.photos if not len(photo.faces)]
        return len(counts), sum(count > 0 for count in counts), sum(counts)

    def by_score(self) -> list[tuple[float, float, float]]:
        """Score, precision and recall from it on, over the set with all faces, at `SCORES`.

        Unlike the protocol's, this precision counts boxes in photos without a listed face, too.
        """
        scores = sorted({*SCORES, self.threshold})
        return [(score, *self.whole.at(score)) for score in scores]

    def to_json(self) -> dict[str, Any]:
        """Give the figures, without curves and boxes, as JSON: NaN and infinity become None."""

        def number(value: float) -> float | None:
            return value if np.isfinite(value) else None

        def curves(of: Mapping[str, Curve]) -> dict[str, Any]:
            return {
                name: {
                    "ap": number(curve.ap),
                    "plain_ap": number(curve.plain_ap),
                    "photos": curve.photos,
                    "faces": curve.faces,
                }
                for name, curve in of.items()
            }

        scores = [
            {"score": score, "precision": number(precision), "recall": recall}
            for score, precision, recall in self.by_score()
        ]
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
        photos, answered, detections = self.faceless
        return {
            "protocol": self.protocol,
            "iou": MATCH_IOU,
            "ap": curves(self.curves),
            "events": curves(self.events),
            "threshold": self.threshold,
            "scores": scores,
            "sizes": sizes,
            "faceless": {
                "photos": photos,
                "with_detections": answered,
                "detections": detections,
            },
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
        protocol: how the photos were shown to the detector, one of `protocols.PROTOCOLS` or any
            other words.
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
    found = Matches.collect(predictions, photos, legacy_iou)
    plain = Matches.collect(predictions, photos, boxes_.iou)
    if subsets is None:
        subsets = {"all": [~photo.ignore for photo in photos]}
    if not subsets:
        raise ValueError("subsets must name at least one set of faces, or be None for all faces")
    keeps = {name: np.concatenate(list(masks)) for name, masks in subsets.items()}
    curves = {name: _curve(name, found, plain, keep) for name, keep in keeps.items()}
    keep = keeps[list(keeps)[-1]]
    return Report(
        protocol=protocol,
        threshold=threshold,
        curves=curves,
        events=_by_event(found, plain, keep, photos),
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


def _curve(
    name: str,
    found: Matches,
    plain: Matches,
    keep: Bool[np.ndarray, "G"],
    photos: Bool[np.ndarray, "N"] | None = None,
) -> Curve:
    """Measure some of the photos (by default all) and the faces to keep."""
    within = np.ones(found.photo_count, dtype=bool) if photos is None else photos
    rows = within[found.photo]
    keep = keep & within[found.face_photo]
    counted = found.counted(keep)
    official = counted & found.in_photo_with_face()
    recall, precision, scores = _official_curve(found, keep, official, rows)
    _, precision_everywhere, _ = _official_curve(found, keep, counted, rows)
    faces = int(keep.sum())
    return Curve(
        name=name,
        photos=int(within.sum()),
        faces=faces,
        ap=average_precision(recall, precision) if faces else np.nan,
        plain_ap=_plain_ap(plain, keep, within[plain.photo]) if faces else np.nan,
        recall=recall,
        precision=precision,
        precision_everywhere=precision_everywhere,
        scores=scores,
    )


def _official_curve(
    found: Matches,
    keep: Bool[np.ndarray, "G"],
    counted: Bool[np.ndarray, "P"],
    rows: Bool[np.ndarray, "P"],
) -> tuple[Float64[np.ndarray, "1000"], Float64[np.ndarray, "1000"], Float64[np.ndarray, "1000"]]:
    """Recall, precision and score at each threshold.

    Args:
        found: all detections.
        keep: faces to find.
        counted: detections that are right or wrong.
        rows: detections of the set; their scores are stretched to 0..1.
    """
    scores = found.scores[rows]
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
    # All scores equal: the official tools divide by zero; here every detection has the top score.
    span = high - low
    normalised = (found.scores - low) / span if span > 0 else np.ones_like(found.scores)
    thresholds = 1 - np.arange(1, POINTS + 1) / POINTS
    right = found.first & found.kept(keep)
    proposals, hits = (
        np.count_nonzero(mask) - np.searchsorted(np.sort(normalised[mask]), thresholds)
        for mask in (counted & rows, right & rows)
    )
    recall = hits / max(int(keep.sum()), 1)
    return recall, hits / np.maximum(proposals, 1), low + thresholds * span


def _plain_ap(found: Matches, keep: Bool[np.ndarray, "G"], rows: Bool[np.ndarray, "P"]) -> float:
    """Average precision as PASCAL VOC has it; detections of one score come in together."""
    rows = np.flatnonzero(found.counted(keep) & rows)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    scores = found.scores[rows]
    last_of_score = np.flatnonzero(np.append(scores[1:] != scores[:-1], len(scores) > 0))
    hits = np.cumsum((found.first & found.kept(keep))[rows])[last_of_score]
    return average_precision(hits / keep.sum(), hits / (last_of_score + 1))


def _by_event(
    found: Matches, plain: Matches, keep: Bool[np.ndarray, "G"], photos: Sequence[Photo]
) -> dict[str, Curve]:
    """Each event as if it were evaluated alone."""
    events = np.array([photo.event for photo in photos])
    return {
        event: _curve(event, found, plain, keep, events == event)
        for event in sorted(set(events.tolist()))
    }


def _side(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N"]:
    return np.sqrt(boxes_.area(boxes))


def _by_size(
    found: Matches, keep: Bool[np.ndarray, "G"], threshold: float
) -> tuple[SizeResult, ...]:
    face_side, found_side = _side(found.face_boxes), _side(found.boxes)
    reported = found.first & (found.scores >= threshold)
    everything = np.ones(len(found.scores), dtype=bool)
    results = []
    for low, high in pairwise(SIZE_EDGES):
        of_size = keep & (face_side >= low) & (face_side < high)
        stray = (found.face < 0) & (found_side >= low) & (found_side < high)
        counted = (found.kept(of_size) | stray) & found.in_photo_with_face()
        recall, precision, _ = _official_curve(found, of_size, counted, everything)
        faces = int(of_size.sum())
        hits = int((reported & found.kept(of_size)).sum())
        ap = average_precision(recall, precision) if faces else np.nan
        results.append(SizeResult(low, high, faces, ap, hits / faces if faces else np.nan))
    return tuple(results)


def _by_photo(
    found: Matches, keep: Bool[np.ndarray, "G"], photos: Sequence[Photo], threshold: float
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
