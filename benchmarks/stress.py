"""Which sizes of face are found: faces of held-out photos, from 6 px to filling the frame.

    python benchmarks/stress.py --data DIR [--model M] [--photos N] [--plot FILE.png]
        [--turn T [--turned]]

Every photo with a clear face, one that is large and well inside it, gives one picture of 640×640 px
for each size: the photo scaled so that the face's side (√area) has that size, cut out around the
face. (Large boxes at the border of a photo are mostly heads seen from behind.) Prints, for each
size, the share of faces found (IoU ≥ 0.5 at the model's threshold), and the share found with
exactly one box: no other box has its centre in the face, but those that find another listed face.
With `--turn` the photos are turned first, as scans and photos without EXIF may be; `--turned` makes
the detector look at all four positions.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from faceresnet import FaceDetector, boxes, images
from faceresnet.widerface import Photo, read_split

SIZES = (6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 640)
FRAME = 640
#: Smallest face in px whose enlargements still look like one.
CLEAR = 96
#: Least distance of such a face from the photo's border, in sides of the face.
MARGIN = 0.1


def clear_faces(photos: Sequence[Photo], limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos with a clear face, up to a limit: the image, and the faces (G, 4) px, that one first.

    It is the photo's largest clear one.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for photo in photos:
        if len(found) == limit:
            break
        taught = photo.faces[~photo.ignore]
        sides = np.sqrt(boxes.area(taught))
        if sides.max(initial=0) < CLEAR:
            continue
        image = photo.read()
        margin = sides[:, None] * MARGIN
        inside = (taught[:, :2] >= margin) & (taught[:, 2:] <= image.shape[1::-1] - margin)
        sides = np.where(inside.all(axis=1), sides, 0)
        if sides.max(initial=0) >= CLEAR:
            order = np.argsort(-sides, kind="stable")
            found.append((image, taught[order]))
    if not found:
        raise SystemExit(f"no photo has a face of {CLEAR} px or more inside it")
    return found


def turned(image: np.ndarray, faces: np.ndarray, quarters: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo and its faces (G, 4) px after so many quarter turns to the left."""
    size = image.shape[0], image.shape[1]
    left = boxes.turn_right(faces, size, -quarters % 4)
    return np.ascontiguousarray(np.rot90(image, quarters)), left


def picture(image: np.ndarray, faces: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """(FRAME, FRAME, 3) around the first face, scaled to `side` px, and all faces in it (G, 4) px.

    Faces that lie outside are empty.
    """
    face = faces[0]
    scale = side / float(np.sqrt((face[2:] - face[:2]).prod()))
    centre = (face[:2] + face[2:]) / 2
    reach = FRAME / scale / 2
    low = np.floor(np.maximum(centre - reach, 0)).astype(int)
    high = np.ceil(np.minimum(centre + reach, image.shape[1::-1])).astype(int)
    width, height = np.maximum(1, np.round((high - low) * scale)).astype(int).clip(None, FRAME)
    part = images.resize(image[low[1] : high[1], low[0] : high[0]], (int(height), int(width)))
    canvas = np.full((FRAME, FRAME, 3), images.PADDING, np.uint8)
    start = ((np.array([FRAME, FRAME]) - (width, height)) / 2).astype(int)
    canvas[start[1] : start[1] + height, start[0] : start[0] + width] = part
    moved = (faces - np.tile(low, 2)) * np.tile((width, height) / (high - low), 2)
    moved = (moved + np.tile(start, 2)).astype(np.float32)
    return canvas, boxes.clip(moved, (FRAME, FRAME))


def measure(
    detector: FaceDetector, pictured: Sequence[tuple[np.ndarray, np.ndarray]], side: float
) -> tuple[float, float]:
    """Share of faces found, and found with exactly one box, at one size."""
    found = once = 0
    for image, faces in pictured:
        canvas, wanted = picture(image, faces, side)
        detections = detector(canvas)
        hits = boxes.iou(detections.boxes, wanted) >= 0.5
        centre = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
        inside = ((centre > wanted[0, :2]) & (centre < wanted[0, 2:])).all(axis=1)
        hit = bool(hits[:, 0].any())
        found += hit
        once += hit and int((inside & ~hits[:, 1:].any(axis=1)).sum()) == 1
    return found / len(pictured), once / len(pictured)


def main() -> None:
    """Print the table, and draw the plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", default="faceresnet-n")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument(
        "--turn", type=int, choices=(0, 90, 180, 270), default=0, help="degrees, left"
    )
    parser.add_argument("--turned", action="store_true")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    detector = FaceDetector(arguments.model, turned=arguments.turned)
    upright = clear_faces(read_split(arguments.data, "val"), arguments.photos)
    faces = [turned(image, listed, arguments.turn // 90) for image, listed in upright]
    print(f"{platform.machine()}, Python {platform.python_version()}, model {detector.spec.name}")
    print(f"{len(faces)} faces in {FRAME}×{FRAME} px, threshold {detector.spec.threshold}", end="")
    print(f", turned by {arguments.turn}°" if arguments.turn else "")
    table = Table("side, px", "found", "with one box", box=None)
    rows = []
    for side in SIZES:
        found, once = measure(detector, faces, side)
        rows.append((found, once))
        table.add_row(str(side), f"{found:.2f}", f"{once:.2f}")
    Console().print(table)
    if arguments.plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot(
            xscale="log", xlabel="side of the face, px", ylabel="share", ylim=(0, 1)
        )
        axes.plot(SIZES, [found for found, _ in rows], marker="o", label="found")
        axes.plot(SIZES, [once for _, once in rows], marker="o", label="found with one box")
        axes.set_xticks(SIZES, [str(side) for side in SIZES], fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(arguments.plot, dpi=120)


if __name__ == "__main__":
    main()
