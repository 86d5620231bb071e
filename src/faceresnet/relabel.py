"""Self-training: a detector mends the labels of the photos that it learns from.

Annotators leave out faces, and some data sets box whole heads. A detector that learned from such
photos was taught that those faces are background. Here it looks at the training photos again:

- where it is sure of a face inside an ignored box, as in a head, that becomes a face to learn;
- where it sees a face that no box covers, that place is ignored from now on: it may be a face.

What annotators drew is kept as it is (compare pseudo-labels: Lee 2013; Xie et al. 2020).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from faceresnet import boxes as boxes_
from faceresnet.atomic import replacing
from faceresnet.detections import Detections
from faceresnet.errors import DataError, while_writing
from faceresnet.widerface import Layout, Photo, format_labels

#: A detection that overlaps a box by this IoU is what the box says.
KNOWN_IOU = 0.3
#: A detection of which this share lies in an ignored box is part of it.
INSIDE = 0.6


@dataclass(frozen=True)
class Doubt:
    """From which scores on a detection changes a label.

    Attributes:
        teach: least score of a face inside an ignored box that becomes a face.
        ignore: least score of a detection outside all boxes that becomes an ignored box.
        complete: events whose lists leave out no face; nothing outside their boxes changes.
    """

    teach: float = 0.5
    ignore: float = 0.3
    complete: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("teach", "ignore"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")


def relabel(photo: Photo, found: Detections, doubt: Doubt) -> Photo:
    """The photo with the boxes it had, and those that a detector adds.

    Args:
        photo: as annotated.
        found: in the photo, down to the lower score of `doubt`.
        doubt: which of them count.
    """
    faces = photo.faces[~photo.ignore]
    new = ~(boxes_.iou(found.boxes, faces) >= KNOWN_IOU).any(axis=1)
    within = inside(found.boxes, photo.faces[photo.ignore])
    teach = new & within & (found.scores >= doubt.teach)
    outside = new & ~within & (found.scores >= doubt.ignore)
    if photo.event in doubt.complete:
        outside[:] = False
    return replace(
        photo,
        faces=np.concatenate([photo.faces, found.boxes[teach], found.boxes[outside]]),
        ignore=np.concatenate(
            [photo.ignore, np.zeros(teach.sum(), bool), np.ones(outside.sum(), bool)]
        ),
    )


def inside(
    found: Float32[np.ndarray, "M 4"], ignored: Float32[np.ndarray, "K 4"]
) -> Bool[np.ndarray, "M"]:
    """Which boxes lie for the most part in one of the others."""
    shared = boxes_.intersection(found[:, None], ignored[None])
    return np.any(shared >= INSIDE * boxes_.area(found)[:, None], axis=1)


def write_relabelled(
    root: Path,
    out: Path,
    splits: Collection[str],
    relabelled: Callable[[str], Iterable[Photo]],
) -> dict[str, tuple[int, int]]:
    """Write a data set of the same photos with other lists of faces.

    The photos are not copied: the new folder links to where they lie.

    Args:
        root: the data set as annotated, a folder.
        out: the new one; its lists are written anew, its links made where they are missing.
        splits: which of "train" and "val" `root` has.
        relabelled: the photos of a split with their new boxes.

    Returns:
        for each split the number of faces and of ignored boxes.

    Raises:
        DataError: `root` is a shard, or `out` is `root`, holds other photos or cannot be written.
    """
    if out.exists() and out.samefile(root):
        raise DataError(
            f"{out} holds the labels as annotated: name another folder for the new ones"
        )
    if Layout(root, "train").is_shard:
        raise DataError(f"{root} is a shard: relabel the folder it was packed from, then pack that")
    counts = {}
    with while_writing(f"the data set {out}"):
        _link_photos(root, out, splits)
    for split in splits:
        photos = list(relabelled(split))
        labels = Layout(out, split).labels
        with while_writing(f"the data set {out}"), replacing(labels) as partial:
            partial.write_text(format_labels(photos), encoding="utf-8")
        counts[split] = _count(photos)
    return counts


def _link_photos(root: Path, out: Path, splits: Collection[str]) -> None:
    """Make the folder `out`, with links to the photos of `root`.

    Raises:
        DataError: it holds photos of another data set, or a link to a list of `root`; nothing is
            made then.
        OSError: it cannot be written.
    """
    places = []
    for split in splits:
        old, new = Layout(root, split), Layout(out, split)
        if old.labels.exists() and new.labels.exists() and new.labels.samefile(old.labels):
            raise DataError(f"{new.labels} is the list as annotated: name another --out")
        places.append((old.images.parent, new.images.parent))
        places.append((old.images_archive, new.images_archive))
    link_photos(places)
    (out / "wider_face_split").mkdir(parents=True, exist_ok=True)


def link_photos(places: Iterable[tuple[Path, Path]]) -> None:
    """Link to photos.

    Args:
        places: where photos lie, and where the link to them goes; what is missing stays so, and
            links that are there already stay.

    Raises:
        DataError: other photos are where a link goes; none is made then.
        OSError: it cannot be written.
    """
    missing = []
    for there, here in places:
        if not os.path.lexists(here):
            missing.append((there, here))
        elif not (there.exists() and here.exists() and here.samefile(there)):
            raise DataError(f"{here} holds photos of another data set: name another --out")
    for there, here in missing:
        if there.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(there.resolve(), target_is_directory=there.is_dir())


def _count(photos: Sequence[Photo]) -> tuple[int, int]:
    """Faces and ignored boxes."""
    ignored = sum(int(photo.ignore.sum()) for photo in photos)
    return sum(len(photo.faces) for photo in photos) - ignored, ignored
