"""Faces made unrecognisable in an array of pixels.

Blurring and pixelating are the same step: the covered region is averaged down to a few cells, and
nothing else of it goes on. Blurring spreads the cells smoothly, pixelating shows them. A filter
with a large kernel alone could be inverted; an average over a sixth of a face cannot. Whoever has a
list of people to choose from may still guess from a few cells (McPherson, Shokri and Shmatikov
2016, Defeating Image Obfuscation with Deep Learning), and from the cells of many frames of a video
more than from one. Only ``box`` leaves nothing to guess from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num

METHODS = ("blur", "pixelate", "box")
SHAPES = ("ellipse", "rectangle")
#: Cells along the longer side of a covered region. With the default margin of 0.2 a face has four
#: of them: one for each eye, none for what is in it.
CELLS = 6
#: Least side of a cell, px, so that tiny faces are averaged as well.
LEAST_CELL = 4
#: The region that is covered is larger than the box by this at each side at least, px, so that a
#: tiny face is covered even if its box is half a pixel off.
LEAST_BORDER = 1.0


@dataclass(frozen=True)
class Covering:
    """How faces are covered.

    Attributes:
        method: ``blur``, ``pixelate`` (squares) or ``box`` (black).
        margin: how much of its width and height a box grows by at each side. Boxes end at chin,
            forehead and cheeks; 0.2 takes in ears, hair line and a box that is a little off.
        shape: ``ellipse`` or ``rectangle``. An ellipse with the margin of 0.2 touches the corners
            of the box itself.
    """

    method: str = "blur"
    margin: float = 0.2
    shape: str = "ellipse"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got '{self.method}'")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got '{self.shape}'")
        if not 0 <= self.margin <= 2:
            raise ValueError(f"margin must lie in 0..2, got {self.margin}")


def cover(
    pixels: Num[np.ndarray, "H W *C"],
    boxes: Iterable[Iterable[float]],
    covering: Covering,
    *,
    black: float | Sequence[float] = 0,
) -> None:
    """Cover the faces, in place.

    Args:
        pixels: uint8, uint16 or float32, grey or with channels; all channels given are covered.
        boxes: ``x1 y1 x2 y2`` px, may reach beyond the picture.
        covering: how.
        black: what a box is filled with, one number for all channels or one for each.
    """
    for box in boxes:
        _cover(pixels, tuple(float(side) for side in box), covering, black)


def _cover(
    pixels: Num[np.ndarray, "H W *C"],
    box: tuple[float, ...],
    covering: Covering,
    black: float | Sequence[float],
) -> None:
    """Cover one face."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box
    right = max((x2 - x1) * covering.margin, LEAST_BORDER)
    down = max((y2 - y1) * covering.margin, LEAST_BORDER)
    x1, y1, x2, y2 = x1 - right, y1 - down, x2 + right, y2 + down
    left, top = max(0, int(np.floor(x1))), max(0, int(np.floor(y1)))
    end, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    if left >= end or top >= bottom:
        return
    region = pixels[top:bottom, left:end]
    side = max(x2 - x1, y2 - y1) / CELLS
    if covering.method == "box":
        filled = np.broadcast_to(np.array(black, region.dtype), region.shape)
    else:
        filled = _averaged(region, max(side, LEAST_CELL), smooth=covering.method == "blur")
    if covering.shape == "rectangle":
        region[...] = filled
        return
    inside = _ellipse((x1 - left, y1 - top, x2 - left, y2 - top), region.shape[:2])
    region[inside] = filled[inside]


def _averaged(
    region: Num[np.ndarray, "h w *C"], cell: float, *, smooth: bool
) -> Num[np.ndarray, "h w *C"]:
    """The region with the average of each cell instead of what is in it."""
    import cv2

    height, width = region.shape[:2]
    cells = max(1, round(width / cell)), max(1, round(height / cell))
    averaged = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
    spread = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
    filled = cv2.resize(averaged, (width, height), interpolation=spread)
    return filled.reshape(region.shape)


def _ellipse(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Pixels whose middle lies in the ellipse that fills a box."""
    x1, y1, x2, y2 = box
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2)
    down = (y + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return across**2 + down**2 <= 1
