"""Which photos a source names: folders, lists, Parquet files, here or in an object store.

An entry of the listing is a path or an address (str), or a cell of a Parquet file (`Cell`). The
listing is made photo by photo and sorted folder by folder, so that millions need no memory.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

from faceresnet import images
from faceresnet.apps.batch.rows import require_pyarrow
from faceresnet.errors import DataError, needs, reason
from faceresnet.video.addresses import mask_password

TABLES = frozenset([".parquet", ".parq"])
STDIN = "-"
#: Of a Parquet file, how much of its end, where its statistics stand, makes its fingerprint.
TAIL_BYTES = 1 << 16
#: Of a list on standard input, how much is kept in memory; a longer one waits on the disk.
SPOOL_BYTES = 1 << 24


class Cell(NamedTuple):
    """A row of a Parquet file, from 0."""

    file: str
    row: int


Entry: TypeAlias = str | Cell


def to_json(entry: Entry) -> Any:
    """An entry as JSON knows it."""
    return entry if isinstance(entry, str) else list(entry)


def from_json(value: Any) -> Entry:
    """The inverse of `to_json`."""
    return value if isinstance(value, str) else Cell(*value)


def name(entry: Entry) -> str:
    """What rows call an entry: no password, and a backslash and x for bytes that are no UTF-8."""
    text = mask_password(entry if isinstance(entry, str) else f"{entry.file}#{entry.row}")
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_address(text: str) -> bool:
    """Whether a text has a scheme, such as ``s3://``, ``gs://``, ``file://`` or ``https://``."""
    return "://" in text


def open_store(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        DataError: nothing knows the scheme, or what it needs is not installed (fsspec says which).
        MissingExtraError: fsspec is not installed.
    """
    with needs(f"reading {address}", "batch"):
        import fsspec
    try:
        store, path = fsspec.core.url_to_fs(address)
    except Exception as error:  # every store has errors of its own
        raise DataError(f"cannot open {address}: {reason(error)}") from error
    return store, path


def open_file(path: str) -> BinaryIO:
    """Open a file here or in a store for reading.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        if not is_address(path):
            return open(path, "rb")
        store, inner = open_store(path)
        return cast(BinaryIO, store.open(inner, "rb"))
    except DataError:
        raise
    except Exception as error:  # every store has errors of its own
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


@contextmanager
def spooled_input() -> Iterator[BinaryIO]:
    """Standard input as a file, which can be read more than once.

    Raises:
        DataError: it is closed.
    """
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
        shutil.copyfileobj(_standard_input(), file)
        yield cast(BinaryIO, file)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise DataError("standard input is closed: there is no list to read")
    return sys.stdin.buffer


def list_entries(
    source: str,
    column: str | None = None,
    stdin: BinaryIO | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Entry]:
    """Everything that a source names, in an order that depends on the source only.

    A folder is searched with all folders below it, hidden ones left out; one without photos but
    with Parquet files counts as these. Doubles are kept: a line of a list is a row.

    Args:
        source: folder, list (a path or an address a line), photo, Parquet file, glob of files,
            address of any of these, or ``-`` for a list on standard input.
        column: of the Parquet files.
        stdin: what is on standard input, read from its beginning; None reads that itself.
        left_out: gets the suffixes of what is in a folder and not named as a photo is.

    Raises:
        DataError: there is no such source, it names no photo, or it is broken.
        ValueError: the column has to be named.
    """
    any_found = False
    for entry in _entries(source, column, stdin, Counter() if left_out is None else left_out):
        any_found = True
        yield entry
    if not any_found:
        raise DataError(f"{source} names no photo")


def _entries(
    source: str, column: str | None, stdin: BinaryIO | None, left_out: Counter[str]
) -> Iterator[Entry]:
    if source == STDIN:
        if stdin is not None:
            stdin.seek(0)
        yield from _lines(stdin or _standard_input(), "standard input")
    elif _is_folder(source):
        tables: list[str] = []
        photos = 0
        for path in _walk(source):
            suffix = _suffix(path)
            if suffix in images.SUFFIXES:
                photos += 1
                yield path
            elif suffix in TABLES:
                tables.append(path)
            elif suffix not in images.COMPANIONS:
                left_out[suffix] += 1
        if not photos:
            for table in tables:
                yield from _cells(table, column)
    else:
        files = _matches(source)
        for file in files:
            if _suffix(file) in TABLES:
                yield from _cells(file, column)
            elif len(files) > 1 or _suffix(file) in images.SUFFIXES:
                yield file
            else:
                with open_file(file) as lines:
                    yield from _lines(lines, file)


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _is_folder(source: str) -> bool:
    if not is_address(source):
        return os.path.isdir(source)
    store, path = open_store(source)
    try:
        return bool(store.isdir(path))
    except Exception as error:  # every store has errors of its own
        raise DataError(f"cannot look into {source}: {_reason(error)}") from error


def _matches(source: str) -> list[str]:
    """The source itself, or what matches it as a glob."""
    if not _is_pattern(source):
        return [source]
    if is_address(source):
        store, path = open_store(source)
        found = [store.unstrip_protocol(match) for match in store.glob(path)]
    else:
        found = [path for path in glob.glob(source, recursive=True) if os.path.isfile(path)]
    return sorted(found) or [source]


def _is_pattern(source: str) -> bool:
    """Whether it is a glob, and no file that is called so."""
    if not glob.has_magic(source):
        return False
    if is_address(source):
        store, path = open_store(source)
        return not store.exists(path)
    return not os.path.exists(source)


def _walk(folder: str) -> Iterator[str]:
    """Files in a folder and below, each folder's in the order of their names."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            children = list(_children(current))
        except Exception as error:  # every store has errors of its own
            raise DataError(f"cannot list {current}: {_reason(error)}") from error
        children.sort()
        yield from (path for path, is_folder in children if not is_folder)
        waiting += [path for path, is_folder in reversed(children) if is_folder]


def _children(folder: str) -> Iterator[tuple[str, bool]]:
    """What is in a folder, and whether it is a folder itself."""
    if not is_address(folder):
        with os.scandir(folder) as found:
            for item in found:
                if not item.name.startswith("."):
                    # A link to a folder may lead back up; a link to a photo is a photo.
                    yield os.path.join(folder, item.name), item.is_dir(follow_symlinks=False)
        return
    store, path = open_store(folder)
    for info in store.ls(path, detail=True):
        inner = info["name"].rstrip("/")
        if inner != path.rstrip("/") and not PurePosixPath(inner).name.startswith("."):
            yield store.unstrip_protocol(inner), info["type"] == "directory"


def _lines(file: Iterable[bytes], where: str) -> Iterator[str]:
    """Lines of a list; empty ones are left out."""
    schemes: set[str] = set()
    for number, line in enumerate(file):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in line:
            raise DataError(
                f"{where} is no list of photos: it should hold a path or an address a line "
                "(or be a folder, a photo, or a .parquet file)"
            )
        text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        if not text.strip():
            continue
        scheme = text.partition("://")[0].lower() if is_address(text) else ""
        if scheme not in schemes:
            schemes.add(scheme)
            _require_store(scheme)
        yield text


def _require_store(scheme: str) -> None:
    """Make sure that what reads a scheme is installed, before a million rows say it is not."""
    if scheme in ("", "http", "https"):
        return
    with needs(f"reading {scheme}://", "batch"):
        import fsspec
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise DataError(f"cannot read {scheme}://: {error}") from error
    except ValueError:  # nobody knows it: that line's photo is a row with an error
        return


def _cells(file: str, column: str | None) -> Iterator[Entry]:
    """Rows of a Parquet file: what its cells name, or the cells where they hold photos."""
    require_pyarrow(f"reading {file}")
    import pyarrow.parquet as pq

    with open_file(file) as opened:
        try:
            table = pq.ParquetFile(opened)
            column = find_column(table.schema_arrow, column, file)
            if not _is_text(table.schema_arrow.field(column).type):
                yield from (Cell(file, row) for row in range(table.metadata.num_rows))
                return
            row = 0
            for batch in table.iter_batches(columns=[column], batch_size=8_192):
                for value in batch.column(0).to_pylist():
                    yield value or Cell(file, row)
                    row += 1
        except OSError as error:
            raise DataError(f"{file} is no readable Parquet file: {error}") from error
        except ValueError as error:
            if type(error) is ValueError:  # ours
                raise
            raise DataError(f"{file} is no readable Parquet file: {error}") from error


def find_column(schema: Any, column: str | None, file: str) -> str:
    """The column that holds photos: the one named, or the only one that can.

    Raises:
        ValueError: there is none, or several can be meant.
    """
    fields = [field for field in schema if _holds_photos(field.type)]
    fitting: dict[str, str] = {field.name: str(field.type) for field in fields}
    if column is not None:
        if column not in fitting:
            known = ", ".join(fitting) or "none"
            raise ValueError(f"{file} has no column '{column}' of texts or bytes, only: {known}")
        return column
    if len(fitting) == 1:
        return next(iter(fitting))
    known = ", ".join(f"{name} ({kind})" for name, kind in fitting.items())
    if not fitting:
        raise ValueError(f"{file} has no column of paths, addresses or bytes")
    raise ValueError(f"{file} has several columns that may hold photos: name one of {known}")


def _holds_photos(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):  # Hugging Face's images: a struct of bytes and path
        names = [kind.field(number).name for number in range(kind.num_fields)]
        return "bytes" in names
    return _is_text(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def fingerprint(source: str, stdin: BinaryIO | None = None) -> str:
    """What tells whether a file that lists photos is still the same; empty for the others.

    A list counts with all its bytes, a Parquet file with its size and its end.

    Args:
        source: as `list_entries`.
        stdin: what is on standard input.
    """
    if source == STDIN and stdin is not None:
        stdin.seek(0)
        return _sha256(stdin)
    if source == STDIN or _is_pattern(source) or _is_folder(source):
        return ""
    suffix = _suffix(source)
    if suffix in images.SUFFIXES:
        return ""
    with open_file(source) as file:
        if suffix not in TABLES:
            return _sha256(file)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return f"{size}:{hashlib.sha256(file.read()).hexdigest()}"


def _sha256(file: BinaryIO) -> str:
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return reason(error)
