"""What a worker and its supervisor say to each other: pickles with their length before them."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import IO, Any

from faceresnet.apps.batch.listing import Entry

_LENGTH = struct.Struct("<Q")


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
    content = pickle.dumps(message)
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read a message.

    Raises:
        EOFError: nobody writes any more.
    """
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    content = pipe.read(_LENGTH.unpack(header)[0])
    try:
        return pickle.loads(content)
    except (pickle.UnpicklingError, EOFError) as error:
        raise EOFError from error
