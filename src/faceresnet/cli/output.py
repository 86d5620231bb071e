"""Writing what was found: a table, one document, or a folder of text files.

Files appear whole when everything is done, or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

from faceresnet import images
from faceresnet.atomic import replacing
from faceresnet.cli.failures import UNENCODABLE
from faceresnet.cli.progress import table
from faceresnet.cli.sources import KEPT_SUFFIXES, Source
from faceresnet.detections import Detections
from faceresnet.errors import DataError, printable, while_writing
from faceresnet.weights import own_file

#: Layouts of --format that make one file, and those that fill a folder.
FILE_FORMATS = ("json", "jsonl", "csv", "coco")
FOLDER_FORMATS = ("yolo", "wider")
#: What may be said for standard output. Opened a second time, a file there would be written over.
STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1")
#: What a file's suffix says about its layout; every other suffix says nothing.
FORMAT_BY_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: Suffixes of layouts that one might expect, and that nothing here writes.
UNWRITTEN = frozenset(
    {".html", ".ods", ".parquet", ".tsv", ".xls", ".xlsx", ".xml", ".yaml", ".yml"}
)


class Results:
    """Takes what was found in each photo; as a context manager it finishes or discards it.

    Attributes:
        place: the file or folder that it fills; None for standard output.
    """

    place: Path | None = None

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        """Files that will be written for these photos."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Finish; after an error, leave nothing behind."""

    def add(self, source: Source, faces: Detections) -> None:
        """Take the faces of one photo."""
        raise NotImplementedError


def open_results(format: str | None, destination: str | None, *, hint: bool = False) -> Results:
    """Choose the writer of a layout.

    Args:
        format: one of `FILE_FORMATS` or `FOLDER_FORMATS`; by default what the suffix of
            `destination` says, else json.
        destination: file or folder, ``-`` for standard output. Without it and `format` the results
            are a table.
        hint: end the table by saying what else can be had.

    Raises:
        ValueError: no such layout, also by the suffix, or a layout that needs a folder got none.
    """
    if format is not None and format not in FILE_FORMATS + FOLDER_FORMATS:
        known = ", ".join(FILE_FORMATS + FOLDER_FORMATS)
        raise ValueError(f"--format must be one of {known}, got '{format}'")
    if format is None and destination is None:
        return _Table(hint)
    if format in FOLDER_FORMATS:
        if destination in (None, *STANDARD_OUTPUT):
            raise ValueError(f"--format {format} writes a file for each photo: add --output FOLDER")
        if Path(destination).is_file():
            raise ValueError(f"--format {format} needs a folder, {destination} is a file")
        return _Folder(Path(destination), format)
    path = None if destination in (None, *STANDARD_OUTPUT) else Path(destination)
    if format is None and path is not None:
        format = FORMAT_BY_SUFFIX.get(path.suffix.lower())
        if path.suffix.lower() in UNWRITTEN:
            raise ValueError(
                f"--output ends in {path.suffix}, a layout that is not written here: end it in "
                ".csv, .jsonl or .json, or give --format"
            )
    if path is not None and path.is_dir():
        raise ValueError(f"--output needs a file or - for this format, {path} is a folder")
    if format in ("jsonl", "csv"):
        return _Lines(path, format)
    return _Document(path, format or "json")


def place_pictures(sources: Sequence[Source], save: Path | None) -> list[Path]:
    """Where the pictures with boxes go: into a folder, or one photo's into a file.

    Raises:
        ValueError: `save` names a file, and there are several photos, or it is none of a picture.
    """
    if save is None:
        return []
    named_as_picture = save.suffix.lower() in KEPT_SUFFIXES and not save.is_dir()
    if named_as_picture and len(sources) == 1:
        return [save]
    if named_as_picture:
        raise ValueError(f"--save needs a folder for {len(sources)} photos, got {save}")
    if save.suffix.lower() in images.SUFFIXES and not save.is_dir():
        known = ", ".join(sorted(KEPT_SUFFIXES))
        raise ValueError(f"--save writes {known}, or into a folder, got {save}")
    if save.exists() and not save.is_dir():
        raise ValueError(f"--save needs a folder, {save} is a file")
    return [save / source.picture for source in sources]


def refuse_overwriting(
    sources: Sequence[Source], model: str | os.PathLike[str], outputs: Sequence[Path]
) -> None:
    """Make sure that no output would replace a photo, the model or another output.

    Raises:
        ValueError: it would.
    """
    own = own_file(model)
    taken = {os.path.realpath(own): "the model"} if own else {}
    for source in sources:
        if source.path:
            taken[os.path.realpath(source.path)] = "one of the photos"
    for output in outputs:
        place = os.path.realpath(output)
        if place in taken:
            raise ValueError(f"{output} is {taken[place]}: choose another place for the results")
        taken[place] = "where other results go, too"


class _Table(Results):
    """For people: a row for each photo."""

    def __init__(self, hint: bool) -> None:
        self._hint = hint
        self._table = table("size", "faces", "best score", "heights", of="photo")

    def add(self, source: Source, faces: Detections) -> None:
        from rich.text import Text

        heights = (faces.boxes[:, 3] - faces.boxes[:, 1]).round().astype(int).tolist()
        self._table.add_row(
            Text(printable(source.name)),
            f"{faces.size[1]}×{faces.size[0]}",
            str(len(faces)),
            f"{faces.scores[0]:.2f}" if len(faces) else "",
            f"{min(heights)}–{max(heights)} px" if heights else "",
        )

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        from rich.console import Console

        if not self._table.row_count:
            return
        Console().print(self._table)
        if kind is None and self._hint:
            print("--save FOLDER draws the boxes, --json - prints them.", file=sys.stderr)


class _File(Results):
    """A file, or standard output; opened at once, so that a wrong place is refused at once."""

    def __init__(self, path: Path | None, format: str) -> None:
        self.place = path
        self._format = format
        self._exit = ExitStack()
        self._file: IO[str] = sys.stdout

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        return [self.place] if self.place else []

    def __enter__(self) -> Self:
        if self.place is not None:
            with while_writing(self.place), ExitStack() as stack:
                partial = stack.enter_context(replacing(self.place))
                file = partial.open("w", encoding="utf-8", errors=UNENCODABLE, newline="")
                self._file = stack.enter_context(file)
                self._exit = stack.pop_all()
            return self
        if sys.stdout is None:
            raise DataError("standard output is closed: name a file for the results")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            self._exit.__exit__(kind, *error)
        elif self.place is None:
            self.finish()
            self._file.flush()
        else:
            with while_writing(self.place), self._exit:
                self.finish()

    def finish(self) -> None:
        """Write what comes after the last photo."""


class _Lines(_File):
    """A line for each photo (jsonl) or face (csv), written as they come."""

    _header = True

    def add(self, source: Source, faces: Detections) -> None:
        if self._format == "jsonl":
            self._file.write(faces.to_json(source.name) + "\n")
        else:
            self._file.write(faces.to_csv(source.name, header=self._header))
            self._header = False
        if self.place is None:
            self._file.flush()

    def finish(self) -> None:
        if self._format == "csv" and self._header:
            self._file.write(Detections.empty((1, 1)).to_csv())


class _Document(_File):
    """One JSON value for all photos: a list, or COCO's images, annotations and categories."""

    def __init__(self, path: Path | None, format: str) -> None:
        super().__init__(path, format)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

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

    def finish(self) -> None:
        photos = ",\n".join(json.dumps(photo, ensure_ascii=False) for photo in self._images)
        text = f"[\n{photos}\n]\n"
        if self._format == "coco":
            coco = {
                "images": self._images,
                "annotations": self._annotations,
                "categories": [{"id": 1, "name": "face"}],
            }
            text = json.dumps(coco, ensure_ascii=False) + "\n"
        self._file.write(text)


class _Folder(Results):
    """A text file for each photo, in folders as the photos are."""

    def __init__(self, folder: Path, format: str) -> None:
        self.place = self._folder = folder
        self._format = format

    def targets(self, sources: Sequence[Source]) -> list[Path]:
        return [self._file(source) for source in sources]

    def _file(self, source: Source) -> Path:
        return self._folder / source.target.with_name(source.target.name + ".txt")

    def add(self, source: Source, faces: Detections) -> None:
        path = self._file(source)
        wider = self._format == "wider"
        text = faces.to_wider(source.target.name) if wider else faces.to_yolo()
        with while_writing(path), replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", errors=UNENCODABLE, newline="")
