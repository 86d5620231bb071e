"""What the operations accept: floating arrays of one precision, with the axes they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Scalar = np.floating[Any]

#: One number for both axes, or (height, width).
Pair = int | tuple[int, int]


def check(name: str, array: Array, like: Array, axes: Mapping[str, int | None]) -> None:
    """Refuse an array of another precision than `like` or of another shape than `axes`.

    Args:
        name: what the caller calls the array.
        array: the array to look at.
        like: the array whose precision counts; the array itself where there is no other.
        axes: the letter of every axis, in order, and its length, None where any will do. Only R,
            the batch, may have length 0.

    Raises:
        ValueError: says which axis, what was expected and what came.
    """
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64, got {array.dtype}")
    if array.dtype != like.dtype:
        raise ValueError(f"{name} must be {like.dtype} as the other arrays are, got {array.dtype}")
    if array.ndim != len(axes):
        raise ValueError(
            f"{name} must have {len(axes)} axes ({', '.join(axes)}), "
            f"got {array.ndim}: shape {array.shape}"
        )
    for axis, ((letter, expected), length) in enumerate(
        zip(axes.items(), array.shape, strict=True)
    ):
        if expected is not None and length != expected:
            raise ValueError(
                f"{name}: axis {axis} ({letter}) must have length {expected}, "
                f"got {length}: shape {array.shape}"
            )
        if length == 0 and letter != "R":
            raise ValueError(
                f"{name}: axis {axis} ({letter}) must not be empty, got shape {array.shape}"
            )


def check_delta(dy: Array, y: Array) -> None:
    """Refuse a delta-error that has not the shape and precision of the output it belongs to.

    Raises:
        ValueError: says which axis, what was expected and what came.
    """
    if dy.dtype != y.dtype:
        raise ValueError(f"dy must be {y.dtype} as y is, got {dy.dtype}")
    if dy.ndim != y.ndim:
        raise ValueError(f"dy must have the shape of y, {y.shape}, got {dy.shape}")
    for axis, (expected, length) in enumerate(zip(y.shape, dy.shape, strict=True)):
        if length != expected:
            raise ValueError(f"dy: axis {axis} must have length {expected} as y has, got {length}")


def pair(name: str, value: Pair, minimum: int) -> tuple[int, int]:
    """`value` as (height, width), both at least `minimum`.

    Raises:
        ValueError: when it is neither an int nor a pair of ints, or too small.
    """
    both = value if isinstance(value, tuple) else (value, value)
    if len(both) != 2 or not all(isinstance(one, int | np.integer) for one in both):
        raise ValueError(f"{name} must be an int or a pair (height, width) of ints, got {value!r}")
    if min(both) < minimum:
        raise ValueError(f"{name} must be at least {minimum} in both axes, got {value!r}")
    return int(both[0]), int(both[1])


def output_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[int, int]:
    """(H_out, W_out) of a kernel that slides over (H, W) (eq. 20–21, 31–32).

    Where the stride does not divide, the quotient is rounded down: the last rows and columns that
    no whole kernel reaches are not looked at.

    Raises:
        ValueError: when the kernel is larger than the padded image.
    """
    lengths = []
    for axis, letter in enumerate("HW"):
        room = size[axis] + 2 * padding[axis]
        if kernel[axis] > room:
            raise ValueError(
                f"x: axis {axis + 2} ({letter}) must have length {kernel[axis]} or more with its "
                f"padding, for the kernel to fit, got {size[axis]} + 2 · {padding[axis]}"
            )
        lengths.append((room - kernel[axis]) // stride[axis] + 1)
    return lengths[0], lengths[1]
