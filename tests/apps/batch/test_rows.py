import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceresnet.apps.batch.rows import (
    Counts,
    Looked,
    count,
    count_part,
    decode,
    encode,
    failed,
)
from faceresnet.errors import DataError

FACES = ((1.25, 2.5, 30.0, 40.75, 0.9375), (0.0, 0.0, 5.5, 5.5, 0.5))
LOOKED = [Looked(200, 96, FACES), failed("no\nphoto"), Looked(10, 20)]
SOURCES = ["a.jpg", "b \u2028\x85 é.jpg", "c#1"]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_rows_come_back(format):
    rows = list(decode(encode(SOURCES, LOOKED, "model@1", format), format))
    assert rows == [
        {
            "source": "a.jpg",
            "width": 200,
            "height": 96,
            "faces": [dict(zip(("x1", "y1", "x2", "y2", "score"), f, strict=True)) for f in FACES],
            "error": None,
            "model": "model@1",
        },
        {
            "source": SOURCES[1],
            "width": None,
            "height": None,
            "faces": [],
            "error": "no photo",
            "model": "model@1",
        },
        {
            "source": "c#1",
            "width": 10,
            "height": 20,
            "faces": [],
            "error": None,
            "model": "model@1",
        },
    ]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_counts(format):
    expected = Counts(photos=3, faces=2, errors=1)
    assert count(LOOKED) == expected
    content = encode(SOURCES, LOOKED, "model@1", format)
    assert count_part(content, format) == expected
    assert Counts(1, 2, 3) + expected == Counts(4, 4, 4)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_part_that_is_cut_off_is_broken(format):
    content = encode(SOURCES, LOOKED, "model@1", format)
    with pytest.raises(DataError, match="broken"):
        count_part(content[:-10] + b"\n", format)
    with pytest.raises(DataError, match="another kind"):
        count_part(b'{"a": 1}\n', "jsonl")
    for cut in (1, 10):
        with pytest.raises(DataError, match="broken"):
            list(decode(content[:-cut], format))


@given(st.text(st.characters()))
def test_any_reason_is_one_line_that_can_be_written(reason):
    row = failed(reason)
    assert row.error
    assert len(row.error) <= 500
    assert len(list(decode(encode(["a"], [row], "m", "parquet"), "parquet"))) == 1
    assert len(encode(["a"], [row], "m", "jsonl").splitlines()) == 1
