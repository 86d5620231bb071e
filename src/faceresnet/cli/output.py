"""Writing what was found: a table, one document, or a folder of text files.

Files appear whole when everything is done, or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from faceresnet.cli.sources import Source
from faceresnet.detections import Detections

#: Layouts of --format that make one file, and those that fill a folder.
FILE_FORMATS = ("json", "jsonl", "csv", "coco")
FOLDER_FORMATS = ("yolo", "wider")


class Results:
    """Takes what was found in each photo; as a context manager it finishes or discards it."""

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        """Files that will be written for these photos."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(whole=kind is None)

    def add(self, source: Source, faces: Detections) -> None:
        """Take the faces of one photo."""
        raise NotImplementedError

    def close(self, *, whole: bool) -> None:
        """Finish; if not `whole`, leave nothing behind."""


def open_results(format: str | None, destination: str | None, *, hint: bool = False) -> Results:
    """Choose the writer of a layout.

    Args:
        format: one of `FILE_FORMATS` or `FOLDER_FORMATS`; by default json.
        destination: file or folder, ``-`` for standard output. Without it and `format` the results
            are a table.
        hint: end the table by saying what else can be had.

    Raises:
        ValueError: no such layout, or a layout that needs a folder got none.
    """
    if format is not None and format not in FILE_FORMATS + FOLDER_FORMATS:
        known = ", ".join(FILE_FORMATS + FOLDER_FORMATS)
        raise ValueError(f"--format must be one of {known}, got '{format}'")
    if format is None and destination is None:
        return _Table(hint)
    if format in FOLDER_FORMATS:
        if destination in (None, "-"):
            raise ValueError(f"--format {format} writes a file for each photo: add --json FOLDER")
        if Path(destination).is_file():
            raise ValueError(f"--format {format} needs a folder, {destination} is a file")
        return _Folder(Path(destination), format)
    path = None if destination in (None, "-") else Path(destination)
    if path is not None and path.is_dir():
        raise ValueError(f"--json needs a file or - for this format, {path} is a folder")
    if format in ("jsonl", "csv"):
        return _Lines(path, format)
    return _Document(path, format or "json")


def refuse_overwriting(sources: Sequence[Source], save: Path | None, results: Results) -> None:
    """Make sure that no output would replace a photo.

    Raises:
        ValueError: it would.
    """
    inputs = {source.path.resolve() for source in sources if source.path}
    outputs = [save / source.picture for source in sources] if save else []
    for output in outputs + results.targets(sources):
        if output.resolve() in inputs:
            raise ValueError(f"{output} is one of the photos: choose another place for the results")
    if save is not None and save.exists() and not save.is_dir():
        raise ValueError(f"--save needs a folder, {save} is a file")


class _Table(Results):
    """For people: a row for each photo."""

    def __init__(self, hint: bool) -> None:
        from rich.table import Table

        self._hint = hint
        self._table = Table(box=None, header_style="bold", pad_edge=False)
        self._table.add_column("photo", overflow="fold")
        for column in ("size", "faces", "best score", "heights"):
            self._table.add_column(column, justify="right", no_wrap=True)

    def add(self, source: Source, faces: Detections) -> None:
        from rich.text import Text

        heights = (faces.boxes[:, 3] - faces.boxes[:, 1]).round().astype(int).tolist()
        self._table.add_row(
            Text(source.name),
            f"{faces.size[1]}×{faces.size[0]}",
            str(len(faces)),
            f"{faces.scores[0]:.2f}" if len(faces) else "",
            f"{min(heights)}–{max(heights)} px" if heights else "",
        )

    def close(self, *, whole: bool) -> None:
        from rich.console import Console

        if self._table.row_count:
            Console().print(self._table)
        if whole and self._hint and self._table.row_count:
            print("--save FOLDER draws the boxes, --json - prints them.", file=sys.stderr)


class _Lines(Results):
    """A line for each photo (jsonl) or face (csv), written as they come."""

    def __init__(self, path: Path | None, format: str) -> None:
        self._path = path
        self._format = format
        self._header = True
        self._partial: Path | None = None
        self._file: IO[str] = sys.stdout

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        return [self._path] if self._path else []

    def __enter__(self) -> Self:
        self._partial, self._file = _open(self._path)
        return self

    def add(self, source: Source, faces: Detections) -> None:
        if self._format == "jsonl":
            self._file.write(faces.to_json(source.name) + "\n")
        else:
            self._file.write(faces.to_csv(source.name, header=self._header))
            self._header = False
        if self._path is None:
            self._file.flush()

    def close(self, *, whole: bool) -> None:
        if self._format == "csv" and self._header:
            self._file.write(Detections.empty((1, 1)).to_csv())
        _close(self._file, self._partial, self._path, whole)


class _Document(Results):
    """One JSON value for all photos: a list, or COCO's images, annotations and categories."""

    def __init__(self, path: Path | None, format: str) -> None:
        self._path = path
        self._format = format
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        return [self._path] if self._path else []

    def add(self, source: Source, faces: Detections) -> None:
        if self._format == "json":
            self._images.append(faces.to_dict(source.name))
            return
        height, width = faces.size
        image_id = len(self._images) + 1
        self._images.append(
            {"id": image_id, "file_name": source.name, "width": width, "height": height}
        )
        self._annotations += faces.to_coco(image_id, first_id=len(self._annotations) + 1)

    def close(self, *, whole: bool) -> None:
        if not whole:
            return
        photos = ",\n".join(json.dumps(photo, ensure_ascii=False) for photo in self._images)
        text = f"[\n{photos}\n]\n"
        if self._format == "coco":
            coco = {
                "images": self._images,
                "annotations": self._annotations,
                "categories": [{"id": 1, "name": "face"}],
            }
            text = json.dumps(coco, ensure_ascii=False) + "\n"
        partial, file = _open(self._path)
        file.write(text)
        _close(file, partial, self._path, whole)


class _Folder(Results):
    """A text file for each photo, in folders as the photos are."""

    def __init__(self, folder: Path, format: str) -> None:
        self._folder = folder
        self._format = format

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        return [self._file(source) for source in sources]

    def _file(self, source: Source) -> Path:
        return self._folder / source.target.with_name(source.target.name + ".txt")

    def add(self, source: Source, faces: Detections) -> None:
        path = self._file(source)
        wider = self._format == "wider"
        partial, file = _open(path)
        file.write(faces.to_wider(source.target.name) if wider else faces.to_yolo())
        _close(file, partial, path, whole=True)


def _open(path: Path | None) -> tuple[Path | None, IO[str]]:
    """A temporary file beside the target, or standard output."""
    if path is None:
        return None, sys.stdout
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    return partial, partial.open("w", encoding="utf-8", newline="")


def _close(file: IO[str], partial: Path | None, path: Path | None, whole: bool) -> None:
    """Give the temporary file its name, or remove it."""
    if partial is None or path is None:
        file.flush()
        return
    file.close()
    if whole:
        os.replace(partial, path)
    else:
        partial.unlink()
