"""The dense grid of anchor boxes that the network's outputs refer to.

At every cell of every pyramid level lie the same A boxes, centred on the cell. A level is a stride
and the boxes; everything else follows from the size of the image. The network lists its outputs in
the order in which `make_anchors` lists the anchors: level, row, column, anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Level:
    """One level of the feature pyramid and the anchors of each of its cells.

    Attributes:
        stride: px between neighbouring cells, a power of two.
        sizes: side in px of a square of the same area as the anchor.
        ratios: height ÷ width of the anchor (the paper's "1:1.5 width:height" is 1.5).
    """

    stride: int
    sizes: tuple[float, ...]
    ratios: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.stride < 1 or self.stride & (self.stride - 1):
            raise ValueError(f"stride must be a power of two, got {self.stride}")
        if not self.sizes or min(self.sizes) <= 0 or not self.ratios or min(self.ratios) <= 0:
            raise ValueError(
                f"a level needs positive sizes and ratios, got {self.sizes} and {self.ratios}"
            )

    @property
    def anchors_per_cell(self) -> int:
        """A: how many anchors share a cell."""
        return len(self.sizes) * len(self.ratios)

    @property
    def shapes(self) -> tuple[tuple[float, float], ...]:
        """(height, width) px of each of the A anchors of a cell, sizes before ratios."""
        return tuple(
            (size * sqrt(ratio), size / sqrt(ratio)) for size in self.sizes for ratio in self.ratios
        )

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of cells over an image of `image_size` (height, width) px."""
        return ceil(image_size[0] / self.stride), ceil(image_size[1] / self.stride)


@lru_cache(maxsize=64)
def make_anchors(
    levels: tuple[Level, ...], image_size: tuple[int, int]
) -> Float32[np.ndarray, "R 4"]:
    """All anchors over an image (Zozoulenko 2018, section 5.2: W · H · A for each level).

    Args:
        levels: the pyramid, in the order of the network's outputs.
        image_size: (height, width) px of the network's input.

    Returns:
        (R, 4) boxes in px, read-only because calls share it: level, then row, column, anchor.
    """
    blocks = []
    for level in levels:
        rows, columns = level.grid(image_size)
        y = (np.arange(rows, dtype=np.float32) + 0.5) * level.stride
        x = (np.arange(columns, dtype=np.float32) + 0.5) * level.stride
        centre = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)
        half = np.array(level.shapes, dtype=np.float32)[:, ::-1] / 2
        corners = np.concatenate(
            [centre[:, :, None] - half, centre[:, :, None] + half], axis=-1, dtype=np.float32
        )
        blocks.append(corners.reshape(-1, 4))
    anchors = np.concatenate(blocks)
    anchors.setflags(write=False)
    return anchors
