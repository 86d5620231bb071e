"""The rows of a batch and the two layouts of a part.

A row is a photo:

    source  text             its path, address, or ``file.parquet#row``
    width   int32 or null    px, upright
    height  int32 or null    px, upright
    faces   list of {x1, y1, x2, y2, score}, float32: px to 0.01, best first; scores to 0.0001
    error   text or null     why it could not be looked at; then width and height are null
    model   text             name and the first 12 digits of its file's SHA-256

A part holds the rows of one shard in the order of the listing, as Parquet or as a JSON object a
line.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faceresnet.errors import DataError, needs

if TYPE_CHECKING:
    import pyarrow as pa

FACE = ("x1", "y1", "x2", "y2", "score")
#: Longest text of an error in a row.
ERROR_LENGTH = 500


@dataclass(frozen=True)
class Looked:
    """What was found in one photo; its source stands elsewhere.

    Attributes:
        width: px, None if it could not be read.
        height: px, None if it could not be read.
        faces: ``x1 y1 x2 y2 score`` each, rounded.
        error: why it could not be read.
    """

    width: int | None
    height: int | None
    faces: tuple[tuple[float, ...], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Counts:
    """How much is in a part, or in several."""

    photos: int = 0
    faces: int = 0
    errors: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.photos + other.photos, self.faces + other.faces, self.errors + other.errors
        )


def failed(reason: object) -> Looked:
    """The row of a photo that could not be looked at, with the reason in one line."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return Looked(None, None, error=text.encode("utf-8", "replace").decode()[:ERROR_LENGTH])


def count(looked: Sequence[Looked]) -> Counts:
    """Count rows."""
    return Counts(
        len(looked),
        sum(len(row.faces) for row in looked),
        sum(row.error is not None for row in looked),
    )


def encode(sources: Sequence[str], looked: Sequence[Looked], model: str, format: str) -> bytes:
    """Content of a part.

    Raises:
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    rows = [
        {
            "source": source,
            "width": row.width,
            "height": row.height,
            "faces": [dict(zip(FACE, face, strict=True)) for face in row.faces],
            "error": row.error,
            "model": model,
        }
        for source, row in zip(sources, looked, strict=True)
    ]
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    pa, parquet = _pyarrow()
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema()), out)
    return out.getvalue()


def decode(content: bytes, format: str) -> Iterator[dict[str, Any]]:
    """Rows of a part, as dictionaries.

    Raises:
        DataError: it is broken.
    """
    try:
        if format == "jsonl":
            *lines, rest = content.split(b"\n")  # other line breaks are text
            if rest:
                raise DataError("a part is broken: its last line has no end")
            yield from map(json.loads, lines)
            return
        arrow, parquet = _pyarrow()
        try:
            for batch in parquet.ParquetFile(io.BytesIO(content)).iter_batches():
                yield from batch.to_pylist()
        except arrow.ArrowException as error:
            raise DataError(f"a part is broken: {error}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"a part is broken: {error}") from error


def count_part(content: bytes, format: str) -> Counts:
    """Count the rows of a part.

    Raises:
        DataError: it is broken.
    """
    total = Counts()
    for row in decode(content, format):
        if not isinstance(row, dict) or not {"faces", "error"} <= row.keys():
            raise DataError("a part has rows of another kind")
        total += Counts(1, len(row["faces"]), int(row["error"] is not None))
    return total


def schema() -> pa.Schema:
    """The columns of a Parquet part."""
    pa, _ = _pyarrow()
    face = pa.struct([(name, pa.float32()) for name in FACE])
    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            ("width", pa.int32()),
            ("height", pa.int32()),
            pa.field("faces", pa.list_(face), nullable=False),
            ("error", pa.string()),
            pa.field("model", pa.string(), nullable=False),
        ]
    )


def require_pyarrow(what: str) -> None:
    """Make sure that Parquet can be read and written.

    Raises:
        MissingExtraError: it cannot; `what` needs it.
    """
    with needs(what, "batch"):
        import pyarrow.parquet  # noqa: F401


def _pyarrow() -> tuple[Any, Any]:
    require_pyarrow("Parquet")
    import pyarrow
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet
