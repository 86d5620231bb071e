"""Five hundred malformed uploads: each is refused (4xx), none crashes, hangs or stays in memory."""

import gc
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import blob_image
from faceresnet.apps.serve.settings import Settings

from .conftest import encode, running, wait_for

COUNT = 500
KINDS = ("JPEG", "PNG", "WEBP", "GIF")
#: Sides of a photo that a bomb claims, px.
CLAIMED = 60_000


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png_bomb(width, height, packed):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def bombs():
    """Files of a few kB that claim, or unpack to, gigabytes."""
    zeros = zlib.compress(bytes(10_000_000), 9)
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(50_000_000), 9))
    small = encode(blob_image((32, 32)), "PNG")
    gif = bytearray(encode(blob_image((32, 32)), "GIF"))
    gif[6:10] = struct.pack("<HH", CLAIMED, CLAIMED)
    jpeg = bytearray(encode(blob_image((32, 32)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", CLAIMED, CLAIMED)
    bmp = bytearray(encode(blob_image((32, 32)), "BMP"))
    bmp[18:26] = struct.pack("<ii", CLAIMED, CLAIMED)
    return [
        png_bomb(CLAIMED, CLAIMED, zeros),
        png_bomb(2**31 - 1, 2**31 - 1, zeros),
        png_bomb(900, 900, zlib.compress(bytes(1000))),
        small[:33] + text + text + small[33:60],
        bytes(gif),
        bytes(jpeg),
        bytes(bmp),
        zeros,
    ]


def wrong_types(random):
    texts = [
        *(b"hello", b"<html></html>", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF90a"),
        *(b"RIFF\x00\x00\x00\x00WAVE", b"MZ", b"\x7fELF", b"PK\x03\x04", b"P6 9 9 255\n"),
        *(b"\x00\x00\x00\x18ftypmp42", b"\x00\x00\x00\x18ftypheic", b"\xd7\xcd\xc6\x9a"),
        *(b"\xff\xd8", b"BM", b"II*\x00"),
    ]
    return random.choice(np.array(texts, dtype=object)) + random.bytes(int(random.integers(200)))


def is_readable(content):
    """Whether Pillow reads a file without objection, as some damage leaves it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:
        return False
    return True


def damaged(random, photos):
    """A photo cut off, with a hole, or with bytes changed, that cannot be read any more."""
    while True:
        content = bytearray(photos[KINDS[random.integers(len(KINDS))]])
        match random.integers(4):
            case 0:
                del content[random.integers(12, len(content) // 2) :]
            case 1:
                start = random.integers(12, len(content) // 2)
                del content[start : start + random.integers(1, len(content) // 2)]
            case 2:
                for place in random.integers(0, len(content), 60):
                    content[place] = random.integers(256)
            case _:
                place = random.integers(4, 60)
                content[place : place + 8] = random.bytes(8)
        if not is_readable(bytes(content)):
            return bytes(content)


@pytest.fixture(scope="module")
def uploads():
    random = np.random.default_rng(2018)
    image = np.asarray(random.integers(0, 256, (48, 64, 3)), np.uint8)
    photos = {kind: encode(image, kind) for kind in KINDS}
    found = bombs()
    while len(found) < COUNT:
        found.append(wrong_types(random) if len(found) % 5 == 0 else damaged(random, photos))
    return found


def memory_bytes():
    """Resident size of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("the memory of a process is read from /proc here")
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_malformed_uploads(uploads, fake):
    """Sent as the body and in forms in turn; good photos between them are answered."""
    settings = Settings(max_pixels=1_000_000, max_bytes=1_000_000, timeout_s=20)
    good = encode(blob_image((32, 32)), "PNG")
    memory, statuses = [], set()
    with running(settings, fake) as client:
        service = client.app.state.service
        for number, content in enumerate(uploads):
            start = time.monotonic()
            if number % 2:
                answer = client.post("/v1/detect", content=content)
            else:
                answer = client.post("/v1/detect", files={"file": ("x.jpg", content)})
            assert time.monotonic() - start < 15
            assert 400 <= answer.status_code < 500, (number, answer.text, content[:80])
            assert answer.json()["error"]["code"]
            statuses.add(answer.status_code)
            if number % 50 == 0:
                assert client.post("/v1/detect", content=good).status_code == 200
            if number in (COUNT // 2, COUNT - 1):
                gc.collect()
                memory.append(memory_bytes())
        assert service.held.now == 0
        wait_for(lambda: service.batcher.held == service.batcher._pixels == 0)
    assert statuses == {413, 415, 422}
    assert memory[1] - memory[0] < 30_000_000  # the second half finds everything warm


def test_a_jpeg_of_many_scans_is_refused_before_any_is_decoded(serve):
    """Each passes over the whole photo: a few kB would take minutes."""
    photo = encode(blob_image((32, 32)), "JPEG", progressive=True)
    scan = photo[photo.rindex(b"\xff\xda") : -2]
    client = serve()
    few, many = (photo[:-2] + count * scan + photo[-2:] for count in (50, 100))
    assert client.post("/v1/detect", content=few).status_code == 200
    refused = client.post("/v1/detect", content=many)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unreadable_image")
    assert "scans" in refused.json()["error"]["message"]
