import json
import socket
import sys
import threading
import time
import urllib.request
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from cameras import BadServer, RtspCamera, age_s, blob_clip, live, wait_for
from faceresnet.apps.watch import loop
from faceresnet.apps.watch.events import EventOptions
from faceresnet.apps.watch.loop import Watch, WatchOptions
from faceresnet.detections import Detections
from faceresnet.errors import FaceResNetError, MissingExtraError
from faceresnet.video.addresses import Source
from faceresnet.video.live import LiveOptions

QUICK = LiveOptions(connect_timeout_s=5, read_timeout_s=1, first_pause_s=0.05, longest_pause_s=0.2)
#: Someone for frames 5 to 24, someone else beside them for 10 to 39, nobody until 60.
SCRIPT = [
    [(30 + n % 3, 48, 28)] * (5 <= n < 25) + [(90, 48, 42)] * (10 <= n < 40) for n in range(60)
]


@pytest.fixture
def clip(tmp_path):
    return Source("clip", str(blob_clip(tmp_path / "clip.mp4", SCRIPT)), live=False)


class Running:
    """A watch in a thread, its events and whatever else it says."""

    def __init__(self, detect, sources, options, **more):
        self.events, self.statuses, self.lines = [], [], []
        self.watch = Watch(
            detect,
            sources,
            options,
            on_event=self.events.append,
            on_tick=self.statuses.append,
            on_problem=self.lines.append,
            **more,
        )
        self.thread = threading.Thread(target=self.watch.run, daemon=True)
        self.thread.start()

    def kinds(self, *without):
        return [event.kind for event in self.events if event.kind not in without]

    def scrape(self):
        """Values of all metrics: ``name{labels}`` → number."""
        url = f"http://127.0.0.1:{self.watch.metrics_port}/metrics"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        split = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in split}

    def end(self):
        self.watch.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def start():
    """Start a watch; it is stopped at the end."""
    started = []

    def start(detect, sources, options=None, **more):
        options = options or WatchOptions(live=QUICK)
        started.append(Running(detect, sources, options, **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


def nothing(image):
    return Detections.empty(image.shape[:2])


def test_a_file_from_its_beginning_to_its_end(start, blob_detector, clip, tmp_path):
    options = WatchOptions(save_events=tmp_path / "out", jsonl=str(tmp_path / "all.jsonl"))
    running = start(blob_detector, [clip], options)
    running.thread.join(60)
    told = [(event.kind, event.track, event.count) for event in running.events]
    assert told == [
        ("face_entered", 1, 1),
        ("count_changed", None, 1),
        ("face_entered", 2, 2),
        ("count_changed", None, 2),
        ("face_left", 1, 1),
        ("count_changed", None, 1),
        ("face_left", 2, 0),
        ("count_changed", None, 0),
    ]
    positions_s = [event.position_s for event in running.events[::2]]
    assert positions_s == pytest.approx([0.9, 1.4, 3.4, 4.9], abs=0.25)
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert lines == [event.to_dict(pictures=True) for event in running.events]
    for line in lines:
        if "crop" in line:
            assert (tmp_path / "out" / line["crop"]).stat().st_size > 500
    assert not running.watch.failed


class SlowOutlet:
    """Takes an event in 0.4 s; not the first few."""

    name = "slow"

    def __init__(self, refused=0):
        self.refused, self.events = refused, []

    def deliver(self, event, closing):
        time.sleep(0.4)
        if self.refused:
            self.refused -= 1
            raise FaceResNetError("not now")
        self.events.append(event)

    def close(self):
        pass


@pytest.mark.parametrize("refused", [0, 2])
def test_the_events_of_a_file_are_delivered_however_long_it_takes(
    start, blob_detector, clip, monkeypatch, refused
):
    outlet = SlowOutlet(refused)
    monkeypatch.setattr(loop, "_outlets", lambda options: [outlet])
    running = start(blob_detector, [clip])
    running.thread.join(60)
    assert outlet.events == running.events[refused:]
    assert running.watch.events == len(running.events) == 8
    assert running.watch.undelivered == ({"slow": 2} if refused else {})


def test_a_stop_ends_the_delivery_of_the_events_of_a_file(start, blob_detector, clip, monkeypatch):
    outlet = SlowOutlet()
    outlet.deliver = lambda event, closing: time.sleep(30)
    monkeypatch.setattr(loop, "_outlets", lambda options: [outlet])
    running = start(blob_detector, [clip])
    wait_for(lambda: len(running.events) == 8)
    running.end()
    assert running.watch.undelivered == {"slow": 8}


@pytest.mark.parametrize(
    ("options", "looks"),
    [({}, 60), ({"every": 7}, 9), ({"max_fps": 2}, 12), ({"frames": 5}, 5), ({"every": 100}, 1)],
)
def test_how_many_frames_of_a_file_are_looked_at(start, clip, options, looks):
    seen = []

    def detect(image):
        seen.append(image.shape)
        return nothing(image)

    start(detect, [clip], WatchOptions(**options)).thread.join(60)
    assert len(seen) == looks
    assert set(seen) == {(96, 128, 3)}


def test_a_file_that_cannot_be_read_does_not_stop_the_others(start, blob_detector, clip, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video" * 100)
    broken = Source("no", str(tmp_path / "no.mp4"), live=False)
    running = start(blob_detector, [broken, clip])
    running.thread.join(60)
    assert list(running.watch.failed) == ["no"]
    assert running.kinds("camera_down")[0] == "face_entered"
    assert running.kinds().count("camera_down") == 1


def test_a_camera_that_dies_and_comes_back(start, blob_detector, tmp_path):
    """The whole path: real RTSP, power cut, events, files, metrics."""
    with RtspCamera(codec="h264", user="joe", password="geheim") as camera:
        options = WatchOptions(
            live=QUICK,
            events=EventOptions(leave_s=0.3),
            jsonl=str(tmp_path / "e.jsonl"),
            save_events=tmp_path / "out",
            metrics="0",
        )
        running = start(blob_detector, [live(camera.url("joe:geheim@"))], options)
        wait_for(lambda: running.kinds().count("count_changed") == 1)
        assert running.scrape()['faceresnet_camera_up{camera="door"}'] == 1
        camera.switch_off()
        wait_for(lambda: running.kinds().count("count_changed") == 2)
        values = running.scrape()
        assert values['faceresnet_camera_up{camera="door"}'] == 0
        assert values['faceresnet_faces_present{camera="door"}'] == 0
        camera.switch_on()
        wait_for(lambda: running.kinds().count("count_changed") == 3)
        assert running.kinds() == [
            "camera_up",
            "face_entered",
            "count_changed",
            "camera_down",
            "face_left",
            "count_changed",
            "camera_up",
            "face_entered",
            "count_changed",
        ]
        assert "the camera is gone" in running.events[4].reason
        assert [event.track for event in running.events if event.track] == [1, 1, 2]
        values = running.scrape()
        assert values['faceresnet_camera_up{camera="door"}'] == 1
        assert values['faceresnet_reconnects_total{camera="door"}'] >= 1
        assert values['faceresnet_events_total{camera="door",event="face_entered"}'] == 2
        looks = values['faceresnet_frames_analysed_total{camera="door"}']
        assert 0 < looks <= values['faceresnet_frames_total{camera="door"}']
        assert values['faceresnet_faces_total{camera="door"}'] > 0
        assert values['faceresnet_latency_seconds_count{camera="door"}'] >= looks
        sent = 'faceresnet_deliveries_total{outlet="jsonl",result="sent"}'
        wait_for(lambda: running.scrape()[sent] == 9)
        running.end()
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) == 4
    for path in written:
        assert b"geheim" not in path.read_bytes()
        assert "geheim" not in str(path)
    assert "geheim" not in " ".join(running.lines) + repr(running.events) + repr(values)


def test_a_slow_detector_sees_new_pictures_of_all_cameras_in_turn(start):
    with RtspCamera(fps=20) as camera:
        ages_s = []

        def detect(image):
            ages_s.append(age_s(image))
            time.sleep(0.25)
            return nothing(image)

        sources = [live(camera.url() + f"?{n}", f"camera{n}") for n in range(2)]
        running = start(detect, sources, WatchOptions(live=QUICK, metrics="0"))
        wait_for(lambda: len(ages_s) >= 16)
        values = running.scrape()
    assert max(ages_s[4:]) < 1.5, "a queue would be 3 s behind by now"
    looks = [values[f'faceresnet_frames_analysed_total{{camera="camera{n}"}}'] for n in range(2)]
    assert min(looks) >= 5
    assert values['faceresnet_frames_skipped_total{camera="camera0"}'] > 0
    assert values['faceresnet_detection_seconds_sum{camera="camera0"}'] >= looks[0] * 0.25 - 0.3


def test_one_dead_camera_does_not_disturb_another(start, blob_detector, clip):
    with BadServer(None) as server:
        running = start(
            blob_detector,
            [live(f"rtsp://127.0.0.1:{server.port}/x"), clip],
            WatchOptions(live=QUICK),
        )
        wait_for(lambda: running.kinds().count("count_changed") == 4)


def test_a_camera_that_stays_away_is_said_once(start):
    with BadServer(b"rubbish") as server:
        running = start(nothing, [live(f"rtsp://127.0.0.1:{server.port}/x")])
        wait_for(lambda: server.connections >= 6)
    assert running.kinds() == ["camera_down"]


def test_a_face_that_had_not_entered_is_forgotten_when_its_camera_is_gone():
    face = Detections(
        np.array([[20, 20, 60, 60]], np.float32), np.array([0.9], np.float32), (96, 128)
    )
    events = []
    options = WatchOptions(events=EventOptions(enter_s=0, leave_s=0))
    watch = Watch(lambda image: face, [live("rtsp://x")], options, on_event=events.append)
    (camera,) = watch._cameras
    begun = []
    for connection, looks in ((1, 2), (2, 3)):
        begun.append(datetime.now(UTC))
        camera.feed._connection = connection
        for _ in range(looks):
            camera.feed._publish(np.zeros((96, 128, 3), np.uint8))
            assert watch._look(camera)
        camera.feed._set(up=False, error="it broke off")
        assert not watch._look(camera)
    entered = [event for event in events if event.kind == "face_entered"]
    assert [event.track for event in entered] == [2]
    assert entered[0].since > begun[1]


def test_limits_end_it(start, clip):
    with BadServer(None) as server:
        source = live(f"rtsp://127.0.0.1:{server.port}/x")
        running = start(nothing, [source], WatchOptions(live=QUICK, duration_s=0.3))
        running.thread.join(20)
        assert not running.thread.is_alive()


def test_the_status_says_how_it_goes(start, blob_detector):
    with RtspCamera() as camera:
        running = start(blob_detector, [live(camera.url())])
        wait_for(lambda: any(status.faces for status in running.statuses))
        status = running.statuses[-1]
        assert (status.cameras, status.up, status.faces, status.undelivered) == (1, 1, 1, 0)
        assert status.rate > 0
        assert status.looks > 0
        assert status.events == 3


def test_faces_leave_when_the_watch_ends(start, blob_detector, tmp_path):
    with RtspCamera() as camera:
        options = WatchOptions(live=QUICK, jsonl=str(tmp_path / "e.jsonl"))
        running = start(blob_detector, [live(camera.url())], options)
        wait_for(lambda: "count_changed" in running.kinds())
        running.end()
    last = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()][-2:]
    assert [(line["event"], line["count"]) for line in last] == [
        ("face_left", 0),
        ("count_changed", 0),
    ]
    assert last[0]["reason"] == "the watch ended"


def test_max_fps_limits_cameras(start):
    with RtspCamera(fps=20) as camera:
        times_s = []

        def detect(image):
            times_s.append(time.monotonic())
            return nothing(image)

        start(detect, [live(camera.url())], WatchOptions(live=QUICK, max_fps=4))
        wait_for(lambda: len(times_s) >= 6)
    assert np.mean(np.diff(times_s)) > 0.2


def test_the_metrics_of_a_port_that_is_taken_are_refused(clip, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FaceResNetError, match=f"cannot serve metrics at 127.0.0.1:{port}"):
            Watch(nothing, [clip], WatchOptions(metrics=str(port), save_events=tmp_path))
    assert "events" not in {thread.name for thread in threading.enumerate()}


def test_without_the_extra_no_option_is_named_that_nobody_gave(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"^faceresnet watch needs .*'\.\[video\]'$"):
        Watch(nothing, [clip], WatchOptions())


@pytest.mark.parametrize("address", ["", "high", "99999", "host:", "-1"])
def test_what_is_no_port_is_refused(clip, address):
    with pytest.raises(ValueError, match="PORT or HOST:PORT"):
        Watch(nothing, [clip], WatchOptions(metrics=address))


def test_impossible_options_are_refused():
    for name in ("every", "max_fps", "duration_s", "frames"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            WatchOptions(**{name: 0})


def test_series_exist_before_anything_happens(start):
    with BadServer(None) as server:
        source = live(f"rtsp://127.0.0.1:{server.port}/x")
        values = start(nothing, [source], WatchOptions(live=QUICK, metrics="0")).scrape()
    found = Counter(name.partition("{")[0] for name in values)
    assert {
        "faceresnet_frames_analysed_total",
        "faceresnet_camera_up",
        "faceresnet_faces_present",
        "faceresnet_reconnects_total",
        "faceresnet_detection_seconds_bucket",
    } <= set(found)
