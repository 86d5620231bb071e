"""What can go wrong in the world; wrong arguments raise ``ValueError``.

FaceResNetError          what happened, what was expected, what to do
├── ImageError           a photo cannot be read
├── VideoError           a video or camera cannot be read, or a video not written
├── ModelError           a model is unknown, broken or was made for something else
├── EngineError          an inference engine is missing or cannot use the device asked for
├── DataError            a data set or result file breaks its format (names file and line)
├── DownloadError        a download failed or its checksum is wrong
├── TrainingError        a run cannot start, go on or be exported
└── MissingExtraError    a command needs an extra that is not installed
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FaceResNetError(Exception):
    """The root of every error this package raises for the state of the world."""


class ImageError(FaceResNetError):
    """A photo cannot be read."""


class VideoError(FaceResNetError):
    """A video or camera cannot be read, or a video cannot be written."""


class ModelError(FaceResNetError):
    """A model is unknown, broken or was made for something else."""


class EngineError(FaceResNetError):
    """An inference engine is missing or cannot use the device asked for."""


class DataError(FaceResNetError):
    """A data set or result file breaks its format."""


class DownloadError(FaceResNetError):
    """A download failed or its checksum is wrong."""


class TrainingError(FaceResNetError):
    """A training run cannot start, go on or be exported."""


class MissingExtraError(FaceResNetError):
    """A command needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """How to install the packages of an extra, for the end of a message."""
    return f"in the checkout, pip install -c constraints.txt '.[{extra}]'"


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Say which extra is missing where an import fails.

    Args:
        what: needs it, as the message begins.
        extra: that holds the package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(what, extra) from error


def printable(text: str) -> str:
    """A name without line breaks and other control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """A message as one line of printable characters, whatever names are in it."""
    return printable(" ".join(text.split()))


def reason(error: BaseException) -> str:
    """What an error of the system or of a library says, for the end of a message; never empty."""
    name = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
    return getattr(error, "strerror", None) or str(error) or name


def last_line(error: BaseException) -> str:
    """The last line of an error that says something: engines put the cause below their stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def while_writing(target: object, kind: type[FaceResNetError] = DataError) -> Iterator[None]:
    """Say in errors of the system what cannot be written.

    Args:
        target: how the message names it.
        kind: the error to raise instead.

    Raises:
        FaceResNetError: of that kind; it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"cannot write {target}: {reason(error)}") from error
