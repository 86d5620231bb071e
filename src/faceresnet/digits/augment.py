"""Slightly moved, turned and scaled digits, so that a network sees none of them twice."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8


def augment(
    images: UInt8[np.ndarray, "R H W"],
    rng: np.random.Generator,
    shift: float,
    turn: float,
    zoom: float,
) -> UInt8[np.ndarray, "R H W"]:
    """Map every digit by an affine map of its own, about its middle.

    Args:
        images: 0 paper to 255 ink.
        rng: where the maps come from.
        shift: largest displacement in either axis, px.
        turn: largest rotation either way, degrees.
        zoom: largest change of size either way, as a share of it, and of either axis alone.

    Returns:
        The digits, bilinear, with paper where nothing was.
    """
    if not (shift or turn or zoom):
        return images
    n, height, width = images.shape
    moves = rng.uniform(-shift, shift, (n, 2))
    angles = np.radians(rng.uniform(-turn, turn, n))
    sizes = 1 + rng.uniform(-zoom, zoom, (n, 2))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    out = np.empty_like(images)
    for one in range(n):
        cos, sin = np.cos(angles[one]), np.sin(angles[one])
        matrix = np.array([[cos, -sin], [sin, cos]]) * sizes[one]
        offset = centre + moves[one] - matrix @ centre
        affine = np.column_stack([matrix, offset])
        cv2.warpAffine(images[one], affine, (width, height), dst=out[one])
    return out
