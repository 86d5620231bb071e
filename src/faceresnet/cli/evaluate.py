"""The command that measures: evaluate."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.cli.options import RESULTS, Device, Engine, Model, Threads
from faceresnet.cli.progress import progress, table
from faceresnet.errors import DataError, while_writing

if TYPE_CHECKING:
    import numpy as np

    from faceresnet.detector import FaceDetector
    from faceresnet.evaluation import Report
    from faceresnet.widerface import Photo, Predictions

TRUTH = "What is to be found"


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data set laid out as WIDER FACE: WIDER_val/images and wider_face_split, or the "
            "archives; or a shard of it.",
            metavar="DIR|ZIP",
            rich_help_panel=TRUTH,
        ),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the easy, medium and hard .mat files, or of a data set.",
            metavar="DIR",
            show_default="--data",
            rich_help_panel=TRUTH,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train or val.", rich_help_panel=TRUTH)] = "val",
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="Only the photos of this event; may be given again.", rich_help_panel=TRUTH
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Measure these result files in place of a model.",
            metavar="ZIP|DIR",
            rich_help_panel="Detector",
        ),
    ] = None,
    model: Model = "faceresnet-n",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="vga: longer side 640 px; original: own size; multiscale: 0.5, 1 and, up "
            "to 2,048 px, 2 times it; "
            "shipped: as detect looks, with tiles, reduced scales and closer looks at small faces.",
            show_default="original",
            rich_help_panel="Detector",
        ),
    ] = None,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score from which recall by size and the worst photos count detections.",
            min=0,
            max=1,
            show_default="the model's own, else 0.5",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option(
            help="Picture of precision over recall.", metavar="FILE", rich_help_panel=RESULTS
        ),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            help="Draw so many photos with most errors into --save.", rich_help_panel=RESULTS
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Folder for these.", metavar="DIR", rich_help_panel=RESULTS),
    ] = None,
    write_results: Annotated[
        Path | None,
        typer.Option(
            help="New folder for result files in the official layout.",
            metavar="DIR",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            help="Write the figures to a file, or - for standard output.",
            metavar="FILE|-",
            rich_help_panel=RESULTS,
        ),
    ] = None,
) -> None:
    """Measure a model, or result files, by the official WIDER FACE protocol.

    Average precision at IoU 0.5: for the easy, medium and hard faces where their .mat files lie in
    the ground truth, else for all faces that are not marked invalid. Always quote the protocol.
    The plain AP beside it is PASCAL VOC's: the official tools add 1 px to every width and height,
    which flatters tiny faces.

    --worst draws faces found in green, faces missed in yellow, wrong detections in red.
    """
    from faceresnet import evaluation, evaluation_report, protocols, widerface
    from faceresnet.cli.output import STANDARD_OUTPUT
    from faceresnet.weights import own_file

    json = "-" if json in STANDARD_OUTPUT else json
    _check_outputs(curves, worst, save, write_results, None if json == "-" else json)
    inputs = [data, ground_truth, predictions or own_file(model)]
    outputs = [curves, save, write_results, None if json in (None, "-") else Path(json)]
    _refuse_overwriting(filter(None, inputs), filter(None, outputs))
    name = protocols.check_protocol(protocol or "original")
    truth = _read_truth(data, ground_truth, split, event, need_images=predictions is None)
    found: Predictions
    if predictions is not None:
        found = widerface.read_results(predictions, [photo.name for photo in truth.photos])
        shown = f"results in {predictions}, protocol {protocol or 'not stated'}"
    else:
        detector = open_detector(model, name, engine, device, threads)
        found = find_faces(detector, truth.photos, name)
        shown = f"{name}: {protocols.PROTOCOLS[name]}"
        threshold = detector.spec.threshold if threshold is None else threshold
    report = evaluation.evaluate(
        found,
        truth.photos,
        protocol=shown,
        threshold=0.5 if threshold is None else threshold,
        subsets=truth.subsets,
    )
    if json != "-":  # first of all: a file that cannot be written must not cost the figures
        _print(report)
    if json:
        _write_json(report, json, None if predictions else model)
    if write_results:
        widerface.write_results(write_results, found)
    if curves:
        evaluation_report.plot_curves(report, curves)
    if worst is not None and save is not None:
        evaluation_report.save_worst(report, truth.photos, worst, save)


def _check_outputs(
    curves: Path | None,
    worst: int | None,
    save: Path | None,
    write_results: Path | None,
    json: str | None,
) -> None:
    """Refuse at once what would fail after a long run."""
    from faceresnet.evaluation_report import check_picture
    from faceresnet.widerface import check_results_folder

    if (worst is None) != (save is None):
        raise ValueError("--worst N and --save DIR go together: how many photos, and where to")
    if worst is not None and worst < 1:
        raise ValueError(f"--worst must be at least 1, got {worst}")
    if curves:
        check_picture(curves)
    if write_results:
        check_results_folder(write_results)
    if curves and json and os.path.realpath(curves) == os.path.realpath(json):
        raise ValueError(f"{curves} is named for two results: give each a file of its own")
    for file in (curves, Path(json) if json else None):
        if file and file.is_dir():
            raise ValueError(f"{file} is a folder: name a file to write")
    if save and save.exists() and not save.is_dir():
        raise ValueError(f"--save needs a folder, {save} is a file")
    for place in (curves, Path(json) if json else None, save, write_results):
        _check_parents(place)


def _parts_of(place: Path) -> list[Path]:
    """What of a folder belongs to a data set or to result files: beside it there may be others."""
    if not place.is_dir():
        return [place]
    return [
        part
        for part in place.iterdir()
        if part.suffix in (".mat", ".zip", ".txt")
        or part.name.startswith("WIDER_")
        or next(part.glob("*.txt"), None)
    ]


def _refuse_overwriting(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Make sure that no result goes over what is there to be read.

    Raises:
        ValueError: it would.
    """
    read = {os.path.realpath(part) for place in inputs for part in _parts_of(place)}
    for output in outputs:
        place = os.path.realpath(output)
        if read.intersection([place, *map(str, Path(place).parents)]):
            raise ValueError(f"{output} is part of what is read: choose another place for it")


def _check_parents(place: Path | None) -> None:
    """Refuse a place below something that is no folder."""
    there = next((parent for parent in place.parents if parent.exists()), None) if place else None
    if there and not there.is_dir():
        raise ValueError(f"{place} cannot be written: {there} is no folder")


def open_detector(
    model: str,
    protocol: str,
    engine: str = "openvino",
    device: str = "cpu",
    threads: int | None = None,
) -> FaceDetector:
    """Open a model that is to tell everything it has the least idea of.

    The protocols that name a scale look at the photo once at that scale, whatever its size.
    """
    from faceresnet.detector import FaceDetector
    from faceresnet.protocols import EVALUATION_THRESHOLD

    return FaceDetector(
        model,
        threshold=EVALUATION_THRESHOLD,
        tile="auto" if protocol == "shipped" else False,
        pyramid=protocol == "shipped",
        crowds=protocol == "shipped",
        engine=engine,
        device=device,
        threads=threads,
    )


@dataclass(frozen=True)
class _Truth:
    """Photos, and for the official ground truth the faces of each difficulty."""

    photos: Sequence[Photo]
    subsets: dict[str, list[np.ndarray]] | None


def _read_truth(
    data: Path | None,
    ground_truth: Path | None,
    split: str,
    events: list[str] | None,
    *,
    need_images: bool,
) -> _Truth:
    """Read the faces to be found from where the options say."""
    from faceresnet import difficulties, widerface

    if data is None and (need_images or ground_truth is None):
        raise ValueError(
            "say what is to be found: --data DIR, or --predictions with --ground-truth DIR"
        )
    folder = ground_truth or data
    assert folder is not None
    mats = difficulties.find_difficulties(folder) if split == "val" else None
    if mats is None:
        if data is not None and ground_truth is not None:
            raise DataError(
                f"{ground_truth} does not hold wider_hard_val.mat, so it cannot replace the boxes "
                f"of {data}: leave --ground-truth out, or give the folder of the .mat files."
            )
        return _Truth(
            widerface.read_split(folder, split, events=events, need_images=need_images), None
        )
    listed = widerface.read_split(data, split, need_images=need_images) if data else ()
    official = difficulties.read_difficulties(mats, listed)
    photos = list(official.photos)
    wanted = set(widerface.select_events(photos, events, str(mats)) if events else photos)
    keep = [photo in wanted for photo in photos]
    return _Truth(
        [photo for photo, kept in zip(photos, keep, strict=True) if kept],
        {
            name: [mask for mask, kept in zip(masks, keep, strict=True) if kept]
            for name, masks in official.subsets.items()
        },
    )


def find_faces(detector: FaceDetector, photos: Sequence[Photo], protocol: str) -> Predictions:
    """What a detector finds in photos, with a progress bar."""
    from faceresnet.protocols import predict

    watched = progress(f"{protocol}, {len(photos)} photos", len(photos))(photos)
    return predict(detector, watched, protocol=protocol)


def _write_json(report: Report, destination: str, model: str | None) -> None:
    import json

    document = ({"model": model} if model else {}) | report.to_json()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    from faceresnet.atomic import replacing

    if destination == "-":
        if sys.stdout is None:
            raise DataError("standard output is closed: name a file for the figures")
        sys.stdout.write(text)
        return
    with while_writing(destination), replacing(destination) as partial:
        partial.write_text(text, encoding="utf-8")


def _print(report: Report) -> None:
    """Average precision by set and event, what is found by size and score, and where no face is."""
    from rich.console import Console

    # A pipe gets whole lines; only a terminal's are cut to its width.
    console = Console() if sys.stdout and sys.stdout.isatty() else Console(width=200)
    # Not the table's title: that would be broken to its width.
    protocol = report.protocol.replace("[", r"\[")
    console.print(f"[bold]Average precision at IoU 0.5[/] ({protocol})", highlight=False)
    precision = table("photos", "faces", "AP", "plain AP", of="set")
    events = report.events.values() if len(report.events) > 1 else []
    for curve in [*report.curves.values(), *events]:
        name = curve.name.replace("[", r"\[")
        precision.add_row(
            name,
            str(curve.photos),
            str(curve.faces),
            _figure(curve.ap, 4),
            _figure(curve.plain_ap, 4),
        )
    console.print(precision)
    sizes = table("side, px", "faces", "AP", "recall")
    for size in report.sizes:
        span = f"{size.low:g}–{size.high:g}" if size.high < float("inf") else f"{size.low:g}–"
        sizes.add_row(span, str(size.faces), _figure(size.ap, 3), _figure(size.recall, 3))
    console.print(
        f"\n[bold]By size of face[/] (recall at score {report.threshold:g})", highlight=False
    )
    console.print(sizes)
    scores = table("score", "precision", "recall")
    for score, right, found in report.by_score():
        scores.add_row(f"{score:g}", _figure(right, 3), _figure(found, 3))
    name = report.whole.name.replace("[", r"\[")
    photos, answered, boxes = report.faceless
    everywhere = ", photos without a listed face included" if photos else ""
    console.print(
        f"\n[bold]By lowest score that counts[/] (of {name}{everywhere})", highlight=False
    )
    console.print(scores)
    if photos:
        title = f"[bold]Photos without a listed face[/] (at score {report.threshold:g})"
        figures = f"{answered} of {photos} with a box, {boxes} boxes"
        console.print(f"\n{title}: {figures}", highlight=False)
    if report.unanswered:
        print(
            f"faceresnet: {len(report.unanswered)} of {len(report.photos)} photos have no result "
            f"file and count as missed, {report.unanswered[0]} first",
            file=sys.stderr,
        )


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value == value else "–"
