"""The command that finds the faces of a video."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from faceresnet.cli.options import (
    RESULTS,
    Crowds,
    Device,
    Engine,
    MaxSide,
    Model,
    Threads,
    Threshold,
    Tile,
    parse_tile,
)
from faceresnet.cli.progress import count, progress, table
from faceresnet.cli.signals import signals_stop
from faceresnet.errors import VideoError, while_writing

if TYPE_CHECKING:
    from faceresnet.apps.video import Report
    from faceresnet.video.reading import VideoReader


def video(
    source: Annotated[
        str,
        typer.Argument(
            help="Video file, number of a camera, or address (rtsp://, http://, …).",
            show_default=False,
        ),
    ],
    save: Annotated[
        Path | None,
        typer.Option(
            help="Video with red boxes: .mp4, .mov, .mkv or .webm; sound and times are kept.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            help="A line of JSON for each frame, to a file or, for -, to standard output.",
            metavar="FILE|-",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Open a window; q ends.", rich_help_panel=RESULTS)
    ] = False,
    track: Annotated[
        bool,
        typer.Option(
            "--track",
            help="Give each face an id over the frames; one that comes back later gets a new one.",
        ),
    ] = False,
    every: Annotated[
        int,
        typer.Option(
            min=1,
            help="Look at every Nth frame only; in between, faces move in straight lines. With "
            "--save or --show, N frames wait in memory: of 1920×1080 px they take 6 MB each.",
        ),
    ] = 1,
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    max_side: MaxSide = None,
    tile: Tile = "auto",
    crowds: Crowds = True,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
    quality: Annotated[
        int, typer.Option(min=0, max=51, help="Of --save: lower is better and larger.")
    ] = 20,
    timeout: Annotated[
        float, typer.Option(help="Longest wait for a camera or an address, seconds.")
    ] = 10.0,
) -> None:
    """Find the faces in a video, a camera or a stream.

    Ends with a table of frames/s by stage. Ctrl-C or SIGTERM stops it and keeps what was recorded
    until then.
    """
    from faceresnet.apps.video import Options, annotate, open_detectors
    from faceresnet.cli.output import STANDARD_OUTPUT
    from faceresnet.detector import FaceDetector
    from faceresnet.video.addresses import mask
    from faceresnet.video.reading import open_video
    from faceresnet.video.window import Window
    from faceresnet.video.writing import VideoWriter

    json = "-" if json in STANDARD_OUTPUT else json
    if save and json and json != "-" and os.path.realpath(save) == os.path.realpath(json):
        raise ValueError(f"--save and --json both name {save}: give each a file of its own")
    options = Options(every=every, track=track)

    def make(threads: int) -> FaceDetector:
        return FaceDetector(
            model,
            threshold=threshold,
            max_side=max_side,
            tile=parse_tile(tile),
            crowds=crowds,
            engine=engine,
            device=device,
            threads=threads,
        )

    with ExitStack() as stack:
        stop = stack.enter_context(signals_stop())
        # Before open_video, which loads PyAV.
        window = stack.enter_context(Window(mask(source))) if show else None
        opened = stack.enter_context(
            open_video(
                source,
                sound=save is not None,
                connect_timeout_s=timeout,
                read_timeout_s=timeout,
            )
        )
        lines = stack.enter_context(_lines(json, opened)) if json else None
        film = None
        if save:
            film = stack.enter_context(VideoWriter(save, like=opened, quality=quality))
        wrap: Any = progress("Detecting", opened.frame_count) if opened.frame_count else iter
        report = annotate(
            opened,
            open_detectors(make, threads),
            options,
            film=film,
            lines=lines,
            show=window,
            stop=stop,
            progress=wrap,
        )
        if report.stopped and not report.frames:
            raise KeyboardInterrupt
    _print_report(report, opened, save, json, bare=film is None and lines is None and not show)
    if report.left:
        raise BrokenPipeError
    if report.broke_off or report.lost:
        raise typer.Exit(1)
    if report.stopped and not report.closed and not opened.live:
        raise KeyboardInterrupt


@contextmanager
def _lines(target: str, video: VideoReader) -> Iterator[IO[str]]:
    """Where the lines of JSON go.

    Raises:
        ValueError: the target is the video itself, or a folder.
        VideoError: it cannot be written.
    """
    from faceresnet.atomic import replacing

    if target == "-":
        yield sys.stdout
        return
    path = Path(target)
    if path.is_dir():
        raise ValueError(f"--json needs a file or -, {path} is a folder")
    if video.path is not None and path.exists() and path.samefile(video.path):
        raise ValueError(f"{path} is the video that is read: choose another name for the results")
    with (
        while_writing(path, VideoError),
        replacing(path) as partial,
        partial.open("w", encoding="utf-8") as file,
    ):
        yield file


def _print_report(
    report: Report, video: VideoReader, save: Path | None, json: str | None, *, bare: bool
) -> None:
    """Print frames/s by stage, and below what was found and what was lost."""
    from rich.console import Console

    stages = table("frames", "seconds at work", "frames/s", of="stage")
    for stage, (frames, busy_s) in report.stages.items():
        if stage == "encode" and save is None:
            continue
        rate = f"{frames / busy_s:.1f}" if busy_s > 0 else ""
        stages.add_row(stage, str(frames), f"{busy_s:.2f}", rate)
    wall_s = max(report.wall_s, 1e-9)
    stages.add_row(
        "total", str(report.frames), f"{report.wall_s:.2f}", f"{report.frames / wall_s:.1f}"
    )
    console = Console(stderr=json == "-")
    console.print(stages)
    tracked = f", {count(report.tracks, 'track')}" if report.tracks else ""
    found = f"{count(report.faces, 'face')} in {count(report.frames, 'frame')}{tracked}"
    print(found, file=console.file)
    written = [str(path) for path in (save, json) if path not in (None, "-")]
    if written:
        print(f"see {', '.join(written)}", file=console.file)
    notes = []
    if report.lost:
        notes.append(f"{report.lost} broken frames of {video.name} are lost")
    if report.broke_off:
        notes.append(report.broke_off)
    if report.stopped:
        notes.append(f"stopped after {report.frames} frames; what was done until then is kept")
    if bare:
        notes.append("--save OUT.mp4 draws the boxes, --json - prints them.")
    for note in [*notes, *report.warnings]:
        print(f"faceresnet: {note}", file=sys.stderr)
