"""The commands about data sets, ``faceresnet data …``, and what reads one for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.cli.failures import said
from faceresnet.cli.options import Enlarge, Model, Threads
from faceresnet.cli.progress import count, progress
from faceresnet.cli.signals import sigterm_interrupts
from faceresnet.errors import DataError

if TYPE_CHECKING:
    from faceresnet.widerface import Photo

data = typer.Typer(help="Get data sets, pack them, mend their labels.", no_args_is_help=True)

Source = Annotated[Path, typer.Option(help="Data set laid out as WIDER FACE.", metavar="DIR")]
Download = Annotated[Path, typer.Option(help="Where it goes; may exist.", metavar="DIR")]
Timeout = Annotated[float, typer.Option(help="Longest silence of a server, s.")]
Relabelled = Annotated[
    Path, typer.Option(help="The new data set: lists, and links to the photos.", metavar="DIR")
]


@data.command()
def widerface(
    out: Download,
    split: Annotated[
        list[str] | None,
        typer.Option(help="train or val; may be given again.", show_default="both"),
    ] = None,
    timeout_s: Timeout = 30.0,
) -> None:
    """Download and verify WIDER FACE: 1.8 GB, or 0.4 GB for val alone.

    A broken download goes on where it stopped. The archives need not be extracted. The photos are
    for non-commercial research; their rights belong to their owners.
    """
    from faceresnet.widerface import SPLITS
    from faceresnet.widerface_download import download_widerface

    with download_bar() as report:
        paths = download_widerface(
            out, splits=split or SPLITS, progress=report, timeout_s=timeout_s
        )
    for path in paths:
        print(f"{path}  verified")
    print(f"Next: faceresnet evaluate --data {out}")


@data.command()
def mnist(
    out: Download,
    timeout_s: Timeout = 30.0,
) -> None:
    """Download and verify MNIST: 60,000 and 10,000 handwritten digits, 12 MB.

    A broken download goes on where it stopped.
    """
    from faceresnet.digits.data import download_mnist

    with download_bar() as report:
        paths = download_mnist(out, progress=report, timeout_s=timeout_s)
    for path in paths:
        print(f"{path}  verified")
    print(f"Next: faceresnet digits train --data {out} --out RUN")


@data.command()
def pack(
    data: Source,
    out: Annotated[Path, typer.Option(help="Shard to write.", metavar="FILE.zip")],
    max_side: Annotated[
        int | None,
        typer.Option(help="Reduce larger photos to this longer side, px.", min=16),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="Encode all photos as WebP of this quality.", min=1, max=100)
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="Only the photos of this event; may be given again.")
    ] = None,
) -> None:
    """Pack a data set into one file to move, which train and evaluate read as it is."""
    import os

    from faceresnet import shards
    from faceresnet.widerface import SPLITS, Layout

    if out.suffix != ".zip":
        raise ValueError(f"--out must end in .zip, got {out}")
    for layout in (Layout(data, split) for split in SPLITS):
        for archive in (layout.images_archive, layout.labels_archive):
            if os.path.realpath(out) == os.path.realpath(archive):
                raise ValueError(f"{out} is part of the data set: choose another file")
    splits = read_splits(data, event)
    total = sum(map(len, splits.values()))
    with sigterm_interrupts():
        size = shards.pack(
            splits, out, max_side=max_side, quality=quality, progress=progress("packing", total)
        )
    typer.echo(f"{out}: {total} photos, {size / 1e6:.1f} MB")


@data.command()
def relabel(
    data: Source,
    out: Relabelled,
    model: Model = "faceresnet-n",
    teach: Annotated[
        float,
        typer.Option(
            help="Detections with at least this score inside a box marked 'ignore' become "
            "labelled faces."
        ),
    ] = 0.5,
    ignore: Annotated[
        float,
        typer.Option(
            help="Detections with at least this score outside all boxes are marked 'ignore' "
            "(neither face nor background)."
        ),
    ] = 0.3,
    complete: Annotated[
        list[str] | None,
        typer.Option(
            help="Event whose list misses no face: nothing is ignored outside its boxes; may be "
            "given again.",
        ),
    ] = None,
    enlarge: Enlarge = 1.0,
    threads: Threads = None,
) -> None:
    """Let a detector find what the annotators of training photos missed (self-training).

    Validation photos keep their labels.
    """
    from faceresnet.detector import FaceDetector
    from faceresnet.relabel import Doubt, relabel, write_relabelled

    doubt = Doubt(teach, ignore, frozenset(complete or ()))
    # Without closer looks: the shipped model learnt from labels made so.
    detector = FaceDetector(
        model, threshold=min(teach, ignore), enlarge=enlarge, crowds=False, threads=threads
    )
    splits = read_training_splits(data)
    if unknown := doubt.complete - {photo.event for photo in splits["train"]}:
        raise ValueError(f"--complete names no event of the photos: {', '.join(sorted(unknown))}")

    def relabelled(split: str) -> Iterable[Photo]:
        photos = splits[split]
        if split == "val":
            return photos
        looked = progress("looking again", len(photos))(photos)
        return (relabel(photo, detector(photo.read()), doubt) for photo in looked)

    with sigterm_interrupts():
        counts = write_relabelled(data, out, splits, relabelled)
    typer.echo(changes(out, splits["train"], counts["train"]))


@data.command()
def correct(
    data: Source,
    corrections: Annotated[
        Path,
        typer.Option(help="CSV: photo,x1,y1,x2,y2,verdict; may be gzipped.", metavar="FILE"),
    ],
    out: Relabelled,
) -> None:
    """Mend the labels of training photos by a list of what was seen on a second look.

    A verdict is "face", "nothing" (an ignored box there goes) or "ignore". Validation photos keep
    their labels.
    """
    from faceresnet.corrections import correct_all, read_corrections
    from faceresnet.relabel import write_relabelled

    known = read_corrections(corrections)
    splits = read_training_splits(data)
    corrected = {**splits, "train": list(correct_all(splits["train"], known))}
    counts = write_relabelled(data, out, splits, lambda split: corrected[split])
    names = {photo.name for photo in splits["train"]}
    if others := [name for name in known if name not in names]:
        rows = count(sum(len(known[name]) for name in others), "correction")
        typer.echo(f"left out {rows} of other photos, {others[0]} first", err=True)
    typer.echo(changes(out, splits["train"], counts["train"]))


@data.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="YOLO's data.yaml, COCO's .json, or a folder of Pascal VOC's .xml.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="The new data set, or one without this split.", metavar="DIR"),
    ],
    split: Annotated[
        str, typer.Option(help="train or val; convert one after the other.")
    ] = "train",
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Class that is a face; may be given again.",
            show_default="face or faces, or the only one",
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="yolo, coco or voc.", show_default="what is there")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Where the photos of COCO or VOC lie.",
            metavar="DIR",
            show_default="beside the labels",
        ),
    ] = None,
    event: Annotated[str, typer.Option(help="Folder that the photos appear in.")] = "photos",
) -> None:
    """Make a data set of photos with YOLO, COCO or Pascal VOC labels: lists, and links to them.

    Crowds of COCO are ignored, neither face nor background.
    """
    from faceresnet import convert as convert_
    from faceresnet.widerface import Layout

    with sigterm_interrupts():
        photos, notes = convert_.convert(
            source,
            out,
            split=split,
            format=format,
            photos=images,
            classes=class_ or (),
            event=event,
            progress=progress("looking at photos", None),
        )
    if notes:
        typer.echo(f"faceresnet: {said(convert_.describe(notes))}", err=True)
    ignored = sum(int(photo.ignore.sum()) for photo in photos)
    faces = sum(len(photo.faces) for photo in photos) - ignored
    shown = f"{count(len(photos), 'photo')}, {count(faces, 'face')}, {ignored:,} ignored"
    typer.echo(f"{out}, {split}: {shown}")
    if not Layout(out, "train").exists():
        typer.echo(f"Next: faceresnet data convert … --split train --out {out}")
        return
    typer.echo(
        f"Next: faceresnet train --init faceresnet-n --data {out} --out RUN "
        "--set schedule.iterations=1000 --set schedule.rate=3e-4 "
        "--set augmentation.shortfall=0 --set excess=0\n"
        "The last two are for exact boxes; leave them out if x2 y2 name the last pixel of a face."
    )


@contextmanager
def download_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error, one for each file: call with its name, bytes done and of all.

    Nothing where standard error is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield report


def changes(out: Path, before: Sequence[Photo], counts: tuple[int, int]) -> str:
    """What new labels have that those `before` had not; `counts` of faces and ignored boxes."""
    faces, ignored = counts
    ignored_before = sum(int(photo.ignore.sum()) for photo in before)
    faces_before = sum(len(photo.faces) for photo in before) - ignored_before
    return (
        f"{out}: {faces:,} faces ({faces - faces_before:,} new), "
        f"{ignored:,} ignored boxes ({ignored - ignored_before:,} new)"
    )


def read_training_splits(data: Path, events: Sequence[str] | None = None) -> dict[str, list[Photo]]:
    """The splits of a data set that must have photos to train on."""
    splits = read_splits(data, events, needed="train")
    if "train" not in splits:
        raise DataError(f"{data} holds no training photos" + (" of these events" if events else ""))
    return splits


def read_splits(
    data: Path, events: Sequence[str] | None = None, needed: str | None = None
) -> dict[str, list[Photo]]:
    """The photos of every split that has any.

    Args:
        data: folder or shard.
        events: only photos of these.
        needed: the split that must be there.

    Raises:
        DataError: there is none, or not the needed one.
        ValueError: no split has a photo of one of the events.
    """
    from faceresnet.widerface import select_events

    both = {split: read(data, split, optional=split != needed) for split in ("train", "val")}
    if not any(both.values()):
        raise DataError(f"{data} holds neither a train nor a val split")
    if events is not None:
        wanted = set(select_events([*both["train"], *both["val"]], events, str(data)))
        both = {split: [p for p in photos if p in wanted] for split, photos in both.items()}
    return {split: photos for split, photos in both.items() if photos}


def read(data: Path, split: str, *, optional: bool = False) -> list[Photo]:
    """The photos of a split; none where it is optional and the data set lacks it."""
    from faceresnet.widerface import Layout, read_split

    if optional and data.exists() and not Layout(data, split).exists():
        return []
    return read_split(data, split)
