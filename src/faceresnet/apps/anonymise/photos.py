"""Photos with their faces covered and nothing in them that tells who, where or when.

The picture is decoded, turned upright, covered and encoded anew. A new file is made of pixels, the
colour profile and, in an animation, its timing; no other part of the old one is copied: no Exif,
GPS, maker notes, thumbnail, XMP, IPTC, comment, text, second picture or depth map.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from faceresnet import boxes as boxes_
from faceresnet import images
from faceresnet.apps.anonymise.covering import Covering, cover
from faceresnet.apps.photo_files import open_photo
from faceresnet.atomic import replacing
from faceresnet.errors import ImageError, reason, while_writing

if TYPE_CHECKING:
    from PIL import Image as PILImage

#: From an image (H, W, 3) uint8 to the boxes (M, 4) px of the faces in it.
Locate = Callable[[images.Image], Float[np.ndarray, "M 4"]]

#: Formats that Pillow writes as well as it reads them. A multi-picture file becomes a JPEG.
FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
)
#: Formats whose frames follow each other in time; the others' are pages.
ANIMATED = frozenset({"AVIF", "GIF", "PNG", "WEBP"})
#: Frames of an animation before and after one whose faces are covered in it, too: a face that is
#: missed in a frame is seldom missed in its neighbours.
REACH = 3
#: Overlap from which boxes of the same face in two looks are one.
SAME_FACE_IOU = 0.5
#: A page of the same proportions whose sides are at most this part of another's may be its copy;
#: pages of about one size are sheets of a document.
COPY_SCALE = 0.75
#: Quality where the file does not say with which it was encoded, 0..100.
QUALITY = 95
#: Tags by which a page of a TIFF says what it is: the bits of the newer, the number of the older.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
#: What of each kind of pixel is neither colour nor grey.
_ALPHA = frozenset({"LA", "RGBA"})


@dataclass(frozen=True)
class Covered:
    """What became of a photo.

    Attributes:
        faces: covered, in all frames.
        frames: of an animation, pages of a document; 1 for a photo.
        notes: what of the picture is not as it was, a line each.
    """

    faces: int
    frames: int = 1
    notes: tuple[str, ...] = ()


def anonymise_photo(
    source: Path,
    target: Path,
    locate: Locate,
    covering: Covering,
    *,
    max_pixels: int | None = images.MAX_PIXELS,
) -> Covered:
    """Write a photo with its faces covered, in the format it has.

    Args:
        source: the photo; animations and documents of several pages are covered in every frame.
        target: appears whole or not at all; must not be the photo itself.
        locate: finds the faces.
        covering: how they are covered.
        max_pixels: refuse photos of more pixels, all frames together; None takes any size.

    Raises:
        ImageError: it cannot be read, nothing can write its format, or `target` cannot be written.
        ValueError: `target` is the photo.
    """
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the photo itself: choose another place for the result")
    try:
        content = source.read_bytes()
        with open_photo(io.BytesIO(content), max_pixels=max_pixels) as photo:
            if photo.format not in FORMATS:
                raise ImageError(
                    f"it is a {photo.format} file, which cannot be written: convert it to PNG "
                    "or JPEG first"
                )
            pictures, result = _cover_all(photo, locate, covering)
            options = _options(photo, pictures, lossless=_is_lossless(content))
            with while_writing(target, ImageError), replacing(target) as partial:
                pictures[0].save(partial, **options)
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from error
    except OSError as error:
        raise ImageError(f"cannot read {source}: {reason(error)}") from error
    return result


def _cover_all(
    photo: PILImage.Image, locate: Locate, covering: Covering
) -> tuple[list[PILImage.Image], Covered]:
    """Every frame that goes into the new file."""
    numbers, notes = _kept(photo)
    photo.seek(numbers[0])
    if _loses_depth(photo):
        notes.append("16 bits a channel became 8")
    animated = len(numbers) > 1 and photo.format in ANIMATED
    work, found = [], []
    for number in numbers:
        photo.seek(number)
        frame = _workable(photo, animated=animated)
        work.append(frame)
        found.append(_find(frame, locate))
    found = _spread(found) if animated else _share(found, [frame.size for frame in work])
    pictures = [_cover(frame, boxes, covering) for frame, boxes in zip(work, found, strict=True)]
    return pictures, Covered(sum(map(len, found)), len(numbers), tuple(notes))


def _kept(photo: PILImage.Image) -> tuple[list[int], list[str]]:
    """Numbers of the frames that go into the new file, and what is said of the others."""
    numbers = list(range(getattr(photo, "n_frames", 1)))
    if photo.format == "MPO":
        return [0], [f"its {len(numbers) - 1} further pictures are left out"]
    if photo.format != "TIFF":
        return numbers, []
    kept = [number for number in numbers if not _is_reduced(photo, number)] or numbers
    left = len(numbers) - len(kept)
    return kept, [f"its smaller copies ({left}) are left out"] if left else []


def _is_reduced(photo: PILImage.Image, number: int) -> bool:
    """Whether a page of a TIFF says that it is a smaller copy of another: a thumbnail."""
    photo.seek(number)
    tags: Any = getattr(photo, "tag_v2", {})
    kind = tags.get(_NEW_SUBFILE_TYPE)
    return bool(isinstance(kind, int) and kind & 1) or tags.get(_SUBFILE_TYPE) == 2


def _loses_depth(photo: PILImage.Image) -> bool:
    """Whether the decoder, by what it was told about the pixels, makes 8 bits of 16 a channel."""
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):
        return False
    for tile in getattr(photo, "tile", ()):
        told = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(part, str) and re.search(";16[BLN]", part) for part in told):
            return True
        if photo.format == "PPM" and any(isinstance(part, int) and part > 255 for part in told):
            return True  # the largest value
    return False


def _workable(photo: PILImage.Image, *, animated: bool) -> PILImage.Image:
    """The frame upright, as pixels that can be averaged, on its own."""
    frame = images.upright(photo)
    if animated or (frame.mode != "LA" and frame.has_transparency_data):
        return frame.convert("RGBA")
    if frame.mode in ("L", "LA", "RGB", "CMYK", "I", "F") or frame.mode.startswith("I;16"):
        return frame
    return frame.convert("L" if frame.mode == "1" else "RGB")


def _find(frame: PILImage.Image, locate: Locate) -> Float[np.ndarray, "M 4"]:
    """Faces of a frame: over white and, where something is transparent, without regard to that."""
    image = images.read(_bare(frame), max_pixels=None)
    found = locate(image)
    if frame.mode not in _ALPHA:
        return found
    opaque = np.ascontiguousarray(np.asarray(frame.convert("RGBA"))[:, :, :3])
    if np.array_equal(opaque, image) or (opaque == opaque[0, 0]).all():
        return found  # nothing else is there: one colour alone is no face
    return _joined(found, locate(opaque))


def _bare(frame: PILImage.Image) -> PILImage.Image:
    """The frame without what it says about itself: it is upright already."""
    bare = frame.copy()
    bare.info = {}
    bare.getexif().clear()
    return bare


def _spread(found: Sequence[Float[np.ndarray, "M 4"]]) -> list[Float[np.ndarray, "M 4"]]:
    """Boxes of each frame, and its neighbours' boxes that match none of them."""
    spread = []
    for number, own in enumerate(found):
        boxes = own
        for other in range(max(0, number - REACH), min(len(found), number + REACH + 1)):
            boxes = _joined(boxes, found[other])
        spread.append(boxes)
    return spread


def _share(
    found: Sequence[Float[np.ndarray, "M 4"]], sizes: Sequence[tuple[int, int]]
) -> list[Float[np.ndarray, "M 4"]]:
    """Boxes of each page and those of pages that may be copies of it at another size.

    Args:
        found: in each page.
        sizes: width and height of each page, px.
    """
    shared = []
    for own, size in zip(found, sizes, strict=True):
        boxes = own
        for theirs, other in zip(found, sizes, strict=True):
            if _is_scaled(size, other):
                boxes = _joined(boxes, theirs * (size[0] / other[0]))
        shared.append(boxes)
    return shared


def _is_scaled(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one picture may be the other, made smaller; sizes are rounded to whole pixels."""
    (width, height), (full_width, full_height) = sorted([size, other])
    error = abs(width * full_height - height * full_width)
    return width <= COPY_SCALE * full_width and error <= max(full_width, full_height)


def _joined(
    boxes: Float[np.ndarray, "M 4"], more: Float[np.ndarray, "K 4"]
) -> Float[np.ndarray, "L 4"]:
    """Boxes, and those of `more` that match none of them (`SAME_FACE_IOU`)."""
    known = boxes_.iou(more, boxes).max(axis=1, initial=0) >= SAME_FACE_IOU
    return np.concatenate([boxes, more[~known]])


def _cover(
    frame: PILImage.Image, boxes: Float[np.ndarray, "M 4"], covering: Covering
) -> PILImage.Image:
    """A new picture, of pixels alone."""
    from PIL import Image as PILImage

    mode = frame.mode
    pixels = np.array(frame)
    # OpenCV takes numbers to be in the machine's order of bytes.
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if mode == "I":
        pixels = pixels.astype(np.float64)
    colours = pixels[:, :, :-1] if mode in _ALPHA else pixels
    covered = np.ascontiguousarray(colours)
    cover(covered, boxes, covering, black=(0, 0, 0, 255) if mode == "CMYK" else 0)
    if mode in _ALPHA:
        alpha = np.ascontiguousarray(pixels[:, :, -1:])
        cover(alpha, boxes, covering, black=255)  # it may hold a picture of its own
        covered[alpha[:, :, 0] == 0] = 0  # what nobody sees, nobody can have looked at
        covered = np.concatenate([covered, alpha], axis=2)
    if mode == "I":
        covered = np.rint(covered).astype(np.int32)
    if mode == "I;16B":
        covered = covered.astype(covered.dtype.newbyteorder(">"))
    return PILImage.frombytes(mode, frame.size, covered.tobytes())


def _is_lossless(content: bytes) -> bool:
    """Whether a file is WebP of which a picture is lossless, as its chunks say."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return False
    place = 12
    while kind := content[place : place + 4]:
        if kind == b"VP8L":
            return True
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        # A frame of an animation says 16 bytes about itself; then chunks follow, as in the file.
        place += 8 + (16 if kind == b"ANMF" else size + size % 2)
    return False


def _options(
    photo: PILImage.Image, pictures: Sequence[PILImage.Image], *, lossless: bool
) -> dict[str, Any]:
    """How to encode: as the photo was, as far as it says; `lossless` is for WebP."""
    format = "JPEG" if photo.format == "MPO" else str(photo.format)
    options: dict[str, Any] = {"format": format}
    if len(pictures) > 1:
        options |= {"save_all": True, "append_images": pictures[1:]}
        if format in ANIMATED:
            options |= _timing(photo, format, len(pictures))
    profile = photo.info.get("icc_profile")
    if profile and _profile_fits(profile, pictures[0].mode):
        options["icc_profile"] = profile
    if format == "JPEG":
        options |= _jpeg_options(photo)
    elif format == "WEBP":
        options |= {"quality": QUALITY, "lossless": lossless}
    elif format == "AVIF":
        options |= {"quality": QUALITY}
    elif format == "TIFF":
        options |= _tiff_options(photo, pictures)
    return options


def _timing(photo: PILImage.Image, format: str, frames: int) -> dict[str, Any]:
    """How long frames stand and how often they are repeated."""
    durations = []
    for number in range(frames):
        photo.seek(number)
        photo.load()
        durations.append(round(photo.info.get("duration", 100)))
    timing: dict[str, Any] = {"duration": durations}
    if "loop" in photo.info and format != "AVIF":
        timing["loop"] = photo.info["loop"]
    if format == "GIF":
        timing["disposal"] = 2  # every frame is a whole picture
    if format == "PNG":
        timing["default_image"] = bool(getattr(photo, "default_image", False))
        timing["duration"] = durations[timing["default_image"] :]
    return timing


def _profile_fits(profile: bytes, mode: str) -> bool:
    """Whether a colour profile is made for pixels of this mode."""
    space = {"RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK"}.get(mode, b"GRAY")
    return profile[16:20] == space


def _jpeg_options(photo: PILImage.Image) -> dict[str, Any]:
    """The photo's own quantisation: what is not covered looks as it did."""
    from PIL import JpegImagePlugin

    options: dict[str, Any] = {"quality": QUALITY}
    if tables := _tables(photo):
        options = {"qtables": tables, "subsampling": JpegImagePlugin.get_sampling(photo)}
    return options | {"progressive": bool(photo.info.get("progressive"))}


def _tables(jpeg: Any) -> list[list[int]]:
    """Quantisation tables of the channels, in their order; the last is for all that follow, too.

    Returns:
        none if the head of the file lacks one.
    """
    tables = [jpeg.quantization.get(number) for *_, number in jpeg.layer]
    if not all(tables):
        return []
    if jpeg.info.get("adobe_transform") == 2:  # YCCK becomes CMYK, which has no chroma
        return tables[:1]
    while len(tables) > 1 and tables[-1] == tables[-2]:
        tables.pop()
    return tables


def _tiff_options(photo: PILImage.Image, pictures: Sequence[PILImage.Image]) -> dict[str, Any]:
    compression = photo.info.get("compression", "raw")
    if compression == "jpeg" and all(picture.mode in ("L", "RGB") for picture in pictures):
        return {"compression": "jpeg", "quality": QUALITY}
    kept = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")
    return {"compression": compression if compression in kept else "tiff_adobe_deflate"}
