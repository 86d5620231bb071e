import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from faceresnet import Detections
from faceresnet.video.between import between

SIZE = (100, 200)


def look(*faces):
    """Each face: left edge, score, track."""
    boxes = [[x, 10, x + 20, 40] for x, _, _ in faces]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in faces], np.float32),
        SIZE,
        np.array([track for _, _, track in faces], np.int64),
    )


def test_tracks_move_in_straight_lines():
    seen = between(look((0, 0.8, 1), (100, 0.9, 2)), look((60, 0.6, 2), (40, 0.4, 1)), 0.25)
    assert seen.tracks.tolist() == [1, 2]
    assert seen.boxes[:, 0].tolist() == [10, 90]
    np.testing.assert_allclose(seen.scores, [0.7, 0.825], rtol=1e-6)


def test_faces_of_one_look_stay_for_the_nearer_half():
    before, after = look((0, 0.8, 1), (50, 0.9, -1)), look((100, 0.7, 3), (150, 0.6, -1))
    assert between(before, after, 0.4) == before
    assert between(before, after, 0.6) == after


def test_no_faces():
    empty = look()
    assert len(between(empty, empty, 0.5)) == 0
    assert len(between(look((0, 0.9, 1)), empty, 0.9)) == 0


def test_looks_without_tracks_or_of_two_sizes_are_held():
    before = look((0, 0.8, 1))
    plain = Detections(before.boxes, before.scores, SIZE)
    other = Detections(before.boxes, before.scores, (50, 60), before.tracks)
    assert between(plain, before, 0.4) is plain
    assert between(before, other, 0.6) is other


TRACKS = st.lists(st.integers(0, 9), unique=True)


@given(st.floats(0, 1), TRACKS, TRACKS)
def test_a_track_of_both_looks_is_never_lost_nor_doubled(part, first, second):
    before = look(*((5 * track, 0.5, track) for track in first))
    after = look(*((9 * track, 0.5, track) for track in second))
    tracks = between(before, after, part).tracks.tolist()
    assert len(set(tracks)) == len(tracks)
    assert set(first) & set(second) <= set(tracks) <= set(first) | set(second)
