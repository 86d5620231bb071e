import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.apps.anonymise import METHODS, SHAPES, Covering, cover


def noise(shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (np.random.default_rng(seed).random(shape) * top).astype(dtype)


def detail(pixels):
    """Mean difference of neighbours: what is left to recognise."""
    values = pixels.astype(float)
    return np.abs(np.diff(values, axis=1)).mean() / max(values.max(), 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [6, 20, 75, 400])
def test_nothing_of_a_face_is_left_at_any_size(method, shape, side):
    image = noise((600, 700, 3))
    before = image.copy()
    box = np.array([100, 120, 100 + side, 120 + side * 1.2])
    cover(image, [box], Covering(method, shape=shape))
    x1, y1, x2, y2 = box.astype(int)
    middle = image[y1 + side // 5 : y2 - side // 5, x1 + side // 5 : x2 - side // 5]
    assert detail(middle) < 0.3 * detail(before)
    assert (image[y1:y2, x1:x2] != before[y1:y2, x1:x2]).any(axis=2).mean() > 0.95
    grown = side * 0.2 * 1.2 + 2
    away = np.ones(image.shape[:2], bool)
    away[
        max(0, int(y1 - grown)) : int(y2 + grown) + 1, max(0, int(x1 - grown)) : int(x2 + grown) + 1
    ] = False
    np.testing.assert_array_equal(image[away], before[away])


@pytest.mark.parametrize("method", ["blur", "pixelate"])
def test_a_cover_holds_a_few_numbers_only(method):
    """What differs in detail but not on average becomes the same: nothing can bring it back."""
    checks = np.indices((240, 240)).sum(axis=0) % 2 * 200
    faces = [np.repeat(p[:, :, None], 3, axis=2).astype(np.uint8) for p in (checks, 200 - checks)]
    for face in faces:
        cover(face, [(40, 40, 200, 200)], Covering(method, shape="rectangle"))
    inside = [face[10:230, 10:230].astype(int) for face in faces]
    assert np.abs(inside[0] - inside[1]).max() <= 2


@pytest.mark.parametrize(
    ("size", "cells"), [((160, 160), 36), ((40, 160), 12), ((160, 40), 12), ((6, 6), 4)]
)
def test_the_longer_side_has_six_cells_and_none_is_tiny(size, cells):
    image = noise((300, 300), np.float32)
    box = (50, 50, 50 + size[0], 50 + size[1])
    cover(image, [box], Covering("pixelate", shape="rectangle"))
    covered = image[50 : 50 + size[1], 50 : 50 + size[0]]
    assert len(np.unique(covered)) == cells


def test_an_ellipse_reaches_nearly_to_the_corners_of_the_face():
    image = np.full((300, 300), 9, np.uint8)
    cover(image, [(100, 100, 200, 200)], Covering("box"))
    assert image[[105, 105, 195, 195], [105, 195, 105, 195]].max() == 0
    assert image[[95, 95, 205, 205], [95, 205, 95, 205]].min() == 9
    assert image[[82, 218, 150, 150], [150, 150, 82, 218]].max() == 0


def test_pixelating_shows_squares_and_blurring_none():
    pixelated = np.add.outer(np.arange(200), np.arange(200) // 4).astype(np.uint8)
    blurred = pixelated.copy()
    for image, method in ((pixelated, "pixelate"), (blurred, "blur")):
        cover(image, [(50, 50, 150, 150)], Covering(method))
    assert len(np.unique(pixelated[60:140, 60:140])) <= 36
    assert len(np.unique(blurred[60:140, 60:140])) > 36
    steps = np.abs(np.diff(blurred[60:140, 60:140].astype(int), axis=1))
    assert steps.max() < np.abs(np.diff(pixelated[60:140, 60:140].astype(int), axis=1)).max()


def test_a_box_is_black_in_every_kind_of_pixel():
    for shape, dtype, black in (
        ((90, 90), np.uint8, 0),
        ((90, 90, 3), np.uint16, 0),
        ((90, 90, 4), np.uint8, (0, 0, 0, 255)),
        ((90, 90), np.float32, 0),
    ):
        image = noise(shape, dtype)
        cover(image, [(30, 30, 60, 60)], Covering("box"), black=black)
        assert (image[32:58, 32:58] == np.array(black)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(80, 80), (80, 80, 1), (80, 80, 2), (80, 80, 3), (80, 80, 4)])
def test_kinds_of_pixels(dtype, shape):
    image = noise(shape, dtype)
    before = image.copy()
    cover(image, [(20, 20, 60, 60)], Covering())
    assert detail(image[25:55, 25:55]) < 0.3 * detail(before[25:55, 25:55])
    assert abs(image[20:60, 20:60].mean() / before[20:60, 20:60].mean() - 1) < 0.1


@given(
    st.lists(st.floats(-300, 500, width=32), min_size=4, max_size=4),
    st.sampled_from(METHODS),
    st.sampled_from(SHAPES),
    st.floats(0, 2),
)
@settings(deadline=None, max_examples=60)
def test_boxes_anywhere(corners, method, shape, margin):
    """Across borders, beyond the picture, or empty: the face's part in the picture is covered."""
    x1, x2 = sorted(corners[::2])
    y1, y2 = sorted(corners[1::2])
    image = noise((120, 160, 3))
    before = image.copy()
    cover(image, [(x1, y1, x2, y2)], Covering(method, margin, shape))
    y, x = np.mgrid[:120, :160] + 0.5
    across = np.abs(x - (x1 + x2) / 2) / max(x2 - x1, 1e-9) * 2
    down = np.abs(y - (y1 + y2) / 2) / max(y2 - y1, 1e-9) * 2
    face = across**2 + down**2 <= 1 if shape == "ellipse" else np.maximum(across, down) <= 1
    changed = (image != before).any(axis=2)
    if face.sum() > 100:
        assert changed[face].mean() > 0.9


def test_the_margin_grows_the_cover():
    sizes = []
    for margin in (0.0, 0.2, 1.0):
        image = noise((300, 300))
        before = image.copy()
        cover(image, [(100, 100, 200, 200)], Covering("box", margin, "rectangle"))
        sizes.append((image != before).any(axis=0).sum())
    assert sizes == [102, 140, 300]  # a pixel at each side at least


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smear",), "method must be one of blur, pixelate, box, got 'smear'"),
        (("blur", -0.1), "margin must lie in 0..2"),
        (("blur", 0.2, "star"), "shape must be one of"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Covering(*arguments)
