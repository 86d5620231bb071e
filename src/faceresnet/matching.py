"""Which detection is of which face, in all photos of a set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from faceresnet.boxes import iou
from faceresnet.widerface import Photo, Predictions

#: Overlap from which a detection has found a face.
MATCH_IOU = 0.5
#: Intersection over union of every pair of boxes.
Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]


def legacy_iou(
    a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]
) -> Float64[np.ndarray, "N M"]:
    """Intersection over union with the ``+1`` of the official tools, in float64."""
    corner = np.array([0.0, 0.0, 1.0, 1.0])  # the official boxes end with their last pixel
    return iou(a + corner, b + corner)


@dataclass(frozen=True, eq=False)
class Matches:
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
    def collect(
        cls, predictions: Predictions, photos: Sequence[Photo], overlap: Overlap
    ) -> Matches:
        """Match the predictions of every photo.

        Raises:
            ValueError: predictions are of a wrong shape or not finite.
        """
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
            face = _match(found[order], photo.faces, overlap)
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
        return (self.face >= 0) & keep[self.face]

    def counted(self, keep: Bool[np.ndarray, "G"]) -> Bool[np.ndarray, "P"]:
        """Tell which detections are right or wrong: not those of an ignored face."""
        return self.kept(keep) | (self.face < 0)

    def in_photo_with_face(self) -> Bool[np.ndarray, "P"]:
        """Tell which detections are in a photo that has a listed face."""
        has_face = np.zeros(self.photo_count, dtype=bool)
        has_face[self.face_photo] = True
        return has_face[self.photo]


def _match(
    found: Float64[np.ndarray, "P 4"], faces: Float32[np.ndarray, "G 4"], overlap: Overlap
) -> Int64[np.ndarray, "P"]:
    """Index of the face that each detection overlaps most, −1 below `MATCH_IOU`."""
    if not len(faces) or not len(found):
        return np.full(len(found), -1)
    overlaps = overlap(found, faces.astype(np.float64))
    best = overlaps.argmax(axis=1)
    enough = overlaps[np.arange(len(found)), best] >= MATCH_IOU
    return np.where(enough, best, -1)
