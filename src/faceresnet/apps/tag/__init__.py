"""Faces written into photos' metadata, as photo managers read them: XMP, MWG regions.

Two places hold them:

- a sidecar beside the photo, the default: the photo itself is not touched. It is called
  ``photo.jpg.xmp``, as digiKam, darktable and Immich name it; Lightroom's name, ``photo.xmp``, is
  to be had, but cannot tell ``photo.jpg`` from ``photo.dng``.
- the photo (`embed`): what Lightroom and Picasa need, because they read sidecars of raw photos
  only. The photo is written beside its place, compared and renamed.

What others wrote stays: regions with names, regions of cameras and of other programs. A face that
has such a region is not written again. Regions written here carry a mark and their score, so that
the next run replaces them; once somebody names, describes or moves one it is theirs. See `regions`
for what coordinates mean in turned photos and `embedding` for the licence of the extra ``[tag]``.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from faceresnet import images
from faceresnet.apps.photo_files import open_photo
from faceresnet.apps.tag import packet as packet_
from faceresnet.apps.tag.regions import Region, to_stored, unmatched
from faceresnet.atomic import replacing
from faceresnet.detections import Detections
from faceresnet.errors import DataError, ImageError, reason

#: Sidecars' names: the photo's with .xmp added, or with its suffix replaced.
NAMINGS = ("full", "stem")
#: Suffixes of raw pictures, whose metadata lie in a sidecar named by the stem.
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw")
#: Tags of TIFF.
_WIDTH, _LENGTH = 0x0100, 0x0101


@dataclass(frozen=True)
class TagOptions:
    """Where regions go.

    Attributes:
        embed: into the photo instead of a sidecar.
        naming: of sidecars: ``full`` (photo.jpg.xmp) or ``stem`` (photo.xmp).
        keep_times: leave a photo's time of change as it was. Photo managers notice changes by it.
    """

    embed: bool = False
    naming: str = "full"
    keep_times: bool = False

    def __post_init__(self) -> None:
        if self.naming not in NAMINGS:
            raise ValueError(f"naming must be one of {', '.join(NAMINGS)}, got '{self.naming}'")

    def sidecar(self, photo: Path) -> Path:
        """Sidecar of a photo."""
        return (
            photo.with_name(f"{photo.name}.xmp")
            if self.naming == "full"
            else photo.with_suffix(".xmp")
        )


@dataclass(frozen=True)
class Tagged:
    """What became of a photo.

    Attributes:
        target: the file that holds its regions; None if there are none.
        faces: found in it.
        known: how many of them others had marked already.
        named: regions there that have a name.
        changed: the file was written.
    """

    target: Path | None
    faces: int
    known: int
    named: int
    changed: bool


def tag(photo: str | os.PathLike[str], faces: Detections, options: TagOptions) -> Tagged:
    """Write the faces of a photo into its metadata.

    Args:
        photo: the file; a symbolic link stands for what it points at.
        faces: found in the upright picture, as `FaceDetector` gives them.
        options: where they go.

    Raises:
        ImageError: the photo cannot be read, or holds no XMP in its format (`embed`).
        DataError: the XMP that is there is broken, or its regions or the faces belong to another
            picture.
        MissingExtraError: pyexiv2 is not installed (`embed`).
    """
    path = Path(photo)
    try:
        return (_embed if options.embed else _beside)(path, faces, options)
    except (ImageError, DataError) as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise ImageError(f"cannot tag {path}: {reason(error)}") from error


def _beside(path: Path, faces: Detections, options: TagOptions) -> Tagged:
    """Write a sidecar."""
    stored = _stored(path)
    sidecar = options.sidecar(path)
    _refuse_other_sidecar(path, sidecar)
    before = sidecar.read_bytes() if sidecar.exists() else None
    regions = stored.regions(faces)
    try:
        there = packet_.read_regions(before)
    except DataError as error:
        raise DataError(f"in {sidecar.name}, {error}") from error
    there = there or packet_.read_regions(stored.packet)
    after = packet_.with_faces(before, regions, stored.size, inherited=stored.packet)
    changed = after is not None and after != before
    if changed and after is not None:
        with replacing(sidecar, durable=True) as partial:
            partial.write_bytes(after)
            if before is not None:
                _copy_status(sidecar, partial)
    return _tagged(sidecar if after is not None else None, regions, there, changed)


def _refuse_other_sidecar(path: Path, sidecar: Path) -> None:
    """Make sure that a sidecar is the photo's alone, and that none of the other name knows more.

    Raises:
        DataError: it is a raw picture's, too, or others marked faces in one of the other name.
    """
    by_stem = path.with_suffix(".xmp")
    if sidecar != by_stem and (sidecar.exists() or not by_stem.exists()):
        return
    raws = (path.with_suffix(suffix) for name in RAW for suffix in (name, name.upper()))
    raw = next((raw for raw in raws if raw.exists()), None)
    if sidecar == by_stem:
        if raw:
            raise DataError(
                f"its sidecar {sidecar.name} is that of {raw.name} too: "
                "use --naming full, or --embed"
            )
    elif not raw and not all(r.own for r in packet_.read_regions(by_stem.read_bytes())):
        raise DataError(f"faces are marked in {by_stem.name}: use --naming stem, or --embed")


def _embed(path: Path, faces: Detections, options: TagOptions) -> Tagged:
    """Write into the photo."""
    from faceresnet.apps.tag import embedding

    photo = path.read_bytes()
    stored = _stored(path)
    before = embedding.read_packet(photo)
    regions = stored.regions(faces)
    there = packet_.read_regions(before)
    after = packet_.with_faces(before, regions, stored.size)
    changed = after is not None and after != before
    if changed and after is not None:
        if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            raise ImageError("it is read-only: use a sidecar, or make it writable")
        _replace(path, embedding.write_packet(photo, after), keep_times=options.keep_times)
    return _tagged(path if after is not None else None, regions, there, changed)


def _replace(target: Path, content: bytes, *, keep_times: bool) -> None:
    """Write a photo anew, with the owner, the rights and the extended attributes it had."""
    status = target.stat()
    with replacing(target, durable=True) as partial:
        partial.write_bytes(content)
        _copy_status(target, partial, keep_times=keep_times)
        if hasattr(os, "chown"):
            with suppress(OSError):  # only root may give files away
                os.chown(partial, status.st_uid, status.st_gid)


def _copy_status(target: Path, partial: Path, *, keep_times: bool = False) -> None:
    """Give a file the rights and the extended attributes, KDE's tags, of the one it replaces."""
    shutil.copystat(target, partial)
    if not keep_times:
        os.utime(partial)


def _tagged(target: Path | None, faces: list[Region], there: list[Region], changed: bool) -> Tagged:
    others = [region for region in there if not region.own]
    known = len(faces) - len(unmatched(faces, others))
    return Tagged(target, len(faces), known, sum(bool(r.name) for r in others), changed)


@dataclass(frozen=True)
class _Stored:
    """A picture as it lies in its file.

    Attributes:
        size: (height, width) px.
        orientation: EXIF's, 1 to 8.
        packet: its XMP.
    """

    size: tuple[int, int]
    orientation: int
    packet: bytes | None

    def regions(self, faces: Detections) -> list[Region]:
        """Faces as regions of the stored picture.

        Raises:
            DataError: they were found in a picture of another size.
        """
        upright = self.size[::-1] if self.orientation in (5, 6, 7, 8) else self.size
        if faces.size != upright:
            raise DataError(
                f"these faces were found in a picture of (height, width) {faces.size}, "
                f"the photo is {upright}"
            )
        boxes = to_stored(faces.boxes, faces.size, self.orientation)
        return [
            Region(tuple(box), own=True, score=score)
            for box, score in zip(boxes.tolist(), faces.scores.tolist(), strict=True)
        ]


def _stored(path: Path) -> _Stored:
    """Read the header of a photo.

    Raises:
        ImageError: it cannot be read.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    with open_photo(path, max_pixels=None) as image:
        orientation = images.orientation(image)
        size = image.height, image.width
        if isinstance(image, TiffImageFile):  # Pillow names the upright size
            size = image.tag_v2[_LENGTH], image.tag_v2[_WIDTH]
        packet = image.info.get("xmp")
    return _Stored(size, orientation, packet.strip(b"\0") if packet else None)


__all__ = ["NAMINGS", "TagOptions", "Tagged", "tag"]
