"""Data sets labelled for YOLO, COCO or Pascal VOC, laid out like WIDER FACE.

The library `supervision` reads the labels. Instead of photos it is shown stand-ins of one pixel: it
would decode all those of Pascal VOC, and keep a mask as large as the photo for each outline. The
photos are looked for here, as it leaves out those in folders of folders without a word.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.atomic import replacing
from faceresnet.errors import DataError, needs, reason, while_writing
from faceresnet.relabel import link_photos
from faceresnet.widerface import Layout, Photo, format_labels, label_format

#: A picture of one pixel (PPM; libraries tell formats by the content, whatever the suffix).
STAND_IN = b"P6 1 1 255\n\0\0\0"
#: Label files that are read at a time.
CHUNK = 256
#: px; boxes that lie farther outside are counted as clipped. Nearer is rounding.
ROUNDING = 0.5
#: Characters that a list of faces in UTF-8 cannot hold in a name.
UNLISTABLE = re.compile(r"[\n\r\ud800-\udfff]|\s$")

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


def convert(
    source: Path,
    out: Path,
    *,
    split: str = "train",
    format: str | None = None,
    photos: Path | None = None,
    classes: Collection[str] = (),
    event: str = "photos",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[list[Photo], dict[Note, list[str]]]:
    """Write one split of a data set laid out like WIDER FACE; the photos are linked to.

    Args:
        source: YOLO's data.yaml or its folder, COCO's .json, or a folder of Pascal VOC's .xml.
        out: the new data set; may hold the other split.
        split: "train" or "val": which to take of YOLO and of VOC's ImageSets, and what to write.
        format: "yolo", "coco" or "voc"; None looks.
        photos: their folder; None for beside the labels. YOLO's data.yaml names it.
        classes: that are faces; () for those called face or faces, or for the only one.
        event: the folder that the photos appear in.
        progress: wraps the iterator over the photos, to show it.

    Returns:
        The photos with their faces, and the names of what was left out or changed.

    Raises:
        DataError: there are no such labels, they are broken, or `out` cannot be written; nothing
            is left behind.
        ValueError: no such split, format or class, or no name for an event.
        MissingExtraError: supervision is not installed.
    """
    with needs("faceresnet data convert", "supervision"):
        import supervision  # noqa: F401
    layout = Layout(out, split)
    _check_place(layout, event)
    if not source.exists():
        raise DataError(f"there is no {source}: give a data.yaml, a COCO .json or a folder of .xml")
    format = format or label_format(source)
    if format is None:
        raise DataError(
            f"{source} holds no labels of a known format: expected a YOLO data.yaml, a COCO .json "
            "or a folder of Pascal VOC .xml"
        )
    if format not in READERS:
        raise ValueError(f"the format must be one of {', '.join(READERS)}, got {format!r}")
    labels = READERS[format](source, photos, split)
    wanted = _choose(labels.classes, classes)
    root = Path(os.path.commonpath([path.parent for path in labels.found] or [source]))
    kept = []
    for path, found in progress(sorted(labels.found.items())):
        name = f"{event}/{path.relative_to(root).as_posix()}"
        faces = _faces(labels, path, found, wanted, shares=format == "yolo")
        if faces is None:
            continue
        if UNLISTABLE.search(name):
            labels.note("photo", "left out, with names that a list cannot hold", [path])
            continue
        kept.append(Photo(name, *faces, path))
    if not kept:
        raise DataError(f"{source}: no photo is left; {describe(labels.notes) or 'it lists none'}")
    _write(kept, root, layout, event)
    return kept, labels.notes


def describe(notes: dict[Note, list[str]]) -> str:
    """What was left out or changed, in one line."""
    return "; ".join(
        f"{len(names):,} {thing}{'' if len(names) == 1 else 's'} {what} ({names[0]}"
        f"{' first' if len(names) > 1 else ''})"
        for (thing, what), names in notes.items()
    )


def _check_place(layout: Layout, event: str) -> None:
    """Refuse to write where something is.

    Raises:
        DataError: `out` holds the split already, or something that is no data set.
        ValueError: it is a shard, or the event is no name of a folder.
    """
    out = layout.root
    if not event.strip(". ") or re.search(r"[/\\\0]|^\s", event) or UNLISTABLE.search(event):
        raise ValueError(f"--event must be the name of a folder, got {event!r}")
    if layout.is_shard:
        raise ValueError(f"--out must be a folder, got {out}: 'faceresnet data pack' makes shards")
    if os.path.lexists(out) and not out.is_dir():
        raise DataError(f"{out} is no folder: name another --out")
    if layout.exists() or any(map(os.path.lexists, (layout.images.parent, layout.images_archive))):
        raise DataError(f"{out} holds a {layout.split} split already: name another --out")
    if out.is_dir() and any(out.iterdir()) and not layout.labels.parent.is_dir():
        raise DataError(f"{out} is neither empty nor a data set: name another --out")


def _choose(known: set[str], classes: Collection[str]) -> set[str]:
    """Classes that are faces.

    Raises:
        ValueError: they cannot be told, or there is no such class; lists those there are.
    """
    listed = ", ".join(sorted(known)[:30]) + (", …" if len(known) > 30 else "")
    if missing := set(classes) - known:
        raise ValueError(f"no class is called {', '.join(sorted(missing))}; there are: {listed}")
    faces = set(classes) or {name for name in known if name.lower() in ("face", "faces")}
    if not faces and len(known) > 1:
        raise ValueError(f"which classes are faces? Give --class; there are: {listed}")
    return faces or known


def _faces(
    labels: Labels, path: Path, found: Found, wanted: set[str], *, shares: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Faces (G, 4) px of a photo and which to ignore; None if it has to be left out."""
    try:
        # Given a file, as Pillow mistakes the size of some TIFFs on their side given a path.
        with path.open("rb") as file, images.open_lazily(file) as photo:
            turned = images.orientation(photo) >= 5
            size = photo.size if turned else photo.size[::-1]
    except Exception:  # decoders raise whatever their format's parser stumbles over
        labels.note("photo", "left out, missing or unreadable", [path])
        return None
    if found.size is not None and min(found.size) > 0 and found.size != size:
        what = "left out, of another size, seen upright, than the labels say"
        labels.note("photo", what, [path])
        return None
    of_class = np.isin(found.classes, list(wanted))
    labels.note("annotation", "left out, of other classes", [path] * int((~of_class).sum()))
    scale = np.array([*size[::-1], *size[::-1]] if shares else [1], np.float32)
    given = found.boxes[of_class] * scale
    faces = boxes_.clip(given.astype(np.float32), size)
    inside = boxes_.area(faces) > 0
    beyond = (np.abs(faces - given) > ROUNDING).any(axis=1) & inside
    labels.note("annotation", NO_AREA, [path] * int((~inside).sum()))
    labels.note("annotation", "clipped to the photo", [path] * int(beyond.sum()))
    return faces[inside], found.ignore[of_class][inside]


def _write(photos: Sequence[Photo], root: Path, layout: Layout, event: str) -> None:
    """Link to the photos below `root`, then write their list; after an error nothing is left.

    Raises:
        DataError: it cannot be written.
    """
    link = layout.images / event
    folders = [layout.images, layout.images.parent, layout.labels.parent]
    folders += [] if layout.root.exists() else [layout.root]
    try:
        with while_writing(f"the data set {layout.root}"):
            link_photos([(root, link)])
            with replacing(layout.labels) as partial:
                partial.write_text(format_labels(photos), encoding="utf-8")
    except BaseException:
        with suppress(OSError):
            link.unlink()
        for folder in folders:
            with suppress(OSError):  # it holds the other split
                folder.rmdir()
        raise


def _photos(labels: Labels, folder: Path) -> list[Path]:
    """Photos below a folder, none that is hidden; tells of what else lies there.

    Raises:
        DataError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {reason(error)}") from error

    files: list[Path] = []
    for place, folders, names in os.walk(_absolute(folder), onerror=refuse):
        folders[:] = (name for name in folders if not name.startswith("."))
        files += (Path(place, name) for name in names if not name.startswith("."))
        links = (path for name in folders if (path := Path(place, name)).is_symlink())
        labels.note("linked folder", "not looked into", links)
    known = images.SUFFIXES | images.COMPANIONS | {".yaml", ".yml", ".cache"}
    others = sorted(path for path in files if path.suffix.lower() not in known)
    labels.note("file", "left out, not named as photos are", others)
    return sorted(path for path in files if path.suffix.lower() in images.SUFFIXES)


def _read(
    labels: Labels, files: dict[Path, Path], load: Callable[[str, str], Any]
) -> Iterator[tuple[Path, Path, Any]]:
    """(photo, label file, supervision's Detections) of each photo that has a label file.

    Args:
        labels: takes the classes, and what is told of the photos.
        files: the label file of each photo; it may be missing.
        load: supervision's reader of a folder of images and a folder of labels.
    """
    bare = [photo for photo, file in files.items() if not file.is_file()]
    labels.note("photo", "without a label file, taken to show no face", bare)
    labels.found.update(dict.fromkeys(bare, NOTHING))
    pairs = sorted((file, photo) for photo, file in files.items() if file.is_file())
    chunks = [
        group[start : start + CHUNK]
        for group in (list(g) for _, g in groupby(pairs, lambda pair: pair[0].parent))
        for start in range(0, len(group), CHUNK)
    ]
    while chunks:
        chunk = chunks.pop()
        folder = str(chunk[0][0].parent)
        with TemporaryDirectory() as stage:
            for file, _ in chunk:
                Path(stage, f"{file.stem}.png").write_bytes(STAND_IN)
            try:
                dataset = load(stage, folder)
            except Exception as error:  # it raises whatever parsers stumble over
                if len(chunk) == 1:
                    why = reason(error).replace(stage, folder)
                    what = "left out, with unreadable labels"
                    labels.note("photo", what, [f"{chunk[0][0]}: {why}"])
                half = len(chunk) // 2  # one label spoils its whole folder
                chunks += [part for part in (chunk[:half], chunk[half:]) if half]
                continue
        labels.classes.update(dataset.classes)
        for file, photo in chunk:
            yield photo, file, dataset.annotations[str(Path(stage, f"{file.stem}.png"))]


def _found(detections: Any, size: tuple[int, int] | None = None) -> Found:
    """What supervision's Detections say."""
    crowd = np.asarray(detections.data.get("iscrowd", np.zeros(len(detections)))) != 0
    return Found(detections.xyxy, np.asarray(detections.data["class_name"]), crowd, size)


def _yolo(source: Path, photos: Path | None, split: str) -> Labels:
    import yaml
    from supervision import DetectionDataset

    if photos is not None:
        raise ValueError("--images is for COCO and VOC: YOLO's data.yaml names the photos")
    labels, file = Labels(), source
    if source.is_dir():
        file = next((p for n in YAMLS if (p := source / n).is_file()), source / YAMLS[0])
    try:
        facts = yaml.safe_load(file.read_text(encoding="utf-8"))
        with TemporaryDirectory() as empty:
            labels.classes.update(DetectionDataset.from_yolo(empty, empty, str(file)).classes)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read as YOLO's data.yaml: {reason(error)}") from error
    named = facts.get(split) or (split == "val" and facts.get("valid"))
    if not named:
        raise DataError(f"{file} names no folder of photos for {split}: add '{split}: images'")
    base = file.parent / str(facts.get("path") or "")
    base = base if base.is_dir() else file.parent  # as the set has been moved
    files = {}
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
        files.update({photo: _yolo_labels(photo) for photo in listed})
    if files and not any(file.is_file() for file in files.values()):
        raise DataError(f"{file}: no photo has labels; expected {next(iter(files.values()))}")

    def load(pictures: str, folder: str) -> DetectionDataset:
        return DetectionDataset.from_yolo(pictures, folder, str(file))

    for photo, _, found in _read(labels, files, load):
        if found.mask is not None:
            what = (
                "with outlines, whose boxes are taken (or keypoints without kpt_shape in data.yaml)"
            )
            labels.note("photo", what, [photo])
        labels.found[photo] = _found(found)
    return labels


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
    from supervision import DetectionDataset

    labels, by_stem = Labels(), defaultdict(list)
    chosen = source / "ImageSets" / "Main" / f"{split}.txt"
    stems = {line.split()[0] for line in _lines(chosen)} if chosen.is_file() else None
    usual = source / "JPEGImages"  # beside it lie pictures that are no photos
    for photo in _photos(labels, photos or (usual if usual.is_dir() else source)):
        if stems is None or photo.stem in stems:
            by_stem[photo.stem].append(photo)
    files = {}
    for file in sorted(_absolute(source).rglob("*.[xX][mM][lL]")):
        hidden = any(part.startswith(".") for part in file.relative_to(_absolute(source)).parts)
        if hidden or (stems is not None and file.stem not in stems):
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
    for photo, file, found in _read(labels, files, DetectionDataset.from_pascal_voc):
        # It was read just now with care for entities.
        written = ElementTree.parse(file)
        sides = [written.findtext(f"size/{side}", "") for side in ("height", "width")]
        height, width = (int(side) if side.isdecimal() else 0 for side in sides)
        labels.found[photo] = _found(found, (height, width))
    return labels


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
    from supervision import DetectionDataset

    # Roboflow's files have two categories of one name, of which supervision forgets the first.
    first: dict[str, int] = {}
    merged = {c["id"]: first.setdefault(str(c["name"]), c["id"]) for c in content["categories"]}
    listed = {image["id"]: image for image in content["images"]}
    if len(listed) < len(content["images"]):
        raise DataError("two of its images have the same id")
    annotations = []
    for a in content["annotations"]:
        box = a.get("bbox") or [0, 0, 0, 0]
        if a["image_id"] not in listed:
            labels.note("annotation", "left out, of unlisted photos", [a["image_id"]])
            continue
        if not (len(box) == 4 and box[2] > 0 and box[3] > 0):
            name = listed[a["image_id"]]["file_name"]
            labels.note("annotation", NO_AREA, [name])
            continue
        kept = {"image_id": a["image_id"], "bbox": box, "iscrowd": a.get("iscrowd", 0)}
        annotations.append({**kept, "category_id": merged[a["category_id"]]})
    reduced = {
        "categories": [{"id": number, "name": name} for name, number in first.items()],
        "images": [
            {"id": number, "file_name": str(at), "width": 1, "height": 1}
            for at, number in enumerate(listed)
        ],
        "annotations": annotations,
    }
    with TemporaryDirectory() as stage:
        file = Path(stage, "labels.json")
        file.write_text(json.dumps(reduced), encoding="utf-8")
        dataset = DetectionDataset.from_coco(stage, str(file))
    labels.classes.update(dataset.classes)
    for path, image in zip(dataset.image_paths, listed.values(), strict=True):
        name = image["file_name"]
        others = (folder / name, folder / unquote(name).replace("\\", "/"))
        photo = _absolute(next((place for place in others if place.is_file()), others[0]))
        if photo in labels.found:
            raise DataError(f"{name} is listed twice")
        size = (int(image.get("height") or 0), int(image.get("width") or 0))
        labels.found[photo] = _found(dataset.annotations[path], size)


#: Readers of labels: of a source, its folder of photos and a split.
READERS: dict[str, Callable[[Path, Path | None, str], Labels]] = {
    "yolo": _yolo,
    "coco": _coco,
    "voc": _voc,
}
