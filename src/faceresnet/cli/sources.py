"""Which photos the arguments of a command name, and what they are called in its results."""

from __future__ import annotations

import glob
import http.client
import os
import sys
import urllib.error
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from faceresnet import download, images
from faceresnet.cli.options import VIDEO_SUFFIXES
from faceresnet.cli.progress import tell_left_out
from faceresnet.errors import DataError, ImageError, reason
from faceresnet.video.addresses import mask_password

#: Suffixes kept for pictures with boxes; other formats become .png.
KEPT_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp"])
STDIN = "-"
#: Largest download, and longest silence of a server.
URL_BYTES = 100_000_000
URL_TIMEOUT_S = 20.0
#: Characters of the name in an address that a result is called by.
LONGEST_NAME = 60


@dataclass(frozen=True)
class Source:
    """One photo to look at.

    Attributes:
        name: what results call it: path, address without its password, or ``stdin``.
        target: where its results go below an output folder, without suffix; unique in one run.
        path: of its file, None for standard input and addresses.
        address: what was given, with its password where it is an address.
        renamed: whether `target` has a number because another photo's had its name.
    """

    name: str
    target: PurePath
    path: Path | None = None
    address: str = ""
    renamed: bool = False

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return self.path is None and self.name == "stdin"

    @property
    def picture(self) -> PurePath:
        """`target` with the suffix of a picture."""
        suffix = PurePath(self.name).suffix if self.path else ""
        suffix = suffix if suffix.lower() in KEPT_SUFFIXES else ".png"
        return self.target.with_name(self.target.name + suffix)

    def read(self, max_pixels: int | None) -> images.Image:
        """Read the photo.

        Raises:
            ImageError: it cannot be read.
        """
        if self.path is not None:
            try:
                return images.read(self.path, max_pixels=max_pixels)
            except ImageError as error:
                if self.path.suffix.lower() not in VIDEO_SUFFIXES or not self.path.is_file():
                    raise
                raise ImageError(f"{self.path} is a video: see 'faceresnet video'") from error
        content = _read_stdin() if self.is_stdin else _download(self.address)
        try:
            return images.read(content, max_pixels=max_pixels)
        except ImageError as error:
            raise ImageError(f"{self.name}: {error}") from error


def expand(arguments: Sequence[str], *, recursive: bool = False) -> list[Source]:
    """Photos that the arguments name, each once, in the arguments' order; says what is left out.

    Args:
        arguments: files, folders, globs, http(s) addresses, ``-`` for standard input.
        recursive: search folders of folders.

    Raises:
        ValueError: a folder or a glob holds no photo.
        DataError: a folder cannot be listed.
    """
    sources: list[Source] = []
    seen: set[str] = set()
    taken: set[str] = set()
    left_out: set[Path] = set()
    for name, target, path in _named(arguments, recursive, left_out):
        identity = os.path.realpath(path) if path else name
        if identity not in seen:
            seen.add(identity)
            shown = name if path else mask_password(name)
            place = unique(target, taken)
            sources.append(Source(shown, place, path, name, renamed=place != target))
    tell_left_out(Counter(path.suffix.lower() for path in left_out))
    return sources


def _named(
    arguments: Sequence[str], recursive: bool, left_out: set[Path]
) -> Iterator[tuple[str, PurePath, Path | None]]:
    """Name, target and path of every photo, doubles included; the other files of folders."""
    for argument in arguments:
        path = Path(argument)
        if argument == STDIN:
            yield "stdin", PurePath("stdin"), None
        elif argument.lower().startswith(("http://", "https://")):
            yield argument, _named_in(argument), None
        elif os.path.isdir(path):
            yield from _in_folder(path, recursive, left_out)
        elif not os.path.exists(path) and glob.has_magic(argument):
            found = sorted(Path(match) for match in glob.glob(argument, recursive=True))
            found = [match for match in found if match.is_file() and _is_photo(match)]
            if not found:
                raise ValueError(f"no photo matches {argument}")
            for match in found:
                yield str(match), PurePath(match.stem), match
        else:
            yield argument, PurePath(path.stem), path


def _named_in(address: str) -> PurePath:
    """What the photo at an address is called, as a file can be called."""
    try:
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    except ValueError:  # no address, which its download will say
        path = ""
    stem = PurePath(path.replace("\0", "")).stem
    return PurePath(stem[:LONGEST_NAME] or "photo")


def files_in(folder: Path, *, recursive: bool) -> list[Path]:
    """Files in a folder, and if asked for in the folders below it, sorted; none that is hidden.

    Raises:
        DataError: one of the folders cannot be listed: what it holds would be missing unseen.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # it has gone meanwhile
            return
        raise DataError(f"cannot list {error.filename}: {reason(error)}") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        found += [Path(place, name) for name in names if not name.startswith(".")]
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _in_folder(
    folder: Path, recursive: bool, left_out: set[Path]
) -> Iterator[tuple[str, PurePath, Path | None]]:
    files = files_in(folder, recursive=recursive)
    found = [path for path in files if _is_photo(path)]
    known = images.SUFFIXES | images.COMPANIONS
    left_out.update(path for path in files if path.suffix.lower() not in known)
    if not found:
        hint = "" if recursive else " (--recursive looks into its folders)"
        raise ValueError(
            f"there is no photo (.jpg, .png, … as Pillow reads) in the folder {folder}{hint}"
        )
    for path in found:
        yield str(path), path.relative_to(folder).with_suffix(""), path


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")


def unique(target: PurePath, taken: set[str], suffix: str = "") -> PurePath:
    """`target`, or with -2, -3, … before its suffix if another photo has it, whatever the case."""
    stem, candidate, number = target.name.removesuffix(suffix), target, 1
    while str(candidate).lower() in taken:
        number += 1
        candidate = target.with_name(f"{stem}-{number}{suffix}")
    taken.add(str(candidate).lower())
    return candidate


def _read_stdin() -> bytes:
    """Content of standard input.

    Raises:
        ImageError: it is closed.
    """
    if sys.stdin is None:
        raise ImageError("standard input is closed: there is no photo to read")
    return sys.stdin.buffer.read()


def _download(url: str) -> bytes:
    """Content of an address.

    Raises:
        ImageError: it cannot be had, or is larger than `URL_BYTES`.
    """
    try:
        content = download.read(url, URL_BYTES, URL_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            raise ImageError(f"cannot download {url}: HTTP {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"cannot download {url}: {getattr(error, 'reason', error)}") from error
    if len(content) > URL_BYTES:
        raise ImageError(f"{url} is larger than the limit of {URL_BYTES / 1e6:.0f} MB")
    return content


def read_ahead(
    sources: Iterable[Source], max_pixels: int | None
) -> Iterator[tuple[Source, images.Image | ImageError]]:
    """Every photo, or why it cannot be read; the next is being read meanwhile.

    Standard input is read by the caller's thread: another would wait for it beyond Ctrl-C.
    """

    def finish(waiting: tuple[Source, Callable[[], images.Image]]) -> images.Image | ImageError:
        try:
            return waiting[1]()
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: deque[tuple[Source, Callable[[], images.Image]]] = deque()
        for source in sources:
            read = partial(source.read, max_pixels)
            waiting.append((source, read if source.is_stdin else reader.submit(read).result))
            if len(waiting) > 1:
                yield waiting[0][0], finish(waiting.popleft())
        for last in waiting:
            yield last[0], finish(last)
