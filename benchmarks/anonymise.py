"""What the threshold of `faceresnet anonymise` costs: faces left uncovered and false covers.

    python benchmarks/anonymise.py --data DIR [--photos 150] [--model M]

A face is uncovered if no cover holds at least 70 % of its labelled box. A cover is false if it
overlaps no labelled face (IoU below 0.3); the labels leave out some faces, so that some of these
are not. Both are of the covers' rectangles with the command's default margin.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from faceresnet import FaceDetector, boxes
from faceresnet.apps.anonymise import Covering
from faceresnet.widerface import read_split

#: Parts of the model's own threshold.
PARTS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.5)
#: Heights of faces that are counted apart, px.
HEIGHTS = (16, 40)
COVERED = 0.7
SAME_FACE_IOU = 0.3


def held(faces: np.ndarray, covers: np.ndarray) -> np.ndarray:
    """Largest part of each face (G, 4) that one cover (M, 4) holds."""
    top_left = np.maximum(faces[:, None, :2], covers[None, :, :2])
    bottom_right = np.minimum(faces[:, None, 2:], covers[None, :, 2:])
    common = np.prod((bottom_right - top_left).clip(min=0), axis=2)
    parts = common / np.maximum(boxes.area(faces), 1e-6)[:, None]
    return np.asarray(parts.max(axis=1, initial=0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--photos", type=int, default=150, help="of the validation set")
    parser.add_argument("--model", default="faceresnet-n")
    arguments = parser.parse_args()

    photos = read_split(arguments.data, "val")
    photos = random.Random(1).sample(photos, min(arguments.photos, len(photos)))
    detector = FaceDetector(arguments.model)
    own = detector.spec.threshold
    uncovered = np.zeros((len(PARTS), len(HEIGHTS) + 1), int)
    total, false, area = np.zeros(len(HEIGHTS) + 1, int), np.zeros(len(PARTS)), np.zeros(len(PARTS))
    for photo in photos:
        image = photo.read()
        faces, ignored = photo.faces_within((image.shape[0], image.shape[1]))
        heights = np.digitize(faces[:, 3] - faces[:, 1], HEIGHTS)
        total += np.bincount(heights[~ignored], minlength=len(HEIGHTS) + 1)
        found = detector(image, threshold=min(PARTS) * own)
        for number, part in enumerate(PARTS):
            covers = found.boxes[found.scores >= part * own]
            border = (covers[:, 2:] - covers[:, :2]) * Covering().margin
            grown = np.concatenate([covers[:, :2] - border, covers[:, 2:] + border], axis=1)
            missed = (held(faces, grown) < COVERED) & ~ignored
            uncovered[number] += np.bincount(heights[missed], minlength=len(HEIGHTS) + 1)
            wrong = grown[boxes.iou(covers, faces).max(axis=1, initial=0) < SAME_FACE_IOU]
            false[number] += len(wrong)
            mask = np.zeros(image.shape[:2], bool)
            for x1, y1, x2, y2 in wrong.clip(min=0).astype(int).tolist():
                mask[y1:y2, x1:x2] = True
            area[number] += mask.mean()

    table = Table(title=f"{arguments.model}, {len(photos)} photos, {total.tolist()} faces")
    names = ("lower than 16 px", "16 to 40 px", "higher than 40 px")
    for column in ("threshold", *(f"uncovered, {n}" for n in names), "false covers", "their area"):
        table.add_column(column, justify="right")
    for number, part in enumerate(PARTS):
        shares = (f"{share:.1%}" for share in uncovered[number] / np.maximum(total, 1))
        count, size = false[number] / len(photos), area[number] / len(photos)
        table.add_row(f"{part * own:.2f}", *shares, f"{count:.1f} a photo", f"{size:.1%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
