import json
from datetime import UTC, datetime, timedelta
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import blob_image
from faceresnet.apps.watch.crops import better, sharpness
from faceresnet.apps.watch.events import EventOptions, Scene
from faceresnet.detections import Detections
from faceresnet.video.live import LiveFrame

SIZE = (240, 320)
START = datetime(2026, 3, 1, 23, 59, 58, tzinfo=UTC)
FPS = 10


class Stage:
    """A scene and a script: who is seen in each frame.

    Faces are called by numbers; the tracking knows them by their scores, which name them.
    """

    def __init__(self, options=None, *, file=False):
        self.trackings = 0
        self.scene = Scene("door", options or EventOptions(), self._make_tracking, file=file)
        self.number = 0
        self.connection = 1
        self.said = []

    def _make_tracking(self):
        self.trackings += 1
        offset = 1000 * self.trackings  # a new tracking has new ids

        def tracking(faces, time_s):
            ids = [round(score * 100) + offset for score in faces.scores.tolist()]
            return np.array([-1 if id % 100 == 99 else id for id in ids], dtype=np.int64)

        return tracking

    def show(self, *faces, size=SIZE, times=1):
        """Frames with faces in them; 99 is one that the tracking does not confirm."""
        events = []
        for _ in range(times):
            scale = size[0] / SIZE[0]
            corners = [np.array([60 * f % 240, 50, 60 * f % 240 + 40, 90]) for f in faces]
            boxes = np.array(corners, dtype=np.float32).reshape(-1, 4) * np.float32(scale)
            found = Detections(boxes, np.array([f / 100 for f in faces], np.float32), size)
            image = np.zeros((*size, 3), np.uint8)
            now_s = self.number / FPS
            at = START + timedelta(seconds=now_s)
            frame = LiveFrame(image, at, now_s, now_s, self.number, self.connection)
            self.number += 1
            events += self.scene.see(frame, image, found)
        self.said += events
        return events


def brief(events):
    return [(event.kind, event.track, event.count) for event in events]


def test_a_face_enters_and_leaves():
    stage = Stage()
    assert brief(stage.show(times=5)) == []
    events = stage.show(1, times=10)
    assert brief(events) == [("face_entered", 1, 1), ("count_changed", None, 1)]
    entered, changed = events
    assert entered.since == START + timedelta(seconds=0.5)
    assert entered.at == START + timedelta(seconds=0.8)
    assert changed.before == 0
    events = stage.show(times=20)
    assert brief(events) == [("face_left", 1, 0), ("count_changed", None, 0)]
    left = events[0]
    assert left.seen_s == pytest.approx(0.9)
    assert left.at - left.since == timedelta(seconds=1.9)
    assert left.box == (60, 50, 100, 90)
    assert left.picture == PurePath("door/2026-03-01/235958.500_1.jpg") == entered.picture


def test_a_flicker_is_no_event():
    stage = Stage()
    stage.show(1, times=10)
    for gap in (1, 2, 5, 9):
        assert stage.show(times=gap) == []
        assert stage.show(1, times=3) == []
    for glimpse in (1, 2):
        assert stage.show(1, 2, times=glimpse) == []
        assert stage.show(1, times=15) == []


def test_a_face_seen_rarely_does_not_enter():
    stage = Stage()
    for _ in range(20):
        assert stage.show(1) == []
        assert stage.show(times=4) == []


def test_few_frames_a_second_are_enough():
    stage = Stage()
    stage.show()
    stage.number += 20  # three seconds between two frames
    assert stage.show(1) == []
    stage.number += 20
    assert brief(stage.show(1)) == [("face_entered", 1, 1), ("count_changed", None, 1)]
    for _ in range(2):
        stage.number += 20
        assert stage.show() == [], "a frame or two without it prove nothing, however long they last"
    assert brief(stage.show()) == [("face_left", 1, 0), ("count_changed", None, 0)]


def test_unconfirmed_faces_and_small_ones_do_not_count():
    assert Stage().show(99, times=30) == []
    assert Stage(EventOptions(min_size=41)).show(1, times=30) == []
    assert Stage(EventOptions(min_size=40)).show(1, times=30) != []


def test_the_count_changes_once_for_all_who_come_together():
    stage = Stage()
    events = stage.show(1, 2, 3, times=6)
    assert [event.kind for event in events] == ["face_entered"] * 3 + ["count_changed"]
    assert [event.count for event in events] == [1, 2, 3, 3]
    events = stage.show(3, times=20)
    assert (events[-1].before, events[-1].count) == (3, 1)
    exchange = stage.show(2, times=20)
    assert [e.kind for e in exchange if e.kind != "count_changed"] == ["face_entered", "face_left"]
    assert stage.scene.count == 1


def test_another_size_of_the_frames_changes_nothing():
    stage = Stage()
    stage.show(1, 2, times=10)
    assert stage.show(1, 2, size=(480, 640), times=20) == []
    assert stage.trackings == 1
    events = stage.show(2, size=(480, 640), times=20)
    assert events[0].box == (120, 100, 200, 180)
    assert events[0].size == (480, 640)


def test_a_camera_back_at_once_goes_on_where_it_was():
    stage = Stage()
    stage.show(1, 2, times=10)
    stage.connection += 1
    assert stage.show(1, 2, times=30) == []
    assert stage.trackings == 2
    stage.connection += 1
    events = stage.show(2, times=30)
    assert brief(events) == [("face_left", 1, 1), ("count_changed", None, 1)]


def test_what_is_not_confirmed_after_a_reconnection_is_nobody_from_before():
    stage = Stage()
    stage.show(1, times=10)
    stage.connection += 1
    events = stage.show(99, times=30)
    assert brief(events) == [("face_left", 1, 0), ("count_changed", None, 0)]
    assert events[0].box == (60, 50, 100, 90)


def test_when_the_camera_is_gone_all_leave():
    stage = Stage()
    stage.show(1, 2, times=10)
    events = stage.scene.lose(START + timedelta(seconds=9), "it broke")
    assert [event.kind for event in events] == ["face_left", "face_left", "count_changed"]
    assert {event.reason for event in events[:2]} == {"it broke"}
    assert stage.scene.count == 0
    assert stage.scene.lose(START, "again") == []
    assert brief(stage.show(1, times=10))[0] == ("face_entered", 3, 1)


def test_events_become_plain_values():
    stage = Stage(file=True)
    events = stage.show(1, times=10)
    assert events[0].to_dict(pictures=True) == {
        "event": "face_entered",
        "time": "2026-03-01T23:59:58.300Z",
        "camera": "door",
        "count": 1,
        "track": 1,
        "box": [60, 50, 100, 90],
        "width": 320,
        "height": 240,
        "score": 0.01,
        "since": "2026-03-01T23:59:58.000Z",
        "seen_s": 0.3,
        "position_s": 0.3,
        "crop": "door/2026-03-01/235958.000_1.jpg",
    }
    assert events[1].to_dict() == {
        "event": "count_changed",
        "time": "2026-03-01T23:59:58.300Z",
        "camera": "door",
        "count": 1,
        "before": 0,
        "position_s": 0.3,
    }
    assert "crop" not in events[0].to_dict()
    json.dumps(events[0].to_dict(pictures=True))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 4)), st.sampled_from([1, 2, 5, 15]), st.booleans()),
        max_size=15,
    )
)
def test_the_books_balance(script):
    """Whatever is seen: enter and leave alternate, and counts are what they add up to."""
    stage = Stage()
    for faces, times, reconnected in script:
        stage.connection += reconnected
        stage.show(*sorted(faces), times=times)
    stage.said += stage.scene.lose(START + timedelta(hours=1), "the end")
    here, told = set(), 0
    for event in stage.said:
        if event.kind == "face_entered":
            assert event.track not in here
            here.add(event.track)
        elif event.kind == "face_left":
            here.remove(event.track)
        else:
            assert event.before == told != event.count
            told = event.count
            assert told == len(here)
        assert event.count == len(here)
    assert not here
    assert told == stage.scene.count == 0
    times = [event.at for event in stage.said]
    assert times == sorted(times)


def test_impossible_options_are_refused():
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="negative"):
            EventOptions(leave_s=wrong)


def noise(side, contrast):
    rng = np.random.default_rng(0)
    return (127 + contrast * rng.standard_normal((side, side, 3))).clip(0, 255).astype(np.uint8)


def test_the_best_picture_is_sharp_large_and_whole():
    image = np.full((300, 300, 3), 127, np.uint8)
    image[50:90, 50:90] = noise(40, 10)
    image[50:90, 150:190] = noise(40, 60)
    image[150:230, 50:130] = noise(80, 60)
    boxes = np.array(
        [[50, 50, 90, 90], [150, 50, 190, 90], [50, 150, 130, 230], [0, 150, 80, 230]], np.float32
    )
    scores = np.array([0.9, 0.9, 0.9, 0.95], np.float32)
    faces = Detections(boxes, scores, (300, 300))
    blurred = better(None, image, faces, 0)
    sharp = better(blurred, image, faces, 1)
    assert sharp.quality > blurred.quality
    large = better(sharp, image, faces, 2)
    assert large.quality > sharp.quality
    assert large.image.shape == (120, 120, 3)
    for index in range(4):
        assert better(large, image, faces, index) is large
    assert sharpness(noise(64, 60)) > sharpness(noise(64, 10)) > sharpness(image[:40, :40]) == 0


def test_pictures_kept_are_small_copies():
    image = blob_image((2000, 2000), (1000, 1000, 1500))
    faces = Detections(
        np.array([[250, 250, 1750, 1750]], np.float32), np.ones(1, np.float32), (2000, 2000)
    )
    crop = better(None, image, faces, 0)
    assert max(crop.image.shape) == 512
    assert not np.shares_memory(crop.image, image)
