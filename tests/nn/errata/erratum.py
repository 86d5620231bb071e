"""One erratum, and how its measured errors are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: A relative error, or what came out in words where it is not a number of the right shape.
Measured = float | str


@dataclass(frozen=True)
class Erratum:
    """A printed equation, as it must be, and the error of both.

    Attributes:
        equation: its number in the paper.
        printed: what is printed, cut down to what matters.
        right: what must stand there.
        why: what is wrong, and how it was measured.
        measure: → error as printed, error as it must be.
    """

    equation: str
    printed: str
    right: str
    why: str
    measure: Callable[[], tuple[Measured, Measured]]


def written(error: Measured) -> str:
    """An error in two digits; what is only rounding, which every machine does in its own way, not.

    >>> written(0.8571), written(3e-13), written("NaN")
    ('0.86', '< 1e-10', 'NaN')
    """
    if isinstance(error, str):
        return error
    return "< 1e-10" if error < 1e-10 else f"{error:.2g}"
