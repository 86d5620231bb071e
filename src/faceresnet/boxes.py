"""Boxes, and the one coordinate convention of this package.

A box is ``x1 y1 x2 y2`` in float32 pixels. The origin is the outer corner of the top-left pixel,
so a box around that pixel alone is ``0 0 1 1``: width = x2 − x1, no ``+1`` anywhere. Pixel and
anchor centres lie at ``(i + 0.5) · stride``.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from faceresnet.telemetry import import_openvino

if TYPE_CHECKING:
    import openvino

Boxes = Float32[np.ndarray, "N 4"]

#: Widest log-ratio between a face and its anchor that is decoded: e⁴ ≈ 55 times as large.
#: Keeps ``exp`` finite whatever the network says.
MAX_LOG_RATIO = 4.0
#: px (√area); boxes up to this size lose the whole excess (`tighten`).
SMALL = np.float32(12)
#: Most boxes for which all their pairs, in NumPy, are faster than a call of OpenVINO.
FEW = 100


def area(boxes: Shaped[np.ndarray, "*N 4"]) -> Shaped[np.ndarray, "*N"]:
    """Area of each box in px²; boxes turned inside out have area 0."""
    width = np.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = np.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def iou(a: Shaped[np.ndarray, "N 4"], b: Shaped[np.ndarray, "M 4"]) -> Shaped[np.ndarray, "N M"]:
    """Intersection over union of every pair of boxes (Zozoulenko 2018, eq. 58).

    Empty boxes overlap nothing: their IoU is 0, never NaN.
    """
    return overlap_of(a[:, None], b[None])


def overlap_of(
    a: Shaped[np.ndarray, "*#N 4"], b: Shaped[np.ndarray, "*#N 4"]
) -> Shaped[np.ndarray, "..."]:
    """Intersection over union of boxes side by side; their shapes are broadcast."""
    common = intersection(a, b)
    union = area(a) + area(b) - common
    return np.divide(
        common, union, out=np.zeros(common.shape, np.result_type(common, 1.0)), where=union > 0
    )


def intersection(
    a: Shaped[np.ndarray, "*#N 4"], b: Shaped[np.ndarray, "*#N 4"]
) -> Shaped[np.ndarray, "..."]:
    """Area in px² that boxes side by side have in common; their shapes are broadcast."""
    width, height = (
        (np.minimum(a[..., axis + 2], b[..., axis + 2]) - np.maximum(a[..., axis], b[..., axis]))
        for axis in (0, 1)
    )
    return np.maximum(width, 0) * np.maximum(height, 0)


def encode(boxes: Boxes, anchors: Boxes, scales: tuple[float, float]) -> Boxes:
    """Deltas that turn each anchor into its box: the inverse of `decode`.

    Args:
        boxes: (R, 4) px, one for each anchor.
        anchors: (R, 4) px.
        scales: divisors of the centre offsets and of the log size ratios.

    Returns:
        (R, 4) ``dx dy dw dh``: centre offsets in anchor sizes and log size ratios, each divided by
        its scale (Girshick et al. 2014, R-CNN, eq. 6–9; scales as in SSD).
    """
    size = boxes[:, 2:] - boxes[:, :2]
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    anchor_centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    offset = (centre - anchor_centre) / anchor_size / scales[0]
    log_ratio = np.log(size / anchor_size) / scales[1]
    return np.concatenate([offset, log_ratio], axis=1).astype(np.float32)


def decode(deltas: Boxes, anchors: Boxes, scales: tuple[float, float]) -> Boxes:
    """Boxes from anchors and the network's deltas: the inverse of `encode`.

    Args:
        deltas: (R, 4) ``dx dy dw dh``.
        anchors: (R, 4) px.
        scales: as given to `encode`.

    Returns:
        (R, 4) boxes in px, not clipped to any image; log ratios beyond `MAX_LOG_RATIO` are clamped.
    """
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    anchor_centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    centre = anchor_centre + deltas[:, :2] * (anchor_size * scales[0])
    log_ratio = (deltas[:, 2:] * scales[1]).clip(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    half = anchor_size * np.exp(log_ratio) / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes cut off at the borders of an image of `size` (height, width) px."""
    height, width = size
    return boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))


def scaled(boxes: Boxes, size: tuple[int, int], new_size: tuple[int, int]) -> Boxes:
    """Boxes px of an image of `size` (height, width) px in px of the same image at `new_size`."""
    y, x = np.divide(new_size, size)
    return boxes * np.array([x, y, x, y], dtype=np.float32)


def turn_right(boxes: Boxes, size: tuple[int, int], quarters: int) -> Boxes:
    """Boxes (N, 4) px of an image of `size` (height, width) px after quarter turns to the right."""
    height, width = size
    for _ in range(quarters):
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([height - y2, x1, height - y1, x2], axis=1).astype(np.float32)
        height, width = width, height
    return boxes


def tighten(boxes: Boxes, excess: float) -> Boxes:
    """Make the boxes of small faces smaller, by as much as a network draws them too large.

    Annotators' boxes begin at whole pixels, rounded down. A network learns that in y, but not in x,
    as half of its training images are mirrored: all that is too wide is taken off at the right.

    Args:
        boxes: (N, 4) px.
        excess: px that a box of at most `SMALL` px (√area) loses of its height, half at the top
            and half at the bottom, and of its width, at the right. Larger boxes lose less, those
            of twice `SMALL` or more nothing. No side loses more than a third.
    """
    if not excess:
        return boxes
    share = (2 - np.sqrt(area(boxes)) / SMALL).clip(0, 1)
    if not share.any():
        return boxes
    size = boxes[:, 2:] - boxes[:, :2]
    width, height = np.minimum(share[:, None] * np.float32(excess), size / 3).T
    tight = boxes.copy()
    tight[:, 1] += height / 2
    tight[:, 2] -= width
    tight[:, 3] -= height / 2
    return tight


def nms(
    boxes: Boxes, scores: Float32[np.ndarray, "N"], iou_threshold: float
) -> Int64[np.ndarray, "M"]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first.

    A box goes when it overlaps a better one that stays by more than `iou_threshold`; of two equal
    scores the first counts as the better. Many boxes go to OpenVINO's operator: 1 ms for a crowd of
    5,000, where OpenCV's takes 16 and a loop over NumPy arrays 24. For a few such a call costs more
    than the work (half a millisecond between two images, as caches are cold): those stay here.

    Args:
        boxes: (N, 4) px; boxes turned inside out overlap nothing.
        scores: (N,); boxes whose score is NaN or −∞ are dropped.
        iou_threshold: 0..1; at 1 nothing is suppressed.

    Raises:
        ValueError: `iou_threshold` is outside 0..1, or the lengths differ.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in 0..1, got {iou_threshold}")
    if len(boxes) != len(scores):
        raise ValueError(f"every box needs one score, got {len(boxes)} boxes, {len(scores)} scores")
    if len(boxes) <= FEW:
        return _nms_of_few(boxes, scores, iou_threshold)
    # The operator would turn such a box round instead of leaving it empty.
    ordered = np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    # It suppresses from its threshold on (>=): the next float makes that "more than".
    # The smallest normal number, because OpenVINO flushes smaller ones to zero.
    above = np.nextafter(np.float32(iou_threshold), np.float32(2))
    above = max(above, np.finfo(np.float32).tiny)
    request = _nms_request()
    selected, count = request.infer([ordered[None], scores[None, None], above]).values()
    return selected[: int(count[0]), 2].astype(np.int64)


def _nms_of_few(
    boxes: Boxes, scores: Float32[np.ndarray, "N"], iou_threshold: float
) -> Int64[np.ndarray, "M"]:
    """`nms` from the overlaps of all pairs."""
    overlaps = iou(boxes, boxes) > np.float32(iou_threshold)
    gone = ~(scores > -np.inf)
    kept = []
    for best in np.argsort(-scores, kind="stable").tolist():
        if not gone[best]:
            kept.append(best)
            gone |= overlaps[best]
    return np.array(kept, dtype=np.int64)


_thread = threading.local()


def _nms_request() -> openvino.InferRequest:
    """Infer request of the operator for this thread alone: requests must not be shared."""
    if not hasattr(_thread, "nms_request"):
        _thread.nms_request = _nms_model().create_infer_request()
    return _thread.nms_request


@cache
def _nms_model() -> openvino.CompiledModel:
    """OpenVINO's greedy NMS as a model of one operator, for any number of boxes."""
    openvino = import_openvino()
    ops = openvino.opset13
    boxes = ops.parameter([1, -1, 4], np.float32)
    scores = ops.parameter([1, 1, -1], np.float32)
    iou_threshold = ops.parameter([], np.float32)
    nms = ops.non_max_suppression(
        boxes,
        scores,
        max_output_boxes_per_class=np.int64(np.iinfo(np.int32).max),
        iou_threshold=iou_threshold,
        score_threshold=np.finfo(np.float32).min,
        box_encoding="corner",
        sort_result_descending=True,
    )
    model = openvino.Model([nms.output(0), nms.output(2)], [boxes, scores, iou_threshold], "nms")
    # Unpinned: OpenVINO would bind this thread to the first core, as every other process's.
    options = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    return openvino.Core().compile_model(model, "CPU", options)
