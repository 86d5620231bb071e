"""What a worker and its supervisor say to each other: pickles, which tell where they end."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import IO, Any

from faceresnet.apps.batch.listing import Entry


@dataclass(frozen=True)
class Task:
    """To a worker: look at these, and answer with a `rows.Looked` for each, in order.

    Attributes:
        entries: what to look at.
        careful: one at a time, and nothing read ahead, so that a death tells whose fault it was.
    """

    entries: tuple[Entry, ...]
    careful: bool = False


@dataclass(frozen=True)
class Ready:
    """From a worker: the model is loaded."""


@dataclass(frozen=True)
class Failed:
    """From a worker, its last word: what went wrong and is no photo's own fault."""

    reason: str


def send(pipe: IO[bytes], message: object) -> None:
    """Write a message.

    Raises:
        OSError: nobody reads it.
    """
    pickle.dump(message, pipe)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read a message.

    Raises:
        EOFError: nobody writes any more; perhaps the message broke off.
    """
    try:
        return pickle.load(pipe)
    except pickle.UnpicklingError as error:
        raise EOFError from error
