"""Running a detector over photos for evaluation, in one of the usual ways.

A figure means little without the name of its protocol: the same detector finds far more tiny faces
in a photo's own size than in one scaled to 640 px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float32

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.detections import Detections
from faceresnet.widerface import Photo

#: Score from which detections are asked for when a detector is evaluated.
EVALUATION_THRESHOLD = 0.01
#: What is done to a photo before it is shown to the detector, by name.
PROTOCOLS = {
    "vga": "photos scaled so that the longer side is 640 px",
    "original": "photos in their own size",
    "multiscale": "photos at 0.5, 1 and, up to 2,048 px, 2 times their own size, merged",
    "shipped": "photos in their own size, with the detector's tiles and further looks",
}
VGA_SIDE = 640
MULTISCALE = (0.5, 1.0, 2.0)
#: Longest side in px to which a photo is enlarged; beyond it the memory of one pass explodes.
LARGEST_SIDE = 4096
#: Overlap from which detections of different scales are the same face.
MERGE_IOU = 0.4


def predict(
    detector: Callable[[np.ndarray], Detections],
    photos: Iterable[Photo],
    *,
    protocol: str = "original",
) -> dict[str, tuple[Float32[np.ndarray, "M 4"], Float32[np.ndarray, "M"]]]:
    """Run a detector over photos.

    Args:
        detector: from an RGB image (H, W, 3) uint8 to boxes and scores; its threshold should be
            `EVALUATION_THRESHOLD`; for all protocols but ``shipped`` it should look at the image
            once, as it is.
        photos: to be read and shown.
        protocol: one of `PROTOCOLS`.

    Returns:
        Boxes in px of the photo and scores, by name.

    Raises:
        ValueError: no such protocol.
        DataError: a photo is missing.
        ImageError: a photo is broken.
    """
    check_protocol(protocol)
    predictions = {}
    for photo in photos:
        image = photo.read()
        predictions[photo.name] = _detect_at(detector, image, _scales(image, protocol))
    return predictions


def check_protocol(protocol: str) -> str:
    """Give the protocol back if there is one of that name.

    Raises:
        ValueError: there is not.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    return protocol


def _scales(image: np.ndarray, protocol: str) -> tuple[float, ...]:
    longer = max(image.shape[:2])
    if protocol == "vga":
        return (VGA_SIDE / longer,)
    if protocol in ("original", "shipped"):
        return (1.0,)
    return tuple(scale for scale in MULTISCALE if scale <= max(1.0, LARGEST_SIDE / longer))


def _detect_at(
    detector: Callable[[np.ndarray], Detections], image: np.ndarray, scales: Sequence[float]
) -> tuple[Float32[np.ndarray, "M 4"], Float32[np.ndarray, "M"]]:
    """Boxes in px of the image, found at each scale and merged."""
    height, width = image.shape[:2]
    found = []
    for scale in scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        detections = detector(image if size == (height, width) else images.resize(image, size))
        # Not by `scale`: rounding to whole px changes the ratio, and differently for each axis.
        boxes = boxes_.scaled(np.asarray(detections.boxes, np.float32), size, (height, width))
        found.append((boxes, detections.scores))
    merged = np.concatenate([boxes for boxes, _ in found])
    scores = np.concatenate([np.asarray(scores, np.float32) for _, scores in found])
    if len(scales) > 1:
        kept = boxes_.nms(merged, scores, MERGE_IOU)
        merged, scores = merged[kept], scores[kept]
    return merged, scores
