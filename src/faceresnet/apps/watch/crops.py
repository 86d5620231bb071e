"""The best picture of a face while it was there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceresnet import images
from faceresnet.detections import Detections

#: Around a face, as a part of its width and height.
MARGIN = 0.25
#: Kept crops are reduced to this longer side, px.
LONGEST = 512
#: Shorter side of a face from which more px make no better picture.
ENOUGH = 160
#: Variance of the Laplacian, at 64×64 px, that counts as half sharp.
HALF_SHARP = 150.0
#: What a face cut by the edge of the picture is worth.
CUT = 0.5


@dataclass(frozen=True, eq=False)
class Crop:
    """A face cut out with a margin: RGB uint8 (h, w, 3), and how good it is, 0..1."""

    image: images.Image
    quality: float


def better(best: Crop | None, image: images.Image, faces: Detections, index: int) -> Crop | None:
    """Face `index` of an image if it makes a better picture than `best`, else `best`.

    Quality is score × size × sharpness, each 0..1; the pixels are looked at only where score and
    size alone could win.
    """
    size = faces.boxes[index, 2:] - faces.boxes[index, :2]
    bound = float(faces.scores[index]) * min(1.0, float(size.min()) / ENOUGH)
    bound *= CUT if _touches_edge(faces.boxes[index], faces.size) else 1.0
    if best is not None and bound <= best.quality:
        return best
    (pixels,) = faces[index].crops(image, margin=MARGIN)
    quality = bound * sharpness(pixels)
    if best is not None and quality <= best.quality:
        return best
    return Crop(images.shrink(pixels, LONGEST), quality)


def sharpness(image: images.Image) -> float:
    """How sharp an image is, 0..1, whatever its size: by the variance of its Laplacian."""
    import cv2

    grey = cv2.cvtColor(images.resize(image, (64, 64)), cv2.COLOR_RGB2GRAY)
    variance = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return variance / (variance + HALF_SHARP)


def _touches_edge(box: NDArray[np.float32], size: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box.tolist()
    return x1 <= 1 or y1 <= 1 or x2 >= size[1] - 1 or y2 >= size[0] - 1
