"""Digits in photos and scans, brought into the form that MNIST's have.

MNIST scales a digit to fit a box of 20 × 20 px and puts its centre of mass into the middle of
28 × 28 px, light ink on dark paper. Here the paper is found first: what the border of the image
shows, lit unevenly perhaps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from faceresnet import images
from faceresnet.digits.data import SIZE
from faceresnet.digits.engines import Engine
from faceresnet.errors import ImageError
from faceresnet.nn import softmax

if TYPE_CHECKING:
    from faceresnet.images import Source

#: Side of the box that a digit is scaled to fit, px.
BOX = 20
#: Longest side at which the digit is looked for, px: finer detail is lost anyway.
WORKING_SIDE = 256
#: Thinnest stroke of a digit in its box, px; MNIST's pens were thick.
STROKE = 2.0
#: Difference from paper, of 255, below which there is no ink anywhere.
LEAST_CONTRAST = 12
#: Share of the strongest ink that still belongs to the digit, at its soft edges.
EDGE = 0.15
#: Blobs of ink smaller than this share of the largest one are dirt.
DIRT = 0.03


@dataclass(frozen=True)
class Prediction:
    """What a digit looks like.

    Attributes:
        digit: 0 to 9.
        probability: of it.
        probabilities: (10,) of all.
    """

    digit: int
    probability: float
    probabilities: Float[np.ndarray, "10"]


def predict(engine: Engine, source: Source) -> Prediction:
    """Recognise the digit in a photo or scan that shows one digit.

    Raises:
        ImageError: the photo cannot be read, or shows nothing.
    """
    prepared = prepare(images.read(source), _name(source))
    logits = engine.logits(prepared[None]).astype(np.float64)
    probabilities = softmax(logits)[0][0]
    digit = int(probabilities.argmax())
    return Prediction(digit, float(probabilities[digit]), probabilities)


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the image"


def prepare(
    image: UInt8[np.ndarray, "H W 3"], name: str = "the image"
) -> UInt8[np.ndarray, "28 28"]:
    """Bring a digit into MNIST's form.

    Args:
        image: RGB, dark ink on light paper or the other way round, of any size.
        name: what an error calls it.

    Returns:
        0 paper to 255 ink, scaled to 20 px and centred by mass.

    Raises:
        ImageError: it shows nothing.
    """
    ink = find_ink(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    if ink is None:
        raise ImageError(f"{name} shows no digit: it is of one colour all over")
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(ink.shape)
    ink = _thicken(ink, scale)
    size = tuple(max(1, min(BOX, round(n * scale))) for n in ink.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(ink, (size[1], size[0]), interpolation=interpolation)
    small = small.reshape(size) / max(float(small.max()), 1e-6)
    return np.rint(255 * _centre(small)).astype(np.uint8)


def find_ink(grey: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"] | None:
    """How much ink there is at every pixel, 0 to 1, at a reduced size; None for none."""
    longest = max(grey.shape)
    if longest > WORKING_SIDE:
        scale = WORKING_SIDE / longest
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).reshape(size[::-1])
    difference = grey.astype(np.float32) - _paper(grey)
    if difference.max() < -difference.min():  # dark ink
        difference = -difference
    strongest = float(np.percentile(difference, 99.5)) if grey.size > 1000 else difference.max()
    strongest = max(strongest, 0.6 * float(difference.max()))
    if strongest < LEAST_CONTRAST:
        return None
    ink = np.clip(difference / strongest, 0, 1)
    mask = _without_dirt(ink > max(EDGE, _noise(ink)))
    return np.where(mask, ink, 0).astype(np.float32)


def _paper(grey: np.ndarray) -> np.ndarray:
    """Brightness of the paper everywhere: a plane through what the border shows."""
    height, width = grey.shape
    edge = max(1, round(0.04 * min(height, width)))
    border = np.ones(grey.shape, bool)
    border[edge : height - edge, edge : width - edge] = False
    y, x = np.nonzero(border)
    values = grey[border].astype(np.float64)
    # A digit may touch the border: what is far from its median is no paper.
    distance = np.abs(values - np.median(values))
    keep = distance <= max(8.0, 3 * float(np.median(distance)))
    terms = np.column_stack([np.ones(keep.sum()), y[keep], x[keep]])
    plane, *_ = np.linalg.lstsq(terms, values[keep], rcond=None)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    paper: np.ndarray = plane[0] + plane[1] * rows + plane[2] * columns
    return np.clip(paper, 0, 255).astype(np.float32)


def _noise(ink: np.ndarray) -> float:
    """Level of ink below which there is only grain: Otsu's threshold, halved for the soft edges."""
    threshold, _ = cv2.threshold(
        np.rint(255 * ink).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU
    )
    return 0.4 * float(threshold) / 255


def _without_dirt(mask: np.ndarray) -> np.ndarray:
    """Only the blobs that are not tiny beside the largest."""
    count, labels, numbers, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = numbers[1:count, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= DIRT * areas.max())
    return np.isin(labels, kept)


def _thicken(ink: np.ndarray, scale: float) -> np.ndarray:
    """Widen strokes that would be thinner than MNIST's once the digit is scaled."""
    padded = np.pad((ink > 0.5).astype(np.uint8), 1)
    if not padded.any():
        return ink
    # Over a stroke of n pixels the distance to paper is n / 4 + 1 / 2 on average.
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    width = 4 * float(distance[padded > 0].mean()) - 2
    missing = round(STROKE / scale - width)
    if missing < 1:
        return ink
    pad = missing // 2 + 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (missing + 1, missing + 1))
    return cv2.dilate(np.pad(ink, pad), ellipse)[pad:-pad, pad:-pad]


def _centre(small: np.ndarray) -> np.ndarray:
    """Put a digit of at most 20 × 20 px on 28 × 28 px, its centre of mass in the middle."""
    height, width = small.shape
    total = float(small.sum())
    row = float((small.sum(axis=1) * np.arange(height)).sum()) / total
    column = float((small.sum(axis=0) * np.arange(width)).sum()) / total
    # MNIST moves by whole pixels, and its middle is pixel (14, 14), counted from 0.
    top = int(np.clip(round(SIZE[0] / 2 - row), 0, SIZE[0] - height))
    left = int(np.clip(round(SIZE[1] / 2 - column), 0, SIZE[1] - width))
    field = np.zeros(SIZE, np.float64)
    field[top : top + height, left : left + width] = small
    return field
