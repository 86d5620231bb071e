"""The command that watches cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faceresnet.cli.options import (
    DETECTOR,
    RESULTS,
    Crowds,
    Device,
    Engine,
    MaxSide,
    Model,
    Threads,
    Threshold,
)
from faceresnet.cli.progress import count
from faceresnet.cli.signals import signals_stop

CAMERAS = "Cameras"


def watch(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Cameras: addresses (rtsp://, http://, …) or indices; or video files. "
            "NAME=ADDRESS gives one a name, @FILE reads addresses from the lines of a file.",
        ),
    ],
    save_events: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the best picture of each face and events.jsonl, by camera and day.",
            metavar="DIR",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            help="Add each event as a line of JSON to a file; - for standard output.",
            metavar="FILE|-",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            help="Post each event as JSON to this address.",
            metavar="URL",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Serve Prometheus metrics; without a host, to this machine only.",
            metavar="[HOST:]PORT",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(help="Look only at each N-th frame.", rich_help_panel=DETECTOR)
    ] = 1,
    max_fps: Annotated[
        float | None,
        typer.Option(
            help="Looks a second at each camera, at most.",
            show_default="as many as the machine can",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    min_size: Annotated[
        float,
        typer.Option(help="Pass over faces smaller than this, px.", rich_help_panel=DETECTOR),
    ] = 0,
    enter_s: Annotated[
        float,
        typer.Option(help="A face seen for so long has entered, s.", rich_help_panel=RESULTS),
    ] = 0.3,
    leave_s: Annotated[
        float,
        typer.Option(help="A face not seen for so long has left, s.", rich_help_panel=RESULTS),
    ] = 1.0,
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    max_side: MaxSide = None,
    crowds: Crowds = True,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
    transport: Annotated[
        str, typer.Option(help="Of rtsp: tcp or udp.", rich_help_panel=CAMERAS)
    ] = "tcp",
    timeout_s: Annotated[
        float,
        typer.Option(
            help="A camera silent for so long is gone, and is opened again, s.",
            rich_help_panel=CAMERAS,
        ),
    ] = 10,
    longest_pause_s: Annotated[
        float,
        typer.Option(
            help="Pauses between attempts double from 1 s up to this, s.", rich_help_panel=CAMERAS
        ),
    ] = 60,
    for_s: Annotated[
        float | None, typer.Option("--for", help="End after so long, s.", metavar="SECONDS")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="End after so many looks, at all sources together.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print no events, only problems.")
    ] = False,
) -> None:
    """Watch cameras: who comes into the picture, who leaves it, how many are there.

    Always looks at the newest frame of each camera, and connects again for ever when one breaks
    off. Ctrl-C or SIGTERM ends it. Events that could not be delivered are counted at the end and
    make the exit status 1.
    """
    from faceresnet.cli.watch_terminal import Terminal

    with signals_stop() as stop:  # first of all: loading the rest takes its time
        from faceresnet.apps.watch.events import EventOptions
        from faceresnet.apps.watch.loop import Watch, WatchOptions
        from faceresnet.cli.output import STANDARD_OUTPUT
        from faceresnet.detector import FaceDetector
        from faceresnet.video.addresses import parse_sources
        from faceresnet.video.live import LiveOptions

        sources = parse_sources(source)
        jsonl = "-" if jsonl in STANDARD_OUTPUT else jsonl
        options = WatchOptions(
            live=LiveOptions(
                connect_timeout_s=timeout_s,
                read_timeout_s=timeout_s,
                first_pause_s=min(1.0, longest_pause_s),
                longest_pause_s=longest_pause_s,
                transport=transport,
            ),
            events=EventOptions(enter_s=enter_s, leave_s=leave_s, min_size=min_size),
            every=every,
            max_fps=max_fps,
            duration_s=for_s,
            frames=frames,
            save_events=save_events,
            jsonl=jsonl,
            webhook=webhook,
            metrics=metrics,
        )
        detector = FaceDetector(
            model,
            threshold=threshold,
            max_side=max_side,
            crowds=crowds,
            engine=engine,
            device=device,
            threads=threads,
        )
        files = {source.name for source in sources if not source.live}
        terminal = Terminal(events=not quiet and jsonl != "-", files=files)
        for camera in sources:
            if camera.given not in ("", camera.name):
                terminal.note(f"'{camera.given}' is called {camera.name} in all results")
        watching = Watch(
            detector,
            sources,
            options,
            threshold=detector.default_threshold,
            on_event=terminal.event,
            on_tick=terminal.status,
            on_problem=terminal.note,
            stop=stop,
        )
        if watching.metrics_port is not None:
            host = (metrics or "").rpartition(":")[0] or "127.0.0.1"
            terminal.note(f"metrics at http://{host}:{watching.metrics_port}/metrics")
        with terminal:
            watching.run()
    for name, error in watching.failed.items():
        terminal.note(f"{name}: {error}")
    for name, lost in watching.undelivered.items():
        terminal.note(f"{name}: {lost} of {count(watching.events, 'event')} not delivered")
    if watching.failed or watching.undelivered:
        raise typer.Exit(1)
