"""What several commands print: a progress bar, tables, and numbers with their nouns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")


def progress(title: str, total: int) -> Callable[[Iterable[T]], Iterable[T]]:
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
