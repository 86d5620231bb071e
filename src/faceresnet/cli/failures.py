"""How a command ends that could not do a part of its work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from faceresnet.errors import one_line


def end_with(failures: Sequence[Exception], total: int, undone: str) -> None:
    """List what failed on standard error and end with status 1; nothing where nothing failed.

    Args:
        failures: one for each file.
        total: files that were to be done.
        undone: what the files are not: ``not read``.
    """
    for failure in failures:
        print(f"faceresnet: {one_line(str(failure))}", file=sys.stderr)
    if failures:
        print(f"faceresnet: {len(failures)} of {total} {undone}", file=sys.stderr)
        raise typer.Exit(1)
