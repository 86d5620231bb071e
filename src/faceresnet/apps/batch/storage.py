"""Where a batch puts its files: a folder here, or one in an object store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from faceresnet.apps.batch.listing import is_address, open_store
from faceresnet.atomic import replacing
from faceresnet.errors import DataError, while_writing

LOCK = ".lock"


def open_storage(folder: str | os.PathLike[str]) -> Storage:
    """The storage of a path or an address.

    Raises:
        DataError: there is a file of that name, or the store cannot be opened.
        MissingExtraError: fsspec is not installed.
    """
    place = os.fspath(folder)
    if not is_address(place):
        return _Local(Path(place))
    store, path = open_store(place)
    if place.lower().startswith("file://"):
        return _Local(Path(path))
    return _Remote(store, path.rstrip("/"))


class _Local:
    """A folder whose files appear whole."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file: the results need a folder")
        self._folder = folder

    def sizes(self) -> dict[str, int]:
        """Sizes of the files in it, bytes, by their names; none where it does not exist."""
        if not self._folder.is_dir():
            return {}
        with os.scandir(self._folder) as found:
            return {item.name: item.stat().st_size for item in found if item.is_file()}

    def read(self, name: str) -> BinaryIO:
        """Open a file."""
        return (self._folder / name).open("rb")

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to; it appears when it is complete."""
        place = self._folder / name
        with (
            while_writing(place),
            replacing(place, durable=True) as partial,
            partial.open("wb") as file,
        ):
            yield file

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        (self._folder / name).unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others out while a context lasts, where that can be done."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        with while_writing(f"into {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / LOCK).open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"another job is writing into {self._folder}") from error
            for pattern in (".part-*.part.*", "._*.part.*"):  # left by a job that was killed
                for left in self._folder.glob(pattern):
                    with suppress(OSError):
                        left.unlink()
            yield


class _Remote:
    """The same in an object store, which puts an object in its place in one go."""

    def __init__(self, store: Any, path: str) -> None:
        self._store = store
        self._path = path

    def sizes(self) -> dict[str, int]:
        try:
            found = self._store.ls(self._path, detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # every store has errors of its own
            raise DataError(f"cannot list {self._path}: {error}") from error
        names = (info["name"].rstrip("/").rpartition("/")[2] for info in found)
        return {name: info.get("size") or 0 for name, info in zip(names, found, strict=True)}

    def read(self, name: str) -> BinaryIO:
        return self._store.open(f"{self._path}/{name}", "rb")

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryDirectory(prefix="faceresnet-") as folder:
            path = Path(folder) / "file"
            with path.open("wb") as file:
                yield file
            try:
                self._store.makedirs(self._path, exist_ok=True)
                self._store.put_file(str(path), f"{self._path}/{name}")
            except Exception as error:  # every store has errors of its own
                raise DataError(f"cannot write {self._path}/{name}: {error}") from error

    def remove(self, name: str) -> None:
        self._store.rm_file(f"{self._path}/{name}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield


Storage: TypeAlias = _Local | _Remote
