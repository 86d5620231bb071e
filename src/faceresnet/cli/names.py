"""File names that are no text: what becomes of them in what is printed and written."""

from __future__ import annotations

import io
import sys

#: What becomes of the bytes of a file name that are no text: ``\udcff``, as JSON writes it too.
UNENCODABLE = "backslashreplace"


def take_every_name() -> None:
    """Let standard output take file names that are no text, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=UNENCODABLE)
