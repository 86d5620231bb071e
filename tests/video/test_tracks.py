import sys

import numpy as np
import pytest

from faceresnet import Detections, MissingExtraError, VideoError
from faceresnet.video.tracks import Tracker

pytest.importorskip("trackers", exc_type=ImportError)

SIZE = (480, 640)


def faces(*centres, side=60.0, scores=None):
    """Square boxes round centres (x, y)."""
    middle = np.array(centres, np.float32).reshape(-1, 2)
    boxes = np.concatenate([middle - side / 2, middle + side / 2], axis=1)
    scores = [0.9] * len(middle) if scores is None else scores
    return Detections(boxes, np.array(scores, np.float32), SIZE)


def follow(tracker, looks, rate):
    """Ids of each look; a look is a list of centres."""
    return [tracker(faces(*look), number / rate).tolist() for number, look in enumerate(looks)]


def test_ids_begin_with_the_second_look_and_stay():
    ids = follow(Tracker(30), [[(100 + n, 100), (400, 300 - n)] for n in range(10)], 30)
    assert ids[0] == [-1, -1]
    assert ids[1:] == [[1, 2]] * 9


def test_what_the_first_look_was_is_known_by_the_second():
    tracker = Tracker(30)
    tracker(faces((100, 100), (500, 100)), 0)
    tracker(faces((500, 101), (101, 100)), 1 / 30)
    (first, second) = tracker.previous.tolist()
    assert {first, second} == {1, 2}
    assert tracker(faces((500, 102), (102, 100)), 2 / 30).tolist() == [second, first]


@pytest.mark.parametrize("pause", range(1, 5))
def test_who_comes_when_another_track_ends_is_known_by_the_second_look(pause):
    tracker = Tracker(10, lost_s=0.3)
    for visit in range(10):
        place = (100 + 400 * (visit % 2), 100)
        tracker(faces(place))
        ids = tracker(faces(place)).tolist()
        assert tracker.previous.tolist() == ids
        for _ in range(pause):
            tracker(faces())


def test_ids_are_those_of_each_face_whatever_the_order():
    tracker, looks = Tracker(30), []
    rng = np.random.default_rng(0)
    for number in range(12):
        centres = [(100 + 3 * number, 100), (300, 200), (500 - 3 * number, 400)]
        order = rng.permutation(3)
        ids = tracker(faces(*[centres[place] for place in order]), number / 30)
        looks.append([int(ids[list(order).index(place)]) for place in range(3)])
    assert looks[1:] == [looks[1]] * 11
    assert len(set(looks[1])) == 3


@pytest.mark.parametrize("every", [1, 3, 5, 10])
def test_faces_that_cross_keep_their_ids(every):
    """Two faces pass each other, 180 px/s each; where they meet the detector sees one of them."""
    looks = []
    for frame in range(0, 90, every):
        left, right = 60 + 6 * frame, 580 - 6 * frame
        one = [(left, 240)] if abs(left - right) < 40 else [(left, 240), (right, 250)]
        looks.append([one[0]] if len(one) == 1 else one)
    ids = follow(Tracker(30 / every), looks, 30 / every)
    first, last = ids[1], ids[-1]
    assert len(set(first)) == 2
    assert last == first


def test_fast_faces_at_a_low_rate():
    """A face moves by more than its own width between looks: the library's own filter loses it."""
    ids = follow(Tracker(3), [[(40 + 70 * n, 200)] for n in range(8)], 3)
    assert ids[1:] == [[1]] * 7


def test_a_face_hidden_for_a_moment_keeps_its_id_and_one_gone_for_long_gets_another():
    looks = [[(100, 100)]] * 10 + [[]] * 15 + [[(104, 100)]] * 3 + [[]] * 60 + [[(100, 100)]] * 3
    ids = follow(Tracker(30), looks, 30)
    assert ids[9] == ids[25] == [1]
    assert ids[-1] == [2]


@pytest.mark.parametrize("side", [20, 60, 200])
def test_a_face_of_any_size_that_turns_round_keeps_its_id(side):
    way = [2 * side * min(n, 20 - n) / 5 for n in range(20)]
    tracker = Tracker(5)
    ids = [tracker(faces((100 + x, 200), side=side), n / 5).tolist() for n, x in enumerate(way)]
    assert ids[1:] == [[1]] * 19


def test_a_face_that_goes_round_in_a_wide_curve_keeps_its_id():
    angles = np.arange(20) / 5
    looks = [[(300 + 174 * np.sin(a), 374 - 174 * np.cos(a))] for a in angles]
    assert follow(Tracker(5), looks, 5)[1:] == [[1]] * 19


def test_a_face_whose_edges_jump_keeps_its_id():
    rng = np.random.default_rng(0)
    tracker, ids = Tracker(25), []
    for number in range(100):
        box = np.array([[200, 100, 400, 300]]) + rng.normal(0, 30, 4)
        face = Detections(box.astype(np.float32), np.array([0.9], np.float32), SIZE)
        ids.append(tracker(face, number / 25).tolist())
    assert ids[1:] == [[1]] * 99


def test_a_face_may_be_hidden_for_two_looks_however_rare_they_are():
    looks = [[(100, 100)]] * 4 + [[]] * 2 + [[(100, 100)]] * 2
    assert follow(Tracker(2, lost_s=0.1), looks, 2)[-1] == [1]


def test_a_likeness_that_is_asked_for_is_kept_to():
    looks = [[(100 + 30 * n, 100)] for n in range(4)]
    assert follow(Tracker(30), looks, 30)[-1] == [1]
    assert follow(Tracker(30, min_iou=0.9), looks, 30)[-1] == [-1]


@pytest.mark.parametrize(("rate", "identity"), [(30, 2), (3, 1)])
def test_a_face_beside_the_last_one_is_the_same_only_where_looks_are_rare(rate, identity):
    looks = [[(100, 100)]] * 4 + [[(150, 100)]] * 2
    assert follow(Tracker(rate), looks, rate)[-1] == [identity]


def test_ids_are_the_callers_own():
    tracker = Tracker(30)
    for number in range(3):
        ids = tracker(faces((100, 100)), number / 30)
        ids[:] = 99
    tracker(faces((100, 100)), 3 / 30)
    assert tracker.previous.tolist() == [1]


def test_irregular_times():
    times_s = np.cumsum([0.01, 0.2, 0.03, 0.4, 0.05, 0.3, 0.02, 0.25])
    tracker = Tracker(8)
    ids = [tracker(faces((100 + 100 * t, 100)), t).tolist() for t in times_s]
    assert ids[1:] == [[1]] * 7


def test_clocks_that_stand_still_or_run_backwards():
    tracker = Tracker(30)
    ids = [tracker(faces((100, 100)), time_s).tolist() for time_s in (5, 5, 4, 4, 6)]
    assert ids == [[-1], [1], [1], [1], [1]]


def test_faint_faces_continue_tracks_but_start_none():
    tracker = Tracker(30, threshold=0.5)
    for number, score in enumerate([0.9, 0.9, 0.3, 0.3]):
        ids = tracker(faces((100, 100), (400, 100), scores=[score, 0.3]), number / 30).tolist()
    assert ids == [1, -1]


def test_with_a_threshold_of_0_the_faintest_face_starts_a_track():
    tracker = Tracker(30, threshold=0.0)
    ids = [tracker(faces((100, 100), scores=[0.05]), n / 30).tolist() for n in range(3)]
    assert ids == [[-1], [1], [1]]


def test_no_faces():
    tracker = Tracker(30)
    for _ in range(3):
        ids = tracker(Detections.empty(SIZE))
        assert (ids.dtype, ids.shape) == (np.int64, (0,))
    assert tracker(faces((1, 1))).tolist() == [-1]


def test_memory_stays_flat():
    """Faces that come and go leave nothing behind."""
    tracker = Tracker(30)
    rng = np.random.default_rng(0)
    for number in range(600):
        tracker(faces(*rng.uniform(50, 400, (3, 2))), number / 30)
    assert len(tracker._tracker.tracks) < 3 * 35
    assert len(tracker._unconfirmed) <= 3


@pytest.mark.parametrize("wrong", [(0, 1), (-1, 1), (float("nan"), 1), (30, -1)])
def test_wrong_numbers(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        Tracker(wrong[0], lost_s=wrong[1])


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[video\]'"):
        Tracker(30)


def test_a_missing_system_library_is_named(monkeypatch):
    class Broken:
        @staticmethod
        def find_spec(name, *_):
            if name == "trackers":
                raise ImportError("libGL.so.1: cannot open shared object file: No such file")

    monkeypatch.delitem(sys.modules, "trackers", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(VideoError, match=r"libGL\.so\.1.*apt install libgl1"):
        Tracker(30)
