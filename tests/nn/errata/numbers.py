"""Numbers to measure on: irregular, and the same on every machine and with every NumPy.

NumPy does not promise that a later version draws the same random numbers from a seed, and
`docs/errata.md` shows what is measured.
"""

from __future__ import annotations

import numpy as np


def irregular(shape: int | tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers between −2 and 2 without visible order: the far digits of a sine."""
    k = np.arange(np.prod(shape))
    return (4 * np.modf(1e4 * (2 + np.sin(12.9898 * k + 78.233 * seed)))[0] - 2).reshape(shape)
