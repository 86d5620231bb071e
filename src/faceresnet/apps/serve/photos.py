"""Uploaded bytes as images: only common kinds of photo, and none that is too large.

Pillow knows some fifty formats, one of which runs Ghostscript. What is read from strangers is
chosen by its first bytes, and its size is known from the header before anything is decoded.
"""

from __future__ import annotations

import io
import re

from faceresnet import images
from faceresnet.apps.serve.refusals import Refusal
from faceresnet.errors import ImageError, one_line

#: Pillow's name of each kind of photo that is read, and its MIME type.
KINDS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
#: Most scans of a JPEG; progressive ones have some ten, and each passes over the whole photo.
MAX_SCANS = 100
#: Segments of a JPEG that are told apart at most; photos with long metadata have some hundred.
MAX_SEGMENTS = 10_000
_SCAN = b"\xff\xda"
_END = b"\xff\xd9"
#: Markers that a segment follows, and the end. In a scan, 0xFF also comes before 0, before another
#: 0xFF and as a restart marker.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
#: First bytes of a file → its kind.
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}


def kind_of(content: bytes) -> str | None:
    """Kind of photo that a file starts as: a key of `KINDS`, or None."""
    for start, kind in _STARTS.items():
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    return None


def measure(content: bytes, max_pixels: int) -> int:
    """Pixels of a photo, by its header.

    Raises:
        Refusal: it is of no kind that is read here, broken, or larger than `max_pixels`.
    """
    kind = kind_of(content)
    if kind is None:
        raise Refusal(
            "unsupported_type",
            "this is no photo of a kind that is read here, which are: " + ", ".join(KINDS),
        )
    if kind == "JPEG" and (scans := _count_scans(content)) > MAX_SCANS:
        raise Refusal(
            "unreadable_image", f"the JPEG file has {scans:,} scans, at most {MAX_SCANS} are read"
        )
    try:
        with images.open_lazily(io.BytesIO(content), formats=[kind]) as photo:
            pixels = photo.width * photo.height
    except Exception as error:  # decoders raise whatever their format's parser stumbles over
        raise Refusal(
            "unreadable_image", f"the {kind} file is broken: {_one_line(error)}"
        ) from error
    if pixels > max_pixels:
        raise Refusal(
            "image_too_large",
            f"the photo has {pixels:,} pixels, at most {max_pixels:,} are read here: reduce it",
        )
    return pixels


def read(content: bytes, max_pixels: int) -> images.Image:
    """Decode a photo that was measured.

    Raises:
        Refusal: it is broken, or larger than its header said.
    """
    try:
        return images.read(content, max_pixels=max_pixels)
    except ImageError as error:
        raise Refusal("unreadable_image", str(error)) from error


def _count_scans(content: bytes) -> int:
    """Scans of a JPEG up to its end: phones append films, in which anything may stand.

    Segments are skipped by their lengths, as decoders do. Where that fails, because one is longer
    than the file or there are too many, everything that follows counts if it looks like a scan.
    """
    scans = place = 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(content, place)
        if marker is None or marker[0] == _END:
            return scans
        scans += marker[0] == _SCAN
        place = marker.end()
        following = place + int.from_bytes(content[place : place + 2], "big")
        if following > len(content):
            break
        place = following
    return scans + content.count(_SCAN, place)


def _one_line(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its message is the address of a buffer
        return "its header cannot be read"
    return one_line(str(error)) or type(error).__name__
