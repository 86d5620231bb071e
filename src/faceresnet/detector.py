"""The one pipeline: letterbox → network → decode → non-maximum suppression.

Everything that detects faces goes through `postprocess`, the validation during training included.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
from jaxtyping import Float32

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.anchors import Level, make_anchors
from faceresnet.detections import Detections
from faceresnet.engine import Engine, open_engine
from faceresnet.errors import ModelError
from faceresnet.pyramid import (
    REACH,
    SAME_FACE,
    View,
    agree,
    fragments,
    plan,
    shows_crowd,
)
from faceresnet.spec import ModelSpec
from faceresnet.weights import DEFAULT_MODEL, locate

if TYPE_CHECKING:
    Photo: TypeAlias = images.Image | images.Source

#: Anchors decoded at most, the best first; a crowd of a thousand faces fills about 4,000.
MAX_CANDIDATES = 5_000
#: Pixels that a batch holds at most: bounds the memory that the network needs.
BATCH_PIXELS = 4_000_000
#: Score of a large anchor from which a photo is looked at again at a reduced scale.
SUSPICION = 0.2
#: Least score of the boxes that two looks at a crowd compare.
FAINT = 0.2
#: Positions of a turned photo in which few faces are seen divide the odds of these by at most this.
MOST_DOUBT = math.e


def postprocess(
    logits: Float32[np.ndarray, "R"],
    deltas: Float32[np.ndarray, "R 4"],
    anchors: Float32[np.ndarray, "R 4"],
    spec: ModelSpec,
    threshold: float,
    size: tuple[int, int],
) -> tuple[Float32[np.ndarray, "M 4"], Float32[np.ndarray, "M"]]:
    """Turn the network's outputs for one image into faces.

    The threshold is applied to the logits, so that only candidates are decoded; of them the best
    `MAX_CANDIDATES` go on to non-maximum suppression, and small boxes that remain are made smaller
    (`boxes.tighten`). Values that are not finite are no faces.

    Args:
        logits: (R,) of the probability that an anchor holds a face.
        deltas: (R, 4) from anchor to face (`boxes.decode`).
        anchors: (R, 4) px.
        spec: of the model.
        threshold: least score, 0..1.
        size: (height, width) px of the image without its padding.

    Returns:
        boxes (M, 4) px, clipped to the image, none empty, and their scores (M,), best first.
    """
    candidates = np.flatnonzero(logits >= np.float32(_logit(threshold)))
    if len(candidates) > MAX_CANDIDATES:
        best = np.argpartition(logits[candidates], -MAX_CANDIDATES)[-MAX_CANDIDATES:]
        candidates = candidates[best]
    with np.errstate(over="ignore", invalid="ignore"):
        scores = 1 / (1 + np.exp(-logits[candidates]))
        boxes = boxes_.decode(deltas[candidates], anchors[candidates], spec.delta_scales)
        boxes = boxes_.clip(boxes, size)
        sides = boxes[:, 2:] - boxes[:, :2]
    sound = (sides > 0).all(axis=1)  # NaN is not
    if not sound.all():
        boxes, scores = boxes[sound], scores[sound]
    kept = boxes_.nms(boxes, scores, spec.nms_iou)
    return boxes_.tighten(boxes[kept], spec.excess), scores[kept]


def _logit(probability: float) -> float:
    """Inverse of the sigmoid, infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


@dataclass(frozen=True, eq=False)
class FaceDetector:
    """Finds the faces in photos.

        detector = FaceDetector()
        faces = detector("photo.jpg")

    Immutable, and safe to call from several threads at once. Each process makes its own: a
    detector cannot be pickled or copied.

    Attributes:
        model: name of a shipped or published model, or path to an .onnx file.
        threshold: least score to report, 0..1; by default the model's own.
        max_side: larger photos are first reduced to this longer side, px: faster, but loses small
            faces. By default photos are looked at in full resolution.
        enlarge: look at photos enlarged so many times, 1 to 4: finds a few more tiny faces, and
            more false ones; takes the square of that times as long.
        tile: how photos too large for one look are cut: ``auto`` (longer than 2,048 px, into tiles
            of 1,280), True (larger than a tile), False (never), or the side of a tile in px.
        pyramid: look at large photos at reduced scales as well, so that faces too large for the
            model's anchors are found; costs little.
        crowds: look again, enlarged, where small faces show: at all of a crowd, which takes three
            to four times as long, or around a few tiny ones, which takes at most twice as long (in
            photos below 256×256 px more). Looks longer than 2,048 px, which there are only with
            tiles off or larger than that, are not repeated.
        turned: look at photos turned by 90, 180 and 270 degrees as well, for faces that lie on
            their side or upside down, as in scans. Takes four times as long.
        engine: ``openvino`` or ``onnxruntime``.
        device: where the engine runs. OpenVINO: cpu, gpu (Intel's) or npu; ONNX Runtime: cpu, cuda
            and others that its build has (`onnxruntime-gpu` in place of `onnxruntime`).
        threads: on the CPU; by default one for each core, bound to it. Give detectors side by side,
            in threads or processes, some cores each.
        batch_size: images, tiles included, that go through the network together at most.
        repeatable: the same photo gives the same result at every time, to the last digit
            (`open_engine`); a tenth slower on one thread.

    Raises:
        ValueError: an argument is out of its range.
        ModelError, EngineError, MissingExtraError: as `open_engine`.
    """

    model: str | os.PathLike[str] = DEFAULT_MODEL
    _: KW_ONLY
    threshold: float | None = None
    max_side: int | None = None
    enlarge: float = 1.0
    tile: bool | int | str = "auto"
    pyramid: bool = True
    crowds: bool = True
    turned: bool = False
    engine: str = "openvino"
    device: str = "cpu"
    threads: int | None = None
    batch_size: int = 8
    repeatable: bool = False
    _network: Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        object.__setattr__(self, "batch_size", _whole("batch_size", self.batch_size))
        for name in ("max_side", "threads"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name)))
        check_max_side(self.max_side)
        for name in ("engine", "device"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a name, got {getattr(self, name)!r}")
        for name in ("pyramid", "crowds", "turned", "repeatable"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _check_range("enlarge", self.enlarge, 1, 4)
        if isinstance(self.tile, np.bool_):
            object.__setattr__(self, "tile", bool(self.tile))
        if self.tile != "auto" and not isinstance(self.tile, bool):
            side = _whole("tile", self.tile, "'auto', True, False or px")
            if side < 64:
                raise ValueError(f"a tile must be at least 64 px, got {side}")
            object.__setattr__(self, "tile", side)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        network = open_engine(
            locate(self.model),
            self.engine,
            self.device,
            self.threads,
            repeatable=self.repeatable,
        )
        object.__setattr__(self, "_network", network)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a detector cannot be sent to another process: make one there")

    @property
    def spec(self) -> ModelSpec:
        """What the model says about itself."""
        return self._network.spec

    @property
    def default_threshold(self) -> float:
        """Least score reported where a call names none: `threshold`, or the model's own."""
        return self.spec.threshold if self.threshold is None else self.threshold

    def __call__(self, image: Photo, threshold: float | None = None) -> Detections:
        """Find the faces in one photo.

        Args:
            image: RGB uint8 (H, W, 3), or what `images.read` reads: path, bytes, file, Pillow.
                (OpenCV reads BGR: pass ``image[..., ::-1]``; nothing here can tell.)
            threshold: least score to report, instead of the detector's own.

        Raises:
            ValueError: the array is no image, or `threshold` is outside 0..1.
            ImageError: the file cannot be read.
        """
        return self.batch([image], threshold)[0]

    def batch(self, photos: Iterable[Photo], threshold: float | None = None) -> list[Detections]:
        """Find the faces in many photos, those of one size together in real batches.

        At most `batch_size` photos are held in memory at a time.

        Args:
            photos: each as for a single call.
            threshold: least score to report, instead of the detector's own.

        Returns:
            Detections in the order of the photos.
        """
        check_threshold(threshold)
        threshold = self.default_threshold if threshold is None else threshold
        found: list[Detections] = []
        remaining = _several(photos)
        while chunk := [_as_image(photo) for photo in islice(remaining, self.batch_size)]:
            if self.turned:
                found += self._detect_turned(chunk, threshold)
            else:
                found += self._detect(chunk, threshold)
        return found

    def _detect_turned(self, photos: Sequence[images.Image], threshold: float) -> list[Detections]:
        """Look at photos in all four positions, and merge what was found."""
        ways = [
            self._detect([np.ascontiguousarray(np.rot90(photo, k)) for photo in photos], threshold)
            for k in range(4)
        ]
        return [_merge_turned(found, self.spec, threshold) for found in zip(*ways, strict=True)]

    def _detect(self, photos: Sequence[images.Image], threshold: float) -> list[Detections]:
        """Look at photos, at some of them again, and merge what each photo's views found."""
        found: list[list[_Found]] = [[] for _ in photos]
        plans = [self._plan(photo.shape[:2]) for photo in photos]
        for again in (False, True):
            self._look(
                [
                    (photo, [(view, its_found) for view in views if view.on_suspicion == again])
                    for photo, views, its_found in zip(photos, plans, found, strict=True)
                    if not again or any(part.suspects_large for part in its_found)
                ],
                threshold,
            )
        self._look_closer(photos, found, threshold)
        return [
            _merge(its_found, self.spec, photo.shape[:2], threshold)
            for photo, its_found in zip(photos, found, strict=True)
        ]

    def _plan(self, size: tuple[int, int]) -> tuple[View, ...]:
        return plan(
            size,
            self._largest_face,
            largest_anchor=self._largest_anchor,
            max_side=self.max_side,
            enlarge=self.enlarge,
            tile=self.tile,
            pyramid=self.pyramid,
        )

    def _look_closer(
        self, photos: Sequence[images.Image], found: Sequence[list[_Found]], threshold: float
    ) -> None:
        """Look again where views show small faces; put what all looks say in their place."""
        again: list[tuple[images.Image, list[_Found], int, list[_Found]]] = [
            (photo, its_found, i, [])
            for photo, its_found in zip(photos, found, strict=True)
            for i, part in enumerate(its_found)
            if part.closer
        ]
        self._look(
            [
                (photo, [(view, closer) for view in its_found[i].closer])
                for photo, its_found, i, closer in again
            ],
            threshold,
        )
        for photo, its_found, i, closer in again:
            its_found[i] = _agree(its_found[i], closer, photo.shape[:2])

    def _look(
        self,
        photos: Sequence[tuple[images.Image, Sequence[tuple[View, list[_Found]]]]],
        threshold: float,
    ) -> None:
        """Look at views of photos, those of one shape together.

        Args:
            photos: each with its views, and the list to which what a view found is added.
            threshold: least score to report.
        """
        waiting: dict[tuple[int, int], list[_Look]] = {}
        for photo, views in photos:
            for look in _looks(photo, views):
                shape = images.padded_size(look.view.look_size, self.spec.size_multiple)
                group = waiting.setdefault(shape, [])
                group.append(look)
                if len(group) >= min(self.batch_size, BATCH_PIXELS // (shape[0] * shape[1])):
                    self._run(waiting.pop(shape), threshold)
        for group in waiting.values():
            self._run(group, threshold)

    @property
    def _largest_face(self) -> float:
        """Side of the largest face that one look finds well, px."""
        return self.spec.largest_face or self._largest_anchor

    @property
    def _largest_anchor(self) -> float:
        return max(max(level.sizes) for level in self.spec.levels)

    def _run(self, looks: Sequence[_Look], threshold: float) -> None:
        """Put views of one padded shape through the network as one batch."""
        padded = [images.letterbox(look.pixels, self.spec.size_multiple) for look in looks]
        batch = padded[0][None] if len(padded) == 1 else np.stack(padded)
        logits, deltas = self._network(batch)
        anchors = make_anchors(self.spec.levels, batch.shape[1:3])
        if logits.shape[1] != len(anchors):
            raise ModelError(
                f"the model '{self.spec.name}' gives {logits.shape[1]} outputs for an image of "
                f"{batch.shape[1:3]}, its specification means {len(anchors)}: export it again"
            )
        # A face up to REACH times the largest is this look's to report.
        beyond = min(REACH * self._largest_face, self._largest_anchor)
        large = _at_least(self.spec.levels, batch.shape[1:3], beyond)
        suspicion = np.float32(_logit(min(SUSPICION, threshold)))
        least = min(FAINT, threshold) if self.crowds else threshold
        for look, its_logits, its_deltas in zip(looks, logits, deltas, strict=True):
            boxes, scores = postprocess(
                its_logits, its_deltas, anchors, self.spec, least, look.view.look_size
            )
            view = look.view
            may_come_closer = self.crowds and view.may_come_closer
            crowd = may_come_closer and shows_crowd(boxes, scores)
            closer: tuple[View, ...] = ()
            if may_come_closer:
                closer = (view.closer(),) if crowd else view.around_tiny(boxes, scores)
            boxes, scores = view.place(boxes, scores, look.photo_size)
            suspects = bool((its_logits[large] >= suspicion).any())
            look.found.append(_Found(boxes, scores, view, suspects, crowd, closer))


@lru_cache(maxsize=64)
def _at_least(levels: tuple[Level, ...], size: tuple[int, int], side: float) -> np.ndarray:
    """Indices of the anchors of at least `side` px (√area), but for rounding."""
    return np.flatnonzero(boxes_.area(make_anchors(levels, size)) >= 0.99 * side**2)


@dataclass(frozen=True)
class _Found:
    """What one view found.

    Attributes:
        boxes: (M, 4) px of the photo.
        scores: (M,).
        view: where it looked.
        suspects_large: whether there may be a face too large for the view.
        shows_crowd: whether it saw a crowd of small faces.
        closer: the views that are worth a look for what it saw.
    """

    boxes: np.ndarray
    scores: np.ndarray
    view: View
    suspects_large: bool
    shows_crowd: bool
    closer: tuple[View, ...]


@dataclass(frozen=True)
class _Look:
    """A view on its way through the network, and where its faces go."""

    view: View
    pixels: images.Image
    photo_size: tuple[int, int]
    found: list[_Found]


def _looks(photo: images.Image, views: Sequence[tuple[View, list[_Found]]]) -> Iterator[_Look]:
    """Cut the views' pixels out of a photo; each scale is made once."""
    size = photo.shape[:2]
    scaled = photo
    for view, found in views:
        if scaled.shape[:2] != view.image_size:
            scaled = images.resize(photo, view.image_size)
        y1, x1, y2, x2 = view.window
        pixels = images.resize(scaled[y1:y2, x1:x2], view.look_size)
        yield _Look(view, pixels, size, found)


def _agree(first: _Found, closer: Sequence[_Found], size: tuple[int, int]) -> _Found:
    """What a first look and closer ones, at all of its window or at parts, found, as one."""
    to_photo = size[0] / first.view.image_size[0]
    side = closer[0].view.sizes[1] / REACH * to_photo
    seen = np.any([part.view.holds(first.boxes, size) for part in closer], axis=0)
    closer_boxes = np.concatenate([part.boxes for part in closer])
    closer_scores = np.concatenate([part.scores for part in closer])
    boxes, scores = agree(
        (first.boxes[seen], first.scores[seen]), (closer_boxes, closer_scores), side
    )
    if not seen.all():
        boxes = np.concatenate([boxes, first.boxes[~seen]])
        scores = np.concatenate([scores, first.scores[~seen]])
        kept = boxes_.nms(boxes, scores, SAME_FACE)
        boxes, scores = boxes[kept], scores[kept]
    return replace(first, boxes=boxes, scores=scores)


def _merge(
    found: Sequence[_Found], spec: ModelSpec, size: tuple[int, int], threshold: float
) -> Detections:
    """Each face once, though several views saw it."""
    boxes = np.concatenate([part.boxes for part in found])
    scores = np.concatenate([part.scores for part in found])
    levels = np.repeat([part.view.level for part in found], [len(part.scores) for part in found])
    sure = scores >= threshold
    boxes, scores, levels = boxes[sure], scores[sure], levels[sure]
    if len(found) > 1:
        crowd = any(part.shows_crowd for part in found)
        kept = boxes_.nms(boxes, scores, SAME_FACE if crowd else spec.nms_iou)
        boxes, scores, levels = boxes[kept], scores[kept], levels[kept]
    whole = ~fragments(boxes, scores, levels)
    return Detections(boxes[whole], scores[whole], size)


def _merge_turned(found: Sequence[Detections], spec: ModelSpec, threshold: float) -> Detections:
    """Each face once, of a photo after 0, 1, 2 and 3 quarter turns to the left.

    The faces of a photo mostly lie alike. So the odds of a face are multiplied by (n + 1) /
    (most + 1), but divided by `MOST_DOUBT` at most: n faces are to be expected in its position, the
    sum of scores from the model's threshold on, and most in that which has most of them.
    """
    boxes = np.concatenate(
        [boxes_.turn_right(faces.boxes, faces.size, k) for k, faces in enumerate(found)]
    )
    scores = np.concatenate([faces.scores for faces in found])
    positions = np.repeat(np.arange(len(found)), [len(faces) for faces in found])
    kept = boxes_.nms(boxes, scores, spec.nms_iou)
    boxes, scores, positions = boxes[kept], scores[kept], positions[kept]
    sure = scores >= spec.threshold
    count = np.bincount(positions[sure], weights=scores[sure], minlength=len(found))
    factor = np.maximum((count + 1) / (count.max() + 1), 1 / MOST_DOUBT).astype(np.float32)
    weighted = scores * factor[positions]
    scores = weighted / (weighted + 1 - scores)
    best = np.argsort(-scores, kind="stable")
    best = best[scores[best] >= threshold]
    boxes, scores = boxes[best], scores[best]
    whole = ~fragments(boxes, scores, np.zeros(len(boxes), np.int64))
    return Detections(boxes[whole], scores[whole], found[0].size)


def _as_image(photo: Photo) -> images.Image:
    return images.check(photo) if isinstance(photo, np.ndarray) else images.read(photo)


def _several(photos: Iterable[Photo]) -> Iterator[Photo]:
    """An iterator over photos.

    Raises:
        ValueError: it is a single one.
    """
    is_one = isinstance(photos, str | bytes | os.PathLike) or hasattr(photos, "read")
    is_one = is_one or (isinstance(photos, np.ndarray) and photos.ndim == 3)
    if not is_one:
        with suppress(TypeError):
            return iter(photos)
    raise ValueError("batch takes several photos: give a list, or call the detector itself")


def _whole(name: str, given: Any, expected: str = "a whole number") -> int:
    """An argument that is an integer, NumPy's too.

    Raises:
        ValueError: it is something else.
    """
    try:
        if not isinstance(given, bool):
            return operator.index(given)
    except TypeError:
        pass
    raise ValueError(f"{name} must be {expected}, got {given!r}")


def _check_range(name: str, given: Any, least: int, most: int) -> None:
    """Refuse an argument that is no number, NumPy's too, or outside its range.

    Raises:
        ValueError: it is.
    """
    try:
        fits = not isinstance(given, bool | np.bool_) and least <= given <= most
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must lie in {least}..{most}, got {given!r}")


def check_threshold(threshold: float | None) -> None:
    """Refuse a least score that no score can have; None stands for the model's own.

    Raises:
        ValueError: it is outside 0..1, or no number.
    """
    if threshold is not None:
        _check_range("threshold", threshold, 0, 1)


def check_max_side(max_side: int | None) -> None:
    """Refuse a longer side that leaves nothing to look at; None stands for full resolution.

    Raises:
        ValueError: it is less than 16 px.
    """
    if max_side is not None and max_side < 16:
        raise ValueError(f"max_side must be at least 16 px, got {max_side}")
