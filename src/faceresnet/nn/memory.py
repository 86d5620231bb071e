"""Memory that is used again, and that begins where a processor likes it to begin."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from faceresnet.nn.shapes import Array

#: Bytes of a cache line.
LINE = 64


class Workspace:
    """Memory for what lives within one call; one for each thread."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def arrays(self, dtype: np.dtype[np.floating], *shapes: tuple[int, ...]) -> list[Array]:
        """Arrays of these shapes that hold anything; the next call gives the same memory again."""
        sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
        starts = [0, *accumulate(-(-size // LINE) * LINE for size in sizes)]
        if self._bytes.size < starts[-1]:
            self._bytes = _lines(starts[-1])
        return [
            self._bytes[start : start + size].view(dtype).reshape(shape)
            for start, size, shape in zip(starts, sizes, shapes, strict=False)
        ]


def on_a_line(array: Array) -> Array:
    """Copy that begins with a cache line.

    NumPy's own arrays may begin anywhere in one. Then 16 numbers of float32 lie on two lines where
    one would do, and a product that takes 16 columns of every row reads twice as many.
    """
    copy: Array = _lines(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _lines(size: int) -> np.ndarray:
    """So many bytes from the beginning of a cache line on."""
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size]
