"""Crowds of over 200 faces, looked at in tiles: how many are found, and what else is.

    python benchmarks/crowd.py --data DIR [--model M] [--pictures FOLDER]

Two kinds: the validation photos with more than 200 listed faces, enlarged to look at; and a wall of
validation photos side by side, 4,000 px wide. Prints the listed faces, those found (IoU ≥ 0.5 at
the model's threshold), and the boxes that lie on none (IoU < 0.3): false ones, and faces that the
lists leave out. Only the pictures tell these apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from faceresnet import FaceDetector, boxes, images
from faceresnet.widerface import Photo, read_split

CROWD = 200
ENLARGE = 2.0
TILE = 640
#: Width of the wall and height of each of its rows, px.
WALL, ROW = 4_000, 400


def wall(photos: Sequence[Photo]) -> tuple[np.ndarray, np.ndarray]:
    """Photos in rows until there are `CROWD` faces and the row is full: (H, W, 3), (G, 4) px."""
    rows, faces, row, left, top = [], [np.zeros((0, 4), np.float32)], [], 0, 0
    for photo in photos:
        image = photo.read()
        width = round(image.shape[1] * ROW / image.shape[0])
        if photo.ignore.any() or not len(photo.faces):
            continue
        if left + width > WALL:
            row.append(np.full((ROW, WALL - left, 3), images.PADDING, np.uint8))
            rows.append(np.concatenate(row, axis=1))
            row, left, top = [], 0, top + ROW
            if sum(map(len, faces)) > CROWD:
                break
        row.append(images.resize(image, (ROW, width)))
        scaled = photo.faces * (ROW / image.shape[0])
        faces.append(scaled + np.array([left, top, left, top], np.float32))
        left += width
    return np.concatenate(rows), np.concatenate(faces)


def crowds(photos: Sequence[Photo]) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Name, image, listed faces, and how many times enlarged it is looked at."""
    for photo in photos:
        if (~photo.ignore).sum() > CROWD:
            yield Path(photo.name).stem, photo.read(), photo.faces[~photo.ignore], ENLARGE
    yield "wall", *wall([photo for photo in photos if len(photo.faces) < CROWD]), 1.0


def main() -> None:
    """Print the table, and draw the pictures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", default="faceresnet-n")
    parser.add_argument("--pictures", type=Path, help="folder for the photos with their boxes")
    arguments = parser.parse_args()

    table = Table("photo", "size, px", "enlarged", "faces", "found", "boxes", "on none", box=None)
    for name, image, faces, enlarge in crowds(read_split(arguments.data, "val")):
        detector = FaceDetector(arguments.model, enlarge=enlarge, tile=TILE)
        found = detector(image)
        overlap = boxes.iou(faces, found.boxes)
        alone = overlap.max(axis=0, initial=0) < 0.3
        table.add_row(
            name,
            f"{image.shape[1]}×{image.shape[0]}",
            f"{enlarge:g}",
            str(len(faces)),
            str((overlap.max(axis=1, initial=0) >= 0.5).sum()),
            str(len(found)),
            str(alone.sum()),
        )
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            large = images.resize(image, tuple(round(s * enlarge) for s in image.shape[:2]))
            drawn = images.draw(large, found.boxes * enlarge)
            images.write(drawn, arguments.pictures / f"{name}.png")
    Console().print(table)


if __name__ == "__main__":
    main()
