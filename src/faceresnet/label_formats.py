"""What data sets labelled for YOLO, COCO or Pascal VOC say: a reader for each."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np

from faceresnet import images
from faceresnet.errors import DataError, needs, reason

#: What becomes of some annotations.
NO_AREA = "left out, outside the photo or without area"
#: What YOLO's description of a data set is called.
YAMLS = ("data.yaml", "data.yml")

#: Names a thing and says what became of it: ("photo", "left out, missing or unreadable").
Note = tuple[str, str]


class Found(NamedTuple):
    """What the labels say of one photo: K boxes, px or shares of its size, and which to ignore."""

    boxes: np.ndarray
    classes: np.ndarray
    ignore: np.ndarray
    size: tuple[int, int] | None = None  #: (height, width) px as the labels have it


class Row(NamedTuple):
    """An annotation: x1 y1 x2 y2, px or shares of the photo's size, and its class."""

    box: Sequence[float]
    name: str
    ignore: bool = False


#: Of a photo without labels.
NOTHING = Found(np.zeros((0, 4), np.float32), np.array([], str), np.zeros(0, bool))


@dataclass
class Labels:
    """What a data set holds: its classes, what was found in each photo, and what to tell of it."""

    classes: set[str] = field(default_factory=set)
    found: dict[Path, Found] = field(default_factory=dict)
    notes: dict[Note, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, thing: str, what: str, names: Iterable[object]) -> None:
        """Remember which things something became of."""
        if kept := [str(name) for name in names]:
            self.notes[thing, what] += kept


def label_format(path: Path) -> str | None:
    """Whose labels lie there, if not WIDER FACE's: "yolo", "coco" or "voc"."""
    if path.is_file():
        return {".yaml": "yolo", ".yml": "yolo", ".json": "coco"}.get(path.suffix.lower())
    if any((path / name).exists() for name in (*YAMLS, "labels")):
        return "yolo"
    return "voc" if next(chain(path.glob("*.xml"), path.glob("*/*.xml")), None) else None


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder, sorted, none that is hidden, and linked folders, not looked into.

    Raises:
        DataError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {reason(error)}") from error

    files: list[Path] = []
    links: list[Path] = []
    for place, folders, names in os.walk(_absolute(folder), onerror=refuse):
        folders[:] = (name for name in folders if not name.startswith("."))
        files += (Path(place, name) for name in names if not name.startswith("."))
        links += (path for name in folders if (path := Path(place, name)).is_symlink())
    return sorted(files), links


def _photos(labels: Labels, folder: Path) -> list[Path]:
    """Photos below a folder; tells of what else lies there.

    Raises:
        DataError: a folder cannot be listed.
    """
    files, links = _walk(folder)
    labels.note("linked folder", "not looked into", links)
    known = images.SUFFIXES | images.COMPANIONS | {".yaml", ".yml", ".cache"}
    others = [path for path in files if path.suffix.lower() not in known]
    labels.note("file", "left out, not named as photos are", others)
    return [path for path in files if path.suffix.lower() in images.SUFFIXES]


def _read(labels: Labels, files: dict[Path, Path], read: Callable[[Path], Found]) -> None:
    """Read the label files of photos, by the photo; a broken one costs its photo."""
    for photo, file in sorted(files.items()):
        if not file.is_file():
            labels.note("photo", "without a label file, taken to show no face", [photo])
            labels.found[photo] = NOTHING
            continue
        try:
            labels.found[photo] = read(file)
        except (DataError, OSError, ValueError, LookupError, ElementTree.ParseError) as error:
            why = f"{file}: {reason(error)}"
            labels.note("photo", "left out, with unreadable labels", [why])


def _found(rows: Sequence[Row], size: tuple[int, int] | None = None) -> Found:
    """What the labels say of a photo.

    Raises:
        ValueError: a box is not finite.
    """
    boxes = np.array([row.box for row in rows], np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box is not finite")
    classes = np.array([row.name for row in rows], str)
    return Found(boxes, classes, np.array([row.ignore for row in rows], bool), size)


def _yolo(source: Path, photos: Path | None, split: str) -> Labels:
    if photos is not None:
        raise ValueError("--images is for COCO and VOC: YOLO's data.yaml names the photos")
    labels, file = Labels(), source
    if source.is_dir():
        file = next((p for n in YAMLS if (p := source / n).is_file()), source / YAMLS[0])
    facts, names = _yolo_facts(file)
    labels.classes.update(names.values())
    files = {photo: _yolo_labels(photo) for photo in _yolo_photos(labels, file, facts, split)}
    if files and not any(file.is_file() for file in files.values()):
        raise DataError(f"{file}: no photo has labels; expected {next(iter(files.values()))}")
    outlined: list[Path] = []

    def read(file: Path) -> Found:
        lines = [line.split() for line in _lines(file)]
        if any(len(line) > 6 for line in lines) and "kpt_shape" not in facts:
            outlined.append(file)
        return _found([_yolo_row(line, names, "kpt_shape" in facts) for line in lines])

    _read(labels, files, read)
    what = "with outlines, whose boxes are taken (or keypoints without kpt_shape in data.yaml)"
    labels.note("photo", what, outlined)
    return labels


def _yolo_facts(file: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """What data.yaml says, and the names of the classes by their numbers.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: PyYAML is not installed.
    """
    with needs("reading YOLO's data.yaml", "train"):
        import yaml
    try:
        facts = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or "names" not in facts:
            raise ValueError("Expected 'names', the classes")
        named = facts["names"]
        named = named.items() if isinstance(named, dict) else enumerate(named)
        return facts, {int(number): str(name) for number, name in named}
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read as YOLO's data.yaml: {reason(error)}") from error


def _yolo_photos(labels: Labels, file: Path, facts: dict[str, Any], split: str) -> list[Path]:
    """Photos of a split, from the folders or lists that data.yaml names.

    Raises:
        DataError: it names none, or one that is not there.
    """
    named = facts.get(split) or (split == "val" and facts.get("valid"))
    if not named:
        raise DataError(f"{file} names no folder of photos for {split}: add '{split}: images'")
    base = file.parent / str(facts.get("path") or "")
    base = base if base.is_dir() else file.parent  # as the set has been moved
    photos = []
    for name in map(str, named if isinstance(named, list) else [named]):
        # As Ultralytics does: Roboflow's "../train/images" may mean "train/images".
        places = [base / name, base / name.removeprefix("../")]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise DataError(f"{file} names {name} for {split}, but there is no {places[0]}")
        if place.is_dir():
            listed = _photos(labels, place)
            used = {_yolo_labels(photo) for photo in listed} | {place / "classes.txt"}
            there = {file for folder in {f.parent for f in used} for file in folder.glob("*.txt")}
            labels.note("label file", "without a photo", sorted(there - used))
        else:
            named_there = [(place.parent / line, base / line) for line in _lines(place)]
            listed = [_absolute(a if a.exists() else b) for a, b in named_there]
        photos += listed
    return photos


def _yolo_row(words: Sequence[str], names: dict[int, str], has_keypoints: bool) -> Row:
    """One line of a label file: ``class x y w h``, a confidence, or an outline, or keypoints.

    Raises:
        ValueError: it is none, or of a class that data.yaml does not name.
    """
    number, *shares = map(float, words)
    if len(shares) < 4 or number not in names:
        known = f"0 to {max(names, default=0)}"
        raise ValueError(f"expected 'class x y w h', class {known}, found {' '.join(words)!r}")
    if len(shares) <= 5 or has_keypoints:
        x, y, width, height = shares[:4]
        if min(width, height) < 0:
            raise ValueError(f"a box of negative size, {' '.join(words)!r}")
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    else:
        xs, ys = shares[: len(shares) // 2 * 2 : 2], shares[1::2]
        box = [min(xs), min(ys), max(xs), max(ys)]
    return Row(box, names[int(number)])


def _yolo_labels(photo: Path) -> Path:
    """The label file of a photo: images/… has labels/…, other folders have it beside."""
    head, there, tail = str(photo).rpartition(f"{os.sep}images{os.sep}")
    beside = photo.with_suffix(".txt")
    if not there or beside.is_file():
        return beside
    return Path(f"{head}{os.sep}labels{os.sep}{tail}").with_suffix(".txt")


def _absolute(path: Path) -> Path:
    """Without dots; links are not followed."""
    return Path(os.path.abspath(path))


def _lines(file: Path) -> list[str]:
    """Lines of a text file that are not empty.

    Raises:
        DataError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file} cannot be read: {reason(error)}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def _voc(source: Path, photos: Path | None, split: str) -> Labels:
    labels, by_stem = Labels(), defaultdict(list)
    chosen = source / "ImageSets" / "Main" / f"{split}.txt"
    stems = {line.split()[0] for line in _lines(chosen)} if chosen.is_file() else None
    usual = source / "JPEGImages"  # beside it lie pictures that are no photos
    for photo in _photos(labels, photos or (usual if usual.is_dir() else source)):
        if stems is None or photo.stem in stems:
            by_stem[photo.stem].append(photo)
    files = {}
    for file in _walk(source)[0]:
        if file.suffix.lower() != ".xml" or (stems is not None and file.stem not in stems):
            continue
        same = by_stem.get(file.stem, [])
        near = [photo for photo in same if photo.parent == file.parent]
        near = near or [photo for photo in same if photo.parent.name == file.parent.name] or same
        if not near:
            labels.note("label file", "without a photo", [file])
        elif len(near) > 1 or near[0] in files:
            raise DataError(f"{file} may be of {near[0]} or of another: put each beside its photo")
        else:
            files[near[0]] = file
    if not files:
        raise DataError(f"{source}: no .xml belongs to a photo; --images DIR tells where they lie")
    for same in by_stem.values():
        for photo in same:
            files.setdefault(photo, photo.with_suffix(".xml"))
    _read(labels, files, _voc_found)
    for found in labels.found.values():
        labels.classes.update(found.classes.tolist())
    return labels


def _voc_found(file: Path) -> Found:
    """What an .xml says; VOC's first pixel is 1, and its boxes end with their last one.

    Raises:
        ValueError, xml.etree.ElementTree.ParseError: it is none of Pascal VOC.
    """
    written = ElementTree.parse(file)
    rows = []
    for thing in written.iterfind("object"):
        sides = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        if None in sides:
            raise ValueError("an object has no box")
        x1, y1, x2, y2 = (float(side or "nan") for side in sides)
        x1, x2, y1, y2 = *sorted((x1, x2)), *sorted((y1, y2))
        rows.append(Row([x1 - 1, y1 - 1, x2, y2], thing.findtext("name", "").strip()))
    shape = [written.findtext(f"size/{side}", "") for side in ("height", "width")]
    height, width = (int(side) if side.isdecimal() else 0 for side in shape)
    return _found(rows, (height, width))


def _coco(source: Path, photos: Path | None, split: str) -> Labels:
    labels = Labels()
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
        _read_coco(labels, content, photos or source.parent)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}, {reason(error)}"
        raise DataError(f"{source} cannot be read as COCO's labels: {why}") from error
    return labels


def _read_coco(labels: Labels, content: dict[str, Any], folder: Path) -> None:
    """Read the content of a COCO file.

    Raises:
        DataError: an image is listed twice.
        LookupError, TypeError, ValueError: it is none.
    """
    names = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
    listed = {image["id"]: image for image in content["images"]}
    if len(listed) < len(content["images"]):
        raise DataError("two of its images have the same id")
    rows = defaultdict(list)
    for a in content["annotations"]:
        box, number = a.get("bbox") or [], a["image_id"]
        if number not in listed:
            labels.note("annotation", "left out, of unlisted photos", [number])
        elif not (len(box) == 4 and box[2] > 0 and box[3] > 0):
            labels.note("annotation", NO_AREA, [listed[number]["file_name"]])
        else:
            x, y, width, height = box
            corners = [x, y, x + width, y + height]
            rows[number].append(Row(corners, names[a["category_id"]], bool(a.get("iscrowd"))))
    labels.classes.update(names.values())
    for number, image in listed.items():
        name = image["file_name"]
        others = (folder / name, folder / unquote(name).replace("\\", "/"))
        photo = _absolute(next((place for place in others if place.is_file()), others[0]))
        if photo in labels.found:
            raise DataError(f"{name} is listed twice")
        size = (int(image.get("height") or 0), int(image.get("width") or 0))
        labels.found[photo] = _found(rows[number], size)


#: Readers of labels: of a source, its folder of photos and a split.
READERS: dict[str, Callable[[Path, Path | None, str], Labels]] = {
    "yolo": _yolo,
    "coco": _coco,
    "voc": _voc,
}
