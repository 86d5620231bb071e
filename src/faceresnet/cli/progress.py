"""What several commands print: progress, tables, numbers with nouns, what is left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from faceresnet.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")


def progress(title: str, total: int | None) -> Callable[[Iterable[T]], Iterable[T]]:
    """A bar on standard error around an iterator; nothing where it is no terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return lambda items: track(
        items, title, total, console=console, transient=True, disable=not console.is_terminal
    )


def table(*figures: str, of: str | None = None) -> Table:
    """A table without lines: a first column of names, if `of` gives its title, then of figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    if of is not None:
        table.add_column(of, overflow="fold")
    for column in figures:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def count(number: int, thing: str) -> str:
    """So many things: 1 face, 2 faces."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def tell_left_out(suffixes: Mapping[str, int]) -> None:
    """Say how many files in folders are left out because they are not named as photos are."""
    if suffixes:
        kinds = ", ".join(
            f"{printable(suffix) or 'without suffix'} {number:,}"
            for suffix, number in sorted(suffixes.items())
        )
        files = count(sum(suffixes.values()), "file")
        print(f"faceresnet: {files} left out, not named as photos are: {kinds}", file=sys.stderr)
