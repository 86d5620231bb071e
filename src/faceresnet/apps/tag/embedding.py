"""XMP inside photo files, by Exiv2; nothing else in them may change, and that is looked at.

**Licence.** pyexiv2, the extra ``[tag]``, brings Exiv2, which is GPL-2.0-or-later, and is GPL-3.0
itself. It is imported only when photos are tagged with ``--embed``; who may not ship GPL software
leaves the extra out and writes sidecars, which need nothing but this package.

Exiv2 writes the XMP packet in its own layout, and more than the XMP: it moves the comment of a JPEG
file and writes the Exif of PNG and WebP files anew. So of these formats only its XMP is taken, and
all other parts are the photo's own. A photo is written to memory first and compared: every other
part of the file has to be the same to the byte (JPEG, PNG, WebP), or the pixels and all other
metadata (other formats), and the packet has to say the same as the one handed over. Otherwise the
photo stays as it was.
"""

from __future__ import annotations

import io
import threading
from itertools import takewhile
from typing import Any
from xml.etree import ElementTree

import numpy as np

from faceresnet.apps.tag.packet import RDF
from faceresnet.errors import ImageError, needs

#: What begins an XMP segment in a JPEG file.
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
PNG = b"\x89PNG\r\n\x1a\n"
#: Keyword of XMP in a PNG file.
PNG_XMP = b"XML:com.adobe.xmp\0"
#: Largest packet that fits into the one segment that a JPEG file gives to XMP.
JPEG_XMP_BYTES = 65_502
#: Tags of a TIFF file that say where something lies in it, or are the XMP itself.
_PLACES = frozenset(
    {"XMLPacket", "StripOffsets", "TileOffsets", "ExifTag", "GPSTag", "SubIFDs"}
    | {"JPEGInterchangeFormat", "InteroperabilityTag"}
)

_exiv2 = threading.Lock()  # its XMP toolkit is one for the process


def require() -> None:
    """Make sure that pyexiv2 is there.

    Raises:
        MissingExtraError: it is not.
    """
    _pyexiv2()


def read_packet(photo: bytes) -> bytes | None:
    """XMP packet of a photo, None if it has none.

    Raises:
        ImageError: Exiv2 cannot read the file, or cannot write XMP into its format.
        MissingExtraError: pyexiv2 is not installed.
    """
    with _exiv2, _opened(photo) as image:
        if "write" not in (image.get_access_mode()["xmp"] or ""):
            raise ImageError("XMP cannot be written into its format: use --sidecar")
        return image.read_raw_xmp().encode() or None


def write_packet(photo: bytes, packet: bytes) -> bytes:
    """Put an XMP packet into a photo.

    Args:
        photo: the file.
        packet: UTF-8.

    Returns:
        The file to be: the pixels and all other metadata are the same.

    Raises:
        ImageError: the packet is too large for the format, or Exiv2 changes something else.
        MissingExtraError: pyexiv2 is not installed.
    """
    if photo[:2] == b"\xff\xd8" and len(_minimal(packet)) > JPEG_XMP_BYTES:
        raise ImageError(
            f"{len(packet):,} bytes of XMP do not fit into a JPEG file, which holds "
            f"{JPEG_XMP_BYTES:,}: use --sidecar, or --min-size for fewer faces"
        )
    with _exiv2:
        try:
            with _opened(photo) as image:
                image.modify_raw_xmp(packet.decode())
                written = _with_own_parts(photo, image.get_bytes())
            with _opened(photo) as before, _opened(written) as after:
                same = _same_metadata(before, after)
                kept = after.read_raw_xmp().encode()
        except (RuntimeError, ValueError, UnicodeError) as error:
            raise ImageError(f"Exiv2 cannot write it ({error}): use --sidecar") from error
    try:
        says_all = _statements(kept) == _statements(packet)
    except ElementTree.ParseError:  # Exiv2 gives an empty packet back for some that it cannot read
        says_all = False
    if not says_all:
        raise ImageError("Exiv2 would lose some of its other XMP: use --sidecar")
    if not same or not _same_container(photo, written):
        raise ImageError("Exiv2 would change more than its XMP: use --sidecar")
    return written


def _pyexiv2() -> Any:
    with needs("faceresnet tag --embed", "tag"):
        import pyexiv2
    return pyexiv2


def _opened(photo: bytes) -> Any:
    pyexiv2 = _pyexiv2()
    pyexiv2.set_log_level(4)  # what fails is raised or compared
    try:
        return pyexiv2.ImageData(photo)
    except (RuntimeError, ValueError) as error:
        raise ImageError(f"Exiv2 cannot read it ({error}): use --sidecar") from error


def _minimal(packet: bytes) -> bytes:
    """The packet without the room that some programs leave at its end."""
    head, tag, tail = packet.rpartition(b"<?xpacket end")
    return head.rstrip() + tag + tail


def _same_metadata(before: Any, after: Any) -> bool:
    """Whether Exif, IPTC, ICC profile, comment and thumbnail are the same."""

    def said(image: Any) -> list[Any]:
        exif = image.read_exif()
        kept = {key: exif[key] for key in exif if key.rpartition(".")[2] not in _PLACES}
        others = ("iptc", "icc", "comment", "thumbnail")
        return [kept, *(getattr(image, f"read_{kind}")() for kind in others)]

    return said(before) == said(after)


def _same_container(before: bytes, after: bytes) -> bool:
    """Whether everything but the XMP is the same in two files."""
    for parts in (_jpeg_parts, _png_parts, _webp_parts):
        listed = parts(before)
        if listed is not None:
            return listed == parts(after)
    from PIL import Image

    with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
        frames = getattr(old, "n_frames", 1)
        if (old.size, old.mode, frames) != (new.size, new.mode, getattr(new, "n_frames", 1)):
            return False
        for frame in range(frames):
            old.seek(frame)
            new.seek(frame)
            if not np.array_equal(np.asarray(old), np.asarray(new)):
                return False
    return True


def _jpeg_parts(data: bytes) -> list[bytes] | None:
    """Segments of a JPEG file without its XMP; the last is the scan and all that follows."""
    segments = _jpeg_segments(data)
    return segments and [segment for segment in segments if not _is_jpeg_xmp(segment)]


def _jpeg_segments(data: bytes) -> list[bytes] | None:
    if data[:2] != b"\xff\xd8":
        return None
    segments, at = [], 2
    while at + 4 <= len(data) and data[at + 1] != 0xDA:
        length = 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + length])  # a byte of padding is one of its own
        at += length
    return [*segments, data[at:]]


def _is_jpeg_xmp(segment: bytes) -> bool:
    return segment[:2] == b"\xff\xe1" and segment[4:].startswith(JPEG_XMP)


def _precedes_jpeg_xmp(segment: bytes) -> bool:
    """Whether XMP stands after this one where there was none: after JFIF and Exif."""
    return segment[:2] == b"\xff\xe0" or segment[4:10] == b"Exif\0\0"


def _png_parts(data: bytes) -> list[bytes] | None:
    """Chunks of a PNG file without its XMP; the last is what follows its end."""
    chunks = _png_chunks(data)
    return chunks and [chunk for chunk in chunks if not _is_png_xmp(chunk)]


def _png_chunks(data: bytes) -> list[bytes] | None:
    if data[:8] != PNG:
        return None
    chunks, at = [], 8
    while at + 12 <= len(data) and data[at - 8 : at - 4] != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at : at + 12 + length])
        at += 12 + length
    return [*chunks, data[at:]]


def _is_png_xmp(chunk: bytes) -> bool:
    return chunk[4:8] == b"iTXt" and chunk[8:].startswith(PNG_XMP)


def _webp_parts(data: bytes) -> list[bytes] | None:
    """Chunks of a WebP file without its XMP and the header that says whether there is some."""
    chunks = _webp_chunks(data)
    return chunks and [chunk for chunk in chunks if chunk[:4] not in (b"XMP ", b"VP8X")]


def _webp_chunks(data: bytes) -> list[bytes] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    chunks, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        length += length % 2
        chunks.append(data[at : at + 8 + length])
        at += 8 + length
    return chunks


def _with_own_parts(photo: bytes, written: bytes) -> bytes:
    """Exiv2's file with everything but the XMP as it is in the photo (JPEG, PNG, WebP)."""
    if (own := _jpeg_parts(photo)) and (theirs := _jpeg_segments(written)):
        xmp = [segment for segment in theirs if _is_jpeg_xmp(segment)]
        head = list(takewhile(_precedes_jpeg_xmp, own))
        return b"\xff\xd8" + b"".join([*head, *xmp, *own[len(head) :]])
    if (chunks := _png_parts(photo)) and (theirs := _png_chunks(written)):
        xmp = [chunk for chunk in theirs if _is_png_xmp(chunk)]
        return PNG + b"".join([chunks[0], *xmp, *chunks[1:]])
    if (chunks := _webp_parts(photo)) and (theirs := _webp_chunks(written)):
        head = [chunk for chunk in theirs if chunk[:4] == b"VP8X"]
        xmp = [chunk for chunk in theirs if chunk[:4] == b"XMP "]
        body = b"WEBP" + b"".join(head + chunks + xmp)
        return b"RIFF" + len(body).to_bytes(4, "little") + body
    return written


def _statements(packet: bytes) -> list[str]:
    """What a packet says, whatever the layout: each value with the names that lead to it."""
    said: list[str] = []

    def walk(node: ElementTree.Element, path: str) -> None:
        for name, value in node.attrib.items():
            if name in (f"{{{RDF}}}about", "about", f"{{{RDF}}}parseType"):
                continue
            if name == f"{{{RDF}}}resource":
                said.append(f"{path} = {value}")
            else:
                said.append(f"{path}/{name} = {value}")
        text = node.text or ""
        if text.strip():
            said.append(f"{path} = {text.strip() if len(node) else text}")
        number = 0
        for child in node:
            if child.tag == f"{{{RDF}}}Description":
                walk(child, path)
            elif child.tag == f"{{{RDF}}}li":
                number += 1
                walk(child, f"{path}[{number}]")
            else:
                walk(child, f"{path}/{child.tag}")

    root = ElementTree.fromstring(_minimal(packet).decode().lstrip("\ufeff"))
    for rdf in root.iter(f"{{{RDF}}}RDF"):
        walk(rdf, "")
    return sorted(said)
