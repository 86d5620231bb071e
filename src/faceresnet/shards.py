"""Shards: a data set as one .zip file to move, in the same layout and smaller if wanted.

`widerface.read_split` reads a shard like any data set: ``--data photos.zip``.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from faceresnet import images
from faceresnet.widerface import Photo

#: Photos held in memory at a time.
CHUNK = 64


def pack(
    splits: dict[str, Sequence[Photo]],
    file: Path,
    *,
    max_side: int | None = None,
    quality: int | None = None,
    progress: Callable[[Iterable[Photo]], Iterable[Photo]] = iter,
) -> int:
    """Write photos and their faces into one shard.

    Args:
        splits: photos by split, ``train`` and ``val``.
        file: the shard, a .zip; it appears when it is complete.
        max_side: larger photos are reduced to this longer side, px.
        quality: of WebP, 1..100, for photos that are reduced and, if given, for all others too; by
            default photos that fit are stored as they are and reduced ones get 90.
        progress: wraps the iterator over photos, to show it.

    Returns:
        bytes written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for split, photos in splits.items():
                lines: list[str] = []
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    for start in range(0, len(photos), CHUNK):
                        chunk = photos[start : start + CHUNK]
                        for name, data, faces, ignore in pool.map(
                            lambda photo: _encode(photo, max_side, quality), progress(chunk)
                        ):
                            archive.writestr(f"WIDER_{split}/images/{name}", data)
                            lines += _labels(name, faces, ignore)
                labels = f"wider_face_split/wider_face_{split}_bbx_gt.txt"
                archive.writestr(labels, "\n".join(lines) + "\n", zipfile.ZIP_DEFLATED)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file.stat().st_size


def _encode(
    photo: Photo, max_side: int | None, quality: int | None
) -> tuple[str, bytes, np.ndarray, np.ndarray]:
    """Name, file, faces (G, 4) px and ignore flags (G,) of a photo as the shard keeps it."""
    data = photo.read_bytes()
    with Image.open(io.BytesIO(data)) as header:
        longest = max(header.size)
    shrink = max_side is not None and longest > max_side
    if not shrink and quality is None:
        return photo.name, data, photo.faces, photo.ignore
    image = images.read(data)
    faces = photo.faces
    if shrink:
        assert max_side is not None
        height, width = image.shape[:2]
        size = (
            max(1, round(height * max_side / longest)),
            max(1, round(width * max_side / longest)),
        )
        image = images.resize(image, size)
        faces = faces * np.array([size[1] / width, size[0] / height] * 2, np.float32)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=90 if quality is None else quality)
    return str(PurePosixPath(photo.name).with_suffix(".webp")), out.getvalue(), faces, photo.ignore


def _labels(name: str, faces: np.ndarray, ignore: np.ndarray) -> list[str]:
    """The lines of one photo in the list of faces."""
    lines = [name, str(len(faces))]
    for (x1, y1, x2, y2), ignored in zip(faces.tolist(), ignore.tolist(), strict=True):
        lines.append(f"{x1:g} {y1:g} {x2 - x1:g} {y2 - y1:g} 0 0 0 {int(ignored)} 0 0")
    return lines
