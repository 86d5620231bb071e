import copy
import dataclasses
import io
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from conftest import BLOB_LEVELS, blob_image, blob_spec, crowd_image, make_blob_model
from faceresnet import FaceDetector, ImageError, ModelError, boxes, pyramid
from faceresnet.anchors import Level, make_anchors
from faceresnet.detector import MAX_CANDIDATES, _at_least, postprocess

SPEC = blob_spec()
ANCHORS = make_anchors(BLOB_LEVELS, (64, 96))
SIZE = (60, 90)


def plain_postprocess(logits, deltas, threshold):
    """Everything is decoded, and nothing is fast."""
    with np.errstate(all="ignore"):
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        decoded = boxes.clip(boxes.decode(deltas, ANCHORS, SPEC.delta_scales), SIZE)
        kept = (scores >= threshold) & (decoded[:, 2:] > decoded[:, :2]).all(axis=1)
    decoded, logits = decoded[kept], logits[kept]
    return decoded[boxes.nms(decoded, logits.astype(np.float32), SPEC.nms_iou)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_postprocess_is_the_plain_definition(seed, threshold):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, len(ANCHORS)).astype(np.float32)
    deltas = rng.normal(0, 3, (len(ANCHORS), 4)).astype(np.float32)
    found, scores = postprocess(logits, deltas, ANCHORS, SPEC, threshold, SIZE)
    np.testing.assert_array_equal(found, plain_postprocess(logits, deltas, threshold))
    assert len(found) > 10
    assert (np.diff(scores) <= 0).all()
    assert (scores >= threshold - 1e-6).all()


ANY = st.floats(width=32)


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, len(ANCHORS), elements=ANY),
    hnp.arrays(np.float32, (len(ANCHORS), 4), elements=ANY),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_postprocess_survives_anything(logits, deltas, threshold):
    found, scores = postprocess(logits, deltas, ANCHORS, SPEC, threshold, SIZE)
    assert np.isfinite(found).all()
    assert np.isfinite(scores).all()
    assert (found[:, 2:] > found[:, :2]).all()
    assert found.min(initial=0) >= 0
    assert (found <= [90, 60, 90, 60]).all()
    assert not np.isnan(logits).all() or not len(found)


def test_postprocess_caps_the_candidates_at_the_best():
    anchors = make_anchors(BLOB_LEVELS, (1024, 1024))
    ranked = np.linspace(3, 1, len(anchors), dtype=np.float32)
    logits = np.random.default_rng(0).permutation(ranked)
    deltas = np.zeros((len(anchors), 4), np.float32)
    _, scores = postprocess(logits, deltas, anchors, SPEC, 0.5, (1024, 1024))
    assert len(anchors) > MAX_CANDIDATES >= len(scores) > 1000
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-3)))
    assert scores[-1] >= 1 / (1 + np.exp(-ranked[MAX_CANDIDATES - 1])) - 1e-6


def test_postprocess_takes_the_excess_off():
    logits = np.full(len(ANCHORS), -9, np.float32)
    logits[40] = 2
    deltas = np.zeros((len(ANCHORS), 4), np.float32)
    x1, y1, x2, y2 = ANCHORS[40]
    assert x2 - x1 == 12
    spec = dataclasses.replace(SPEC, excess=1.0)
    found, _ = postprocess(logits, deltas, ANCHORS, spec, 0.5, SIZE)
    assert found.tolist() == [[x1, y1 + 0.5, x2 - 1, y2 - 0.5]]


def test_boxes_are_suppressed_as_they_were_drawn_and_tightened_after():
    # 12 × 12 px, 5 px apart: IoU 7/17 as drawn, 6/16 where each is a pixel narrower.
    anchors = np.array([[0, 0, 12, 12], [5, 0, 17, 12]], np.float32)
    spec = dataclasses.replace(SPEC, excess=1.0, nms_iou=0.4)
    logits, deltas = np.array([2, 1], np.float32), np.zeros((2, 4), np.float32)
    found, _ = postprocess(logits, deltas, anchors, spec, 0.5, SIZE)
    assert found.tolist() == [[0, 0.5, 11, 11.5]]


def test_finds_the_blobs(blob_detector):
    faces = blob_detector(blob_image((480, 640), (100, 100, 18), (300, 236, 62), (36, 36, 12)))
    assert faces.size == (480, 640)
    assert sorted(faces.boxes.tolist()) == [
        [30, 30, 42, 42],
        [91, 91, 109, 109],
        [269, 205, 331, 267],
    ]
    assert (np.diff(faces.scores) <= 0).all()


def test_threshold_of_the_call_the_detector_and_the_model(blob_model):
    # Half covered: a weaker blob.
    image = blob_image((64, 64), (36, 36, 18))
    image[27:33, 27:45] = 127
    score = float(FaceDetector(blob_model, threads=1)(image, threshold=0.01).scores[0])
    assert 0.5 < score < 0.99
    assert len(FaceDetector(blob_model, threads=1)(image)) == 1
    strict = FaceDetector(blob_model, threads=1, threshold=score + 1e-3)
    assert len(strict(image)) == 0
    assert len(strict(image, threshold=score - 1e-3)) == 1
    assert strict.default_threshold == score + 1e-3
    assert FaceDetector(blob_model, threads=1).default_threshold == 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (16, 18), (17, 33), (64, 10_000), (10_000, 3)])
def test_odd_sizes(blob_detector, size):
    faces = blob_detector(blob_image(size))
    assert len(faces) == 0
    assert faces.size == size


def test_boxes_stay_within_the_image(blob_detector):
    image = blob_image((40, 50), (46, 36, 18))
    image = np.ascontiguousarray(image[:40, :50])
    faces = blob_detector(image, threshold=0.001)
    assert len(faces)
    assert (faces.boxes <= [50, 40, 50, 40]).all()


def test_wide_crowds_lose_no_face_and_find_none_twice(blob_detector):
    # Small squares everywhere, tile borders included.
    places = [(x, y, 18) for x in range(28, 4_000, 104) for y in (28, 276)]
    faces = blob_detector(blob_image((300, 4_000), *places))
    found = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    by_row = np.lexsort((found[:, 0], found[:, 1].round(-2)))
    expected = [[x, y] for y in (28, 276) for x in range(28, 4_000, 104)]
    assert len(found) == len(places)
    np.testing.assert_allclose(found[by_row], expected, atol=3)


@pytest.mark.parametrize("size", [(300, 400), (900, 1_200), (2_100, 700)])
def test_a_face_that_fills_the_frame_is_found_once(blob_detector, size):
    side = 0.85 * min(size)
    image = blob_image(size, (size[1] / 2, size[0] / 2, round(side)))
    faces = blob_detector(image)
    assert len(faces) == 1
    expected = [size[1] / 2 - side / 2, size[0] / 2 - side / 2]
    expected += [size[1] / 2 + side / 2, size[0] / 2 + side / 2]
    overlap = boxes.iou(faces.boxes, np.array([expected], np.float32))
    assert overlap[0, 0] > 0.5


def test_without_the_pyramid_a_large_face_is_missed(blob_model):
    image = blob_image((300, 400), (200, 150, 250))
    assert len(FaceDetector(blob_model, threads=1)(image)) == 1
    assert len(FaceDetector(blob_model, threads=1, pyramid=False)(image)) == 0


def count_looks(detector):
    """Replace the detector's network by one that notes the shapes of what it is given."""
    network, shapes = detector._network, []

    def counting(images):
        shapes.append(images.shape)
        return network(images)

    counting.spec = network.spec
    object.__setattr__(detector, "_network", counting)
    return shapes


def scripted(model, sees, spec=SPEC, **options):
    """A detector whose network finds in an image what `sees` tells: rows ``x1 y1 x2 y2 score``."""
    detector = FaceDetector(model, threads=1, **options)

    def network(images):
        anchors = make_anchors(spec.levels, images.shape[1:3])
        logits = np.full((len(images), len(anchors)), -20, np.float32)
        deltas = np.zeros((*logits.shape, 4), np.float32)
        for n, image in enumerate(images):
            rows = np.array(sees(image), np.float32).reshape(-1, 5)
            used = slice(len(rows))
            logits[n, used] = np.log(rows[:, 4] / (1 - rows[:, 4]))
            deltas[n, used] = boxes.encode(rows[:, :4], anchors[used], spec.delta_scales)
        return logits, deltas

    network.spec = spec
    object.__setattr__(detector, "_network", network)
    return detector


#: Small faces that a look at 128 × 640 px takes for a crowd.
CROWD = [(24 + 40 * i, 20, 36 + 40 * i, 32, 0.9) for i in range(8)]


def enlarged(rows, zoom=1.5):
    return [(*(zoom * side for side in box), score) for *box, score in rows]


@pytest.mark.parametrize("quarters", range(4))
def test_faces_on_their_side_are_found_where_turned_photos_are_looked_at(blob_model, quarters):
    def sees(image):
        """A red square, if the white part of it is at its top."""
        y, x = np.nonzero((image[..., 0] == 255) & (image[..., 2] == 0))
        white_y, _ = np.nonzero(image.min(axis=2) == 255)
        if not len(white_y) or white_y.max() > y.min():
            return []
        return [(x.min(), white_y.min(), x.max() + 1, y.max() + 1, 0.9)]

    upright = blob_image((96, 160), (100, 40, 32))
    upright[24:30, 84:116] = 255
    turned = np.rot90(upright, quarters)
    detector = scripted(blob_model, sees, pyramid=False, turned=True)
    faces = detector(turned)
    y, x = np.nonzero((turned != 127).any(axis=2))
    assert faces.size == turned.shape[:2]
    assert faces.boxes.tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
    before = scripted(blob_model, sees, pyramid=False)(turned)
    assert len(before) == (quarters == 0)


def test_faces_seen_from_all_sides_are_found_once(blob_model):
    image = blob_image((96, 160), (100, 36, 18), (36, 60, 62))
    photos = [image, image[:, ::-1]]
    plain = FaceDetector(blob_model, threads=1).batch(photos)
    turned = FaceDetector(blob_model, threads=1, turned=True).batch(photos)
    for once, of_all in zip(plain, turned, strict=True):
        assert len(once) == len(of_all) == 2
        assert boxes.iou(once.boxes, of_all.boxes).max(axis=1).min() > 0.8


@pytest.mark.parametrize(
    ("upright", "alone", "factor"),
    [
        (3, 0.9, (0.9 + 1) / (3 * 0.9 + 1)),
        (20, 0.9, 1 / math.e),  # no less
        (0, 0.9, 1),
        (1, 0.4, 1 / (0.9 + 1)),  # below the model's threshold: not to be expected
    ],
)
def test_odds_of_faces_that_lie_otherwise_than_most_are_lower(blob_model, upright, alone, factor):
    image = np.zeros((96, 160, 3), np.uint8)
    image[0, 0] = 255

    def sees(image):
        if image[0, 0].any():
            return [(8 * i, 64, 8 * i + 7, 71, 0.9) for i in range(upright)]
        return [(8, 8, 16, 16, alone)] if image[-1, 0].any() else []  # turned to the left

    detector = scripted(blob_model, sees, pyramid=False, crowds=False, turned=True)
    scores = detector(image, 0.1).scores
    np.testing.assert_allclose(scores[:upright], 0.9, rtol=1e-5)
    odds = factor * alone / (1 - alone)
    np.testing.assert_allclose(scores[upright:], [odds / (1 + odds)], rtol=1e-5)
    assert len(detector(image, odds / (1 + odds) + 0.01)) == upright


def test_what_is_part_of_a_large_face_is_no_face(blob_model):
    whole, part = (50, 50, 450, 530, 0.9), (100, 200, 300, 440, 0.8)
    detector = scripted(blob_model, lambda image: [whole, part], pyramid=False)
    faces = detector(blob_image((600, 600)))
    assert faces.boxes.tolist() == [pytest.approx(whole[:4], abs=0.1)]


def test_a_face_too_faint_for_either_look_alone_counts_in_both(blob_model):
    def sees(image):
        if image.shape[1] == 640:
            return [*CROWD, (500, 80, 512, 92, 0.25)]
        return enlarged([*CROWD, (500, 80, 512, 92, 0.85)])

    faces = scripted(blob_model, sees, pyramid=False)(blob_image((128, 640)))
    assert len(faces) == 9
    assert faces.scores[-1] == pytest.approx(0.55, abs=1e-4), "the mean of two"


def test_neighbours_of_whom_each_look_at_a_crowd_found_one_both_stay(blob_model):
    one, other = (500, 80, 520, 100, 0.95), (508, 80, 528, 100, 0.9)
    assert 0.3 < boxes.iou(*np.array([[one[:4]], [other[:4]]], np.float32)) < 0.5

    def sees(image):
        if image[0, 0, 0] != 50:
            return []
        return enlarged([*CROWD, other]) if image.shape[1] > 640 else [*CROWD, one]

    image = blob_image((128, 1_200))
    image[:, :50] = 50
    faces = scripted(blob_model, sees, tile=640, pyramid=False)(image)
    found = faces.boxes[faces.boxes[:, 1] > 70]
    assert sorted(found[:, 0].tolist()) == pytest.approx([500, 508], abs=0.1)


def test_one_face_in_two_tiles_is_one_though_they_draw_it_apart(blob_model):
    # The second tile begins at 560 px.
    def sees(image):
        return [(580, 40, 600, 60, 0.9)] if image[0, 0, 0] == 50 else [(28, 40, 48, 60, 0.8)]

    image = blob_image((128, 1_200))
    image[:, :50] = 50
    faces = scripted(blob_model, sees, tile=640, pyramid=False)(image)
    assert faces.boxes.tolist() == [pytest.approx([580, 40, 600, 60], abs=0.1)]


def test_a_face_that_only_the_closer_window_finds_whole_is_found_once(blob_model):
    # The window around the tiny face at (320, 64) spans 256 … 384 px, and is seen twice as large.
    tiny = (316, 60, 324, 68, 0.6)

    def sees(image):
        if image.shape[1] == 640:
            return [tiny, (363, 20, 383, 40, 0.9)]
        return enlarged([(60, 60, 68, 68, 0.6), (105, 20, 125, 40, 0.95)], zoom=2)

    faces = scripted(blob_model, sees, pyramid=False)(blob_image((128, 640)))
    assert len(faces) == 2
    assert faces.boxes[:, 0].tolist() == pytest.approx([363, 316], abs=0.1)


@pytest.mark.parametrize(("side", "score"), [(50, 0.63), (70, 0.9)])
def test_only_a_face_small_enough_for_the_closer_look_had_to_be_found_by_it(
    blob_model, side, score
):
    def sees(image):
        if image.shape[1] == 640:
            return [*CROWD, (500, 40, 500 + side, 40 + side, 0.9)]
        return enlarged(CROWD)

    detector = scripted(blob_model, sees, max_side=640, pyramid=False)
    faces = detector(blob_image((256, 1_280)))
    assert faces.scores[boxes.area(faces.boxes) > 50**2] == pytest.approx([score], abs=1e-4)


@pytest.mark.parametrize("largest_face", [42.0, 48.0])
@pytest.mark.parametrize(("side", "calls"), [(35, 1), (55, 2)])
def test_what_one_look_finds_itself_is_not_looked_at_again(tmp_path, largest_face, side, calls):
    spec = dataclasses.replace(blob_spec(), largest_face=largest_face)
    detector = FaceDetector(make_blob_model(tmp_path / "blob.onnx", spec), threads=1)
    shapes = count_looks(detector)
    detector(blob_image((64, 76), (36, 36, side)))
    assert len(shapes) == calls


@pytest.mark.parametrize(("side", "calls"), [(0, 1), (10, 1), (50, 2)])
def test_a_photo_is_looked_at_again_where_something_large_shows(tmp_path, side, calls):
    # The model is said to be good up to 18 px, but has anchors for a square that fills the photo.
    model = make_blob_model(
        tmp_path / "blob.onnx", dataclasses.replace(blob_spec(), largest_face=18.0)
    )
    detector = FaceDetector(model, threads=1)
    shapes = count_looks(detector)
    image = blob_image((60, 70), (36, 28, side))
    detector(image)
    assert len(shapes) == calls
    shapes.clear()
    detector(image, threshold=0.0)  # whoever asks for every faint face gets every look
    assert len(shapes) == 2


@pytest.mark.parametrize(("anchor", "looks"), [(0, 1), (1, 2), (2, 2)])
def test_any_anchor_larger_than_a_look_reports_raises_suspicion(blob_model, anchor, looks):
    # A look reports up to 28 px; the second anchor is larger, if not the largest.
    spec = dataclasses.replace(SPEC, levels=(Level(32, (20.0, 40.0, 80.0)),), largest_face=20.0)
    shapes = []

    def sees(image):
        shapes.append(image.shape)
        return [(20, 20, 40, 40, 0.7 if i == anchor else 0.01) for i in range(3)]

    scripted(blob_model, sees, spec, crowds=False)(blob_image((64, 64)))
    assert len(shapes) == looks


def test_anchors_of_at_least_a_side():
    levels = (Level(32, (80.0, 100.0, 128.0)),)
    found = make_anchors(levels, (64, 64))[_at_least(levels, (64, 64), 100.0)]
    assert np.sqrt(boxes.area(found)).min() == pytest.approx(100)


def test_a_crowd_is_looked_at_again_enlarged(blob_model):
    detector = FaceDetector(blob_model, threads=1, pyramid=False)
    shapes = count_looks(detector)
    faces = detector(crowd_image())
    assert shapes == [(1, 128, 640, 3), (1, 192, 960, 3)]
    assert len(faces) == 9
    tiny = faces.boxes[faces.boxes[:, 0] > 500]
    assert tiny.tolist() == [pytest.approx([596, 96, 604, 104], abs=2)]
    assert faces.scores.min() > 0.5
    assert (np.diff(faces.scores) <= 0).all()
    assert faces.boxes[faces.boxes[:, 0].argmin()] == pytest.approx([30, 30, 42, 42], abs=2)


@pytest.mark.parametrize(("count", "crowds"), [(7, True), (8, False)])
def test_one_look_where_there_is_no_crowd_or_it_is_not_asked_for(blob_model, count, crowds):
    detector = FaceDetector(blob_model, threads=1, pyramid=False, crowds=crowds)
    shapes = count_looks(detector)
    assert len(detector(crowd_image(count=count))) == count
    assert len(shapes) == 1


def test_a_tiny_face_is_looked_at_again_with_its_surroundings(blob_model, monkeypatch):
    monkeypatch.setattr(pyramid, "TINY_SIDE", 13.0)  # this model draws nothing smaller
    image = blob_image((128, 640), (300, 36, 12), (326, 66, 7), (560, 100, 18))
    detector = FaceDetector(blob_model, threads=1, pyramid=False)
    shapes = count_looks(detector)
    faces = detector(image)
    assert shapes == [(1, 128, 640, 3), (1, 256, 256, 3)]
    faces = faces[np.argsort(faces.boxes[:, 0])]
    assert faces.boxes[0] == pytest.approx([294, 30, 306, 42], abs=2)
    assert faces.boxes[1] == pytest.approx([322, 62, 330, 70], abs=2)
    once = FaceDetector(blob_model, threads=1, pyramid=False, crowds=False)(image)
    assert len(once) == 2
    assert faces.boxes[2].tolist() == once.boxes[once.boxes[:, 0].argmax()].tolist()
    assert faces.scores[0] < once.scores.max()  # the mean of two


def test_a_look_larger_than_any_tile_is_not_taken_again(blob_model):
    detector = FaceDetector(blob_model, threads=1, tile=False, pyramid=False)
    shapes = count_looks(detector)
    assert len(detector(crowd_image((128, 2_080), count=8))) == 8
    assert shapes == [(1, 128, 2_080, 3)]


def test_only_the_tile_with_a_crowd_is_looked_at_again(blob_model):
    detector = FaceDetector(blob_model, threads=1, tile=640, pyramid=False)
    shapes = count_looks(detector)
    image = np.concatenate([crowd_image(), blob_image((128, 1_280), (600, 36, 18))], axis=1)
    faces = detector(image)
    assert sum(shape[0] for shape in shapes if shape[1:3] == (192, 960)) == 1
    assert len(faces) == 10


def test_a_large_face_in_a_crowd_keeps_its_score(blob_model):
    image = crowd_image((300, 640))
    image[150:250, 300:400] = (255, 0, 0)
    plain = FaceDetector(blob_model, threads=1, crowds=False)(image)
    faces = FaceDetector(blob_model, threads=1)(image)
    large = [found.scores[boxes.area(found.boxes) > 60**2].max() for found in (plain, faces)]
    assert boxes.area(faces.boxes).max() > 60**2
    assert large[0] == large[1]


def test_large_and_small_faces_of_one_photo(blob_detector):
    image = blob_image((600, 2_400), (1_500, 300, 500), (100, 100, 18), (604, 500, 12))
    faces = blob_detector(image)
    sides = sorted((faces.boxes[:, 2] - faces.boxes[:, 0]).tolist())
    assert len(sides) == 3
    assert sides[:2] == [12, 18]
    assert sides[2] > 400


def test_tiles_can_be_chosen(blob_model):
    places = [(x, 100, 18) for x in range(28, 780, 56)]
    image = blob_image((200, 800), *places)
    whole = FaceDetector(blob_model, threads=1, tile=False)(image)
    tiled = FaceDetector(blob_model, threads=1, tile=128)(image)
    assert len(whole) == len(tiled) == len(places)
    same = FaceDetector(blob_model, threads=1, tile=np.int64(128))(image)
    np.testing.assert_array_equal(same.boxes, tiled.boxes)
    np.testing.assert_allclose(np.sort(whole.boxes, axis=0), np.sort(tiled.boxes, axis=0), atol=9)


def test_max_side(blob_model):
    image = blob_image((256, 512), (208, 144, 120))
    faces = FaceDetector(blob_model, threads=1, max_side=256)(image)
    assert faces.size == (256, 512)
    assert faces.boxes[0] == pytest.approx([148, 84, 268, 204], abs=12)


def test_enlarging_finds_what_is_too_small_for_the_anchors(blob_model):
    image = blob_image((128, 192), (60, 70, 6))
    assert not len(FaceDetector(blob_model, threads=1)(image))
    faces = FaceDetector(blob_model, threads=1, enlarge=3.0)(image)
    assert faces.size == (128, 192)
    assert faces.boxes[0] == pytest.approx([57, 67, 63, 73], abs=2)


def test_batch_is_the_same_as_one_by_one(blob_detector):
    sizes = [(64, 64), (60, 64), (100, 200), (64, 64), (1, 1), (100, 200), (700, 900), (64, 64)] * 2
    photos = [
        blob_image(size, (20 + i, 36, 18), (size[1] / 2, size[0] / 2, 64))
        for i, size in enumerate(sizes)
    ]
    together = blob_detector.batch(photos, threshold=0.1)
    assert len(together) == len(photos)
    for photo, faces in zip(photos, together, strict=True):
        alone = blob_detector(photo, threshold=0.1)
        assert faces.size == alone.size
        np.testing.assert_allclose(faces.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(faces.scores, alone.scores, atol=1e-3)


def test_batches_are_real(blob_model):
    detector = scripted(blob_model, lambda image: [], batch_size=3)
    shapes = count_looks(detector)
    detector.batch(blob_image((64, 64)) for _ in range(7))
    assert [shape[0] for shape in shapes] == [3, 3, 1]
    shapes.clear()
    detector(blob_image((600, 2_600)))
    assert any(shape[0] > 1 for shape in shapes), "tiles of one photo share batches"


def test_batches_hold_no_more_pixels_than_memory_is_meant_for(blob_model):
    detector = scripted(blob_model, lambda image: [], batch_size=8)
    shapes = count_looks(detector)
    detector(blob_image((1_280, 5_000)))
    assert shapes[:2] == [(2, 1_280, 1_280, 3)] * 2
    assert all(shape[0] * shape[1] * shape[2] <= 4_000_000 for shape in shapes)


def test_a_batch_may_be_anything_with_items(blob_detector):
    class Photos:
        def __getitem__(self, number):
            if number > 1:
                raise IndexError
            return blob_image((64, 64), (36, 36, 18))

    assert [len(faces) for faces in blob_detector.batch(Photos())] == [1, 1]


def test_batch_of_nothing_and_of_a_path(blob_detector):
    assert blob_detector.batch([]) == []
    photo = Image.new("RGB", (64, 64))
    file = io.BytesIO()
    photo.save(file, "PNG")
    for one in ("photo.jpg", file.getvalue(), file, blob_image((64, 64)), photo):
        with pytest.raises(ValueError, match="give a list"):
            blob_detector.batch(one)


def test_reads_files_and_pillow_images(blob_detector, tmp_path):
    image = blob_image((64, 64), (36, 36, 18))
    path = tmp_path / "photo.png"
    Image.fromarray(image).save(path)
    expected = blob_detector(image)
    assert len(expected) == 1
    for source in (path, str(path), path.read_bytes(), Image.fromarray(image)):
        assert blob_detector(source) == expected
    with pytest.raises(ImageError, match="missing"):
        blob_detector("missing.png")
    with pytest.raises(ValueError, match="uint8"):
        blob_detector(image.astype(np.float32))


def test_the_image_stays_as_it_was(blob_detector):
    image = blob_image((64, 64), (36, 36, 18))
    image.setflags(write=False)
    assert len(blob_detector(image)) == 1
    assert len(blob_detector(image[::-1, ::-1])) == 1


def test_many_threads_share_a_detector(blob_detector):
    photos = [blob_image((64 + 32 * (i % 4), 96), (20 + 8 * (i % 5), 36, 18)) for i in range(16)]
    alone = [blob_detector(photo) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(blob_detector, photos * 3))
    for faces, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_allclose(faces.boxes, expected.boxes, atol=1e-2)


def test_detectors_cannot_be_changed(blob_detector):
    with pytest.raises(dataclasses.FrozenInstanceError):
        blob_detector.threshold = 0.1
    assert "blob.onnx" in repr(blob_detector)
    assert blob_detector.spec == SPEC


@pytest.mark.parametrize("send", [pickle.dumps, copy.deepcopy])
def test_a_detector_stays_in_its_process(blob_detector, send):
    with pytest.raises(TypeError, match="cannot be sent to another process: make one there"):
        send(blob_detector)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": "0.5"}, "threshold must lie in 0..1, got '0.5'"),
        ({"threshold": True}, "threshold must lie in 0..1, got True"),
        ({"threshold": np.float32("nan")}, "threshold"),
        ({"max_side": 3}, "max_side"),
        ({"enlarge": 0.5}, "enlarge"),
        ({"enlarge": float("nan")}, "enlarge"),
        ({"enlarge": "2"}, "enlarge must lie in 1..4, got '2'"),
        ({"enlarge": None}, "enlarge must lie in 1..4, got None"),
        ({"enlarge": True}, "enlarge must lie in 1..4, got True"),
        ({"enlarge": np.bool_(True)}, "enlarge must lie in 1..4"),
        ({"tile": "sometimes"}, "tile"),
        ({"tile": 8}, "tile"),
        ({"tile": 640.0}, "tile"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"batch_size": None}, "batch_size must be a whole number"),
        ({"tile": None}, "tile must be 'auto', True, False or px"),
        ({"max_side": 100.5}, "max_side must be a whole number"),
        ({"threads": True}, "threads must be a whole number"),
        ({"threads": 10**20}, "threads must lie in 1..1024"),
        ({"device": None}, "device must be a name"),
        ({"crowds": "no"}, "crowds must be True or False"),
        ({"turned": 1}, "turned must be True or False"),
        ({"engine": "magic"}, "engine"),
    ],
)
def test_wrong_arguments(blob_model, options, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(blob_model, **options)


@pytest.mark.parametrize("threshold", ["0.5", 1.5, float("nan"), True, b"1"])
def test_wrong_thresholds_of_a_call(blob_detector, threshold):
    with pytest.raises(ValueError, match=r"threshold must lie in 0\.\.1"):
        blob_detector(np.zeros((64, 64, 3), np.uint8), threshold=threshold)


def test_numbers_of_numpy_are_numbers(blob_model):
    image = blob_image((64, 64), (36, 36, 18))
    for threshold, enlarge in ((0, 2), (np.float32(0.5), np.int64(1)), (np.int8(0), np.float16(2))):
        detector = FaceDetector(blob_model, threshold=threshold, enlarge=enlarge, threads=1)
        assert len(detector(image)) > 0
        assert len(detector(image, threshold=np.float64(0.5))) == 1


def test_typos_are_no_options(blob_model):
    with pytest.raises(TypeError):
        FaceDetector(blob_model, treshold=0.5)


def test_a_model_that_contradicts_its_specification(tmp_path):
    path = make_blob_model(tmp_path / "model.onnx")
    lying = dataclasses.replace(SPEC, levels=BLOB_LEVELS[:1])
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    for key, value in lying.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    with pytest.raises(ModelError, match="its specification means"):
        FaceDetector(path, threads=1)(blob_image((64, 64)))
