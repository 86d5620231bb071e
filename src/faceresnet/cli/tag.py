"""The command that writes faces into photos' metadata."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.cli.failures import end_with
from faceresnet.cli.options import (
    Crowds,
    Device,
    Engine,
    MaxSide,
    Model,
    Recursive,
    Threads,
    Threshold,
)
from faceresnet.cli.progress import count, progress, table
from faceresnet.cli.signals import sigterm_interrupts
from faceresnet.errors import DataError, ImageError, printable

if TYPE_CHECKING:
    from faceresnet.apps.tag import Tagged, TagOptions
    from faceresnet.cli.sources import Source


def tag(
    source: Annotated[list[str], typer.Argument(help="Photos, folders or globs.")],
    embed: Annotated[
        bool,
        typer.Option(
            "--embed/--sidecar",
            help="Write into the photos, which Lightroom and Picasa need, or into a file beside "
            "each, as digiKam reads them. The pixels and all other metadata stay as they are.",
        ),
    ] = False,
    naming: Annotated[
        str,
        typer.Option(help="Of sidecars: full (photo.jpg.xmp) or stem (photo.xmp, as Lightroom)."),
    ] = "full",
    min_size: Annotated[
        float, typer.Option(help="Leave out faces whose shorter side is less, px.")
    ] = 0.0,
    keep_times: Annotated[
        bool,
        typer.Option(
            "--keep-times",
            help="With --embed: leave the time of change as it was. Photo managers and backups "
            "notice changes by it.",
        ),
    ] = False,
    recursive: Recursive = True,
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    max_side: MaxSide = None,
    crowds: Crowds = True,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Write where the faces are into the photos' metadata, for digiKam, Lightroom and others.

    XMP face regions of the Metadata Working Group. Regions that others wrote or changed stay, with
    their names; a second run changes nothing. Photos that cannot be tagged are listed at the end
    and make the exit status 1.
    """
    from faceresnet import images
    from faceresnet.apps.tag import TagOptions, tag
    from faceresnet.cli.sources import expand, read_ahead
    from faceresnet.detector import FaceDetector

    options = TagOptions(embed=embed, naming=naming, keep_times=keep_times)
    if embed:
        from faceresnet.apps.tag.embedding import require

        require()
    sources = expand(source, recursive=recursive)
    for photo in sources:
        if photo.path is None:
            raise ValueError(f"{photo.name} is no file: tag photos on this machine")
    detector = FaceDetector(
        model,
        threshold=threshold,
        max_side=max_side,
        crowds=crowds,
        engine=engine,
        device=device,
        threads=threads,
    )
    report = _Report("photo" if embed else "sidecar")
    single, failures = (sources, []) if embed else _of_single_sidecars(sources, options)
    read = read_ahead(single, images.MAX_PIXELS)
    photos = progress("Tagging", len(single))(read) if len(single) > 1 else read
    with sigterm_interrupts():
        for photo, image in photos:
            if isinstance(image, Exception):
                failures.append(image)
                continue
            assert photo.path is not None
            faces = detector(image).filter(min_size=min_size)
            try:
                report.add(photo.name, tag(photo.path, faces, options))
            except (DataError, ImageError) as error:
                failures.append(error)
    report.print()
    end_with(failures, len(sources), "not tagged")


def _of_single_sidecars(
    sources: list[Source], options: TagOptions
) -> tuple[list[Source], list[Exception]]:
    """Photos that have a sidecar of their own, and why the others cannot be tagged."""
    single: dict[str, Source] = {}
    failures: list[Exception] = []
    for photo in sources:
        assert photo.path is not None
        sidecar = options.sidecar(photo.path)
        first = single.setdefault(os.path.realpath(sidecar), photo)
        if first is not photo:
            failures.append(
                DataError(
                    f"{photo.name}: its sidecar {sidecar} is that of {first.name} too: "
                    "use --naming full, or --embed"
                )
            )
    return list(single.values()), failures


class _Report:
    """A row for each photo, and what it comes to."""

    def __init__(self, file: str) -> None:
        self._table = table("faces", "known before", "named", of="photo")
        self._table.add_column("regions", no_wrap=True)
        self._file = file
        self._faces = self._written = 0

    def add(self, name: str, tagged: Tagged) -> None:
        from rich.text import Text

        place = "none" if tagged.target is None else "written" if tagged.changed else "unchanged"
        numbers = (tagged.faces, tagged.known or "", tagged.named or "")
        self._table.add_row(Text(printable(name)), *map(str, numbers), place)
        self._faces += tagged.faces
        self._written += tagged.changed

    def print(self) -> None:
        from rich.console import Console

        if not self._table.row_count:
            return
        Console().print(self._table)
        print(
            f"{count(self._faces, 'face')} in {count(self._table.row_count, 'photo')}, "
            f"{count(self._written, self._file)} written"
        )
