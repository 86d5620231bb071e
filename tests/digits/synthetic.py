"""Digits that need no data set: printed ones, moved and turned a little, in MNIST's files."""

from __future__ import annotations

import gzip
from pathlib import Path

import cv2
import numpy as np

from faceresnet.digits.data import SPLITS, Digits


def idx(array: np.ndarray) -> bytes:
    """An idx file of uint8."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def printed(digit: int, rng: np.random.Generator) -> np.ndarray:
    """A digit as MNIST has it, 28 × 28, light on dark."""
    image = np.zeros((28, 28), np.uint8)
    x, y = (int(n) for n in rng.integers(-2, 3, 2))
    size = float(rng.uniform(0.7, 0.9))
    cv2.putText(
        image, str(digit), (6 + x, 23 + y), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 2, cv2.LINE_AA
    )
    noise = rng.normal(0, 5, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def digits(n: int, seed: int = 0) -> Digits:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n).astype(np.uint8)
    return Digits(np.stack([printed(int(label), rng) for label in labels]), labels)


def write(folder: Path, training: int, test: int, *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, n) in enumerate({"train": training, "test": test}.items()):
        some = digits(n, seed)
        for name, array in zip(SPLITS[split], (some.images, some.labels), strict=True):
            content = idx(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder
