"""Data sets labelled for YOLO, COCO or Pascal VOC, laid out like WIDER FACE."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.atomic import replacing
from faceresnet.errors import DataError, while_writing
from faceresnet.label_formats import NO_AREA, READERS, Found, Labels, Note, label_format
from faceresnet.relabel import link_photos
from faceresnet.widerface import Layout, Photo, format_labels

#: px; boxes that lie farther outside are counted as clipped. Nearer is rounding.
ROUNDING = 0.5
#: Characters that a list of faces in UTF-8 cannot hold in a name.
UNLISTABLE = re.compile(r"[\n\r\ud800-\udfff]|\s$")


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
        MissingExtraError: PyYAML is not installed (YOLO).
    """
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
