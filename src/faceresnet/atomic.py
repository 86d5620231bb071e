"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Names of files that are open already. What is behind one may be a file with a name of its own.
DESCRIPTORS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")


@contextmanager
def replacing(target: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Write a file beside its place, then rename it.

        with replacing("out.json") as partial:
            partial.write_text(text)

    Folders that are missing are made. After an error nothing is left behind, and what was at the
    target before is there still. Links are followed and stay. A device, a pipe and a file that is
    open already, as ``/dev/stdout``, are written to as they are: there is nothing to rename.

    Args:
        target: the file to be.
        durable: wait for the disk, so that no power cut leaves the name without its content.

    Yields:
        where to write it: in the same folder, with the same suffix, hidden; no one else's.

    Raises:
        OSError: it cannot be written there.
    """
    target = Path(target)
    if _is_stream(target):
        yield target
        return
    place = Path(os.path.realpath(target))
    # Cut, as names have at most 255 bytes.
    unique = f".{target.stem[:32]}.{secrets.token_hex(6)}.part{target.suffix[:16]}"
    partial = place.with_name(unique)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if durable:
            _sync(partial)
        os.replace(partial, place)
        if durable:
            with suppress(OSError):  # not every system opens folders, and the file is there
                _sync(place.parent)
    finally:
        with suppress(OSError):  # it is not there any more, or never was
            partial.unlink()


def _sync(path: Path) -> None:
    """Wait until the disk has what a file holds, or which names a folder has."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_stream(path: Path) -> bool:
    """Whether what is written there goes elsewhere: to a device, a pipe or an open file."""
    if str(path).startswith(DESCRIPTORS):
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
