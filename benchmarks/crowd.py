"""Crowds of over 200 faces, looked at in tiles: how many are found, and what else is.

    python benchmarks/crowd.py --data DIR [--model M] [--pictures FOLDER]

Two kinds: the validation photos with more than 200 listed faces, enlarged to look at; and a wall of
validation photos side by side, 4,000 px wide. Prints the listed faces, those found (IoU ≥ 0.5 at
the model's threshold), and the boxes that lie on none (IoU < 0.3), nor on an ignored one: false
ones, and faces that the lists leave out. Only the pictures tell these apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from faceresnet import FaceDetector, boxes, images
from faceresnet.widerface import Photo, read_split

#: Listed faces from which on a photo is a crowd.
CROWD = 200
#: How many times a crowd's photo is enlarged, and the tiles that are looked at, px.
ENLARGE, TILE = 2.0, 640
#: Width of the wall and height of each of its rows, px.
WALL, ROW = 4_000, 400


@dataclass
class Crowd:
    """A picture of many faces: `image` (H, W, 3), listed `faces` and `ignored` boxes (G, 4) px."""

    name: str
    image: np.ndarray
    faces: np.ndarray
    ignored: np.ndarray
    enlarge: float = 1.0


def wall(photos: Sequence[Photo]) -> Crowd:
    """Photos in rows until they hold `CROWD` faces, the last row as far as it got."""
    canvas = np.full((ROW, WALL, 3), images.PADDING, np.uint8)
    rows, left, boxes_, ignore = [canvas.copy()], 0, [], []
    for photo in photos:
        if sum((~one).sum() for one in ignore) > CROWD:
            break
        if not len(photo.faces) or len(photo.faces) > CROWD:
            continue
        image = photo.read()
        scale = ROW / image.shape[0]
        width = round(image.shape[1] * scale)
        if width > WALL:
            continue
        if left + width > WALL:
            rows.append(canvas.copy())
            left = 0
        rows[-1][:, left : left + width] = images.resize(image, (ROW, width))
        shift = np.array([left, (len(rows) - 1) * ROW] * 2, np.float32)
        boxes_.append(photo.faces * np.float32(scale) + shift)
        ignore.append(photo.ignore)
        left += width
    if not ignore:
        raise SystemExit("no photo has a face: --data needs validation photos")
    listed, ignored = np.concatenate(boxes_), np.concatenate(ignore)
    return Crowd("wall", np.concatenate(rows), listed[~ignored], listed[ignored])


def crowds(photos: Sequence[Photo]) -> Iterator[Crowd]:
    """The photos with more than `CROWD` faces, and the wall."""
    for photo in photos:
        faces, ignored = photo.faces[~photo.ignore], photo.faces[photo.ignore]
        if len(faces) > CROWD:
            yield Crowd(Path(photo.name).stem, photo.read(), faces, ignored, ENLARGE)
    yield wall(photos)


def main() -> None:
    """Print the table, and draw the pictures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", default="faceresnet-n")
    parser.add_argument("--pictures", type=Path, help="folder for the photos with their boxes")
    arguments = parser.parse_args()

    table = Table("photo", "size, px", "enlarged", "faces", "found", "boxes", "on none", box=None)
    for crowd in crowds(read_split(arguments.data, "val")):
        detector = FaceDetector(arguments.model, enlarge=crowd.enlarge, tile=TILE)
        found = detector(crowd.image)
        overlap = boxes.iou(crowd.faces, found.boxes)
        alone = overlap.max(axis=0, initial=0) < 0.3
        alone &= boxes.iou(crowd.ignored, found.boxes).max(axis=0, initial=0) < 0.3
        table.add_row(
            crowd.name,
            f"{crowd.image.shape[1]}×{crowd.image.shape[0]}",
            f"{crowd.enlarge:g}",
            str(len(crowd.faces)),
            str((overlap.max(axis=1, initial=0) >= 0.5).sum()),
            str(len(found)),
            str(alone.sum()),
        )
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            size = crowd.image.shape[:2]
            large = images.resize(crowd.image, tuple(round(s * crowd.enlarge) for s in size))
            drawn = images.draw(large, found.boxes * crowd.enlarge)
            images.write(drawn, arguments.pictures / f"{crowd.name}.png")
    print(f"model {detector.spec.name}, threshold {detector.spec.threshold}, tiles of {TILE} px")
    Console().print(table)


if __name__ == "__main__":
    main()
