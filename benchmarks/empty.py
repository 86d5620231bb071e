"""What is found where there is no face.

    python benchmarks/empty.py FOLDER [FOLDER ...] [--model M] [--yunet FILE] [--peers] [--save DIR]

The photos are the user's to give: none of them may show a face. Larger ones are reduced to a longer
side of 1,024 px; copies of one picture count once. Prints, from several scores on, in how many
pictures there are boxes and how many there are; `--save` draws those from the model's threshold on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from peers import add_arguments, open_peers
from PIL import Image
from rich.console import Console
from rich.table import Table

from faceresnet import Detections, FaceDetector, images

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LONGEST = 1024
SCORES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def read_photos(folders: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels (H, W, 3) uint8 of every different picture below the folders."""
    seen = set()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() not in SUFFIXES:
                continue
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            if (tiny := picture.resize((16, 16)).tobytes()) in seen:
                continue
            seen.add(tiny)
            yield "_".join(file.relative_to(folder).parts), np.asarray(picture)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--model", default="faceresnet-n")
    parser.add_argument("--save", type=Path, metavar="DIR", help="draw the boxes, as PNGs")
    add_arguments(parser)
    arguments = parser.parse_args()

    least = min(SCORES)
    detector = FaceDetector(arguments.model, threshold=least)
    detectors = {arguments.model: detector, **open_peers(arguments, least)}
    found: dict[str, list[Detections]] = {name: [] for name in detectors}
    pixels = 0
    for name, image in read_photos(arguments.folders):
        pixels += image.shape[0] * image.shape[1]
        for whose, detect in detectors.items():
            found[whose].append(detect(image))
        ours = found[arguments.model][-1]
        sure = ours.scores >= detector.spec.threshold
        if arguments.save and sure.any():
            arguments.save.mkdir(parents=True, exist_ok=True)
            images.write(ours[sure].draw(image), (arguments.save / name).with_suffix(".png"))
    if not pixels:
        parser.error("there is no photo below these folders")

    scores = sorted({*SCORES, detector.spec.threshold})
    pictures = len(found[arguments.model])
    table = Table("score from", *(f"{s:g}" for s in scores), box=None)
    for whose, its in found.items():
        counts = np.array([[(one.scores >= s).sum() for s in scores] for one in its])
        cells = zip((counts > 0).sum(0), counts.sum(0), strict=True)
        table.add_row(whose, *(f"{some}, {boxes}" for some, boxes in cells))
    console = Console()
    console.print(f"{pictures} pictures, {pixels / 1e6:.0f} megapixels: with a box, boxes")
    console.print(table)


if __name__ == "__main__":
    main()
