"""Getting the bytes of a photo from wherever an entry says it is."""

from __future__ import annotations

import http.client
import os
import stat
import threading
import time
import urllib.error
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Any

from faceresnet import download
from faceresnet.apps.batch.listing import (
    Cell,
    Entry,
    find_column,
    is_address,
    open_file,
    open_store,
)
from faceresnet.errors import DataError, ImageError, reason

#: Local files up to here are read ahead; larger ones are left to the decoder, which needs less.
AHEAD_BYTES = 32_000_000
#: Largest photo taken from an address.
REMOTE_BYTES = 200_000_000
#: How often something far away is asked for, and the pause before each further time.
PAUSES_S = (0.0, 0.5, 2.0)
TIMEOUT_S = 30.0
#: Rows of a Parquet file held in memory at a time.
ROWS = 16


class Reader:
    """Reads entries; may be called from several threads.

    Args:
        folder: that relative paths start from.
        column: of the Parquet files.
    """

    def __init__(self, folder: str, column: str | None) -> None:
        self._folder = folder
        self._column = column
        self._cells: _Cells | None = None
        self._lock = threading.Lock()

    def __call__(self, entry: Entry | bytes) -> bytes | Path:
        """Encoded photo, or the path of a large local one; bytes are returned as they are.

        Raises:
            ImageError: it cannot be had.
        """
        if isinstance(entry, Cell):
            entry = self.value(entry)
        if isinstance(entry, bytes):
            return entry
        if not is_address(entry):
            return self._local(os.path.join(self._folder, entry))
        if entry.lower().startswith("file://"):
            return self._local(open_store(entry)[1])
        return _remote(entry)

    def value(self, cell: Cell) -> bytes | str:
        """What a cell holds: a photo, or where one is. Cheap only in the order of the rows.

        Raises:
            ImageError: it holds nothing, or cannot be read.
        """
        with self._lock:
            value = self._cell(cell)
        if not value:
            raise ImageError("the cell is empty")
        return value

    def _local(self, path: str) -> bytes | Path:
        try:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):  # a pipe or a device may never end
                raise ImageError("it is no file")
            if facts.st_size > AHEAD_BYTES:
                return Path(path)
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError as error:
            raise ImageError("there is no such file") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot read the file: {reason(error)}") from error

    def _cell(self, cell: Cell) -> bytes | str | None:
        if self._cells is None or not self._cells.is_ahead(cell):
            self._forget()
            file = cell.file if is_address(cell.file) else os.path.join(self._folder, cell.file)
            self._cells = _Cells(cell, file, self._column)
        try:
            return self._cells.take(cell.row)
        except (OSError, ValueError, StopIteration, DataError) as error:
            self._forget()
            raise ImageError(
                f"cannot read the cell: {str(error) or 'there is no such row'}"
            ) from error

    def _forget(self) -> None:
        if self._cells is not None:
            self._cells.close()
        self._cells = None

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._forget()


class _Cells:
    """Cells of a column from one row on, in their order; what lies between is passed over."""

    def __init__(self, first: Cell, path: str, column: str | None) -> None:
        self._file = first.file
        self._path = path
        self._column = column
        self._next = first.row
        self._values: Generator[Any, None, None] | None = None

    def is_ahead(self, cell: Cell) -> bool:
        return cell.file == self._file and cell.row >= self._next

    def take(self, row: int) -> bytes | str | None:
        if self._values is None:
            self._values = self._read(row)
            self._next = row
        value = next(islice(self._values, row - self._next, None))
        self._next = row + 1
        found: bytes | str | None = value
        if isinstance(value, dict):
            found = value.get("bytes") or value.get("path")
        return found

    def close(self) -> None:
        """Close the file."""
        if self._values is not None:
            self._values.close()

    def _read(self, row: int) -> Generator[Any, None, None]:
        import pyarrow.parquet as pq

        with open_file(self._path) as file:
            table = pq.ParquetFile(file)
            column = find_column(table.schema_arrow, self._column, self._path)
            groups = list(range(table.metadata.num_row_groups))
            while groups and row >= (rows := table.metadata.row_group(groups[0]).num_rows):
                row -= rows
                del groups[0]
            batches = table.iter_batches(batch_size=ROWS, row_groups=groups, columns=[column])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            yield from islice(values, row, None)


def _remote(address: str) -> bytes:
    """Content of an address; what may pass is tried again.

    Raises:
        ImageError: it cannot be had, or is larger than `REMOTE_BYTES`.
    """
    for number, pause_s in enumerate(PAUSES_S, start=1):
        time.sleep(pause_s)
        try:
            content = _download(address)
            break
        except Exception as error:  # every store has errors of its own
            if number == len(PAUSES_S) or _is_final(error):
                why = getattr(error, "reason", None) or reason(error)
                raise ImageError(f"cannot download it: {why}") from error
    if len(content) > REMOTE_BYTES:
        raise ImageError(f"it is larger than the limit of {REMOTE_BYTES / 1e6:.0f} MB")
    return content


def _download(address: str) -> bytes:
    if address.lower().startswith(("http://", "https://")):
        return download.read(address, REMOTE_BYTES, TIMEOUT_S)
    store, path = open_store(address)
    return bytes(store.cat_file(path, start=0, end=REMOTE_BYTES + 1))


def _is_final(error: Exception) -> bool:
    """Whether asking again cannot help."""
    if isinstance(error, urllib.error.HTTPError):
        with error:
            return error.code < 500 and error.code not in (408, 429)
    final = FileNotFoundError | PermissionError | IsADirectoryError | ValueError | DataError
    return isinstance(error, final) or not isinstance(error, OSError | http.client.HTTPException)
