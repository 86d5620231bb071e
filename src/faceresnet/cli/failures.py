"""What commands print of failures, and how they end then; how they print names that are no text."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence

import typer

from faceresnet.errors import MissingExtraError, one_line

#: Bytes of a file name that are not valid text are printed as ``\udcff``, which is JSON's way, too.
UNENCODABLE = "backslashreplace"


def take_every_name() -> None:
    """Let standard output take file names that are no text, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=UNENCODABLE)


def require(what: str, extra: str, *modules: str) -> None:
    """Refuse to go on without the packages of an extra, before anything is done.

    Args:
        what: needs them.
        extra: that brings them.
        modules: to be found.

    Raises:
        MissingExtraError: one is not.
    """
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise MissingExtraError(what, extra)


def said(message: str) -> str:
    """A message in one line, without the secrets of the addresses in it."""
    from faceresnet.video.addresses import mask

    return mask(one_line(message))


def end_with(failures: Sequence[Exception], total: int, undone: str) -> None:
    """List what failed on standard error and end with status 1; nothing where nothing failed.

    Args:
        failures: one for each file.
        total: files that were to be done.
        undone: what the files are not: ``not read``.
    """
    for failure in failures:
        print(f"faceresnet: {said(str(failure))}", file=sys.stderr)
    if failures:
        print(f"faceresnet: {len(failures)} of {total} {undone}", file=sys.stderr)
        raise typer.Exit(1)
