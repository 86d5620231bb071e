"""What the detector returns: boxes, scores and the size of the image they belong to."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.errors import needs

if TYPE_CHECKING:
    import supervision

Index: TypeAlias = (
    "int | np.integer | slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]"
)


@dataclass(frozen=True, eq=False)
class Detections:
    """The faces found in one image, best first; immutable.

    Iterating gives ``(box, score)`` pairs; an index, slice, mask or index array gives Detections.

    Attributes:
        boxes: (M, 4) ``x1 y1 x2 y2`` px, within the image, read-only.
        scores: (M,) 0..1, read-only.
        size: (height, width) px of the image.
        tracks: (M,) id of the person over the frames of a video, -1 for none (yet), read-only; None
            where nothing was tracked.
    """

    boxes: Float32[np.ndarray, "M 4"]
    scores: Float32[np.ndarray, "M"]
    size: tuple[int, int]
    tracks: Int64[np.ndarray, "M"] | None = None

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes, dtype=np.float32)
        scores = np.array(self.scores, dtype=np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
            raise ValueError(
                "detections need boxes (M, 4) and one score for each, "
                f"got boxes {boxes.shape} and scores {scores.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("boxes and scores of detections must be finite")
        boxes = boxes_.clip(boxes, self.size)
        boxes.setflags(write=False)
        scores.setflags(write=False)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        if self.tracks is not None:
            tracks = np.array(self.tracks, dtype=np.int64)
            if tracks.shape != scores.shape:
                raise ValueError(
                    f"detections need one track for each of {len(scores)} boxes, got {tracks.shape}"
                )
            tracks.setflags(write=False)
            object.__setattr__(self, "tracks", tracks)

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Detections:
        """No face in an image of `size` (height, width) px."""
        return cls(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32), size)

    @classmethod
    def from_supervision(
        cls, detections: supervision.Detections, size: tuple[int, int]
    ) -> Detections:
        """The inverse of `to_supervision`, in the order of `detections`; other classes count too.

        Args:
            detections: with or without confidence, which is 1 where there is none.
            size: (height, width) px of the image, which supervision does not know.
        """
        boxes = np.asarray(detections.xyxy, dtype=np.float32).reshape(-1, 4)
        scores, tracks = detections.confidence, detections.tracker_id
        if scores is None:
            scores = np.ones(len(boxes), dtype=np.float32)
        return cls(
            boxes,
            np.asarray(scores, dtype=np.float32),
            size,
            None if tracks is None else np.asarray(tracks, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], float]]:
        return iter(zip(self.boxes, self.scores.tolist(), strict=True))

    def __getitem__(self, index: Index) -> Detections:
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there are {len(self)} detections, none has the index {index}")
            index = [int(index)]
        if isinstance(index, Sequence):  # a tuple, to NumPy, is an index for each axis
            index = list(index) or slice(0, 0)
        tracks = None if self.tracks is None else self.tracks[index]
        return Detections(self.boxes[index], self.scores[index], self.size, tracks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            self.size == other.size
            and np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and self._track_list() == other._track_list()
        )

    __hash__ = None  # type: ignore[assignment]

    def _track_list(self) -> list[int] | None:
        return None if self.tracks is None else self.tracks.tolist()

    # What users of supervision and ultralytics look for.

    @property
    def xyxy(self) -> Float32[np.ndarray, "M 4"]:
        """`boxes`, by the name that supervision and ultralytics give them."""
        return self.boxes

    @property
    def confidence(self) -> Float32[np.ndarray, "M"]:
        """`scores`, by supervision's name."""
        return self.scores

    @property
    def conf(self) -> Float32[np.ndarray, "M"]:
        """`scores`, by ultralytics' name."""
        return self.scores

    @property
    def class_id(self) -> Int64[np.ndarray, "M"]:
        """All zeros: there is one class, face."""
        return np.zeros(len(self), dtype=np.int64)

    @property
    def xywh(self) -> Float32[np.ndarray, "M 4"]:
        """(M, 4) ``centre-x centre-y width height`` px, as ultralytics' `xywh`."""
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.concatenate([self.boxes[:, :2] + size / 2, size], axis=1)

    @property
    def xyxyn(self) -> Float32[np.ndarray, "M 4"]:
        """`boxes` as fractions of the image's width and height."""
        height, width = self.size
        return self.boxes / np.array([width, height, width, height], dtype=np.float32)

    def scaled_to(self, size: tuple[int, int]) -> Detections:
        """The same faces in the same image at another `size` (height, width) px."""
        if size == self.size:
            return self
        boxes = boxes_.scaled(self.boxes, self.size, size)
        return Detections(boxes, self.scores, size, self.tracks)

    def filter(self, *, min_score: float = 0.0, min_size: float = 0.0) -> Detections:
        """Those of at least `min_score` whose shorter side is at least `min_size` px.

        Raises:
            ValueError: one of them is negative or no number.
        """
        if not (min_score >= 0 and min_size >= 0):
            raise ValueError(
                f"min_score and min_size must not be negative, got {min_score} and {min_size}"
            )
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1, initial=np.inf)
        kept: Bool[np.ndarray, "M"] = (self.scores >= min_score) & (sides >= min_size)
        return self[kept]

    def draw(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        *,
        colour: tuple[int, int, int] = images.RED,
        width: int | None = None,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Draw the boxes on a copy of the image (`images.draw`)."""
        self._check_size(image)
        return images.draw(image, self.boxes, colour=colour, width=width)

    def crops(
        self, image: UInt8[np.ndarray, "H W 3"], *, margin: float = 0.0
    ) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Cut the faces out, as copies of at least 1×1 px.

        Args:
            image: the image that these detections belong to.
            margin: how much of its width and height to add at each side of a box, as far as the
                image reaches.

        Raises:
            ValueError: the image has another size than these detections.
        """
        self._check_size(image)
        height, width = self.size
        border = (self.boxes[:, 2:] - self.boxes[:, :2]) * margin
        start = np.floor(self.boxes[:, :2] - border).clip(0, (width - 1, height - 1)).astype(int)
        end = np.ceil(self.boxes[:, 2:] + border).clip(0, (width, height)).astype(int)
        end = np.maximum(end, start + 1)
        return [
            image[y1:y2, x1:x2].copy()
            for (x1, y1), (x2, y2) in zip(start.tolist(), end.tolist(), strict=True)
        ]

    def _check_size(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        if images.check(image).shape[:2] != self.size:
            raise ValueError(
                f"these detections belong to an image of (height, width) {self.size}, "
                f"got one of {image.shape[:2]}"
            )

    def to_dict(self, image: str | None = None) -> dict[str, Any]:
        """Plain numbers: ``{image, width, height, faces: [{box: [x1, y1, x2, y2], score}]}``.

        Where faces were tracked, each has a ``track``: its id, or None.
        """
        faces: list[dict[str, Any]] = [
            {"box": [round(x, 2) for x in box], "score": round(score, 4)}
            for box, score in zip(self.boxes.tolist(), self.scores.tolist(), strict=True)
        ]
        if self.tracks is not None:
            for face, track in zip(faces, self.tracks.tolist(), strict=True):
                face["track"] = track if track >= 0 else None
        named = {} if image is None else {"image": image}
        return {**named, "width": self.size[1], "height": self.size[0], "faces": faces}

    def to_json(self, image: str | None = None) -> str:
        """`to_dict` as one line of JSON; `image` is the name to give."""
        return json.dumps(self.to_dict(image), ensure_ascii=False)

    def to_csv(self, image: str = "", *, header: bool = True) -> str:
        """Write a line ``image,x1,y1,x2,y2,score`` for each face, after a header.

        Where faces were tracked, a column ``track`` follows; it is empty for none.
        """
        lines = []
        if header:
            track = [] if self.tracks is None else ["track"]
            lines.append(_csv_line(["image", "x1", "y1", "x2", "y2", "score", *track]))
        for number, (box, score) in enumerate(self):
            row = [image, *(f"{x:.2f}" for x in box), f"{score:.4f}"]
            if self.tracks is not None:
                row.append(str(self.tracks[number]) if self.tracks[number] >= 0 else "")
            lines.append(_csv_line(row))
        return "".join(lines)

    def to_coco(self, image_id: int = 1, *, first_id: int = 1) -> list[dict[str, Any]]:
        """COCO annotations with scores; ``bbox`` is ``x y width height`` px, category 1 is face.

        Args:
            image_id: of these detections' image.
            first_id: id of the first annotation; the others follow.
        """
        annotations = []
        for number, (box, score) in enumerate(self, start=first_id):
            x1, y1, x2, y2 = (float(x) for x in box)
            bbox = [round(x, 2) for x in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": bbox,
                    "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": 0,
                    "score": round(score, 4),
                }
            )
        return annotations

    def to_yolo(self) -> str:
        """Write ``0 cx cy width height score`` for each face, in parts of the image."""
        height, width = self.size
        fractions = self.xywh / np.array([width, height, width, height], dtype=np.float32)
        return "".join(
            f"0 {cx:.6f} {cy:.6f} {w:.6f} {h:.6f} {score:.4f}\n"
            for (cx, cy, w, h), score in zip(fractions.tolist(), self.scores.tolist(), strict=True)
        )

    def to_wider(self, image: str) -> str:
        """Write WIDER FACE's result layout: name, count, lines of ``x y width height score``.

        Args:
            image: name of the photo, without folder and suffix in the official files.
        """
        lines = [image, str(len(self))]
        for (x1, y1, x2, y2), score in self:
            lines.append(f"{x1:.2f} {y1:.2f} {x2 - x1:.2f} {y2 - y1:.2f} {score:.6f}")
        return "\n".join(lines) + "\n"

    def to_supervision(self) -> supervision.Detections:
        """Convert to `supervision.Detections`, class 0.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        with needs("to_supervision()", "supervision"):
            import supervision
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_id,
            tracker_id=None if self.tracks is None else self.tracks.copy(),
        )


def _csv_line(row: Sequence[str]) -> str:
    """A row of CSV; the writer quotes carriage returns only where its lines end in one, too."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n") + "\n"
