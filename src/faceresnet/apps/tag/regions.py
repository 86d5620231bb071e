"""Face regions as the Metadata Working Group defines them, and what turning a photo does to them.

A region is a rectangle in parts of the *stored* picture: x to the right along its rows as they lie
in the file, whatever its EXIF orientation says. The guidelines put it so (Guidelines For Handling
Image Metadata 2.0, 2010, section 5.9): region metadata is applied to the stored image, and who
turns the picture by its Exif Orientation has to turn the regions, too. digiKam does: it multiplies
the region by the stored size and hands the result to ``TagRegion::adjustToOrientation`` (its
``itemscanner``). So do PiGallery2 and Immich since they mended their handling of turned photos
(bpatrik/pigallery2 #979), and exiftool's ``rotate_regions.config`` has to be used when pixels are
turned and not the tag. So boxes found in the upright picture are turned back here, and
AppliedToDimensions is the stored width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from faceresnet import boxes as boxes_

#: Overlap from which a face found is the same as a region that is there. Low, because people draw
#: around heads: a head's box one and a half times as wide and high as the face's has an IoU of .44.
SAME_FACE_IOU = 0.3
#: Overlap from which a region of our own stays as it is instead of being written anew.
UNCHANGED_IOU = 0.9


@dataclass(frozen=True)
class Region:
    """A rectangle of the stored picture.

    Attributes:
        box: ``x1 y1 x2 y2`` in parts of the stored width and height; None where it has no
            rectangle (a point, a circle, or numbers that are none).
        type: Face, Pet, Focus, BarCode, or empty.
        name: whose face; empty if nobody said.
        own: it was written here, and nobody has changed it since.
    """

    box: tuple[float, float, float, float] | None
    type: str = "Face"
    name: str = ""
    own: bool = False
    score: float = 0.0


def to_stored(
    boxes: Float[np.ndarray, "M 4"], size: tuple[int, int], orientation: int
) -> Float[np.ndarray, "M 4"]:
    """Turn boxes of the upright picture back into the stored one.

    Args:
        boxes: (M, 4) px of the upright picture.
        size: (height, width) px of the upright picture.
        orientation: EXIF's, 1 to 8; anything else means upright.

    Returns:
        (M, 4) ``x1 y1 x2 y2`` in parts of the stored width and height.
    """
    height, width = size
    parts = np.asarray(boxes, np.float64) / np.array([width, height, width, height], np.float64)
    x1, y1, x2, y2 = parts.T
    turned = {
        2: (1 - x2, y1, 1 - x1, y2),
        3: (1 - x2, 1 - y2, 1 - x1, 1 - y1),
        4: (x1, 1 - y2, x2, 1 - y1),
        5: (y1, x1, y2, x2),
        6: (y1, 1 - x2, y2, 1 - x1),
        7: (1 - y2, 1 - x2, 1 - y1, 1 - x1),
        8: (1 - y2, x1, 1 - y1, x2),
    }
    return np.stack(turned.get(orientation, (x1, y1, x2, y2)), axis=1)


def unmatched(faces: Sequence[Region], there: Sequence[Region]) -> list[Region]:
    """Faces that match no face region there (`SAME_FACE_IOU`)."""
    known = [region.box for region in there if region.box and region.type in ("Face", "")]
    found = [face.box for face in faces if face.box]
    if not known or not found:
        return list(faces)
    overlap = boxes_.iou(np.array(found), np.array(known)).max(axis=1)
    return [face for face, iou in zip(faces, overlap, strict=True) if iou < SAME_FACE_IOU]


def same(old: Sequence[Region], new: Sequence[Region]) -> bool:
    """Whether two lists of our regions are of the same faces, rounding aside (`UNCHANGED_IOU`)."""
    if len(old) != len(new):
        return False
    if not new:
        return True
    before, after = ([region.box for region in regions if region.box] for regions in (old, new))
    if len(before) != len(after):
        return False
    overlap = boxes_.iou(np.array(before), np.array(after)) >= UNCHANGED_IOU
    return bool(overlap.any(axis=0).all() and overlap.any(axis=1).all())
