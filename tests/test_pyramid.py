from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet import boxes, pyramid

SIZES = st.tuples(st.integers(1, 12_000), st.integers(1, 12_000))
LARGEST = 400.0


def test_an_ordinary_photo_is_one_look():
    assert pyramid.plan((480, 640), LARGEST) == (
        pyramid.View(0, (480, 640), (0, 0, 480, 640), (0.0, float("inf"))),
    )


def test_a_larger_photo_is_looked_at_again_reduced():
    fine, coarse = pyramid.plan((1200, 1600), LARGEST)
    assert fine.window == (0, 0, 1200, 1600)
    assert coarse.window[2] * coarse.window[3] == pytest.approx((0.75 * LARGEST) ** 2, rel=0.01)
    assert coarse.sizes[0] == pytest.approx(LARGEST / 12), "six times smaller, and half of that"
    assert fine.sizes[1] < float("inf")


@settings(deadline=None, max_examples=60)
@given(SIZES, st.sampled_from(["auto", True, False, 640, 100]), st.sampled_from([40.0, LARGEST]))
def test_views_cover_the_photo_and_every_size_of_face(size, tile, largest):
    views = pyramid.plan(size, largest, tile=tile)
    for level in range(views[-1].level + 1):
        windows = [view.window for view in views if view.level == level]
        height, width = views[[view.level for view in views].index(level)].image_size
        for axis, length in ((0, height), (1, width)):
            spans = sorted({(window[axis], window[axis + 2]) for window in windows})
            assert spans[0][0] == 0
            assert spans[-1][1] == length
            assert all(a[1] > b[0] for a, b in pairwise(spans))
    # In px of the photo, each scale begins where the finer one still sees, and the last sees all.
    ranges = {
        view.level: np.array(view.sizes) * np.sqrt(np.prod(size) / np.prod(view.image_size))
        for view in views
    }
    assert ranges[0][0] == 0
    assert ranges[views[-1].level][1] == float("inf")
    if min(size) > 100:  # in thinner strips the scales are rounded to whole px
        for level in range(views[-1].level):
            assert ranges[level + 1][0] < ranges[level][1]


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(2100, 9000), st.integers(2100, 9000)), st.data())
def test_a_face_smaller_than_the_overlap_lies_whole_in_a_tile(size, data):
    views = [view for view in pyramid.plan(size, LARGEST) if view.level == 0]
    side = data.draw(st.integers(4, 140))
    x = data.draw(st.integers(0, size[1] - side))
    y = data.draw(st.integers(0, size[0] - side))
    placed = []
    for view in views:
        y1, x1, y2, x2 = view.window
        box = np.array([[x - x1, y - y1, x - x1 + side, y - y1 + side]], np.float32)
        clipped = box.clip(0, [x2 - x1, y2 - y1] * 2).astype(np.float32)
        if (clipped[:, 2:] > clipped[:, :2]).all():
            kept, _ = view.place(clipped, np.ones(1, np.float32), size)
            placed += kept.tolist()
    assert [x, y, x + side, y + side] in placed, "some tile reports it"


def test_tiles_drop_boxes_cut_by_an_inner_border_only():
    view = pyramid.View(0, (1000, 2000), (0, 0, 1000, 1000), (0.0, float("inf")))
    boxes = np.array(
        [[0, 0, 50, 50], [950, 100, 1000, 200], [100, 950, 200, 1000], [940, 100, 990, 200]],
        np.float32,
    )
    kept, scores = view.place(boxes, np.arange(4, dtype=np.float32), (1000, 2000))
    assert scores.tolist() == [0, 2, 3], "only the right border is inside the photo"
    assert kept.tolist() == boxes[[0, 2, 3]].tolist()


@pytest.mark.parametrize(
    ("side", "right", "kept"), [(20, 998.5, 0), (20, 997.5, 1), (100, 996.5, 0), (100, 995.5, 1)]
)
def test_a_box_is_cut_within_two_px_or_a_twenty_fifth_of_itself_from_the_border(side, right, kept):
    view = pyramid.View(0, (1000, 2000), (0, 0, 1000, 1000), (0.0, float("inf")))
    box = np.array([[right - side, 100, right, 100 + side]], np.float32)
    assert len(view.place(box, np.ones(1, np.float32), (1000, 2000))[0]) == kept


def test_a_wide_box_is_cut_by_the_lower_border_within_a_part_of_its_height():
    view = pyramid.View(0, (2000, 1000), (0, 0, 1000, 1000), (0.0, float("inf")))
    wide = np.array([[100, 967, 500, 997]], np.float32)
    assert len(view.place(wide, np.ones(1, np.float32), (2000, 1000))[0]) == 1


def test_place_scales_and_shifts():
    view = pyramid.View(1, (100, 200), (20, 40, 100, 200), (5.0, 50.0))
    boxes = np.array([[10, 10, 30, 30], [10, 10, 12, 12], [10, 10, 90, 75]], np.float32)
    kept, _ = view.place(boxes, np.ones(3, np.float32), (400, 600))
    assert kept.tolist() == [[150, 120, 210, 200]]


def test_max_side_reduces_the_finest_scale():
    view, *_ = pyramid.plan((3000, 4000), LARGEST, max_side=1000)
    assert view.image_size == (750, 1000)
    assert pyramid.plan((300, 400), LARGEST, max_side=1000)[0].image_size == (300, 400)


def test_enlarging_makes_the_finest_scale_larger_and_still_sees_large_faces():
    views = pyramid.plan((300, 400), LARGEST, enlarge=2.0)
    assert views[0].image_size == (600, 800)
    coarsest = views[-1]
    assert coarsest.image_size == pyramid.plan((600, 800), LARGEST)[-1].image_size
    assert pyramid.plan((3000, 4000), LARGEST, max_side=1000, enlarge=2.0)[0].image_size == (
        1500,
        2000,
    )


@pytest.mark.parametrize(("side", "sides"), [(1_800, [1_800, 300]), (2_400, [2_400, 849, 300])])
def test_scales_are_at_most_six_times_apart(side, sides):
    views = pyramid.plan((side, side), LARGEST, tile=False)
    assert [view.image_size for view in views] == [(scaled, scaled) for scaled in sides]


@pytest.mark.parametrize(("tile", "waits"), [(False, True), (320, False)])
def test_tiles_that_may_cut_a_large_face_wait_for_no_suspicion(tile, waits):
    views = pyramid.plan((600, 600), 200.0, largest_anchor=600.0, tile=tile)
    assert {view.on_suspicion for view in views if view.level} == {waits}


@pytest.mark.parametrize(("side", "waits"), [(680, True), (700, False)])
def test_only_a_frame_hardly_larger_than_the_largest_anchor_waits_for_suspicion(side, waits):
    views = pyramid.plan((side, side), 200.0, largest_anchor=600.0)
    assert {view.on_suspicion for view in views if view.level} == {waits}


def test_without_the_pyramid_there_is_one_scale():
    views = pyramid.plan((3000, 4000), LARGEST, pyramid=False)
    assert {view.level for view in views} == {0}
    assert {view.sizes for view in views} == {(0.0, float("inf"))}


def test_tile_choices():
    def count(size, tile):
        return sum(view.level == 0 for view in pyramid.plan(size, LARGEST, tile=tile))

    assert count((1500, 2000), "auto") == 1
    assert count((1500, 2100), "auto") > 1
    assert count((1500, 2000), True) > 1
    assert count((9000, 9000), False) == 1
    assert count((600, 600), 320) > 1


@pytest.mark.parametrize(("side", "overlap"), [(640, 80), (320, 64), (128, 32)])
def test_tiles_overlap_by_an_eighth_or_by_64_px_but_no_more_than_a_quarter(side, overlap):
    def count(width):
        views = pyramid.plan((side, width), LARGEST, tile=side)
        return sum(view.level == 0 for view in views)

    widest = 4 * (side - overlap) + overlap  # of four tiles
    assert [count(widest), count(widest + 1)] == [4, 5]


def test_a_face_that_tiles_may_cut_is_the_next_scales_to_find():
    fine, *_ = pyramid.plan((3000, 4000), LARGEST)
    assert fine.sizes[1] == pytest.approx(2 * (pyramid.TILE / 8) * pyramid.REACH)


def test_fragments_of_a_large_face():
    boxes = np.array(
        [
            [0, 0, 1000, 1000],  # found whole, coarse
            [100, 100, 500, 500],  # an eye and a cheek, fine
            [0, 0, 60, 60],  # a small face within it: not a fragment
            [100, 500, 500, 900],  # better than the whole: not dropped
            [900, 900, 1400, 1400],  # mostly outside
            [1500, 0, 2500, 1000],  # another
        ],
        np.float32,
    )
    scores = np.array([0.8, 0.6, 0.6, 0.9, 0.5, 0.9], np.float32)
    levels = np.array([1, 0, 0, 0, 0, 1])
    found = pyramid.fragments(boxes, scores, levels)
    assert found.tolist() == [False, True, False, False, False, False]


def test_fragments_in_the_look_that_found_the_whole():
    whole, small = (0, 0, 400, 480), (0, 0, 100, 120)
    fragment, equal, tiny, beside = (
        (60, 60, 260, 300),
        (0, 0, 400, 470),
        (9, 9, 30, 30),
        (500, 0, 600, 90),
    )
    boxes = np.array([whole, fragment, equal, tiny, beside], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], dtype=np.float32)
    levels = np.zeros(5)
    assert pyramid.fragments(boxes, scores, levels).tolist() == [False, True, False, False, False]
    worse = np.array([0.8, 0.9], dtype=np.float32)
    assert not pyramid.fragments(boxes[:2], worse, levels[:2]).any(), "the better box stays"
    close = np.array([small, (20, 20, 70, 80)], dtype=np.float32)
    assert not pyramid.fragments(close, scores[:2], levels[:2]).any(), "small faces have none"


@pytest.mark.parametrize(("side", "dropped"), [(190, False), (194, True)])
def test_from_192_px_on_a_face_shows_fragments(side, dropped):
    boxes = np.array([(0, 0, side, side), (10, 10, 90, 90)], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert pyramid.fragments(boxes, scores, np.zeros(2)).tolist() == [False, dropped]


@pytest.mark.parametrize(("inside", "dropped"), [(0.7, False), (0.85, True)])
def test_a_fragment_lies_within_the_face_by_four_fifths(inside, dropped):
    left = 400 - 200 * inside
    boxes = np.array([(0, 0, 400, 400), (left, 250, left + 200, 390)], np.float32)
    scores = np.array([0.9, 0.89], np.float32)
    assert pyramid.fragments(boxes, scores, np.zeros(2)).tolist() == [False, dropped]


@pytest.mark.parametrize(("score", "dropped"), [(0.45, False), (0.55, True)])
def test_only_a_sure_face_has_ears(score, dropped):
    boxes = np.array([(0, 0, 400, 480), (380, 200, 480, 330)], dtype=np.float32)
    scores = np.array([score, 0.3], dtype=np.float32)
    assert pyramid.fragments(boxes, scores, np.zeros(2)).tolist() == [False, dropped]


@pytest.mark.parametrize(
    ("box", "score", "dropped"),
    [
        ((380, 200, 480, 330), 0.7, True),  # an ear, half of it outside the face's box
        ((250, 330, 350, 400), 0.7, True),  # a mouth
        ((380, 200, 480, 330), 0.75, False),  # a face behind the head
        ((460, 200, 560, 330), 0.7, False),  # one beside it
        ((100, -120, 200, -10), 0.7, False),  # one above it
        ((380, 30, 410, 70), 0.7, False),  # below a hundredth, in a corner of its box
        ((300, 100, 520, 380), 0.7, False),  # more than a quarter of it
    ],
)
def test_ears_and_mouths_of_a_large_face_are_no_faces(box, score, dropped):
    boxes = np.array([(0, 0, 400, 480), box], dtype=np.float32)
    scores = np.array([0.8, score], dtype=np.float32)
    assert pyramid.fragments(boxes, scores, np.zeros(2)).tolist() == [False, dropped]
    assert not pyramid.fragments(boxes * 0.4, scores, np.zeros(2)).any(), "small faces have none"


@pytest.mark.parametrize(
    ("score", "box", "its_score", "dropped"),
    [
        (0.8, (300, 220, 330, 250), 0.7, True),  # the corner of an eye
        (0.8, (385, 220, 415, 250), 0.7, True),  # where the face ends
        (0.8, (410, 220, 440, 250), 0.7, False),  # beside it
        (0.8, (300, 220, 330, 250), 0.75, False),
        (0.65, (300, 220, 330, 250), 0.5, False),  # is there a face at all?
    ],
)
def test_nothing_tiny_within_a_sure_face_is_a_face(score, box, its_score, dropped):
    boxes = np.array([(0, 0, 400, 480), box], dtype=np.float32)
    scores = np.array([score, its_score], dtype=np.float32)
    assert pyramid.fragments(boxes, scores, np.zeros(2)).tolist() == [False, dropped]


def small_faces(count, side, score=0.5):
    corners = np.stack([50.0 * np.arange(count), np.zeros(count)], axis=1)
    boxes = np.concatenate([corners, corners + side], axis=1).astype(np.float32)
    return boxes, np.full(count, score, np.float32)


@pytest.mark.parametrize(
    ("faces", "crowd"),
    [
        (small_faces(8, 20), True),
        (small_faces(7, 20), False),
        (small_faces(8, 23.9), True),
        (small_faces(30, 24.1), False),
        (small_faces(30, 20, score=0.25), False),
        (small_faces(0, 20), False),
    ],
)
def test_a_crowd_is_many_small_faces(faces, crowd):
    assert pyramid.shows_crowd(*faces) is crowd


def around(*centres, size=(480, 640), side=8.0, score=0.3, corner=(0, 0)):
    """Windows of a look of a size, at a corner of its photo, around squares."""
    middle = np.array(centres, np.float32).reshape(-1, 2)
    boxes = np.concatenate([middle - side / 2, middle + side / 2], axis=1)
    window = (*corner, corner[0] + size[0], corner[1] + size[1])
    view = pyramid.View(0, (4_000, 4_000), window, (0.0, float("inf")))
    return [found.window for found in view.around_tiny(boxes, np.full(len(boxes), score))]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (around(), []),
        (around((320, 240)), [(176, 256, 304, 384)]),
        (around((320, 240), score=0.24), []),
        (around((320, 240), side=12.5), []),
        (around((5, 5), (630, 470)), [(0, 0, 128, 128), (352, 512, 480, 640)]),
        (around((320, 240), (355, 205)), [(176, 256, 304, 384)]),
        (around((320, 240), (365, 240)), [(176, 256, 304, 384), (176, 301, 304, 429)]),
        (around((320, 240), corner=(100, 1_000)), [(276, 1_256, 404, 1_384)]),
        (around((50, 40), (5, 85), size=(90, 100)), [(0, 0, 90, 100)]),
        (around((50, 50), (950, 50), size=(100, 1_000)), [(0, 0, 100, 128)]),
    ],
)
def test_tiny_faces_get_windows_of_their_own(windows, expected):
    assert windows == expected


def test_windows_around_tiny_faces_are_enlarged_and_no_more_than_the_look():
    places = [(x, y) for x in range(64, 640, 128) for y in range(64, 480, 128)]
    assert len(places) > 4
    assert len(around(*places)) == 4
    view = pyramid.View(0, (480, 640), (0, 0, 480, 640), (0.0, float("inf")))
    (window,) = view.around_tiny(np.array([[300, 200, 308, 208]], np.float32), np.array([0.3]))
    assert window.look_size == (256, 256)
    sides = np.array([33.0, 35.0])
    corners = np.full((2, 2), 20.0)
    boxes = np.concatenate([corners, corners + sides[:, None]], axis=1).astype(np.float32)
    kept, _ = window.place(2 * boxes, np.ones(2, np.float32), (480, 640))
    assert (kept[:, 2] - kept[:, 0]).tolist() == [33]


def test_a_view_holds_what_its_borders_do_not_cut():
    view = pyramid.View(0, (480, 640), (0, 100, 128, 228), (0.0, 24.0))
    boxes = np.array(
        [(99, 0, 107, 8), (110, 1, 118, 9), (130, 60, 230, 200), (225, 60, 231, 70)], np.float32
    )
    assert view.holds(boxes, (480, 640)).tolist() == [False, True, False, False]
    assert view.holds(boxes * 2, (960, 1_280)).tolist() == [False, True, False, False]


def test_a_closer_look_reports_in_px_of_the_photo_and_leaves_large_faces_out():
    view = pyramid.View(0, (99, 201), (20, 40, 99, 201), (0.0, float("inf"))).closer()
    assert view.size == (79, 161)
    assert view.look_size == (118, 242)
    half = np.array([[121, 59, 242, 118]], np.float32)
    kept, _ = view.place(half, np.ones(1, np.float32), (198, 402))
    assert kept.tolist() == [[2 * (40 + 80.5), 2 * (20 + 39.5), 402, 198]]
    whole = pyramid.View(0, (99, 201), (0, 0, 99, 201), (0.0, float("inf"))).closer()
    large = np.array([[0, 0, 135, 135], [0, 0, 137, 137]], np.float32)
    assert whole.place(large, np.array([0.9, 0.8], np.float32), (99, 201))[1] == np.float32(0.9)


def faces(*rows):
    """Rows ``x1 y1 x2 y2 score`` as boxes and scores."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return table[:, :4], table[:, 4]


def test_two_looks_agree():
    first = faces([0, 0, 10, 10, 0.8], [50, 0, 60, 10, 0.6], [100, 0, 200, 100, 0.9])
    closer = faces([2, 0, 12, 10, 0.4], [80, 0, 90, 10, 0.5])
    boxes, scores = pyramid.agree(first, closer, side=64.0)
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes[1] == pytest.approx([2 / 3, 0, 32 / 3, 10]), "both, the surer one twice"
    assert scores == pytest.approx([0.9, 0.6, 0.42, 0.35])
    assert boxes[[0, 2, 3]].tolist() == [[100, 0, 200, 100], [50, 0, 60, 10], [80, 0, 90, 10]]


def test_two_looks_at_faces_that_overlap():
    # One of the first look, two of the closer one around it: only the better overlap is the same.
    first = faces([0, 0, 10, 10, 0.8])
    boxes, scores = pyramid.agree(first, faces([1, 0, 11, 10, 0.6], [5, 0, 15, 10, 0.9]), 64.0)
    assert scores == pytest.approx([0.7, 0.63])
    assert boxes[1].tolist() == [5, 0, 15, 10]
    # Once averaged, what both found covers what is left.
    _, scores = pyramid.agree(first, faces([1, 0, 11, 10, 0.6], [2, 0, 12, 10, 0.9]), 64.0)
    assert scores == pytest.approx([0.7])


@pytest.mark.parametrize(("first", "closer"), [(1, 0), (0, 1), (0, 0)])
def test_two_looks_of_which_one_found_nothing(first, closer):
    one, none = faces([0, 0, 10, 10, 0.8]), faces()
    boxes, scores = pyramid.agree(one if first else none, one if closer else none, 64.0)
    assert scores == pytest.approx([0.56] * (first + closer))
    assert boxes.shape == (first + closer, 4)


def test_two_looks_agree_on_what_neither_believes():
    boxes, scores = pyramid.agree(faces([0, 0, 10, 10, 0]), faces([1, 0, 11, 10, 0]), 64.0)
    assert np.isfinite(boxes).all()
    assert scores.tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_faces_are_those_of_the_plain_definition(seed):
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 150, (500, 2)), rng.uniform(3, 30, (500, 2))
    everything = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    a, b = everything[:200], everything[200:]
    overlap = boxes.iou(a, b)
    mutual = (overlap == overlap.max(axis=0)) & (overlap == overlap.max(axis=1)[:, None])
    expected = np.argwhere(mutual & (overlap >= pyramid.SAME_FACE))
    assert len(expected) > 10
    pairs = np.stack(pyramid._same_faces(a, b), axis=1)
    assert sorted(pairs.tolist()) == expected.tolist()
