"""WIDER FACE: photos, face boxes and result files (Yang, Luo, Loy, Tang 2016).

A data set is a folder laid out as its authors publish it; your own photos go in the same way::

    DIR/
    ├── WIDER_train/images/<event>/<name>       any format Pillow or OpenCV reads
    ├── WIDER_val/images/<event>/<name>
    └── wider_face_split/
        ├── wider_face_train_bbx_gt.txt
        └── wider_face_val_bbx_gt.txt

Each of the three folders may instead be the published archive, unextracted: ``WIDER_train.zip``,
``WIDER_val.zip``, ``wider_face_split.zip``; or all of it lies in one .zip, a shard. An *event* is
any folder that groups photos; use one for your own. The list of faces repeats, for each photo::

    <event>/<name>
    <number of faces>
    x y w h blur expression illumination invalid occlusion pose       one line for each face

``x y`` is the top-left corner and ``w h`` the size, in px; the flags after ``w h`` may be left out.
``invalid`` = 1 says that the box is neither face nor background: it is ignored in training and
evaluation. A photo without faces has the count 0, followed by no line or, as the authors write it,
by one line of zeros.

What a detector found is published as one text file for each photo, ``<event>/<name without
extension>.txt``: a line with the photo's name, a line with the number of boxes, then
``x y w h score`` for each box.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Float, Float32

from faceresnet import boxes, images
from faceresnet.errors import DataError, ImageError, reason, while_writing
from faceresnet.label_formats import label_format

SPLITS = ("train", "val")
#: What was found in each photo: its name, and boxes (M, 4) px with scores (M,) in any order.
Predictions = Mapping[str, tuple[Float[np.ndarray, "M 4"], Float[np.ndarray, "M"]]]
#: Column of the `invalid` flag in a line of the list of faces.
INVALID_COLUMN = 7
#: Largest coordinate or size, px, that a list of boxes may hold; areas stay finite in float32.
LARGEST_NUMBER = 1e9
#: What `zipfile` raises for archives that are cut off, damaged, encrypted (RuntimeError) or
#: compressed in a way that it does not know (its subclass NotImplementedError).
ARCHIVE_ERRORS = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Layout:
    """Where the parts of one split lie below the root of a data set.

    Attributes:
        root: the folder of the data set.
        split: "train" or "val".
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")

    @property
    def images(self) -> Path:
        """The folder below which the listed names lie."""
        return self.root / f"WIDER_{self.split}" / "images"

    @property
    def images_archive(self) -> Path:
        """The published archive of that folder, or the shard that is the data set."""
        return self.root if self.is_shard else self.root / f"WIDER_{self.split}.zip"

    @property
    def labels(self) -> Path:
        """The list of faces."""
        return self.root / "wider_face_split" / f"wider_face_{self.split}_bbx_gt.txt"

    @property
    def labels_archive(self) -> Path:
        """The published archive of the folder of the lists, or the shard that is the data set."""
        return self.root if self.is_shard else self.root / "wider_face_split.zip"

    @property
    def is_shard(self) -> bool:
        """Whether the whole data set is one archive (`shards.pack`)."""
        return self.root.suffix == ".zip"

    def exists(self) -> bool:
        """Whether the split's list of faces is there.

        Raises:
            DataError: the archive that should hold it is broken.
        """
        if self.labels.is_file():
            return True
        if not self.labels_archive.is_file():
            return False
        try:
            with zipfile.ZipFile(self.labels_archive) as archive:
                return self.labels.relative_to(self.root).as_posix() in archive.namelist()
        except ARCHIVE_ERRORS as error:
            raise DataError(f"{self.labels_archive} cannot be read: {error}") from error


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo of a data set and its faces; the picture itself is read when asked for.

    Attributes:
        name: "event/name.ext", as the list of faces writes it.
        faces: (G, 4) px, as the list writes them: some lie partly beyond the image.
        ignore: (G,) boxes that count neither as face nor as background.
        path: the image file, or the archive that holds it.
        member: its name in that archive, None for a file.
    """

    name: str
    faces: Float32[np.ndarray, "G 4"]
    ignore: Bool[np.ndarray, "G"]
    path: Path
    member: str | None = None

    @property
    def event(self) -> str:
        """The folder part of the name; empty for a photo outside any folder."""
        return self.name.rpartition("/")[0]

    def read_bytes(self) -> bytes:
        """Read the encoded image file.

        Raises:
            DataError: the photo is listed but not there.
        """
        try:
            if self.member is None:
                return self.path.read_bytes()
            facts = self.path.stat()
            version = (os.getpid(), facts.st_ino, facts.st_mtime_ns)
            return _open_archive(self.path, version).read(self.member)
        except (*ARCHIVE_ERRORS, KeyError) as error:
            place = self.path if self.member is None else f"{self.path}, member {self.member}"
            raise DataError(
                f"the photo {self.name} is listed but cannot be read from {place} ({error}): "
                "extract or download the images again."
            ) from error

    def read(self) -> images.Image:
        """Read and decode the photo: (H, W, 3) uint8 RGB.

        Raises:
            DataError: the photo is listed but not there.
            ImageError: it is broken; the message names it.
        """
        data = self.read_bytes()
        try:
            return images.read(data)
        except ImageError as error:
            raise ImageError(
                f"the photo {self.name} in {self.path} is broken: {error}. "
                "Replace it, or take it off the list of faces."
            ) from error

    def faces_within(
        self, size: tuple[int, int]
    ) -> tuple[Float32[np.ndarray, "G 4"], Bool[np.ndarray, "G"]]:
        """Faces clipped to the image of `size` (height, width) px, and which to ignore.

        A face that lies wholly beyond the image is ignored as well.
        """
        faces = boxes.clip(self.faces, size)
        return faces, self.ignore | (boxes.area(faces) <= 0)


def read_split(
    root: str | os.PathLike[str],
    split: str,
    *,
    events: Collection[str] | None = None,
    need_images: bool = True,
) -> list[Photo]:
    """Read the photos of one split, in the order of its list of faces.

    Args:
        root: folder laid out as the module's docstring says, or shard.
        split: "train" or "val".
        events: only the photos of these events; None for all.
        need_images: whether the folder must hold the images and not the list of faces alone.

    Raises:
        DataError: the list or the images are not there, or a line of the list is broken (named by
            file and number). A missing photo is reported when it is read.
        ValueError: no such split, or an event that has no photo.
    """
    layout = Layout(Path(root), split)
    text, source = _read_labels(layout)
    archive = not layout.images.is_dir() and layout.images_archive.is_file()
    if need_images and not archive and not layout.images.is_dir():
        raise DataError(
            f"{source} lists photos, but neither {layout.images}/ nor {layout.images_archive} "
            f"is there: put the {split} images in one of these places."
        )
    photos = []
    for name, faces, ignore in _parse_labels(text, source):
        path = layout.images_archive if archive else layout.images / name
        member = f"WIDER_{split}/images/{name}" if archive else None
        photos.append(Photo(name, faces, ignore, path, member))
    return photos if events is None else select_events(photos, events, source)


def select_events(photos: list[Photo], events: Collection[str], source: str) -> list[Photo]:
    """The photos of these events.

    Raises:
        ValueError: one has no photo; `source` is what to call the place that lacks it.
    """
    wanted = {events} if isinstance(events, str) else set(events)
    there = {photo.event for photo in photos}
    if missing := wanted - there:
        raise ValueError(
            f"{source} has no photo of {', '.join(sorted(missing))}; "
            f"its events are {', '.join(sorted(there))}"
        )
    return [photo for photo in photos if photo.event in wanted]


def _read_labels(layout: Layout) -> tuple[str, str]:
    """Text of the list of faces, and what to call its file in a message."""
    try:
        if layout.labels.is_file():
            return layout.labels.read_text(encoding="utf-8-sig"), str(layout.labels)
        if layout.labels_archive.is_file():
            member = layout.labels.relative_to(layout.root).as_posix()
            with zipfile.ZipFile(layout.labels_archive) as archive:
                if member in archive.namelist():
                    source = f"{layout.labels_archive}/{member}"
                    return archive.read(member).decode("utf-8-sig"), source
    except (*ARCHIVE_ERRORS, UnicodeDecodeError) as error:
        raise DataError(f"the list of faces in {layout.root} cannot be read: {error}") from error
    if not layout.root.exists():
        raise DataError(f"there is no {layout.root}: give the folder or shard of a data set.")
    other = next(split for split in SPLITS if split != layout.split)
    has_other = Layout(layout.root, other).labels.is_file()
    hint = f" (it has the {other} split only)" if has_other else ""
    if label_format(layout.root) is None:
        way = (
            "'faceresnet data widerface --out DIR' downloads WIDER FACE; for your own photos see "
            "the layout in 'python -m pydoc faceresnet.widerface'."
        )
    else:
        way = f"'faceresnet data convert {layout.root} --out DIR' makes one of such labels."
    raise DataError(
        f"{layout.root} has no {layout.split} split{hint}: expected "
        f"{layout.labels.relative_to(layout.root)} or {layout.labels_archive.name}. {way}"
    )


def _parse_labels(
    text: str, source: str
) -> Iterator[tuple[str, Float32[np.ndarray, "G 4"], Bool[np.ndarray, "G"]]]:
    """(name, faces, ignore) of each photo in a list of faces."""
    # Not splitlines(): it also breaks at characters that a file name may hold.
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    seen: set[str] = set()
    at = 0
    while at < len(lines):
        name = lines[at]
        _check_name(name, seen, f"{source}, line {at + 1}")
        seen.add(str(PurePosixPath(name)))
        count = _count(lines[at + 1]) if at + 1 < len(lines) else None
        if count is None:
            found = lines[at + 1] if at + 1 < len(lines) else "the end of the file"
            raise DataError(
                f"{source}, line {at + 2}: expected the number of faces of {name}, found {found!r}."
            )
        at += 2
        rows = []
        for index in range(count):
            row = _numbers(lines[at]) if at < len(lines) else None
            if row is None:
                found = lines[at] if at < len(lines) else "the end of the file"
                raise DataError(
                    f"{source}, line {at + 1}: expected face {index + 1} of {count} of {name} as "
                    f"'x y w h' and flags, found {found!r}."
                )
            if all(0 <= number <= 1 for number in row[:4]) and 0 < row[2] * row[3] < 1:
                raise DataError(
                    f"{source}, line {at + 1}: the face {lines[at]!r} lies within the first pixel: "
                    "boxes are 'x y w h' in px, not in parts of the photo."
                )
            rows.append(row)
            at += 1
        # The authors' lists follow a count of 0 by one line of zeros.
        if count == 0 and at < len(lines) and not any(_numbers(lines[at]) or [1.0]):
            at += 1
        yield name, *_faces(rows)


def _check_name(name: str, seen: set[str], place: str) -> None:
    """Refuse what cannot be the name of a photo in the data set's folder."""
    path = PurePosixPath(name)
    if not path.name or "\0" in name or _numbers(name) is not None:
        raise DataError(f"{place}: expected the name of a photo, found {name!r}.")
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{place}: the photo {name!r} lies outside the data set.")
    if str(path) in seen:
        raise DataError(f"{place}: the photo {name} is listed twice.")


def _numbers(line: str) -> list[float] | None:
    """Parse the line of a face; None where it is not one."""
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        return None
    usual = all(abs(number) <= LARGEST_NUMBER for number in numbers)
    return numbers if len(numbers) >= 4 and usual else None


def _count(line: str) -> int | None:
    """Parse the number of boxes that follow; None where it is none."""
    return int(line) if line.isdecimal() and len(line) <= 9 else None


def _faces(rows: list[list[float]]) -> tuple[Float32[np.ndarray, "G 4"], Bool[np.ndarray, "G"]]:
    """Boxes and ignore flags from the lines of a photo."""
    box = np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4)
    invalid = np.array(
        [len(row) > INVALID_COLUMN and row[INVALID_COLUMN] != 0 for row in rows], dtype=bool
    )
    faces = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1).astype(np.float32)
    return faces, invalid | (box[:, 2:] <= 0).any(axis=1)


def format_labels(photos: Iterable[Photo]) -> str:
    """Text of a list of faces, as `read_split` reads it."""
    return "".join(format_faces(photo.name, photo.faces, photo.ignore) for photo in photos)


def format_faces(
    name: str, faces: Float32[np.ndarray, "G 4"], ignore: Bool[np.ndarray, "G"]
) -> str:
    """The lines of one photo in the list of faces, to 1/1,000 px."""
    lines = [name, str(len(faces))]
    for (x1, y1, x2, y2), ignored in zip(faces.tolist(), ignore.tolist(), strict=True):
        box = " ".join(f"{round(value, 3):.9g}" for value in (x1, y1, x2 - x1, y2 - y1))
        lines.append(f"{box} 0 0 0 {int(ignored)} 0 0")
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=8)
def _open_archive(path: Path, version: tuple[int, ...]) -> zipfile.ZipFile:
    """Keep an archive open.

    Args:
        path: of the file.
        version: the process and the state of the file. The archive is opened anew in a fork, which
            must not share a file position, and where another file took its place.
    """
    return zipfile.ZipFile(path)


def write_results(folder: str | os.PathLike[str], predictions: Predictions) -> None:
    """Write result files as the benchmark's authors ask for them.

    Scores are written to nine digits, which is all of a float32; coordinates to 1/10,000 px.

    Args:
        folder: made here; all files appear in it at once.
        predictions: by name of the photo.

    Raises:
        DataError: the folder holds something already, or cannot be written.
        ValueError: two photos differ in their extension only, so their files would be the same.
    """
    target = Path(folder)
    stems = {_stem(name) for name in predictions}
    if len(stems) < len(predictions):
        raise ValueError("two photos differ in their extension only: they would share a file")
    check_results_folder(target)
    with while_writing(f"result files to {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            written = Path(temporary) / "results"
            written.mkdir()
            for name, (found, scores) in predictions.items():
                path = written / f"{_stem(name)}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_format_result(name, found, scores), encoding="utf-8")
            if target.exists():
                target.rmdir()
            shutil.move(written, target)


def check_results_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure that result files can go to `folder` and will not mix with others.

    Raises:
        DataError: it is a file, or holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not an empty folder: give a new one for the result files.")


def read_results(
    path: str | os.PathLike[str], names: Iterable[str]
) -> dict[str, tuple[Float[np.ndarray, "M 4"], Float[np.ndarray, "M"]]]:
    """Read result files from a folder or a .zip archive.

    A file belongs to the photo whose name, without its extension, ends the file's path; folders
    around the events, files of other photos and the name inside the file do not matter.

    Args:
        path: folder or archive.
        names: the photos to look for.

    Returns:
        Boxes and scores, float64, by name; photos without a file are left out.

    Raises:
        DataError: a line is broken (named by file and number), a photo has two files, no photo
            has one, or a file may belong to two photos, which differ in their extension only.
    """
    whole = {name: [name] for name in names}
    by_stem: dict[str, list[str]] = {}
    for name in whole:
        by_stem.setdefault(_stem(name), []).append(name)
    by_stem |= whole
    results: dict[str, tuple[Float[np.ndarray, "M 4"], Float[np.ndarray, "M"]]] = {}
    for file, content in _result_files(Path(path)):
        parts = file.removesuffix(".txt").split("/")
        stems = ("/".join(parts[start:]) for start in range(len(parts)))
        found, *others = next((by_stem[stem] for stem in stems if stem in by_stem), [None])
        if others:
            raise DataError(
                f"{path}/{file} may belong to the photo {found} or to {others[0]}: "
                f"call the files {found}.txt and {others[0]}.txt."
            )
        if found in results:
            raise DataError(f"{path} has two result files for the photo {found}, one is {file}.")
        if found is not None:
            results[found] = _parse_result(content.decode(errors="replace"), f"{path}/{file}")
    if not results:
        if not whole:
            raise DataError(f"there is no photo that {path} could hold results for.")
        raise DataError(
            f"{path} has no result file for any of {len(whole)} photos: expected such as "
            f"{_stem(next(iter(whole)))}.txt."
        )
    return results


def _stem(name: str) -> str:
    """Name of a photo without its extension, its event kept."""
    return str(PurePosixPath(name).with_suffix(""))


def _format_result(
    name: str, found: Float[np.ndarray, "M 4"], scores: Float[np.ndarray, "M"]
) -> str:
    lines = [PurePosixPath(name).stem, str(len(found))]
    for (x1, y1, x2, y2), score in zip(found.tolist(), scores.tolist(), strict=True):
        lines.append(f"{x1:.4f} {y1:.4f} {x2 - x1:.4f} {y2 - y1:.4f} {score:.9g}")
    return "\n".join(lines) + "\n"


def _result_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path below the top, content) of every result file, in a fixed order."""
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*.txt")):
                yield file.relative_to(path).as_posix(), file.read_bytes()
            return
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                file_name = member.replace("\\", "/")
                if file_name.endswith(".txt") and not file_name.startswith("__MACOSX/"):
                    yield file_name, archive.read(member)
    except ARCHIVE_ERRORS as error:
        raise DataError(
            f"{path} cannot be read ({reason(error)}): "
            "expected a folder or a .zip archive of result files."
        ) from error


def _parse_result(
    text: str, source: str
) -> tuple[Float[np.ndarray, "M 4"], Float[np.ndarray, "M"]]:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    count = _count(lines[1]) if len(lines) > 1 else None
    if count is None:
        found = lines[1] if len(lines) > 1 else "the end of the file"
        raise DataError(f"{source}, line 2: expected the number of boxes, found {found!r}.")
    if len(lines) != count + 2:
        raise DataError(
            f"{source}, line {min(len(lines), count + 2)}: expected {count} boxes, as line 2 says, "
            f"found {len(lines) - 2}."
        )
    table = np.zeros((count, 5))
    for index, line in enumerate(lines[2:]):
        words = line.split()
        try:
            # A single number would be spread over the row.
            table[index] = [float(word) for word in words[:5]] if len(words) >= 5 else np.nan
        except ValueError:
            table[index] = np.nan
    broken = np.flatnonzero(~(np.abs(table) <= LARGEST_NUMBER).all(axis=1))  # NaN is not
    if len(broken):
        line_number = int(broken[0]) + 3
        raise DataError(
            f"{source}, line {line_number}: expected 'x y w h score', "
            f"found {lines[line_number - 1]!r}."
        )
    return np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1), table[:, 4]
