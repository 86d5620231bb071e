"""EXIF made for the tests, byte by byte: what no library would write."""

import struct

#: Entries of a TIFF directory (tag, type, count, value) that Pillow reads and cannot write.
BROKEN_TAGS = {
    "XResolution as text": (0x011A, 2, 3, b"72"),
    "XResolution as bytes": (0x011A, 7, 3, b"72"),
    "ResolutionUnit as text": (0x0128, 2, 2, b"2"),
    "ResolutionUnit below zero": (0x0128, 8, 1, b"\xff\xff"),
    "YCbCrPositioning as text": (0x0213, 2, 3, b"co"),
    "ImageWidth as a fraction": (0x0100, 11, 1, struct.pack("<f", 1.5)),
}


def exif_with(*entries: tuple[int, int, int, bytes], number: int | str = 6) -> bytes:
    """EXIF of an orientation, a number or a text, and other entries, written byte by byte."""
    kind, value = (2, number.encode()) if isinstance(number, str) else (3, bytes([number]))
    every = sorted([*entries, (0x0112, kind, 1, value)])
    packed = [struct.pack("<HHL4s", *entry) for entry in every]
    directory = struct.pack("<H", len(packed)) + b"".join(packed) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<L", 8) + directory
