import io
import json
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest

from clips import blob_clip
from faceresnet import Detections, FaceDetector, VideoError
from faceresnet.apps.video import FaceFinder, Options, annotate, draw, open_detectors
from faceresnet.video.reading import Frame, open_video
from faceresnet.video.writing import VideoWriter

RED = [255, 0, 0]


@pytest.fixture(scope="module")
def detectors(blob_model):
    return [FaceDetector(blob_model, threads=1) for _ in range(2)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return blob_clip(tmp_path_factory.mktemp("clips") / "a.mp4", frames=24, step=2, sound="aac")


def find(clip, detectors, **options):
    with open_video(clip) as video:
        return list(FaceFinder(detectors, Options(**options), video.rate)(video))


def centres(seen):
    """Middles of the faces, from the left."""
    boxes = seen.faces.boxes
    return sorted(((boxes[:, 0] + boxes[:, 2]) / 2).tolist())


def test_every_frame_comes_once_in_order_with_its_own_faces(clip, detectors):
    found = find(clip, detectors)
    assert [seen.frame.index for seen in found] == list(range(24))
    for number, seen in enumerate(found):
        assert seen.detected
        assert seen.faces.tracks is None
        assert seen.faces == detectors[0](seen.frame.image)
        np.testing.assert_allclose(centres(seen), sorted([30 + 2 * number, 30 + number]), atol=6)


def test_tracks_are_complete_from_the_first_frame_on(clip, detectors):
    found = find(clip, detectors, track=True)
    rows = [
        dict(zip(seen.faces.tracks.tolist(), seen.faces.boxes[:, 1], strict=True)) for seen in found
    ]
    assert all(set(row) == {1, 2} for row in rows)
    assert len({row[1] < row[2] for row in rows}) == 1, "each id stays in its row"


@pytest.mark.parametrize("every", [2, 5, 11, 100])
def test_between_looks_faces_move_along(clip, detectors, every):
    found = find(clip, detectors, every=every)
    assert [seen.frame.index for seen in found] == list(range(24))
    assert [seen.detected for seen in found] == [n % every == 0 for n in range(24)]
    last = 23 // every * every
    for number, seen in enumerate(found[: last + 1]):
        assert seen.faces.tracks is None, "nobody asked for ids"
        expected = sorted([30 + 2 * number, 30 + number])
        np.testing.assert_allclose(centres(seen), expected, atol=8)
    for seen in found[last:]:
        assert seen.faces == found[last].faces, "after the last look they stay"


def test_frames_between_looks_keep_no_pixels_that_nobody_needs():
    images, most = [], 0

    def frames():
        nonlocal most
        for number in range(200):
            image = np.zeros((48, 64, 3), np.uint8)
            images.append(weakref.ref(image))
            most = max(most, sum(image() is not None for image in images))
            yield Frame(image, number / 25, number, number)

    found = FaceFinder([_Fake()], Options(every=60), 25, pictures=False)
    assert [seen.frame.index for seen in found(frames())] == [*range(200)]
    assert most <= 6
    assert found.looks == 4


def test_lines_are_the_same_with_a_film_and_without(clip, detectors, tmp_path):
    alone, beside = io.StringIO(), io.StringIO()
    with open_video(clip) as video:
        annotate(video, detectors, Options(every=5), lines=alone)
    run(clip, tmp_path / "b.mp4", detectors, beside, every=5)
    assert alone.getvalue() == beside.getvalue()
    assert alone.getvalue().count("\n") == 24


def test_looks_happen_at_the_same_time(clip):
    """Each of two detectors waits for the other: one alone would never end."""
    together = threading.Barrier(2, timeout=30)

    class Waits(_Fake):
        def __call__(self, image, threshold=None):
            together.wait()
            return super().__call__(image, threshold)

    assert len(find(clip, [Waits(), Waits()])) == 24


class _Fake:
    """Stands in for a detector: one face at the left border, of a given score."""

    default_threshold = 0.5

    def __init__(self, scores=0.9):
        self.scores = scores
        self.calls = 0

    def __call__(self, image, threshold=None):
        score = self.scores if isinstance(self.scores, float) else self.scores[self.calls]
        self.calls += 1
        faces = Detections(
            np.array([[10, 10, 50, 50]], np.float32), np.array([score], np.float32), image.shape[:2]
        )
        return faces.filter(min_score=threshold or self.default_threshold)


def test_faint_faces_count_only_where_a_track_leads_to_them(clip):
    scores = [0.9, 0.9, 0.3, 0.9] + [0.2] * 20
    found = find(clip, [_Fake(scores)], track=True)
    assert [len(seen.faces) for seen in found] == [1, 1, 1, 1] + [0] * 20
    found = find(clip, [_Fake([0.3] * 24)], track=True)
    assert not any(len(seen.faces) for seen in found)
    found = find(clip, [_Fake(scores)])
    assert [len(seen.faces) for seen in found[:4]] == [1, 1, 0, 1]


def test_errors_of_a_detector_arrive(clip):
    class Broken(_Fake):
        def __call__(self, image, threshold=None):
            raise RuntimeError("the network is out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        find(clip, [Broken()])


def run(clip, target, detectors, lines=None, sound=True, **rest):
    options = Options(**{key: rest.pop(key) for key in ("track", "every") if key in rest})
    with open_video(clip, sound=sound) as video, VideoWriter(target, like=video) as film:
        return annotate(video, detectors, options, film=film, lines=lines, **rest)


def test_film_lines_and_report(clip, detectors, tmp_path):
    lines = io.StringIO()
    report = run(clip, tmp_path / "b.mp4", detectors, lines, track=True)
    assert (report.frames, report.faces, report.tracks) == (24, 48, 2)
    assert (report.lost, report.stopped, report.broke_off) == (0, False, None)
    assert {stage: count for stage, (count, _) in report.stages.items()} == {
        "decode": 24,
        "detect": 24,
        "encode": 24,
    }
    assert all(busy_s > 0 for _, busy_s in report.stages.values())
    assert report.wall_s > 0
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [record["frame"] for record in records] == list(range(24))
    assert records[6]["time_s"] == pytest.approx(0.2)
    assert records[6]["detected"] is True
    assert {face["track"] for face in records[6]["faces"]} == {1, 2}
    assert set(records[6]["faces"][0]) == {"box", "score", "track"}
    with open_video(tmp_path / "b.mp4", sound=True) as video:
        frames = list(video)
        assert video.sound
    assert len(frames) == 24
    with open_video(clip) as video:
        before = list(video)
    x1, y1, x2, _ = (round(x) for x in records[6]["faces"][0]["box"])
    middle = (x1 + x2) // 2
    redness = [
        int(each[6].image[y1, middle, 0]) - int(each[6].image[y1, middle, 1])
        for each in (frames, before)
    ]
    assert redness[0] > redness[1] + 20, "a line is drawn"


def test_drawing(detectors):
    image = np.full((120, 160, 3), 127, np.uint8)
    boxes = np.array([[20, 30, 60, 70], [100, 2, 140, 40]], np.float32)
    faces = Detections(boxes, np.array([0.9, 0.8], np.float32), (120, 160))
    from faceresnet.apps.video import Seen

    seen = Seen(Frame(image, 0, 0, 0), faces, detected=True)
    plain = draw(seen)
    assert plain[30, 40].tolist() == RED
    assert image.min() == image.max() == 127, "the frame stays as it was"
    numbered = draw(replace(seen, faces=replace(faces, tracks=np.array([7, -1]))))
    changed = np.argwhere((numbered != plain).any(axis=2))
    assert len(changed) > 20, "an id is drawn"
    assert changed[:, 1].max() < 60, "but none for the face without"


def test_stopping_keeps_what_was_done(clip, detectors, tmp_path):
    stop, lines = threading.Event(), io.StringIO()

    def progress(found):
        for number, seen in enumerate(found):
            if number == 5:
                stop.set()
            yield seen

    report = run(clip, tmp_path / "b.mp4", detectors, lines, stop=stop, progress=progress)
    assert report.stopped
    assert 6 <= report.frames < 24
    assert len(lines.getvalue().splitlines()) == report.frames
    with open_video(tmp_path / "b.mp4") as video:
        assert len(list(video)) == report.frames


def test_a_source_that_breaks_off_keeps_what_came(clip, detectors, tmp_path):
    class Breaks:
        """A camera whose cable is pulled after eight frames."""

        def __init__(self, video):
            self._video = video

        def __getattr__(self, name):
            return getattr(self._video, name)

        def __iter__(self):
            return self

        def __next__(self):
            frame = next(self._video)
            if frame.index == 8:
                raise VideoError("the camera broke off: no answer in time")
            return frame

    with open_video(clip, sound=True) as video, VideoWriter(tmp_path / "b.mp4", video) as film:
        report = annotate(Breaks(video), detectors, Options(), film=film)
    assert report.frames == 8
    assert "no answer in time" in report.broke_off
    with open_video(tmp_path / "b.mp4") as video:
        assert len(list(video)) == 8


class Leaves(io.StringIO):
    """A pipe whose reader has seen enough after five lines."""

    lines = 0

    def write(self, text):
        self.lines += 1
        if self.lines > 5:
            raise BrokenPipeError
        return super().write(text)


def test_a_reader_of_lines_who_leaves_stops_the_film_and_keeps_it(clip, detectors, tmp_path):
    lines = Leaves()
    report = run(clip, tmp_path / "b.mp4", detectors, lines)
    assert report.left
    assert report.stopped
    assert lines.lines == 6, "nothing more is tried"
    with open_video(tmp_path / "b.mp4") as video:
        assert len(list(video)) == report.frames >= 6


def test_a_reader_of_lines_who_leaves_ends_all_where_there_is_no_film(clip, detectors):
    with open_video(clip) as video, pytest.raises(BrokenPipeError):
        annotate(video, detectors, Options(), lines=Leaves())


def test_show_gets_every_drawn_frame_in_the_calling_thread_and_can_end(clip, detectors):
    shown = []

    def show(image):
        assert threading.current_thread() is threading.main_thread()
        shown.append(image)
        return len(shown) < 7

    with open_video(clip) as video:
        report = annotate(video, detectors, Options(), show=show)
    assert report.stopped
    assert report.closed
    assert 7 <= report.frames < 24
    assert (shown[0] == RED).all(axis=2).any()


def test_a_slow_writer_holds_the_reader_back(clip, detectors, tmp_path):
    """The memory for waiting frames is bounded."""
    ahead = []

    class Slow(io.StringIO):
        lines = 0

        def write(self, text):
            time.sleep(0.02)
            self.lines += 1
            ahead.append(video._clock._steps.total() + 1 - self.lines)
            return len(text)

    with open_video(clip) as video:
        annotate(video, [_Fake()], Options(), lines=Slow())
    assert max(ahead) <= 16


def test_detectors_share_the_threads(blob_model):
    made = []

    def make(threads):
        made.append(threads)
        return threads

    assert open_detectors(make, 1) == [1]
    assert open_detectors(make, 2) == [1, 1]
    assert open_detectors(make, 16) == [4] * 4
    assert open_detectors(make, None)
    with pytest.raises(ValueError, match="at least 1"):
        open_detectors(make, 0)


def test_options():
    with pytest.raises(ValueError, match="every must be at least 1"):
        Options(every=0)
