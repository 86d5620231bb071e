"""MNIST (LeCun, Cortes and Burges): its idx files, plain or gzip, and where to get them.

An idx file is four bytes, ``0 0 type axes``, the length of every axis as a big-endian uint32, and
the numbers in reading order. The type of both images and labels is 8, uint8.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from faceresnet.download import (
    DEFAULT_TIMEOUT_S,
    FileProgress,
    PublishedFile,
    fetch_published,
)
from faceresnet.errors import DataError, reason

#: Type of the numbers in an idx file, its third byte.
UINT8 = 8
GZIP_MAGIC = b"\x1f\x8b"
CLASSES = 10
#: (height, width) of a digit, px.
SIZE = (28, 28)

#: What the files of a split are called, without .gz.
SPLITS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

#: Folders with PyTorch's and TensorFlow's copies of the official files, and their home, which is
#: often away.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "http://yann.lecun.com/exdb/mnist",
)


def _official(name: str, size_bytes: int, sha256: str) -> PublishedFile:
    return PublishedFile(name, size_bytes, sha256, tuple(f"{mirror}/{name}" for mirror in MIRRORS))


#: The four files as their authors published them.
OFFICIAL = (
    _official(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    _official(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    _official(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    _official(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits and which they are.

    Attributes:
        images: (N, 28, 28), 0 paper to 255 ink.
        labels: (N,), 0 to 9.
    """

    images: UInt8[np.ndarray, "N 28 28"]
    labels: UInt8[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | np.ndarray) -> Digits:
        """Some of them."""
        return Digits(self.images[index], self.labels[index])


def read_digits(folder: str | os.PathLike[str], split: str) -> Digits:
    """Read the digits of a split.

    Args:
        folder: holds the files under their official names, with .gz or without.
        split: "train" (60,000 digits) or "test" (10,000).

    Raises:
        DataError: a file is missing, broken, or is not one of digits.
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    image_file, label_file = (_find(Path(folder), name) for name in SPLITS[split])
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.shape[1:] != SIZE:
        raise DataError(
            f"{image_file} must hold images of 28 × 28 px, shape (N, 28, 28), got {images.shape}"
        )
    if labels.ndim != 1 or (labels.size and labels.max() >= CLASSES):
        raise DataError(
            f"{label_file} must hold labels 0 … 9, shape (N,), got shape {labels.shape}"
            + (f" up to {labels.max()}" if labels.size else "")
        )
    if len(images) != len(labels):
        raise DataError(
            f"{image_file} holds {len(images)} images, but {label_file} {len(labels)} labels: "
            "they do not belong together"
        )
    if not len(images):
        raise DataError(f"{image_file} holds no image")
    return Digits(images, labels)


def read_idx(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """Read an idx file of uint8, plain or gzip, which its first bytes tell.

    Raises:
        DataError: the file is missing, truncated, too long, or no such file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {reason(error)}. Get the file anew.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or not content[3]:
        raise DataError(
            f"{path} is no idx file: it must begin with two zero bytes, the type and the number "
            f"of axes, but begins with {content[:4].hex(' ') or 'nothing'}"
        )
    if content[2] != UINT8:
        raise DataError(f"{path} must hold uint8 (type 8), got type {content[2]}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path} is truncated: it breaks off in its header. Get the file anew.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    expected, found = int(np.prod(shape, dtype=object)), len(content) - start
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise DataError(
            f"{path} is {what}: shape {shape} needs {expected} bytes after the header, "
            f"got {found}. Get the file anew."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def download_mnist(
    out: str | os.PathLike[str],
    *,
    progress: FileProgress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> list[Path]:
    """Download the four official files, 12 MB; those already there are kept.

    Args:
        out: the folder, made if missing.
        progress: called as each file grows.
        timeout_s: longest silence of a server, in seconds.

    Returns:
        The files, each of which has its published checksum.

    Raises:
        DownloadError: a file could not be had, or is not the published one.
        ValueError: a timeout that `fetch` refuses.
    """
    return [fetch_published(file, out, progress=progress, timeout_s=timeout_s) for file in OFFICIAL]


def _find(folder: Path, name: str) -> Path:
    """The file of that name, plain or gzip."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{folder} does not hold {name}.gz: get MNIST by 'faceresnet data mnist --out {folder}'"
    )
