"""Scans of a JPEG: counted as a decoder finds them, whatever stands between and after them."""

import pytest

from conftest import blob_image
from faceresnet.apps.serve import photos
from faceresnet.apps.serve.refusals import Refusal

from .conftest import encode

SCAN = b"\xff\xda"
#: What looks like more scans than any photo has.
MANY = 200 * SCAN
PIXELS = 32 * 40


def segment(kind, content):
    return b"\xff" + kind + (len(content) + 2).to_bytes(2, "big") + content


COMMENT = segment(b"\xfe", b"")


@pytest.fixture
def jpeg():
    return encode(blob_image((32, 40)), "JPEG", progressive=True)


def measure(content):
    return photos.measure(content, 1_000_000)


def test_a_film_after_the_photo(jpeg):
    """Phones write "motion photos"; of random bytes, a pair in 65,536 looks like a scan."""
    assert jpeg.endswith(b"\xff\xd9")
    content = jpeg + b"\x00\x00\x00\x18ftypmp42" + MANY
    assert measure(content) == PIXELS
    assert photos.read(content, 1_000_000).shape == (32, 40, 3)


def test_a_preview_in_the_metadata(jpeg):
    content = jpeg[:2] + segment(b"\xe1", MANY + b"\xff\xd9") + jpeg[2:]
    assert measure(content) == PIXELS


@pytest.mark.parametrize(
    "between",
    [
        b"",
        b"\x00",
        b"\xff\xff",
        b"\xff\x00",
        b"\xff\xd0",
        b"\xff\x01",
        b"\xff\x02\xff\xff",
        b"\xff\xd8",
        COMMENT,
        b"\xff\xfe\x00\x00",
        b"\xff\xfe\x00\x01",
    ],
)
def test_scans_are_found_behind_what_decoders_skip(jpeg, between):
    scan = jpeg[jpeg.rindex(SCAN) : -2]
    with pytest.raises(Refusal, match="scans"):
        measure(jpeg[:-2] + 120 * (between + scan) + jpeg[-2:])


@pytest.mark.parametrize("hides", [b"\xff\xfe\xff\xff", b"\xff\xda\xff\xff", 10_000 * COMMENT])
def test_scans_count_where_lengths_lie(jpeg, hides):
    """Of a segment longer than the file, and of more segments than are told apart."""
    with pytest.raises(Refusal, match="scans"):
        measure(jpeg[:-2] + hides + MANY + jpeg[-2:])


def test_a_photo_without_an_end(jpeg):
    assert measure(jpeg[:-2]) == PIXELS
    assert measure(jpeg[:-2] + b"\xff") == PIXELS
    assert measure(jpeg + b"\xff") == PIXELS
