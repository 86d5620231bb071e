"""Photos as arrays: reading them, fitting them to the network, drawing boxes on them.

An image is RGB uint8 (H, W, 3), 0..255. Whatever a file holds (rotated by EXIF, grey, palette,
16 bits, CMYK, transparent, animated) becomes one.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from jaxtyping import Num, UInt8

from faceresnet.atomic import replacing
from faceresnet.errors import ImageError, reason, while_writing

if TYPE_CHECKING:
    from PIL import Image as PILImage

    Source = str | os.PathLike[str] | bytes | BinaryIO | PILImage.Image

Image = UInt8[np.ndarray, "H W 3"]

#: Files that count as photos when a folder or a glob is searched.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm"}
    | {".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
#: Files that nobody takes for photos, as they lie beside them.
COMPANIONS = frozenset({".csv", ".ini", ".json", ".md", ".txt", ".xml", ".xmp"})
#: Largest photo read by default, in pixels (10,000 × 20,000; 600 MB as RGB). Files that claim more
#: are refused as decompression bombs unless the caller raises the limit.
MAX_PIXELS = 200_000_000
#: Grey of the padding: the middle of 0..255, so that it looks like nothing.
PADDING = 127
#: What shines through transparent pixels.
BACKGROUND = (255, 255, 255)
#: The red of the paper's figures.
RED = (255, 0, 0)
#: Longest side of a picture that a format holds, px. AVIF's is what libavif reads by default.
LONGEST = {"AVIF": 32_768, "GIF": 65_535, "JPEG": 65_500, "TGA": 65_535, "WEBP": 16_383}
#: Tag of EXIF.
_ORIENTATION = 0x0112


class _PillowLimitLifted:
    """Pillow's own limit of pixels, one global for the process, lifted while a thread is inside.

    Pillow asks for it when it reads a header, and with some formats again when it decodes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._theirs: int | None = None

    def __enter__(self) -> None:
        from PIL import Image as PILImage

        with self._lock:
            if not self._inside:
                self._theirs, PILImage.MAX_IMAGE_PIXELS = PILImage.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        from PIL import Image as PILImage

        with self._lock:
            self._inside -= 1
            if not self._inside:
                PILImage.MAX_IMAGE_PIXELS = self._theirs


#: A context manager that any number of threads may be in at once. The code inside has to check the
#: number of pixels itself.
pillow_limit_lifted = _PillowLimitLifted()


def grey(size: tuple[int, int]) -> Image:
    """A photo of a size that shows nothing, to warm a network up with or to lay photos on."""
    return np.full((*size, 3), PADDING, np.uint8)


def read(source: Source, *, max_pixels: int | None = MAX_PIXELS) -> Image:
    """Read a photo: upright, opaque, RGB; the first frame of an animation.

    EXIF orientation is applied, transparency is laid over white, 16-bit values are divided by 257,
    other deep greys (32-bit, float) are stretched from their least to their greatest value.

    Args:
        source: path, encoded bytes, binary file object, or a Pillow image (left unchanged).
        max_pixels: refuse photos of more pixels; None reads any size.

    Returns:
        (H, W, 3) uint8 RGB; it may be read-only: copy it to draw on it.

    Raises:
        ImageError: the file is missing, truncated, larger than `max_pixels` or no image.
    """
    from PIL import Image as PILImage

    if isinstance(source, PILImage.Image):
        return _convert(source, "the Pillow image", max_pixels)
    name = _name(source)
    if name.lower().startswith(("http://", "https://")) and isinstance(source, str):
        raise ImageError(f"{name} is an address: download the photo, and give its bytes")
    with ExitStack() as stack:
        try:
            file: BinaryIO
            if isinstance(source, bytes):
                file = io.BytesIO(source)
            elif isinstance(source, str | os.PathLike):
                # Given a path, Pillow may map the pixels into memory, and with a TIFF file that is
                # stored on its side it then takes width for height.
                file = stack.enter_context(open(source, "rb"))
            else:
                file = source
            image = stack.enter_context(open_lazily(file))
        except FileNotFoundError as error:
            raise ImageError(f"{name} does not exist") from error
        except Exception as error:  # decoders raise whatever their format's parser stumbles over
            raise ImageError(f"cannot read {name}: {why_unread(error)}") from error
        return _convert(image, name, max_pixels)


def open_lazily(
    file: str | os.PathLike[str] | BinaryIO, formats: list[str] | None = None
) -> PILImage.Image:
    """Open a photo with Pillow, however many pixels it claims; nothing is decoded yet.

    Args:
        file: path or binary file.
        formats: Pillow's names of those that it may be of; None for all.

    Raises:
        ImageError: it is EPS, a program that Pillow would hand to another one, Ghostscript.
    """
    from PIL import Image as PILImage

    with pillow_limit_lifted:
        photo = PILImage.open(file, formats=formats)
    if photo.format == "EPS":
        photo.close()
        raise ImageError("it is EPS, a program and no photo: convert it to PNG first")
    return photo


def _name(source: object) -> str:
    """Name to call a source in an error."""
    if isinstance(source, bytes):
        return f"the image ({len(source)} bytes)"
    if isinstance(source, str | os.PathLike):
        return str(os.fspath(source))
    if hasattr(source, "read"):
        return str(getattr(source, "name", "the image file"))
    raise ValueError(
        "an image is a path, encoded bytes, a binary file, a Pillow image or a uint8 RGB array, "
        f"got {type(source).__name__}"
    )


def why_unread(error: Exception) -> str:
    """Why a photo cannot be opened or decoded, for the end of a message."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image, or of a format, such as HEIC, that Pillow does not know"
    return reason(error)


def _convert(image: PILImage.Image, name: str, max_pixels: int | None) -> Image:
    """Pixels of an opened photo; this is where Pillow decodes, so where broken files show."""
    pixels = image.width * image.height
    if not pixels:
        raise ImageError(f"{name} is empty: {image.width}×{image.height} px")
    if max_pixels is not None and pixels > max_pixels:
        raise ImageError(
            f"{name} has {pixels:,} pixels, more than the limit of {max_pixels:,}: "
            "raise max_pixels (--max-pixels) if you trust the file"
        )
    try:
        with pillow_limit_lifted:
            image.load()
            sixteen = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
            return np.ascontiguousarray(_rgb(upright(image), sixteen=sixteen))
    except Exception as error:  # decoders raise whatever their format's parser stumbles over
        raise ImageError(f"cannot read {name}: {why_unread(error)}") from error


def orientation(photo: PILImage.Image) -> int:
    """EXIF's number, 1 to 8, for how the pixels of a photo lie; 1, upright, where it says none."""
    try:
        number = photo.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata is no reason to lose the photo
        return 1
    return int(number) if number in range(1, 9) else 1


def upright(photo: PILImage.Image) -> PILImage.Image:
    """Copy of a photo, turned as its EXIF orientation asks, whatever its other tags are like.

    Args:
        photo: it is decoded if it is not yet.

    Returns:
        New pixels. What the photo says about itself is copied, the orientation too.
    """
    from PIL.Image import Transpose

    photo.load()
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation(photo))
    return photo.copy() if turn is None else photo.transpose(turn)


def _rgb(image: PILImage.Image, *, sixteen: bool) -> np.ndarray:
    """Pixels of an image; `sixteen` tells deep greys of 16 bits from others."""
    from PIL import Image as PILImage

    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = _to_8_bits(np.asarray(image), sixteen=sixteen)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        opaque = PILImage.new("RGBA", image.size, (*BACKGROUND, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return np.asarray(image.convert("RGB"))


def _to_8_bits(grey: Num[np.ndarray, "H W"], *, sixteen: bool) -> UInt8[np.ndarray, "H W"]:
    """Deep greys as 8 bits: 16-bit ones by their full range, others stretched over their own."""
    if sixteen:
        return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
    grey = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    return np.rint((grey - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def check(image: object) -> Image:
    """Return the array itself if it is an image.

    Raises:
        ValueError: it is not uint8 (H, W, 3), or it is empty.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image is a NumPy array, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ValueError(f"an image holds uint8 RGB from 0 to 255, got {image.dtype}: convert it")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"an image has the shape (height, width, 3), got {image.shape}: "
            "convert grey or RGBA to RGB, channels last"
        )
    if not image.size:
        raise ValueError(f"the image is empty: its shape is {image.shape}")
    return image


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Scale an image to `size` (height, width) px: averaged when shrunk, else bilinear."""
    if image.shape[:2] == size:
        return image
    import cv2

    # OpenCV halves ten times as fast as it averages over parts of pixels.
    while all(now % 2 == 0 and now >= 2 * new for now, new in zip(image.shape, size, strict=False)):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * 1.25 < image.shape[0] or size[1] * 1.25 < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Image = cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    return resized


def shrink(image: Image, longest: int) -> Image:
    """Scale an image down so that its longer side is `longest` px; smaller ones stay."""
    height, width = image.shape[:2]
    side = max(height, width)
    if side <= longest:
        return image
    size = max(1, round(height * longest / side)), max(1, round(width * longest / side))
    return resize(image, size)


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """`size` (height, width) px rounded up to multiples of `multiple` px."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def letterbox(image: Image, multiple: int) -> Image:
    """Pad an image with grey at its right and bottom, up to multiples of `multiple` px.

    Nothing moves: boxes in the result are boxes in the image, so the inverse is to clip them.
    """
    height, width = padded_size((image.shape[0], image.shape[1]), multiple)
    bottom, right = height - image.shape[0], width - image.shape[1]
    if not bottom and not right:
        return np.ascontiguousarray(image)
    import cv2

    padded: Image = cv2.copyMakeBorder(
        image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(PADDING,) * 3
    )
    return padded


def draw(
    image: Image,
    boxes: Num[np.ndarray, "N 4"],
    *,
    colour: tuple[int, int, int] = RED,
    width: int | None = None,
) -> Image:
    """Draw boxes on a copy of the image, red as in the figures of the paper.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) px.
        colour: RGB, 0..255.
        width: of the lines, px; by default 1/320 of the image's longer side, at least 1.

    Raises:
        ValueError: `image` is not an image.
    """
    import cv2

    drawn = np.ascontiguousarray(check(image)).copy()
    if width is None:
        width = max(1, round(max(image.shape[:2]) / 320))
    limit = (image.shape[1] - 1, image.shape[0] - 1) * 2
    for x1, y1, x2, y2 in np.minimum(np.floor(boxes).clip(0), limit).astype(int).tolist():
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width)
    return drawn


def written_format(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that a file with this suffix is written in.

    Raises:
        ValueError: there is none.
    """
    from PIL import Image as PILImage

    PILImage.init()
    format = PILImage.EXTENSION.get(Path(path).suffix.lower())
    if format is None or format not in PILImage.SAVE:  # some are read only
        raise ValueError(
            f"no image format that can be written has the suffix of {path}: use .png or .jpg"
        )
    return format


def write(image: Image, path: str | os.PathLike[str]) -> None:
    """Write an image to a file, of the format that the suffix names, whole or not at all.

    Raises:
        ValueError: `image` is not an image, or no format that can be written has that suffix.
        ImageError: the file cannot be written, or the image is too large for its format.
    """
    from PIL import Image as PILImage

    path = Path(path)
    format = written_format(path)
    picture = PILImage.fromarray(check(image))
    limit = LONGEST.get(format)
    if limit is not None and max(picture.size) > limit:
        raise ImageError(
            f"cannot write {path}: {picture.width}×{picture.height} px, more than the {limit:,} px "
            f"a side that {format} holds: use .png"
        )
    options: dict[str, Any] = {"quality": 92} if format in ("JPEG", "WEBP") else {}
    with while_writing(path, ImageError), replacing(path) as partial:
        picture.save(partial, **options)
