"""How file names that are not valid text are printed and written."""

from __future__ import annotations

import io
import sys

#: Bytes of a name that are not valid text are printed as ``\udcff``, which is JSON's way, too.
UNENCODABLE = "backslashreplace"


def take_every_name() -> None:
    """Let standard output take file names that are no text, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=UNENCODABLE)
