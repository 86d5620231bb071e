"""Corrections: what a second look saw in the places where annotators and a detector disagree.

A list of corrections is a CSV file, which may be compressed by gzip, with the columns ``photo``,
``x1``, ``y1``, ``x2``, ``y2`` (px) and ``verdict``. It names photos of a data set and holds none.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from faceresnet import boxes as boxes_
from faceresnet.errors import DataError
from faceresnet.relabel import KNOWN_IOU
from faceresnet.widerface import Photo

COLUMNS = ("photo", "x1", "y1", "x2", "y2", "verdict")
#: A face that the list of the photo lacks; nothing of the kind, though a box says "ignore"; and a
#: place where nobody can tell.
VERDICTS = ("face", "nothing", "ignore")
#: "nothing" takes away ignored boxes that overlap its own by this IoU.
SAME_IOU = 0.5
#: Boxes are float32: beyond this a coordinate is infinite.
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Correction:
    """One place in a photo: its box (4,) px, and what is there, one of `VERDICTS`."""

    box: tuple[float, float, float, float]
    verdict: str


def read_corrections(path: Path) -> dict[str, list[Correction]]:
    """Corrections by the name of their photo.

    Raises:
        DataError: the file is missing, broken, or a line of it is (named by its number).
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the corrections {path}: {error}") from error
    rows = _rows(text, path)
    if tuple(next(rows, (1, ()))[1]) != COLUMNS:
        raise DataError(f"{path}: the first line must be {','.join(COLUMNS)}")
    corrections: dict[str, list[Correction]] = {}
    for line, row in rows:
        try:
            name, x1, y1, x2, y2, verdict = row
            box = (float(x1), float(y1), float(x2), float(y2))
            if verdict not in VERDICTS or not (box[0] < box[2] and box[1] < box[3]):
                raise ValueError
            if max(map(abs, box)) > FLOAT32_MAX:
                raise ValueError
        except ValueError:
            raise DataError(
                f"{path}:{line}: expected photo,x1,y1,x2,y2 and one of "
                f"{', '.join(VERDICTS)}, with x1 < x2 and y1 < y2, got '{','.join(row)}'"
            ) from None
        corrections.setdefault(name, []).append(Correction(box, verdict))
    return corrections


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line, and cells, of each row of a table."""
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: {error}") from error


def correct(photo: Photo, corrections: Sequence[Correction]) -> Photo:
    """The photo with corrected boxes; a face that the list has already is not added again."""
    faces, ignore = photo.faces, photo.ignore
    for one in corrections:
        box = np.array([one.box], np.float32)
        overlap = boxes_.iou(box, faces)[0]
        if one.verdict == "nothing":
            stays = ~(ignore & (overlap >= SAME_IOU))
            faces, ignore = faces[stays], ignore[stays]
        elif not (overlap[~ignore] >= KNOWN_IOU).any():
            faces = np.concatenate([faces, box])
            ignore = np.append(ignore, one.verdict == "ignore")
    return replace(photo, faces=faces, ignore=ignore)


def correct_all(
    photos: Sequence[Photo], corrections: dict[str, list[Correction]]
) -> Iterator[Photo]:
    """Every photo, with the corrections that name it.

    Raises:
        DataError: the corrections name photos, but none of these.
    """
    if corrections and not any(photo.name in corrections for photo in photos):
        example = next(iter(corrections))
        raise DataError(f"the corrections are of other photos, such as {example}")
    return (correct(photo, corrections.get(photo.name, ())) for photo in photos)
