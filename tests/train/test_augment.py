from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.train import augment
from faceresnet.train.augment import (
    KEPT,
    Augmentation,
    colour_transforms,
    cover,
    distract,
    disturb,
    draw_scale,
    jpeg,
    lose_detail,
    make_batch,
    make_image,
    recolour,
    relight,
    resize,
    scale_boxes,
    turn,
)
from faceresnet.train.photos import PhotoSet
from train.samples import PLAIN, face_photo, write_split

#: One for each face in a photo: far apart in every channel's sum, and from the background.
COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)], np.uint8
)
BACKGROUND = 0
#: Augmentation that moves pixels in every way but leaves their colours.
MOVING = replace(
    PLAIN,
    sizes=(160,),
    grids=(0.4, 0.4, 0.2),
    face_px=(6.0, 200.0),
    fill=0.2,
    stretch=0.3,
    flip=0.5,
)


def painted_photo(seed, size):
    """A black photo with rectangles of its own colours for faces."""
    rng = np.random.default_rng(seed)
    photo = np.full((*size, 3), BACKGROUND, np.uint8)
    boxes = []
    for number, colour in enumerate(COLOURS):
        # Every face has a third of the width and half the height to itself.
        column, row = number % 3 * (size[1] // 3), number // 3 * (size[0] // 2)
        w, h = rng.integers(8, (size[1] // 3 - 4, size[0] // 2 - 4))
        x = column + int(rng.integers(0, size[1] // 3 - w))
        y = row + int(rng.integers(0, size[0] // 2 - h))
        photo[y : y + h, x : x + w] = colour
        boxes.append((x, y, x + w, y + h))
    return photo, np.array(boxes, np.float32)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    root = tmp_path_factory.mktemp("painted")
    sizes = [(120, 180), (240, 200), (96, 300), (400, 420)]
    return PhotoSet(write_split(root, "train", [painted_photo(i, s) for i, s in enumerate(sizes)]))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    samples = [face_photo(seed, (96 + 32 * seed, 160)) for seed in range(4)]
    return PhotoSet(write_split(root, "train", samples))


def extent(image, colour):
    """Box of the pixels that are more `colour` than black: up to half a pixel where it ends."""
    others = [c for c in COLOURS if (c != colour).any()]
    distance = np.abs(image.astype(int) - colour).sum(-1)
    nearest = np.minimum.reduce([np.abs(image.astype(int) - c).sum(-1) for c in others])
    mine = (distance < np.abs(image.astype(int) - BACKGROUND).sum(-1)) & (distance <= nearest)
    y, x = np.nonzero(mine)
    return None if len(x) == 0 else (x.min(), y.min(), x.max() + 1, y.max() + 1)


def cell_around(x, y, grid):
    """Corners of the cell that holds a point of an image of 160 px."""
    edges = np.round(np.linspace(0, 160, grid + 1)).astype(int)
    at = np.searchsorted(edges, (x, y), side="right").clip(1, grid)
    return edges[at - 1], edges[at]


@pytest.mark.parametrize("grids", [(1.0,), (0.0, 1.0), (0.0, 0.0, 1.0)])
def test_boxes_follow_the_pixels(painted, grids):
    augmentation = replace(MOVING, grids=grids)
    compared = 0
    for seed in range(60):
        image, boxes, ignore = make_image(
            painted, augmentation, 160, np.random.default_rng((7, seed))
        )
        pixels = image.numpy()
        assert boxes.dtype == np.float32
        assert ignore.shape == (len(boxes),)
        for box in boxes:
            # Which face is it? The colour in its middle says; enlarge its place by 3 px.
            x1, y1, x2, y2 = box
            if min(x2 - x1, y2 - y1) < 6:
                continue
            middle = pixels[int((y1 + y2) / 2), int((x1 + x2) / 2)]
            colour = COLOURS[np.abs(COLOURS.astype(int) - middle).sum(-1).argmin()]
            # Not beyond its cell of the grid: a face of the same colour may begin there.
            low, high = cell_around((x1 + x2) / 2, (y1 + y2) / 2, len(grids))
            left, top = np.maximum(low, (int(x1) - 3, int(y1) - 3))
            right, bottom = np.minimum(high, (int(x2) + 4, int(y2) + 4))
            found = extent(pixels[top:bottom, left:right], colour)
            assert found is not None, (seed, box)
            drawn = np.array(found) + np.array((left, top, left, top))
            assert np.abs(drawn - box).max() <= 1.5, (seed, box, drawn)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize(("flip", "least", "most"), [(0.0, 0, 0), (0.5, 10, 30), (1.0, 40, 40)])
def test_photos_are_flipped_as_often_as_asked(tmp_path, flip, least, most):
    photo = np.zeros((96, 96, 3), np.uint8)
    photo[:, 60:] = 255
    photos = one_photo(tmp_path, photo, [(38, 38, 58, 58)])
    augmentation = replace(PLAIN, flip=flip, face_px=(20.0, 20.0))
    flipped = 0
    for seed in range(40):
        image, _, _ = make_image(photos, augmentation, 96, np.random.default_rng(seed))
        flipped += bool(image[48, 0, 0] > image[48, -1, 0])
    assert least <= flipped <= most


def test_larger_images_hold_more_photos_not_larger_ones(painted, monkeypatch):
    augmentation = replace(PLAIN, sizes=(64, 96), grids=(0.0, 1.0))
    drawn = []
    monkeypatch.setattr(painted, "draw", lambda rng: drawn.append(1) or 0)
    for size, count in ((64, 4), (96, 9), (128, 16)):
        drawn.clear()
        make_image(painted, augmentation, size, np.random.default_rng(0))
        assert len(drawn) == count


@given(
    scale=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)),
    corner=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    sides=st.tuples(st.floats(1, 90), st.floats(1, 90)),
    shortfall=st.floats(0, 2),
)
@settings(deadline=None)
def test_scaled_boxes_fall_as_short_of_their_faces(scale, corner, sides, shortfall):
    box = np.array([[*corner, *np.add(corner, sides)]])
    outward = np.array([-1, -1, 1, 1]) * shortfall / 2
    face = (box + outward) * np.tile(scale, 2)
    scaled = scale_boxes(box, np.array(scale), shortfall)
    plain = np.multiply(sides, scale)
    side = (scaled[:, 2:] - scaled[:, :2])[0]
    whole = (face[:, 2:] - face[:, :2])[0] - shortfall
    assert side == pytest.approx(np.maximum(whole, plain / 2), rel=1e-6)
    assert scaled[:, :2] + scaled[:, 2:] == pytest.approx(face[:, :2] + face[:, 2:], abs=1e-6)


def test_the_shortfall_of_reduced_photos_makes_boxes_smaller(painted):
    reduced = replace(PLAIN, face_px=(6.0, 7.0), max_scale=1.0)
    seen = 0
    for seed in range(10):
        plain, short = (
            make_image(painted, replace(reduced, shortfall=px), 96, np.random.default_rng(seed))
            for px in (0.0, 1.0)
        )
        assert torch.equal(plain[0], short[0])
        inward = (short[1] - plain[1]) * [1, 1, -1, -1]
        whole = (plain[1] > 0).all(1) & (plain[1] < 96).all(1)
        assert (inward[whole] > 0).all()
        assert (inward[whole] < 0.5).all()
        seen += whole.sum()
    assert seen > 10


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([64, 96, 160, 224]))
@settings(max_examples=60, deadline=None)
def test_faces_lie_within_the_image(photos, painted, seed, size):
    for source in (photos, painted):
        image, boxes, ignore = make_image(source, MOVING, size, np.random.default_rng(seed))
        assert image.shape == (size, size, 3)
        assert image.dtype == torch.uint8
        assert (boxes >= 0).all()
        assert (boxes <= size).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        assert ignore[sides < MOVING.min_face - 1e-3].all()


def test_the_same_seed_makes_the_same_batch(photos):
    augmentation = Augmentation(sizes=(64, 96))
    once, again, other = (
        make_batch(photos, augmentation, 3, seed) for seed in [(0, 0, 5), (0, 0, 5), (0, 0, 6)]
    )
    assert torch.equal(once[0], again[0])
    for name in ("boxes", "image", "ignore"):
        assert torch.equal(getattr(once[1], name), getattr(again[1], name))
    assert once[0].shape != other[0].shape or not torch.equal(once[0], other[0])


@pytest.mark.parametrize("seed", [(1, 0, 5), (0, 1, 5), (0, 0, 6)])
def test_run_seed_rank_and_iteration_each_change_the_batch(photos, seed):
    augmentation = Augmentation(sizes=(64,))
    one, two = (make_batch(photos, augmentation, 2, s)[0] for s in ((0, 0, 5), seed))
    assert not torch.equal(one, two)


def test_larger_images_come_in_smaller_batches(photos):
    augmentation = Augmentation(sizes=(64, 128, 96))
    counts = {}
    for seed in range(30):
        images, faces = make_batch(photos, augmentation, 8, (seed,))
        assert images.shape[1] == images.shape[2]
        assert faces.image.max() < len(images)
        counts[images.shape[1]] = len(images)
    assert counts == {64: 8, 128: 2, 96: 4}


@pytest.mark.parametrize("sizes", [(64, 160), (160, 32)])
def test_a_size_may_be_larger_or_smaller_than_the_first(photos, sizes):
    augmentation = replace(MOVING, sizes=sizes, grids=(0.0, 0.5, 0.5))
    for seed in range(20):
        images, _ = make_batch(photos, augmentation, 1, (seed,))
        assert images.shape[1] in sizes


def test_photos_are_not_changed(photos):
    before = [photos[i].clone() for i in range(len(photos))]
    faces = [f.copy() for f in photos.faces]
    ignore = [f.copy() for f in photos.ignore]
    everything = Augmentation(sizes=(160, 64), blur=1.0, noise=1.0, jpeg=1.0, max_scale=1.0)
    for seed in range(25):
        make_batch(photos, everything, 2, (seed,))
    for i in range(len(photos)):
        assert torch.equal(photos[i], before[i])
        assert np.array_equal(photos.faces[i], faces[i])
        assert np.array_equal(photos.ignore[i], ignore[i])


def one_photo(tmp_path, photo, faces, ignore=None):
    ignore = np.zeros(len(faces), bool) if ignore is None else ignore
    return PhotoSet(write_split(tmp_path, "train", [(photo, np.array(faces, np.float32), ignore)]))


def test_cut_faces_are_ignored(tmp_path):
    photo = np.zeros((200, 200, 3), np.uint8)
    photos = one_photo(tmp_path, photo, [(40, 40, 160, 160), (0, 150, 30, 180)])
    augmentation = replace(PLAIN, face_px=(120.0, 120.0), min_visible=0.6)
    taught, ignored = [], []
    for seed in range(300):
        _, boxes, ignore = make_image(photos, augmentation, 96, np.random.default_rng(seed))
        for box, is_ignored in zip(boxes, ignore, strict=True):
            (ignored if is_ignored else taught).append((box[2:] - box[:2]).prod())
    # A face fills 120² px or, where the small one was chosen, more: min_visible of the least.
    assert min(taught) >= 0.6 * 29 * 29
    assert len(ignored) > 100
    assert len(taught) > 50


@pytest.mark.parametrize(("visible", "is_ignored"), [(0.40, True), (0.50, False)])
def test_the_share_left_decides(tmp_path, visible, is_ignored):
    """A face hanging out of the photo itself is whole; only what a crop cuts counts."""
    photo = np.zeros((100, 100, 3), np.uint8)
    photos = one_photo(tmp_path, photo, [(0, 0, 100, 100)])
    cell = torch.zeros(100, round(100 * visible), 3, dtype=torch.uint8)
    # At scale 1 the cell shows a part of the width.
    augmentation = replace(PLAIN, face_px=(100.0, 100.0), max_scale=1.0, min_visible=0.45)
    seen = set()
    for seed in range(20):
        boxes, ignore = augment.paste(cell, photos, 0, augmentation, 1, np.random.default_rng(seed))
        share = (boxes[0, 2] - boxes[0, 0]) * (boxes[0, 3] - boxes[0, 1]) / 1e4
        if abs(share - visible) < 0.02:
            seen.add(bool(ignore[0]))
    assert seen == {is_ignored}


def test_faces_too_small_are_ignored(tmp_path):
    photo = np.zeros((300, 300, 3), np.uint8)
    photos = one_photo(tmp_path, photo, [(100, 100, 104, 104), (200, 200, 240, 240)])
    augmentation = replace(PLAIN, face_px=(40.0, 40.0), min_face=5.0, max_scale=1.0)
    small = large = 0
    for seed in range(60):
        _, boxes, ignore = make_image(photos, augmentation, 288, np.random.default_rng(seed))
        for box, is_ignored in zip(boxes, ignore, strict=True):
            side = np.sqrt((box[2:] - box[:2]).prod())
            if side < 5:
                small += 1
                assert is_ignored
            elif side > 35:
                large += 1
                assert not is_ignored
    assert min(small, large) > 10


def test_a_photo_is_cropped_around_a_face_that_is_taught(tmp_path):
    faces = [(300, 300, 320, 320), (20, 20, 60, 60), (300, 20, 310, 30)]
    photos = one_photo(
        tmp_path, np.zeros((400, 400, 3), np.uint8), faces, np.array([False, True, True])
    )
    augmentation = replace(PLAIN, face_px=(40.0, 40.0), min_visible=0.0, min_face=0.0)
    for seed in range(20):
        _, boxes, ignore = make_image(photos, augmentation, 96, np.random.default_rng(seed))
        assert ignore.tolist() == [False], "the others are far away"
        assert (boxes[0, 2:] - boxes[0, :2]).max() <= 40


def test_ignored_faces_stay_ignored(tmp_path):
    photo, faces = painted_photo(3, (200, 200))
    photos = one_photo(tmp_path, photo, faces, np.ones(6, bool))
    for seed in range(20):
        _, _, ignore = make_image(photos, MOVING, 160, np.random.default_rng(seed))
        assert ignore.all()


def test_photos_without_faces_make_images_too(tmp_path):
    rng = np.random.default_rng(0)
    photos = one_photo(tmp_path, rng.integers(0, 256, (90, 130, 3), dtype=np.uint8), [])
    images, faces = make_batch(photos, Augmentation(sizes=(64,)), 3, (0,))
    assert images.float().std() > 5
    assert faces.boxes.shape == (0, 4)
    assert faces.boxes.dtype == torch.float32
    assert faces.image.dtype == torch.int64
    assert faces.ignore.dtype == torch.bool


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2)])
def test_photos_of_any_shape_make_images(tmp_path, size):
    photos = one_photo(tmp_path, np.full((*size, 3), 200, np.uint8), [(0, 0, 1, 1)])
    for seed in range(10):
        images, _ = make_batch(photos, MOVING, 1, (seed,))
        assert images.shape == (1, 160, 160, 3)


# --- the anchored face ---


@given(
    st.integers(0, 2**32 - 1),
    st.floats(4, 300),
    st.tuples(st.integers(300, 1200), st.integers(300, 1200)),
)
@settings(deadline=None)
def test_the_anchored_face_gets_its_size_unless_the_image_would_stay_empty(seed, side, photo_size):
    augmentation = replace(PLAIN, face_px=(20.0, 80.0), max_scale=3.0)
    anchor = np.array([10, 10, 10 + side, 10 + side], np.float32)
    photo, cell = np.array(photo_size), np.array([256, 256])
    scale = draw_scale(photo, cell, anchor, augmentation, 1, np.random.default_rng(seed))
    assert scale[0] == scale[1]
    least = np.sqrt((cell / photo).min() * (cell / photo).max())
    face = scale[0] * side
    assert 19.9 <= face <= 80.1 or scale[0] in (pytest.approx(3.0), pytest.approx(least))
    assert min(least, 3.0) * 0.999 <= scale[0] <= 3.001


def test_some_faces_fill_the_frame():
    augmentation = replace(PLAIN, face_px=(20.0, 40.0), fill=0.5, max_scale=10.0)
    anchor = np.array([10, 10, 110, 110], np.float32)
    rng = np.random.default_rng(0)
    sides = [
        100
        * draw_scale(np.array([800, 800]), np.array([256, 256]), anchor, augmentation, 1, rng)[0]
        for _ in range(200)
    ]
    filling = [side for side in sides if side > 41]
    assert 60 < len(filling) < 140
    assert min(filling) == pytest.approx(0.55 * 256, abs=8)
    assert max(filling) == pytest.approx(1.1 * 256, abs=8)
    assert min(filling) >= 0.55 * 256


def test_some_photos_alone_keep_their_own_size():
    augmentation = replace(PLAIN, face_px=(20.0, 40.0), native=0.5)
    anchor = np.array([10, 10, 200, 200], np.float32)
    rng = np.random.default_rng(0)
    photo, cell = np.array([800, 800]), np.array([256, 256])
    scales = [draw_scale(photo, cell, anchor, augmentation, 1, rng)[0] for _ in range(200)]
    assert 60 < scales.count(1.0) < 140
    in_grids = [draw_scale(photo, cell, anchor, augmentation, 2, rng)[0] for _ in range(50)]
    assert 1.0 not in in_grids


def test_faces_smaller_than_the_image_can_hold_are_no_error():
    anchor = np.array([10, 10, 60, 60], np.float32)
    augmentation = replace(PLAIN, face_px=(500.0, 600.0))
    rng = np.random.default_rng(0)
    scale = draw_scale(np.array([300, 300]), np.array([64, 64]), anchor, augmentation, 1, rng)
    assert np.isfinite(scale).all()


def test_shapes_are_stretched_within_their_limit():
    anchor = np.array([10, 10, 60, 60], np.float32)
    augmentation = replace(PLAIN, stretch=0.3)
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(100):
        x, y = draw_scale(np.array([300, 300]), np.array([96, 96]), anchor, augmentation, 1, rng)
        ratios.append(np.log(x / y))
    assert np.abs(ratios).max() <= 0.3
    assert np.std(ratios) > 0.1


def test_in_grids_photos_may_overfill_their_cell():
    photo, cell = np.array([400, 300]), np.array([100, 100])
    rng = np.random.default_rng(0)
    scales = [draw_scale(photo, cell, None, PLAIN, 2, rng)[0] for _ in range(400)]
    assert min(scales) == pytest.approx(1 / 4, rel=0.03), "the whole photo lies in the cell"
    assert max(scales) == pytest.approx(1.5 / 3, rel=0.03), "half as large again as covers it"


def test_a_photo_without_faces_may_keep_its_own_pixels():
    photo, cell = np.array([1000, 1000]), np.array([100, 100])
    rng = np.random.default_rng(0)
    scales = [draw_scale(photo, cell, None, PLAIN, 1, rng)[0] for _ in range(400)]
    assert min(scales) == pytest.approx(0.1, rel=0.05)
    assert max(scales) == pytest.approx(1.0, rel=0.05)


def test_the_anchored_face_lies_anywhere_in_the_image(tmp_path):
    photos = one_photo(tmp_path, np.zeros((400, 400, 3), np.uint8), [(195, 195, 205, 205)])
    augmentation = replace(PLAIN, face_px=(10.0, 10.0), max_scale=1.0)
    centres = []
    for seed in range(60):
        _, boxes, _ = make_image(photos, augmentation, 96, np.random.default_rng(seed))
        centres.append((boxes[0, :2] + boxes[0, 2:]) / 2 / 96)
    low, high = np.quantile(centres, [0.1, 0.9], axis=0)
    assert (low < 0.25).all()
    assert (high > 0.75).all()


# --- events ---


def test_events_are_drawn_by_their_weight(tmp_path):
    black = np.zeros((40, 40, 3), np.uint8)
    photos = []
    for event, count in (("never", 3), ("plain", 2), ("often", 2), ("not", 1)):
        root = tmp_path / event
        photos += write_split(root, "train", [(black, np.zeros((0, 4)))] * count, event)
    weights = [("often", 3.0), ("never", 0.0), ("not", 0.0)]
    photo_set = PhotoSet(photos, event_weights=weights)
    rng = np.random.default_rng(0)
    drawn = np.bincount([photo_set.draw(rng) for _ in range(4000)], minlength=8)
    assert drawn[:3].tolist() == [0, 0, 0]
    assert drawn[7] == 0
    assert drawn[3:7] / 4000 == pytest.approx([1 / 8, 1 / 8, 3 / 8, 3 / 8], abs=0.03)

    class Edge:
        """A generator at the ends of its range."""

        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    assert photo_set.draw(Edge(0.0)) == 3
    assert photo_set.draw(Edge(np.nextafter(1.0, 0.0))) == 6


# --- rotation and cover ---


@given(
    x=st.floats(40, 120),
    y=st.floats(40, 120),
    width=st.floats(16, 60),
    height=st.floats(16, 60),
    degrees=st.floats(-augment.MAX_TURN, augment.MAX_TURN),
)
@settings(max_examples=60, deadline=None)
def test_boxes_turn_with_their_faces(x, y, width, height, degrees):
    rows, columns = np.mgrid[:160, :160] + 0.5
    inside = ((columns - x) / (width / 2)) ** 2 + ((rows - y) / (height / 2)) ** 2 <= 1
    image = torch.from_numpy(np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, 2))
    face = np.array([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]], np.float32)
    turned, boxes = turn(image, face, np.radians(degrees))
    assert turned.shape == image.shape
    assert turned.dtype == torch.uint8
    # What comes from outside is grey: only the ellipse is brighter.
    found_y, found_x = np.nonzero(turned.numpy()[..., 0] > 190)
    drawn = np.array([found_x.min(), found_y.min(), found_x.max() + 1, found_y.max() + 1])
    assert np.abs(drawn - boxes[0].clip(0, 160)).max() <= 2


def test_turning_is_clockwise():
    image = torch.zeros(64, 64, 3, dtype=torch.uint8)
    image[28:36, 50:58] = 255  # right of the centre
    turned, _ = turn(image, np.zeros((0, 4), np.float32), np.radians(30))
    rows, _ = np.nonzero(turned.numpy()[..., 0] > 190)
    assert rows.mean() > 38  # now below it


def test_faces_turned_out_of_the_image_are_ignored_or_gone(painted):
    augmentation = replace(MOVING, turn=1.0, grids=(1.0,), min_visible=0.5)
    turned = 0
    for seed in range(40):
        image, boxes, ignore = make_image(painted, augmentation, 160, np.random.default_rng(seed))
        plain, _, _ = make_image(
            painted, replace(augmentation, turn=0.0), 160, np.random.default_rng(seed)
        )
        turned += not torch.equal(image, plain)
        assert boxes.min(initial=0) >= 0
        assert boxes.max(initial=0) <= 160
        assert ignore.shape == (len(boxes),)
    assert turned > 35


def test_a_face_that_turning_cuts_is_ignored(tmp_path):
    # It fills a corner of the image: turned by 30° half of it lies outside.
    photos = one_photo(tmp_path, np.zeros((96, 96, 3), np.uint8), [(0, 0, 30, 30)])
    augmentation = replace(PLAIN, native=1.0, turn=1.0, min_visible=0.9)
    ignored = 0
    for seed in range(20):
        _, boxes, ignore = make_image(photos, augmentation, 96, np.random.default_rng(seed))
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert (area[~ignore] > 0.85 * 30**2).all()
        ignored += ignore.sum()
    assert ignored > 5


@pytest.mark.parametrize("seed", range(20))
def test_a_part_of_a_face_is_covered(seed):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    face = np.array([30, 20, 70, 68], np.float32)
    before = image.clone()
    cover(image, face[None], face[None], replace(PLAIN, cover=1.0), rng)
    changed = (image != before).any(-1)
    share = changed[20:68, 30:70].float().mean()
    assert 0.15 <= share <= 0.55
    rows, columns = np.nonzero(changed.numpy())
    assert rows.min() >= 20 - 8  # a little beyond the face, and no further
    assert rows.max() <= 68 + 8
    assert columns.min() >= 30 - 7
    assert columns.max() <= 70 + 7


@pytest.mark.parametrize("crowded", [False, True])
def test_what_covers_a_face_is_no_part_of_another(crowded):
    rng = np.random.default_rng(0)
    face = np.array([[30, 20, 70, 68]], np.float32)
    for _ in range(10):
        image = torch.from_numpy(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
        before = image.clone()
        everywhere = np.array([[0, 0, 96, 96]], np.float32)
        cover(image, everywhere if crowded else face[:0], face, replace(PLAIN, cover=1.0), rng)
        changed = image[(image != before).any(-1)]
        assert (len(changed.unique(dim=0)) == 1) == crowded, "one colour, or a piece of the image"


def test_ignored_faces_are_not_covered(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    photos = one_photo(tmp_path, photo, [(20, 20, 60, 60)], np.array([True]))
    augmentation = replace(PLAIN, native=1.0)
    for seed in range(5):
        plain, covered = (
            make_image(photos, replace(augmentation, cover=c), 96, np.random.default_rng(seed))[0]
            for c in (0.0, 1.0)
        )
        assert torch.equal(plain, covered)


def test_nothing_is_covered_unasked():
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    before = image.clone()
    face = np.array([[10, 10, 50, 50]], np.float32)
    cover(image, face, face, PLAIN, np.random.default_rng(0))
    assert torch.equal(image, before)


@pytest.mark.parametrize("seed", range(20))
def test_distractors_leave_faces_alone(seed):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
    before = image.clone()
    face = np.array([[20, 30, 60, 80]], np.float32)
    distract(image, face, rng)
    assert torch.equal(image[30:80, 20:60], before[30:80, 20:60])
    changed = float((image != before).any(-1).float().mean())
    assert changed < 0.6
    twin = before.clone()
    distract(twin, face, np.random.default_rng(seed + 100))
    assert not torch.equal(twin, image) or changed == 0


def test_distractors_are_drawn():
    changed = 0
    for seed in range(20):
        image = torch.full((128, 128, 3), 90, dtype=torch.uint8)
        distract(image, np.zeros((0, 4), np.float32), np.random.default_rng(seed))
        changed += bool((image != 90).any())
    assert changed > 18


# --- colours ---


def test_as_many_images_as_asked_show_no_face(photos):
    without = replace(PLAIN, empty=0.3)
    rng = np.random.default_rng(0)
    shown = [len(make_image(photos, without, 96, rng)[1]) > 0 for _ in range(200)]
    assert 110 < sum(shown) < 170  # all show one otherwise
    images, faces = make_batch(photos, replace(PLAIN, empty=1.0), 4, (1, 2))
    assert images.shape == (4, 96, 96, 3)
    assert images.dtype == torch.uint8
    assert faces.boxes.shape == (0, 4)


def test_colours_stay_where_nothing_is_asked_for():
    rng = np.random.default_rng(0)
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)
    matrix, offset = colour_transforms(3, PLAIN, rng)
    assert np.allclose(matrix, np.eye(3), atol=1e-6)
    assert np.allclose(offset, 0, atol=1e-4)
    assert torch.equal(disturb(images.clone(), PLAIN, rng), images)


def test_grey_images_are_grey():
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    grey = replace(PLAIN, grey=1.0)
    done = disturb(images.clone(), grey, np.random.default_rng(0)).int()
    assert (done.amax(-1) - done.amin(-1)).max() <= 1
    luma = images.float() @ torch.tensor(augment.LUMA)
    assert (done[..., 0] - luma).abs().max() <= 1


def test_colours_are_an_affine_map():
    augmentation = replace(PLAIN, colour=0.4, grey=0.3)
    matrix, offset = colour_transforms(5, augmentation, np.random.default_rng(1))
    images = torch.randint(0, 256, (5, 12, 12, 3), dtype=torch.uint8)
    expected = torch.stack(
        [image.float() @ m + b for image, m, b in zip(images, matrix, offset, strict=True)]
    )
    done = recolour(images.clone(), matrix, offset).float()
    assert (done - expected.clamp(0, 255)).abs().max() <= 1.0  # OpenCV counts in 1/1,024
    assert matrix.std(0).mean() > 0.05


def test_colours_grow_stronger_as_often_as_weaker():
    matrix, _ = colour_transforms(2000, replace(PLAIN, colour=0.3), np.random.default_rng(0))
    # A column sums to contrast · cast; what green gives to red of that is (1 − saturation) · luma.
    saturation = 1 - matrix[:, 1, 0] / matrix.sum(1)[:, 0] / augment.LUMA[1]
    assert 0.45 < (saturation > 1).float().mean() < 0.55
    assert saturation.max() == pytest.approx(1.45, abs=0.02)
    assert saturation.min() == pytest.approx(0.55, abs=0.02)


def test_light_changes_each_colour_by_a_rising_curve():
    ramp = torch.arange(256, dtype=torch.uint8)[None, :, None].repeat(4, 1, 3)
    coloured = darker = brighter = 0
    for seed in range(40):
        done = relight(ramp, np.random.default_rng(seed)).int()
        assert (done.diff(dim=1) >= 0).all()
        assert done[0, 0].tolist() == [0, 0, 0]
        assert done[0, 255].max() == 255
        coloured += bool((done[0, 128] != done[0, 128, 0]).any())
        darker += bool(done[0, 128].max() < 100)
        brighter += bool(done[0, 128].max() > 150)
    assert 10 < coloured < 30
    assert darker > 5
    assert brighter > 5


@pytest.mark.parametrize(("side", "blurred"), [(40, True), (KEPT, False)])
def test_a_photo_is_blurred_as_far_as_its_face_can_bear(tmp_path, side, blurred):
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    photos = one_photo(tmp_path, photo, [(20, 20, 20 + side, 20 + side)])
    augmentation = replace(PLAIN, face_px=(side, side))
    for seed in range(5):
        plain, soft = (
            make_image(photos, replace(augmentation, blur=blur), 96, np.random.default_rng(seed))[0]
            for blur in (0.0, 1.0)
        )
        assert torch.equal(plain, soft) != blurred
        steps = [image.float().diff(dim=1).abs().mean() for image in (plain, soft)]
        assert (steps[1] < 0.8 * steps[0]) == blurred


@pytest.mark.parametrize("jpegs", [0.0, 1.0])
def test_lost_detail_is_pixels_and_half_the_time_a_jpeg(jpegs):
    crop = torch.tensor(face_photo(0, (160, 120))[0])
    augmentation, most = replace(PLAIN, jpeg=jpegs), 3.0
    sizes, compressed = [], 0
    for seed in range(60):
        small = lose_detail(
            crop, np.array([120, 160]), most, augmentation, np.random.default_rng(seed)
        )
        sizes.append(160 / small.shape[0])
        assert small.shape[0] / small.shape[1] == pytest.approx(160 / 120, rel=0.03)
        compressed += not torch.equal(small, resize(crop, (small.shape[0], small.shape[1])))
    assert 1 <= min(sizes) < 1.1
    assert 2.7 < max(sizes) < 3.1
    assert (15 < compressed < 45) if jpegs else compressed == 0


@pytest.mark.parametrize("name", ["noise", "jpeg"])
def test_detail_is_lost_by_a_little(name):
    photo, _ = face_photo(0)
    images = torch.tensor(photo)[None].repeat(2, 1, 1, 1)
    done = disturb(images.clone(), replace(PLAIN, **{name: 1.0}), np.random.default_rng(0))
    difference = (done.float() - images.float()).abs().mean()
    assert 0.3 < difference < 30
    assert done.dtype == torch.uint8
    assert not torch.equal(done[0], done[1])


def test_noise_neither_darkens_nor_brightens():
    images = torch.full((4, 64, 64, 3), 128, dtype=torch.uint8)
    done = disturb(images.clone(), replace(PLAIN, noise=1.0), np.random.default_rng(0)).float()
    assert done.std() > 1
    assert (done.mean((1, 2, 3)) - 128).abs().max() < 0.5


def test_jpeg_keeps_the_order_of_the_channels():
    image = torch.zeros(32, 32, 3, dtype=torch.uint8)
    image[..., 0] = 200
    done = jpeg(image, 80).float().mean((0, 1))
    assert done[0] > 180
    assert done[1:].max() < 40


def test_resizing_averages():
    image = torch.zeros(32, 32, 3, dtype=torch.uint8)
    image[::2] = 200
    small = resize(image, (8, 16))
    assert small.shape == (8, 16, 3)
    assert (small.float() - 100).abs().max() < 30
    assert torch.equal(resize(image, (32, 32)), image)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sizes": ()}, "sizes must"),
        ({"sizes": (0,)}, "sizes must"),
        ({"grids": ()}, "grids must"),
        ({"grids": (0.0, 0.0)}, "grids must"),
        ({"grids": (1.0, -0.5)}, "grids must"),
        ({"face_px": (10.0,)}, "face_px must"),
        ({"face_px": (20.0, 10.0)}, "face_px must"),
        ({"face_px": (0.0, 10.0)}, "face_px must"),
        ({"max_scale": 0.0}, "max_scale must"),
        ({"stretch": -0.1}, "stretch, shortfall and min_face not negative"),
        ({"shortfall": -0.1}, "stretch, shortfall and min_face not negative"),
        ({"min_face": -1.0}, "stretch, shortfall and min_face not negative"),
        ({"flip": 1.5}, "flip must lie in"),
        ({"jpeg": -0.1}, "jpeg must lie in"),
        ({"turn": 1.5}, "turn must lie in"),
        ({"cover": 1.5}, "cover must lie in"),
        ({"distract": 1.5}, "distract must lie in"),
        ({"light": -0.5}, "light must lie in"),
        ({"fill": 2.0}, "fill must lie in"),
        ({"native": -1.0}, "native must lie in"),
    ],
)
def test_impossible_augmentation_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        Augmentation(**change)
