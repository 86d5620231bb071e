from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from faceresnet import images
from faceresnet.errors import DataError
from faceresnet.protocols import PROTOCOLS, predict
from faceresnet.widerface import Photo

RED_BOX = [40, 30, 80, 60]


@dataclass
class Found:
    boxes: np.ndarray
    scores: np.ndarray


class RedBoxes:
    """Finds the one red rectangle, whatever the size of the photo."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, image: np.ndarray) -> Found:
        self.sizes.append(image.shape[:2])
        y, x = np.nonzero((image[..., 0] > 128) & (image[..., 1] < 128))
        box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
        return Found(np.array(box, np.float32), np.array([image.shape[0] / 1000], np.float32))


def make_photo(tmp_path: Path, size: tuple[int, int] = (120, 200)) -> Photo:
    image = np.full((*size, 3), 200, np.uint8)
    x1, y1, x2, y2 = RED_BOX
    image[y1:y2, x1:x2] = (250, 0, 0)
    images.write(image, tmp_path / "a.png")
    return Photo("x/a.png", np.zeros((0, 4), np.float32), np.zeros(0, bool), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        ("original", [(120, 200)]),
        ("vga", [(384, 640)]),
        ("multiscale", [(60, 100), (120, 200), (240, 400)]),
    ],
)
def test_boxes_come_back_in_px_of_the_photo(tmp_path: Path, protocol: str, sizes: list) -> None:
    detector = RedBoxes()
    found = predict(detector, [make_photo(tmp_path)], protocol=protocol)
    boxes, scores = found["x/a.png"]
    assert detector.sizes == sizes
    assert boxes.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(boxes, [RED_BOX], atol=1)
    assert scores.tolist() == [np.float32(sizes[-1][0] / 1000)]


def test_large_photos_are_not_enlarged(tmp_path: Path) -> None:
    detector = RedBoxes()
    predict(detector, [make_photo(tmp_path, (70, 5000))], protocol="multiscale")
    assert detector.sizes == [(35, 2500), (70, 5000)]


def test_uneven_scales_are_undone_for_each_axis(tmp_path: Path) -> None:
    detector = RedBoxes()
    found = predict(detector, [make_photo(tmp_path, (61, 1999))], protocol="vga")
    assert detector.sizes == [(20, 640)]
    np.testing.assert_allclose(found["x/a.png"][0], [[40, 30, 80, 60]], atol=3.2)


def test_photos_are_asked_for_one_at_a_time(tmp_path: Path) -> None:
    """So that what counts them, as a progress bar does, is right."""
    detector, photo, seen = RedBoxes(), make_photo(tmp_path), []

    def photos():
        for _ in range(2):
            seen.append(len(detector.sizes))
            yield photo

    assert list(predict(detector, photos())) == ["x/a.png"]
    assert seen == [0, 1]


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vga, original, multiscale, shipped"):
        predict(RedBoxes(), [], protocol="native")
    assert list(PROTOCOLS) == ["vga", "original", "multiscale", "shipped"]
    photo = make_photo(tmp_path)
    photo.path.unlink()
    with pytest.raises(DataError, match=r"x/a\.png"):
        predict(RedBoxes(), [photo])
