"""The command that finds faces in millions of photos: batch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.cli.failures import said
from faceresnet.cli.options import (
    DETECTOR,
    Crowds,
    Device,
    MaxPixels,
    MaxSide,
    Model,
    Pyramid,
    Threshold,
    Tile,
    parse_tile,
    pixel_limit,
)
from faceresnet.cli.progress import count, tell_left_out
from faceresnet.cli.signals import sigterm_interrupts

if TYPE_CHECKING:
    from faceresnet.apps.batch import Summary
    from faceresnet.apps.batch.job import Job

WORK = "Work"
#: Where standard error is no terminal, how often a line says how far the job is.
LINE_S = 60.0


def batch(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder (with all below it), list (a path or address a line; - is standard "
            "input), Parquet file, glob, or the address of any of these: s3://, gs://, file:// …"
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="Folder for the results, a path or an address. The same command goes on with a "
            "job that was broken off, by the listing that it began with: photos added since need "
            "another --out."
        ),
    ],
    format: Annotated[str, typer.Option(help="Of the results: parquet or jsonl.")] = "parquet",
    shard_size: Annotated[
        int | None,
        typer.Option(help="Photos in a file of results.", show_default="16 to 1,000"),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="Of a Parquet source: paths, addresses or the bytes of photos.",
            show_default="the only one that fits",
        ),
    ] = None,
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    max_side: MaxSide = None,
    tile: Tile = "auto",
    pyramid: Pyramid = True,
    crowds: Crowds = True,
    runtime: Annotated[
        str,
        typer.Option(
            help="Inference engine, openvino or onnxruntime (detect calls it --engine).",
            rich_help_panel=DETECTOR,
        ),
    ] = "openvino",
    device: Device = "cpu",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Photos that are detected together.",
            show_default="1 on the CPU, else 16",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Who does the work: local (processes on this machine) or ray (a cluster). The "
            "results are the same.",
            rich_help_panel=WORK,
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes or actors, each on one thread.",
            show_default="one a core, or one a graphics card",
            rich_help_panel=WORK,
        ),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            help="Seconds; a photo that takes longer becomes a row with an error.",
            rich_help_panel=WORK,
        ),
    ] = 300.0,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster.",
            show_default="RAY_ADDRESS, or one started for this job",
            rich_help_panel=WORK,
        ),
    ] = None,
) -> None:
    """Find the faces in millions of photos, on all cores or a Ray cluster.

    A row for each photo goes to part files in --out, once, whatever happens: after a crash or a
    kill the same command goes on. Photos that cannot be read become rows with an error and make
    the exit status 1.
    """
    from faceresnet.apps import batch as batches

    options = batches.BatchOptions(
        format=format,
        shard_size=shard_size,
        column=column,
        model=model,
        threshold=threshold,
        max_side=max_side,
        tile=parse_tile(tile),
        pyramid=pyramid,
        crowds=crowds,
        runtime=runtime,
        device=device,
        batch_size=batch_size,
        max_pixels=pixel_limit(max_pixels),
    )
    try:
        with sigterm_interrupts(), _Display() as display:
            summary = batches.run(
                source,
                out,
                options,
                engine=engine,
                workers=workers,
                timeout_s=timeout_s,
                ray_address=ray_address,
                on_listed=display.listed,
                on_start=display.start,
                on_photos=display.advance,
            )
    except KeyboardInterrupt:
        print("faceresnet: the same command goes on from the parts that are done", file=sys.stderr)
        raise
    _report(summary, out)
    if summary.errors:
        raise typer.Exit(1)


def _report(summary: Summary, out: str) -> None:
    photos, faces = count(summary.photos, "photo"), count(summary.faces, "face")
    errors = f"; {summary.errors:,} not read, their rows say why" if summary.errors else ""
    speed = (
        f"{summary.photos_now:,} looked at in {summary.seconds:,.0f} s, "
        f"{summary.photos_now / summary.seconds:,.1f} a second"
        if summary.photos_now
        else "nothing left to do"
    )
    print(f"{photos}, {faces}{errors}; {count(summary.parts, 'part')} in {said(out)} ({speed})")


class _Display:
    """How far the job is, on standard error: a bar, or a line a minute where it is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._is_terminal = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("Listing", total=None, rate="")
        self._clock: Callable[[], float] = self._progress.get_time
        self._began = self._said = self._clock()
        self._done = self._before = self._total = 0
        self._lock = threading.Lock()

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def listed(self, number: int) -> None:
        """So many photos are listed."""
        self._progress.update(self._task, completed=number)

    def start(self, job: Job) -> None:
        """The listing is done, and perhaps some of the photos."""
        tell_left_out(job.left_out)
        self._total, self._before, self._done = job.photos, job.done.photos, job.done.photos
        self._began = self._said = self._clock()
        self._progress.reset(
            self._task, total=job.photos, completed=job.done.photos, description="Detecting"
        )
        if job.resumed:
            done = f"faceresnet: {self._before:,} of {self._total:,} photos are done already"
            if job.may_grow:
                done += "; photos added since the job began need another --out"
            self._progress.console.print(done, soft_wrap=True)

    def advance(self, number: int) -> None:
        """So many photos more are done; called from several threads."""
        with self._lock:
            self._done += number
            now = self._clock()
            rate = (self._done - self._before) / max(now - self._began, 1e-9)
            self._progress.update(self._task, completed=self._done, rate=f"{rate:,.1f}/s")
            if not self._is_terminal and now - self._said >= LINE_S:
                self._said = now
                left_min = (self._total - self._done) / rate / 60
                print(
                    f"faceresnet: {self._done:,} of {self._total:,} photos, {rate:,.1f}/s, "
                    f"{left_min:,.0f} min left",
                    file=sys.stderr,
                )
