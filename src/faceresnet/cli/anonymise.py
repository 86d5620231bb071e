"""The command that covers faces."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.cli.failures import end_with, require
from faceresnet.cli.options import (
    DETECTOR,
    VIDEO_SUFFIXES,
    Device,
    Engine,
    Model,
    Recursive,
    Threads,
    Turned,
    pixel_limit,
)
from faceresnet.cli.progress import count, progress, table
from faceresnet.cli.signals import sigterm_interrupts
from faceresnet.errors import ImageError, VideoError, printable, reason

if TYPE_CHECKING:
    from faceresnet.apps.anonymise import Covering
    from faceresnet.apps.anonymise.filling import Filling
    from faceresnet.detector import FaceDetector
    from faceresnet.video.reading import Frame

VIDEO = "Video"


def anonymise(
    source: Annotated[list[str], typer.Argument(help="Photos, videos, folders or globs.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the results; for one photo or video a file, too."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(help="blur, pixelate or box. Only box (black) leaves nothing to guess from."),
    ] = "blur",
    margin: Annotated[
        float, typer.Option(help="By what part of its size a face's box grows at each side.")
    ] = 0.2,
    shape: Annotated[str, typer.Option(help="ellipse or rectangle.")] = "ellipse",
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what has a result of its name already.")
    ] = False,
    recursive: Recursive = True,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            help="Refuse photos of more pixels, all frames together; 0 allows any.",
            min=0,
            show_default="200,000,000",
        ),
    ] = None,
    hold: Annotated[
        float,
        typer.Option(
            help="Cover a face this long before it is first seen and after it is last seen, s; one "
            "seen in fewer than 5 frames, and scored below 0.3 in each, 0.1 s at most.",
            rich_help_panel=VIDEO,
        ),
    ] = 0.5,
    sound: Annotated[
        bool, typer.Option("--sound/--no-sound", help="Keep the sound.", rich_help_panel=VIDEO)
    ] = True,
    model: Model = "faceresnet-n",
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least score of a face that is covered, 0..1.",
            show_default="half the model's own: a missed face is the costly error",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    turned: Turned = False,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Cover the faces in photos and videos, and leave out all metadata that could identify.

    Results have the names and formats of their sources. No detector finds every face: look at the
    results before they go out. Files that cannot be read are listed at the end and make the exit
    status 1.
    """
    from faceresnet.apps.anonymise import Covering
    from faceresnet.apps.anonymise.filling import Filling
    from faceresnet.detector import FaceDetector

    covering = Covering(method, margin, shape)
    jobs, ignored = _plan(source, out, recursive=recursive, resume=resume)
    _refuse_overwriting(jobs)
    todo = [job for job in jobs if not (resume and job.target.exists())]
    if any(job.is_video and job.path.exists() for job in todo):
        require("anonymising videos", "video", "av", "trackers")
    detector = FaceDetector(
        model, threshold=threshold, turned=turned, engine=engine, device=device, threads=threads
    )
    sure_score = min(Filling.sure_score, detector.spec.threshold)
    filling = Filling(hold_s=hold, sure_score=sure_score)
    limit = pixel_limit(max_pixels)
    report = _Report()
    failures: list[Exception] = []
    several = len(todo) > 1 and not any(job.is_video for job in todo)
    with sigterm_interrupts():
        for job in progress("Covering", len(todo))(todo) if several else todo:
            try:
                covered = (
                    _cover_video(job, detector, covering, filling, sound=sound, threads=threads)
                    if job.is_video
                    else _cover_photo(job, detector, covering, limit)
                )
                report.add(job, *covered)
            except (ImageError, VideoError) as error:
                failures.append(error)
            except OSError as error:
                failures.append(ImageError(f"cannot write {job.target}: {reason(error)}"))
    report.print()
    if skipped := len(jobs) - len(todo):
        print(f"{skipped} left out by --resume: their results are there", file=sys.stderr)
    if ignored:
        named = ", ".join(map(str, ignored[:5])) + (", …" if len(ignored) > 5 else "")
        print(
            f"faceresnet: {count(len(ignored), 'file')}, neither photo nor video, left out of the "
            f"results: {named}",
            file=sys.stderr,
        )
    end_with(failures, len(todo), "not covered")


@dataclass(frozen=True)
class _Job:
    """A file and where its result goes."""

    name: str
    path: Path
    target: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def _plan(
    arguments: Sequence[str], out: Path, *, recursive: bool, resume: bool
) -> tuple[list[_Job], list[Path]]:
    """What to do, and the files in folders that are neither photo nor video.

    Raises:
        ValueError: nothing to do, or the arguments do not fit together.
        DataError: a folder cannot be listed.
    """
    found, ignored = _find(arguments, out, recursive)
    if not found:
        raise ValueError(f"there is no photo or video in {', '.join(arguments)}")
    single = len(arguments) == 1 and Path(arguments[0]).is_file()
    if single and out.suffix and not out.is_dir():
        path = found[0][0]
        video = path.suffix.lower() in VIDEO_SUFFIXES
        if not video and out.suffix.lower() != path.suffix.lower():
            place = f"let --out end in {path.suffix}, or name" if path.suffix else "let --out be"
            raise ValueError(f"the result keeps the format of {path}: {place} a folder")
        return [_Job(str(path), path, out)], ignored
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out needs a folder for this, {out} is a file")
    names = _result_names([place for _, place in found])
    jobs = [_Job(str(path), path, out / name) for (path, _), name in zip(found, names, strict=True)]
    if resume:
        _refuse_clashes(jobs, names, [_result_name(place) for _, place in found])
    return jobs, ignored


def _find(
    arguments: Sequence[str], out: Path, recursive: bool
) -> tuple[list[tuple[Path, PurePath]], list[Path]]:
    """Each file once, with its place below its folder; and what was passed over in folders."""
    import glob

    from faceresnet.images import COMPANIONS, SUFFIXES

    # By real path, of os.path: Path.resolve refuses links that lead round in a circle.
    found: dict[str, tuple[Path, PurePath]] = {}
    ignored = []
    results = os.path.realpath(out)
    for argument in arguments:
        folder = Path(argument)
        if not folder.is_dir():
            if "://" in argument or argument == "-":
                raise ValueError(f"{argument} is no file: download or record it first")
            matches = [folder]
            if not folder.exists() and glob.has_magic(argument):
                matches = sorted(map(Path, glob.glob(argument, recursive=True)))
                matches = [match for match in matches if match.is_file()]
                if not matches:
                    raise ValueError(f"no file matches {argument}")
                matches = [match for match in matches if not _lies_in(match, results)] or matches
            for path in matches:
                found.setdefault(os.path.realpath(path), (path, PurePath(path.name)))
            continue
        for path in _below(folder, results, recursive):
            if path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES:
                found.setdefault(os.path.realpath(path), (path, path.relative_to(folder)))
            elif path.suffix.lower() not in COMPANIONS:
                ignored.append(path)
    return list(found.values()), ignored


def _below(folder: Path, results: str, recursive: bool) -> Iterator[Path]:
    """Files in a folder that are not hidden, and no results of an earlier run."""
    from faceresnet.cli.sources import files_in

    inside = results != os.path.realpath(folder)
    for path in files_in(folder, recursive=recursive):
        if not (inside and _lies_in(path, results)):
            yield path


def _lies_in(path: Path, results: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(results)


def _result_names(places: Sequence[PurePath]) -> list[PurePath]:
    """Names of results: `_result_name`, but for -2, -3, … where two would be the same."""
    from faceresnet.cli.sources import unique

    names = [_result_name(place) for place in places]
    taken: set[str] = set()
    for number in sorted(range(len(places)), key=lambda n: names[n] != places[n]):
        names[number] = unique(names[number], taken, names[number].suffix)
    return names


def _result_name(place: PurePath) -> PurePath:
    """The name of a result where no other has it: the source's, which nothing else is called.

    Videos in containers that are not written get ".mp4" behind theirs: a name that does not depend
    on what else there is, so that --resume takes no result for that of another source.
    """
    return place if _keeps_name(place) else PurePath(f"{place}.mp4")


def _keeps_name(place: PurePath) -> bool:
    """Whether a result is written in the format of its source."""
    if place.suffix.lower() not in VIDEO_SUFFIXES:
        return True
    from faceresnet.video.writing import SUFFIXES

    return place.suffix.lower() in SUFFIXES


def _refuse_clashes(
    jobs: Sequence[_Job], names: Sequence[PurePath], wanted: Sequence[PurePath]
) -> None:
    """Make sure that no result could be taken for that of another source.

    Raises:
        ValueError: two sources want one name, so that theirs depend on what else there is.
    """
    for job, name, own in zip(jobs, names, wanted, strict=True):
        if name != own:
            other = next(
                other
                for other, theirs in zip(jobs, names, strict=True)
                if str(theirs).lower() == str(own).lower()
            )
            raise ValueError(
                f"--resume cannot tell the results of {other.name} and {job.name} apart, both "
                f"would be {own}: run them one after the other, into folders of their own"
            )


def _refuse_overwriting(jobs: Sequence[_Job]) -> None:
    """Make sure that no result would replace a source, under whatever name.

    Raises:
        ValueError: it would.
    """
    sources = {}
    for job in jobs:
        if job.path.exists():
            status = job.path.stat()
            sources[status.st_dev, status.st_ino] = job.path
    for job in jobs:
        if job.target.is_dir():
            raise ValueError(f"{job.target} is a folder: choose another place with --out")
        if job.target.exists():
            status = job.target.stat()
            source = sources.get((status.st_dev, status.st_ino))
            if source is not None:
                raise ValueError(
                    f"{job.target} is the source {source}: choose another place with --out"
                )


def _cover_photo(
    job: _Job, detector: FaceDetector, covering: Covering, max_pixels: int | None
) -> tuple[int, int, Sequence[str]]:
    """Faces, frames, and what is not as it was."""
    from faceresnet.apps.anonymise import anonymise_photo, locate_with

    covered = anonymise_photo(
        job.path, job.target, locate_with(detector), covering, max_pixels=max_pixels
    )
    return covered.faces, covered.frames, covered.notes


def _cover_video(
    job: _Job,
    detector: FaceDetector,
    covering: Covering,
    filling: Filling,
    *,
    sound: bool,
    threads: int | None,
) -> tuple[int, int, Sequence[str]]:
    """Faces, frames, and what is not as it was."""
    from faceresnet.apps.anonymise import least_score
    from faceresnet.apps.anonymise.video import anonymise_video

    threshold = least_score(detector)

    def watch(title: str, total: int | None, frames: Iterable[Frame]) -> Iterable[Frame]:
        return progress(f"{title} ({os.path.basename(job.name)})", total or 0)(frames)

    covered = anonymise_video(
        job.path,
        job.target,
        lambda image: detector(image, threshold=threshold),
        covering,
        filling=filling,
        sound=sound,
        threads=threads,
        watch=watch,
    )
    broken = [f"{covered.broken} broken frames are left out"] if covered.broken else []
    return covered.faces, covered.frames, [*broken, *covered.notes]


class _Report:
    """A row for each file."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()  # now: there may be no memory to load it after the work
        self._table = table("faces", "frames", of="file")
        self._table.add_column("result", overflow="fold")
        self._table.add_column("remarks", overflow="fold")

    def add(self, job: _Job, faces: int, frames: int, notes: Sequence[str]) -> None:
        from rich.text import Text

        row = (job.name, str(faces), str(frames), str(job.target), "; ".join(notes))
        self._table.add_row(*(Text(printable(cell)) for cell in row))

    def print(self) -> None:
        if self._table.row_count:
            self._console.print(self._table)
