"""Photo files opened by Pillow, with this package's limit of pixels instead of Pillow's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from faceresnet import images
from faceresnet.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image as PILImage


@contextmanager
def open_photo(
    source: str | os.PathLike[str] | BinaryIO, *, max_pixels: int | None = images.MAX_PIXELS
) -> Iterator[PILImage.Image]:
    """Open a photo without decoding it.

    Args:
        source: path or binary file.
        max_pixels: refuse photos of more pixels, all frames together; None opens any size.

    Yields:
        the Pillow image.

    Raises:
        ImageError: it cannot be read, or is too large. Inside the ``with`` block as well: decoders
            raise whatever their format's parser stumbles over.
    """
    try:
        with images.pillow_limit_lifted, images.open_lazily(source) as image:
            if max_pixels is not None:
                _check_pixels(image, max_pixels)
            yield image
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"it cannot be read: {images.why_unread(error)}") from error


def _check_pixels(image: PILImage.Image, max_pixels: int) -> None:
    pixels = sum(width * height for width, height in _sizes(image))
    if pixels > max_pixels:
        raise ImageError(
            f"it has {pixels:,} pixels in all its frames, more than the limit of {max_pixels:,}: "
            "raise max_pixels (--max-pixels) if you trust the file"
        )


def _sizes(image: PILImage.Image) -> list[tuple[int, int]]:
    """Width and height of each frame, from the headers alone."""
    frames = getattr(image, "n_frames", 1)
    if image.format != "TIFF":
        return [image.size] * frames
    sizes = []
    for number in range(frames):  # each page has a size of its own
        image.seek(number)
        sizes.append(image.size)
    image.seek(0)
    return sizes
