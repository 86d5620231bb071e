import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.apps.anonymise.filling import Filling, Look, count, fill

RATE = 25.0


def look(frame, *faces):
    """A frame with faces, ``(x, id)`` or ``(x, id, score)``: squares of 40 px at height 100."""
    faces = [(*face, 0.9)[:3] for face in faces]
    boxes = np.array([[x, 100, x + 40, 140] for x, _, _ in faces], np.float32).reshape(-1, 4)
    return Look(
        frame / RATE,
        boxes,
        np.array([score for _, _, score in faces], np.float32),
        np.array([identity for _, identity, _ in faces], np.int64),
    )


def covered(boxes, x):
    """Whether a face at x lies wholly under one of the boxes."""
    return any(
        x1 <= x and x2 >= x + 40 and y1 <= 100 and y2 >= 140 for x1, y1, x2, y2 in boxes.tolist()
    )


def test_a_gap_is_filled_where_the_face_has_been():
    looks = [look(n, (4 * n, 1)) if n < 10 or n > 30 else look(n) for n in range(41)]
    boxes = fill(looks, Filling())
    assert all(covered(boxes[n], 4 * n) for n in range(41))
    assert len(boxes[20]) == 1
    assert boxes[20][0, 2] - boxes[20][0, 0] == pytest.approx(48)  # larger: nobody looked


def test_a_face_is_held_before_it_appears_and_after_it_is_gone():
    looks = [look(n, (50, 7)) if 20 <= n <= 30 else look(n) for n in range(60)]
    boxes = fill(looks, Filling(hold_s=0.2))
    assert [n for n in range(60) if covered(boxes[n], 50)] == list(range(15, 36))


def test_a_gap_too_long_for_a_bridge_is_held_at_both_ends():
    looks = [look(n, (50, 7)) if n < 10 or n >= 90 else look(n) for n in range(100)]
    boxes = fill(looks, Filling(hold_s=0.4, bridge_s=2.0))
    there = [covered(boxes[n], 50) for n in range(100)]
    assert all(there[:20])
    assert not any(there[20:80])
    assert all(there[80:])


def test_faces_without_a_track_are_held_as_well():
    boxes = fill([look(n, (50, -1)) if n == 20 else look(n) for n in range(40)], Filling())
    assert [n for n in range(40) if covered(boxes[n], 50)] == list(range(8, 33))


def test_what_is_doubtful_is_held_a_moment():
    boxes = fill([look(n, (50, -1, 0.2)) if n == 20 else look(n) for n in range(40)], Filling())
    assert [n for n in range(40) if covered(boxes[n], 50)] == list(range(18, 23))
    looks = [look(n, (50, 3, 0.2)) if 18 <= n <= 22 else look(n) for n in range(40)]
    there = [covered(boxes, 50) for boxes in fill(looks, Filling())]
    assert sum(there) == 5 + 2 * 12, "seen in five frames it is doubtful no more"


def test_the_first_detection_of_a_track_has_no_id_yet():
    looks = [look(0), look(1, (50, -1)), *(look(n, (54 + n, 1)) for n in range(2, 60))]
    assert count(looks) == 1
    boxes = fill(looks, Filling(hold_s=0.2))
    assert not any(covered(boxes[n], 50) for n in range(12, 60)), "it is held with its track"


def test_a_track_whose_first_detection_has_no_id_is_held_after_its_last():
    looks = [look(0, (50, -1)), *(look(n, (50, 1)) if n < 6 else look(n) for n in range(1, 20))]
    boxes = fill(looks, Filling(hold_s=0.2))
    assert [n for n in range(20) if covered(boxes[n], 50)] == list(range(11))


@pytest.mark.parametrize("tracked", [range(0), range(22, 27), range(38, 44)])
def test_a_face_seen_in_every_third_frame_is_one_and_covered_throughout(tracked):
    """The tracker gives ids to what it finds in two frames running only."""
    looks = [look(n) for n in range(70)]
    for n in [*range(20, 50, 3), *tracked]:
        looks[n] = look(n, (50 + n, 1 if n in tracked else -1, 0.2))
    boxes = fill(looks, Filling(hold_s=0.4))
    assert count(looks) == 1
    assert all(covered(boxes[n], 50 + n) for n in range(20, 48))
    assert [n for n in range(70) if len(boxes[n])] == list(range(10, 58))


def test_two_faces_that_flicker_side_by_side_are_two():
    looks = [look(n, (50, -1, 0.2), (70, -1, 0.2)) if n % 3 == 0 else look(n) for n in range(20)]
    boxes = fill(looks, Filling())
    assert count(looks) == 2
    assert all(covered(one, 50) and covered(one, 70) for one in boxes)


def test_a_second_box_of_a_tracked_face_leads_its_bridge_nowhere():
    looks = [look(0, (50, 1), (70, -1)), look(1), look(2), look(3, (50, 1))]
    assert count(looks) == 1
    boxes = fill(looks, Filling(growth=0, hold_s=0))
    assert [one[:, 0].tolist() for one in boxes] == [[50, 70], [50], [50], [50]]


@pytest.mark.parametrize(("x", "first", "faces"), [(66, 3, 1), (66, 4, 2), (80, 3, 2)])
def test_a_face_without_an_id_is_the_one_tracked_near_by_and_soon(x, first, faces):
    looks = [look(0, (50, -1)), *(look(n, (x, 1)) if n >= first else look(n) for n in range(1, 9))]
    assert count(looks) == faces


@pytest.mark.parametrize(("score", "frames"), [(0.25, 5), (0.35, 25)])
def test_a_face_seen_once_is_sure_from_three_tenths_on(score, frames):
    boxes = fill([look(n, (50, -1, score)) if n == 20 else look(n) for n in range(40)], Filling())
    assert sum(covered(one, 50) for one in boxes) == frames


def test_what_is_doubtful_is_held_no_longer_than_what_is_sure():
    looks = [look(n, (50, -1, 0.2)) if n == 20 else look(n) for n in range(40)]
    boxes = fill(looks, Filling(hold_s=0.04, doubtful_hold_s=0.2))
    assert [n for n in range(40) if covered(boxes[n], 50)] == [19, 20, 21]


def test_times_count_and_not_frames():
    looks = [look(0, (50, 1)), look(100), look(101), look(102, (50, 1))]
    boxes = fill(looks, Filling(hold_s=0.1, bridge_s=1.0))
    assert [covered(b, 50) for b in boxes] == [True, True, True, True]
    assert [covered(b, 50) for b in fill(looks, Filling(hold_s=0.03, bridge_s=1.0))] == [
        *(True, False, False, True)
    ]


def test_an_empty_video():
    assert fill([], Filling()) == []
    assert [len(boxes) for boxes in fill([look(0), look(1)], Filling())] == [0, 0]


@given(
    st.lists(st.booleans(), min_size=2, max_size=50),
    st.floats(-8, 8),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=100)
def test_no_frame_between_two_detections_is_uncovered(seen, speed, reappears):
    """Whatever frames the detector misses."""
    first, last = 0, len(seen) - 1
    looks = [
        look(n, (300 + speed * n, 1))
        if seen[n] or n in (first, last) or (reappears and n % (reappears * 7) == 0)
        else look(n)
        for n in range(len(seen))
    ]
    boxes = fill(looks, Filling())
    for number in range(len(seen)):
        assert any(
            x1 <= 300 + speed * number + 0.01 and x2 >= 340 + speed * number - 0.01
            for x1, _, x2, _ in boxes[number].tolist()
        )


def test_wrong_times_are_refused():
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="must not be negative"):
            Filling(hold_s=wrong)
