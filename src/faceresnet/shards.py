"""Shards: a data set as one .zip file to move, in the same layout and smaller if wanted.

`widerface.read_split` reads a shard like any data set: ``--data photos.zip``.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from faceresnet import boxes, images
from faceresnet.atomic import replacing
from faceresnet.errors import while_writing
from faceresnet.processors import cores
from faceresnet.widerface import Photo, format_faces

#: Photos held in memory at a time.
CHUNK = 64
#: px; photos with larger sides are stored as they are.
LONGEST_WEBP = images.LONGEST["WEBP"]
#: Quality of WebP for photos that are reduced when none is asked for.
DEFAULT_QUALITY = 90


def pack(
    splits: Mapping[str, Sequence[Photo]],
    file: Path,
    *,
    max_side: int | None = None,
    quality: int | None = None,
    progress: Callable[[Iterable[Photo]], Iterable[Photo]] = iter,
) -> int:
    """Write photos and their faces into one shard.

    A photo that is stored anew is called ``.webp`` in the shard; the others keep their names.

    Args:
        splits: photos by split, ``train`` and ``val``.
        file: the shard, a .zip; it appears when it is complete.
        max_side: larger photos are reduced to this longer side, px.
        quality: of WebP, 1..100, for photos that are reduced and, if given, for all others too; by
            default photos that fit are stored as they are and reduced ones get `DEFAULT_QUALITY`.
        progress: wraps the iterator over the photos of all splits, to show it.

    Returns:
        bytes written.

    Raises:
        DataError: a photo is not there, or the shard cannot be written.
        ValueError: the shard would take the place of what it is made from.
        ImageError: a photo is broken.
    """
    _refuse_source(splits, file)
    everything = iter(progress([photo for photos in splits.values() for photo in photos]))
    with (
        while_writing(f"the shard {file}"),
        replacing(file) as partial,
        zipfile.ZipFile(partial, "w") as archive,
    ):
        for split, photos in splits.items():
            lists: list[str] = []
            taken = {photo.name for photo in photos}
            for stored in _encoded(islice(everything, len(photos)), max_side, quality):
                name = stored.name
                if stored.is_new:
                    name = _free_name(name, taken)
                    taken.add(name)
                archive.writestr(f"WIDER_{split}/images/{name}", stored.data)
                lists.append(format_faces(name, stored.faces, stored.ignore))
            labels = f"wider_face_split/wider_face_{split}_bbx_gt.txt"
            archive.writestr(labels, "".join(lists), zipfile.ZIP_DEFLATED)
    return file.stat().st_size


def _refuse_source(splits: Mapping[str, Sequence[Photo]], file: Path) -> None:
    """Make sure that the shard does not take the place of what it is made from.

    Raises:
        ValueError: it would.
    """
    place = os.path.realpath(file)
    for path in {photo.path for photos in splits.values() for photo in photos}:
        if os.path.realpath(path) == place:
            raise ValueError(f"{file} is part of the data set: choose another file for the shard")


@dataclass(frozen=True, eq=False)
class _Stored:
    """A photo as the shard keeps it; `is_new` where its file is not the original one."""

    name: str
    data: bytes
    faces: np.ndarray
    ignore: np.ndarray
    is_new: bool


def _encoded(
    photos: Iterator[Photo], max_side: int | None, quality: int | None
) -> Iterator[_Stored]:
    """Photos as the shard keeps them, in order; `CHUNK` of them are made at a time."""
    with ThreadPoolExecutor(cores()) as pool:
        while chunk := list(islice(photos, CHUNK)):
            yield from pool.map(lambda photo: _encode(photo, max_side, quality), chunk)


def _encode(photo: Photo, max_side: int | None, quality: int | None) -> _Stored:
    original = _Stored(photo.name, photo.read_bytes(), photo.faces, photo.ignore, is_new=False)
    if max_side is None and quality is None:
        return original
    from PIL import Image

    image = photo.read()
    size = image.shape[:2]
    longest = max(size)
    faces = photo.faces
    if max_side is not None and longest > max_side:
        image = images.shrink(image, min(max_side, LONGEST_WEBP))
        faces = boxes.scaled(faces, size, image.shape[:2])
    elif quality is None or longest > LONGEST_WEBP:
        return original
    out = io.BytesIO()
    Image.fromarray(image).save(
        out, "WEBP", quality=DEFAULT_QUALITY if quality is None else quality
    )
    return _Stored(photo.name, out.getvalue(), faces, photo.ignore, is_new=True)


def _free_name(name: str, taken: set[str]) -> str:
    """The name with .webp for its suffix, or after it, once or more, where that is taken."""
    webp = str(PurePosixPath(name).with_suffix(".webp"))
    if webp == name or webp not in taken:
        return webp
    free = f"{name}.webp"
    while free in taken:
        free += ".webp"
    return free
