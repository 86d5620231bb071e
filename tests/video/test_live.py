import contextlib
import http.server
import io
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise

import av
import numpy as np
import PIL.Image
import pytest

from cameras import BadServer, RtspCamera, age_s, blob_clip, live, wait_for
from conftest import blob_image
from faceresnet.video.addresses import Source
from faceresnet.video.live import Backoff, Feed, LiveFrame, LiveOptions

#: Quick to notice, quick to come back.
QUICK = LiveOptions(connect_timeout_s=5, read_timeout_s=1, first_pause_s=0.05, longest_pause_s=0.2)


@pytest.fixture
def feed():
    """Start a feed; it is stopped at the end."""
    feeds = []

    def feed(source, options=QUICK, **more):
        feeds.append(Feed(source, options, **more))
        feeds[-1].start()
        return feeds[-1]

    yield feed
    for each in feeds:
        each.stop()
        each.join(10)


def next_frame(feed, timeout_s=20.0):
    wait_for(lambda: feed.ready, timeout_s)
    return feed.take()


def test_pauses_double_and_begin_anew_after_success():
    pauses = Backoff(1, 10, chance=lambda: 0.0)
    assert [pauses.pause_s() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    pauses.reset()
    assert pauses.pause_s() == 1
    assert pauses.pause_s(longest=True) == 10
    by_chance = Backoff(1, 10)
    drawn = [by_chance.pause_s() for _ in range(200)]
    assert min(drawn) >= 0.5
    assert max(drawn) <= 10
    assert len(set(drawn[10:])) > 100, "cameras must not come back in step"


def test_impossible_options_are_refused():
    for options in ({"read_timeout_s": 0}, {"first_pause_s": -1}, {"transport": "smoke"}):
        with pytest.raises(ValueError, match="must be"):
            LiveOptions(**options)
    with pytest.raises(ValueError, match="every"):
        Feed(live("rtsp://host/x"), every=0)


def test_a_camera_switched_off_and_on_again_comes_back(feed):
    with RtspCamera(codec="h264") as camera:
        feed = feed(live(camera.url()))
        assert next_frame(feed).connection == 1
        assert feed.state.up
        camera.switch_off()
        wait_for(lambda: not feed.state.up)
        wait_for(lambda: feed.state.reconnects >= 3)
        assert feed.state.error is not None
        feed.take()
        camera.switch_on()
        frame = next_frame(feed)
        assert frame.connection > 1
        assert frame.image().shape == (240, 320, 3)
        assert (feed.state.up, feed.state.error) == (True, None)
        assert abs(age_s(frame.image())) < 5, "a new picture, not one from before"


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_pictures_may_change_their_size(feed, codec):
    with RtspCamera(codec=codec, resize_after_s=1, second_size="480x360") as camera:
        feed = feed(live(camera.url()))
        sizes = set()

        def both():
            if frame := feed.take():
                sizes.add(frame.image().shape)
            return sizes == {(240, 320, 3), (360, 480, 3)}

        wait_for(both)
        assert feed.state.reconnects == 0


def test_a_camera_that_falls_silent_is_opened_again(feed):
    with RtspCamera(silent_after_s=1) as camera:
        feed = feed(live(camera.url()))
        next_frame(feed)
        wait_for(lambda: feed.state.reconnects >= 1)
        assert feed.state.frames > 0
        camera.switch_off()
        camera.switch_on(silent_after_s=0)
        feed.take()
        next_frame(feed)


def test_a_slow_reader_gets_the_newest_picture(feed):
    with RtspCamera(fps=20) as camera:
        feed = feed(live(camera.url()))
        next_frame(feed)
        ages_s, indices = [], []
        for _ in range(8):
            time.sleep(0.4)
            frame = feed.take()
            ages_s.append(age_s(frame.image()))
            indices.append(frame.index)
        assert max(ages_s[2:]) < 1.2, "a queue would be 2.5 s behind by now"
        steps = [b - a for a, b in pairwise(indices)]
        assert min(steps[1:]) > 1
        assert feed.state.skipped >= sum(steps) - len(steps)


def test_every_leaves_frames_out(feed):
    with RtspCamera(fps=20) as camera:
        feed = feed(live(camera.url()), every=5)
        indices = [next_frame(feed).index for _ in range(3)]
        assert all(index % 5 == 0 for index in indices)


@pytest.mark.parametrize(
    "answer",
    [
        bytes(range(256)) * 300,
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n" + b"$\x00\xff\xff" + b"rubbish" * 1000,
        b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 99999999\r\n\r\nv=0",
        b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n" + bytes(1000),
        b"",
    ],
)
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_rubbish_is_survived(feed, answer, scheme):
    with BadServer(answer) as server:
        feed = feed(live(f"{scheme}://joe:geheim@127.0.0.1:{server.port}/x"))
        wait_for(lambda: server.connections >= 3 and feed.state.reconnects >= 2)
        state = feed.state
        assert (state.up, state.frames) == (False, 0)
        assert state.error
        assert "geheim" not in state.error


class MotionJpeg(http.server.BaseHTTPRequestHandler):
    """The oldest kind of network camera: JPEGs, one after the other, without times."""

    def do_GET(self):
        jpeg = io.BytesIO()
        PIL.Image.fromarray(blob_image((96, 128), (64, 48, 28))).save(jpeg, "jpeg")
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {jpeg.tell()}\r\n\r\n"
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(head.encode() + jpeg.getvalue() + b"\r\n")
                time.sleep(0.1)

    def log_message(self, *args):
        pass


@pytest.fixture
def motion_jpeg():
    """Address of a camera that sends JPEGs over HTTP."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/video.cgi"
    server.shutdown()
    server.server_close()
    thread.join()


def test_jpegs_over_http(feed, motion_jpeg, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    feed = feed(live(motion_jpeg))
    for _ in range(20):
        frame = next_frame(feed)
    assert frame.image().shape == (96, 128, 3)
    assert frame.index <= 19 + feed.state.skipped
    assert feed.state.reconnects == 0


@pytest.mark.parametrize(("height", "colours"), [(480, "SMPTE170M"), (720, "ITU709")])
def test_colours_that_a_camera_does_not_explain(height, colours):
    """Up to 719 lines they are those of old television, from 720 on those of HD, as in files."""
    red = av.VideoFrame.from_ndarray(np.full((height, 64, 3), (200, 0, 0), np.uint8), "rgb24")
    encoded = red.reformat(format="yuv420p", dst_colorspace=colours, dst_color_range="MPEG")
    silent = av.VideoFrame(64, height, "yuv420p")
    for plane, its in zip(silent.planes, encoded.planes, strict=True):
        plane.update(bytes(its))
    image = LiveFrame(silent, datetime.now(UTC), 0.0, 0.0, 0, 1).image()
    np.testing.assert_allclose(image[height // 2, 32], (200, 0, 0), atol=3)


def test_a_picture_too_large_is_not_decoded(feed, motion_jpeg, monkeypatch):
    monkeypatch.setattr("faceresnet.video.live.MAX_PIXELS", 96 * 128 - 1)
    options = LiveOptions(0.5, 0.5, first_pause_s=0.05, longest_pause_s=0.1)
    feed = feed(live(motion_jpeg), options)
    wait_for(lambda: feed.state.reconnects >= 1)
    assert feed.state.frames == 0


def test_a_server_that_says_nothing_is_left(feed):
    with BadServer(None) as server:
        options = LiveOptions(0.5, 0.5, first_pause_s=0.05, longest_pause_s=0.1)
        feed = feed(live(f"rtsp://127.0.0.1:{server.port}/x"), options)
        wait_for(lambda: server.connections >= 3)
        assert feed.state.error == "no answer in time"


def test_a_wrong_password_is_not_tried_over_and_over(feed):
    options = LiveOptions(5, 1, first_pause_s=0.05, longest_pause_s=30)
    with RtspCamera(user="joe", password="right") as camera:
        feed_ = feed(live(camera.url("joe:geheim@")), options)
        wait_for(lambda: feed_.state.error is not None)
        assert feed_.state.error == "it refuses the user name or the password"
        time.sleep(0.5)
        assert feed_.state.reconnects == 0
        next_frame(feed(live(camera.url("joe:right@"))))


def test_every_frame_of_a_file_is_handed_over_however_slowly(feed, tmp_path):
    clip = blob_clip(tmp_path / "clip.mp4", [[(n, 40, 20)] for n in range(20, 50)])
    wake = threading.Event()
    feed = feed(Source("clip", str(clip), live=False), wake=wake)
    frames = []
    while not feed.state.ended or feed.ready:
        wake.wait(1)
        wake.clear()
        time.sleep(0.002)
        if (frame := feed.take()) is not None:
            frames.append(frame)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(30)])
    assert feed.state.error is None
    assert feed.state.skipped == 0


def test_a_file_that_is_no_video_says_so(feed, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video" * 100)
    feed = feed(Source("no", str(tmp_path / "no.mp4"), live=False))
    wait_for(lambda: feed.state.ended)
    assert "no.mp4" in feed.state.error


def test_stopping_ends_a_file_nobody_takes_frames_of(feed, tmp_path):
    clip = blob_clip(tmp_path / "clip.mp4", [[]] * 30)
    feed = feed(Source("clip", str(clip), live=False))
    wait_for(lambda: feed.ready)
    feed.stop()
    assert feed.join(10)
