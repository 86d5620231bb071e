"""Photos with red squares, which the blob model finds, and workers that die of some of them."""

from pathlib import Path

from PIL import Image

from conftest import blob_image

#: What a worker runs at its start, so that a photo that holds a word ends it as a bad decoder does.
DEADLY = """
import os, signal, time
from faceresnet import images
read = images.read

def deadly(photo, **options):
    content = photo if isinstance(photo, bytes) else b""
    if b"SEGFAULT" in content:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in content:
        time.sleep(1000)
    if b"NO MEMORY" in content:
        raise MemoryError
    if b"ONCE" in content:
        marker = content.partition(b"ONCE ")[2].decode()
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(3)
        return read(content.partition(b"ONCE ")[0], **options)
    return read(photo, **options)

images.read = deadly
"""


def make_photo(path: Path, count: int) -> Path:
    """A photo of `count` red squares, 0 to 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = [(36 + 48 * number, 36, 18) for number in range(count)]
    Image.fromarray(blob_image((96, 200), *squares)).save(path)
    return path


def make_photos(folder: Path, count: int) -> list[Path]:
    """Photos 0000.png, 0001.png, … of 0, 1, 2, 3, 0, … squares."""
    return [make_photo(folder / f"{number:04d}.png", number % 4) for number in range(count)]


def faces_by_name(rows) -> list[tuple[str, int | str]]:
    """(name, number of faces, or the error) of each row."""
    return [(Path(row["source"]).name, row["error"] or len(row["faces"])) for row in rows]
