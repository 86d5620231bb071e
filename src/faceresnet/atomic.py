"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file beside its place, then rename it.

        with replacing("out.json") as partial:
            partial.write_text(text)

    Folders that are missing are made. After an error nothing is left behind, and what was at the
    target before is there still.

    Args:
        target: the file to be.

    Yields:
        where to write it: in the same folder, with the same suffix, hidden.

    Raises:
        OSError: it cannot be written there.
    """
    target = Path(target)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, target)
    finally:
        with suppress(OSError):  # it is not there any more, or never was
            partial.unlink()
