"""The commands that find faces: detect, models, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from faceresnet.cli.failures import end_with
from faceresnet.cli.options import (
    RESULTS,
    Crowds,
    Device,
    Engine,
    Enlarge,
    MaxPixels,
    MaxSide,
    Model,
    Pyramid,
    Recursive,
    Threads,
    Threshold,
    Tile,
    Turned,
    parse_tile,
    pixel_limit,
)
from faceresnet.cli.progress import count, progress, table
from faceresnet.errors import ImageError, ModelError, printable


def detect(
    source: Annotated[
        list[str],
        typer.Argument(help="Photos, folders, globs, http(s) addresses, or - for standard input."),
    ],
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    max_side: MaxSide = None,
    enlarge: Enlarge = 1.0,
    tile: Tile = "auto",
    pyramid: Pyramid = True,
    crowds: Crowds = True,
    turned: Turned = False,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
    max_pixels: MaxPixels = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Folder for copies with red boxes, for one photo a file (.jpg, .png, .webp), too; "
            "replaces what is there.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            "--output",
            "-o",
            help="Where the results go, in the layout of --format: a file, a folder, or - for "
            "standard output.",
            metavar="FILE|-",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="json, jsonl, csv (a line for each face: photos without one have none), coco, or "
            "yolo and wider, which fill a folder.",
            show_default="by the suffix of --output, else json",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    recursive: Recursive = False,
) -> None:
    """Find the faces in photos.

    Prints a table, unless --output or --format asks for numbers; --save draws. Photos that cannot
    be read, and copies that cannot be written, are listed at the end and make the exit status 1;
    what cannot be done at all makes it 2.
    """
    from faceresnet import images
    from faceresnet.cli.output import (
        FOLDER_FORMATS,
        open_results,
        place_pictures,
        refuse_overwriting,
    )
    from faceresnet.cli.sources import expand, read_ahead
    from faceresnet.detector import FaceDetector

    sources = expand(source, recursive=recursive)
    results = open_results(format, json, hint=save is None)
    pictures = place_pictures(sources, save)
    refuse_overwriting(sources, model, pictures + results.targets(sources))
    detector = FaceDetector(
        model,
        threshold=threshold,
        max_side=max_side,
        enlarge=enlarge,
        tile=parse_tile(tile),
        pyramid=pyramid,
        crowds=crowds,
        turned=turned,
        engine=engine,
        device=device,
        threads=threads,
    )
    unread: list[Exception] = []
    unwritten: list[Exception] = []
    found = 0
    read = read_ahead(sources, pixel_limit(max_pixels))
    photos = progress("Detecting", len(sources))(read) if len(sources) > 1 else read
    with results:
        for number, (photo, image) in enumerate(photos):
            if isinstance(image, Exception):
                unread.append(image)
                continue
            faces = detector(image)
            found += len(faces)
            results.add(photo, faces)
            if pictures:
                try:
                    images.write(faces.draw(image), pictures[number])
                except ImageError as error:
                    unwritten.append(error)
    if results.place is not None:
        seen = count(len(sources) - len(unread), "photo")
        print(f"{count(found, 'face')} in {seen}: see {results.place}")
    for photo in sources if pictures or format in FOLDER_FORMATS else []:
        if photo.renamed:
            print(
                f"faceresnet: {printable(photo.name)} → {printable(str(photo.target))}, another "
                "photo has its name",
                file=sys.stderr,
            )
    undone = {"not read": unread, "copies not written": unwritten}
    words = " or ".join(word for word, failures in undone.items() if failures)
    end_with(unread + unwritten, len(sources), words)


def models(
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure the time for a 640×480 photo here, too.")
    ] = False,
) -> None:
    """List the models in this package: size, precision, measured AP, licence note."""
    from rich.console import Console

    from faceresnet import weights
    from faceresnet.engine import read_spec

    shipped = weights.shipped()
    if not shipped:
        raise ModelError(
            f"this installation ships no model ({weights.SHIPPED} is empty): install the package "
            "again, or give 'faceresnet detect' a file with --model"
        )
    rows = table()
    columns = [
        "model",
        "MB",
        "precision",
        "AP, one look, IoU 0.5",
        "threshold",
        "licence of the weights",
    ]
    for column in columns + ["ms at 640×480"] * speed:
        rows.add_column(column, overflow="fold", no_wrap=column == "model")
    for name, path in shipped.items():
        spec = read_spec(path)
        measured = "\n".join(f"{what}: {value:.3f}" for what, value in spec.measured.items())
        row = [
            name,
            f"{path.stat().st_size / 1e6:.1f}",
            spec.precision,
            measured or "not measured",
            f"{spec.threshold:g}",
            spec.licence or "not stated",
        ]
        rows.add_row(*row, *([f"{_median_ms(name):.1f}"] * speed))
    console = Console()
    console.print(rows)
    console.print("MODEL_CARD.md tells of the sets of photos.", highlight=False)


def _median_ms(model: str) -> float:
    """Median time of a whole detection in a grey 640×480 photo, after warming up, in ms."""
    import time

    import numpy as np

    from faceresnet import images
    from faceresnet.detector import FaceDetector

    detector = FaceDetector(model)
    image = images.grey((480, 640))
    times_s = []
    for _ in range(25):
        start = time.perf_counter()
        detector(image)
        times_s.append(time.perf_counter() - start)
    return float(np.median(times_s[5:]) * 1000)


def demo(
    save: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path(
        "faceresnet-demo.png"
    ),
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Show the detector at work without any photo of yours: an astronaut and a crowd.

    Needs scikit-image, which brings the pictures: in the checkout, pip install -c constraints.txt
    '.[demo]'.
    """
    from faceresnet import images
    from faceresnet.apps.demo import make_crowd
    from faceresnet.detector import FaceDetector

    images.written_format(save)  # refuses what cannot be written, before anything is done
    image, in_picture = make_crowd()
    detector = FaceDetector(
        model, threshold=threshold, engine=engine, device=device, threads=threads
    )
    faces = detector(image)
    images.write(faces.draw(image), save)
    print(f"{len(faces)} faces found, {in_picture} in the picture: see {save}")
