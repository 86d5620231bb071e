import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from faceresnet import boxes

COORDINATE = st.integers(0, 40)


@st.composite
def scored_boxes(draw):
    """Boxes at whole px, so that every overlap is exact in float32, and scores with ties."""
    count = draw(st.integers(0, 40))
    corners = draw(hnp.arrays(np.float32, (count, 2), elements=COORDINATE))
    sides = draw(hnp.arrays(np.float32, (count, 2), elements=st.integers(0, 20)))
    scores = draw(hnp.arrays(np.float32, count, elements=st.integers(-3, 8)))
    return np.concatenate([corners, corners + sides], axis=1), scores / np.float32(8)


def plain_nms(candidates, scores, threshold):
    """Greedy suppression, word for word."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        overlaps = [boxes.iou(candidates[[i]], candidates[[j]])[0, 0] for j in kept]
        if all(overlap <= np.float32(threshold) for overlap in overlaps):
            kept.append(int(i))
    return kept


@pytest.fixture(params=["few", "many"])
def either_way(request, monkeypatch):
    """A few boxes and many go different ways; the way of the many is open to a few as well."""
    if request.param == "many":
        monkeypatch.setattr(boxes, "FEW", 0)


@pytest.mark.usefixtures("either_way")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scored_boxes(), st.sampled_from([0.0, 0.25, 1 / 3, 0.4, 0.5, 0.75, 1.0]))
def test_nms_is_the_greedy_definition(candidates, threshold):
    assert boxes.nms(*candidates, threshold).tolist() == plain_nms(*candidates, threshold)


@pytest.mark.usefixtures("either_way")
def test_nms_drops_only_what_overlaps_more_than_the_threshold():
    half = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert boxes.nms(half, scores, 0.5).tolist() == [0, 1]
    assert boxes.nms(half, scores, 0.49).tolist() == [0]


@pytest.mark.usefixtures("either_way")
def test_nms_of_odd_boxes():
    inside_out = np.array([[10, 10, 0, 0], [0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert boxes.nms(inside_out, scores, 0.1).tolist() == [0, 1, 2]
    nan_score = np.array([np.nan, 0.8, 0.7], np.float32)
    assert boxes.nms(inside_out, nan_score, 0.1).tolist() == [1, 2]
    assert boxes.nms(inside_out, np.array([0.9, -np.inf, 0.7], np.float32), 0.1).tolist() == [0, 2]
    nothing = boxes.nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5)
    assert nothing.dtype == np.int64
    assert nothing.shape == (0,)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_nms_refuses_thresholds_out_of_range(threshold):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        boxes.nms(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), threshold)


def crowd(count, seed=0):
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.uniform(0, 600, (count // 10, 2)), 10, axis=0)
    centre += rng.normal(0, 2, centre.shape)
    side = rng.uniform(8, 40, (count, 1))
    candidates = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    return candidates.astype(np.float32), rng.uniform(0, 1, count).astype(np.float32)


def test_nms_of_a_dense_crowd_takes_milliseconds():
    candidates, scores = crowd(5_000)
    boxes.nms(candidates, scores, 0.4)
    times_s = []
    for _ in range(9):
        start = time.process_time()  # of all threads, whatever else the machine does
        boxes.nms(candidates, scores, 0.4)
        times_s.append(time.process_time() - start)
    # 1 ms on an idle machine; a loop over arrays takes 24.
    assert min(times_s) < 0.008


def test_nms_in_many_threads_gives_the_same():
    crowds = [crowd(1_000, seed) for seed in range(8)]
    alone = [boxes.nms(*one, 0.4).tolist() for one in crowds]
    together = [None] * len(crowds)

    def work(i):
        for _ in range(5):
            together[i] = boxes.nms(*crowds[i], 0.4).tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(crowds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


@given(
    hnp.arrays(np.float32, (7, 4), elements=st.floats(0, 100, width=32)),
    hnp.arrays(np.float32, (7, 4), elements=st.floats(0, 100, width=32)),
)
def test_iou_is_symmetric_and_bounded(a, b):
    overlap = boxes.iou(a, b)
    np.testing.assert_allclose(overlap, boxes.iou(b, a).T)
    assert (overlap >= 0).all()
    assert (overlap <= 1 + 1e-6).all()


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(boxes.iou(a, b), [[1, 1 / 3, 0], [0, 0, 0]], rtol=1e-6)


@given(
    hnp.arrays(np.float32, (5, 2), elements=st.floats(0, 500, width=32)),
    hnp.arrays(np.float32, (5, 2), elements=st.floats(4, 200, width=32)),
    st.sampled_from([(1.0, 1.0), (0.1, 0.2)]),
)
def test_decode_inverts_encode(corner, size, scales):
    faces = np.concatenate([corner, corner + size], axis=1)
    anchors = np.tile(np.array([[100, 100, 164, 196]], np.float32), (5, 1))
    deltas = boxes.encode(faces, anchors, scales)
    np.testing.assert_allclose(boxes.decode(deltas, anchors, scales), faces, atol=2e-3)


def test_decode_of_anything_large_is_finite():
    deltas = np.array([[1e4, -1e4, 1e30, -1e30]], np.float32)
    anchors = np.array([[0, 0, 16, 16]], np.float32)
    decoded = boxes.decode(deltas, anchors, (1.0, 1.0))
    assert np.isfinite(decoded).all()
    assert decoded[0, 2] - decoded[0, 0] == pytest.approx(16 * np.exp(4), rel=1e-3)


def test_clip_keeps_boxes_within_the_image():
    outside = np.array([[-5, -5, 50, 50]], np.float32)
    assert boxes.clip(outside, (20, 30)).tolist() == [[0, 0, 30, 20]]


def test_scaled_takes_each_axis_for_itself():
    box = np.array([[1, 2, 3, 4]], np.float32)
    scaled = boxes.scaled(box, (10, 20), (30, 40))
    assert scaled.tolist() == [[2, 6, 6, 12]]
    assert scaled.dtype == np.float32


def test_shapes_in_signatures_are_checked():
    with pytest.raises(Exception, match="type"):
        boxes.area(np.zeros((3, 5), np.float32))


def test_small_boxes_are_tightened_and_large_ones_left():
    sides = np.array([12, 18, 24, 100, 1.2], np.float32)
    corners = np.full((5, 2), 40, np.float32)
    whole = np.concatenate([corners - sides[:, None] / 2, corners + sides[:, None] / 2], axis=1)
    tight = boxes.tighten(whole, 1.0)
    assert tight.dtype == np.float32
    assert (tight[:, 2] - tight[:, 0]).tolist() == pytest.approx([11, 17.5, 24, 100, 0.8], rel=1e-4)
    assert (tight[:, 3] - tight[:, 1]).tolist() == pytest.approx([11, 17.5, 24, 100, 0.8], rel=1e-4)
    assert tight[:, 0].tolist() == whole[:, 0].tolist(), "all of the width goes at the right"
    assert (tight[:, 1] + tight[:, 3]).tolist() == pytest.approx([80.0] * 5)
    assert boxes.tighten(whole, 0.0) is whole
    assert boxes.tighten(whole[:0], 1.0).shape == (0, 4)


def test_the_smallest_boxes_lose_no_more_than_the_excess():
    box = np.array([[0, 0, 6, 6]], np.float32)
    assert boxes.tighten(box, 0.5).tolist() == [[0, 0.25, 5.5, 5.75]]


def test_whole_numbers_overlap_as_others_do():
    rows = np.array([(0, 0, 4, 4), (2, 0, 6, 4)])
    np.testing.assert_allclose(boxes.iou(rows, rows), [[1, 1 / 3], [1 / 3, 1]])
