"""What the commands say about how far they are: the one progress bar, and numbers of things."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(title: str, total: int) -> Callable[[Iterable[T]], Iterable[T]]:
    """A bar on standard error around an iterator; nothing where it is no terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return lambda items: track(
        items, title, total, console=console, transient=True, disable=not console.is_terminal
    )


def count(number: int, thing: str) -> str:
    """So many things: 1 face, 2 faces."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
