import functools
import gc
import http.server
import socket
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from clips import RATE, damage, grey_ramp, make_clip, truncate
from faceresnet import MissingExtraError, VideoError
from faceresnet.video.reading import _displayed, open_video

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (60, 60, 60)


def corners(image):
    """Names of the colours in the corners: top left, top right, bottom left, bottom right."""
    names = {"red": RED, "green": GREEN, "blue": BLUE, "grey": GREY}
    inner = [image[4, 4], image[4, -5], image[-5, 4], image[-5, -5]]
    return [
        min(names, key=lambda name: int(np.abs(colour.astype(int) - names[name]).sum()))
        for colour in inner
    ]


def read(source, **options):
    with open_video(source, **options) as video:
        return list(video), video


def shades(frames):
    """The shade in the middle of each frame, which says which one it is (`grey_ramp`)."""
    return [
        int(frame.image[frame.image.shape[0] // 2, frame.image.shape[1] // 2, 1])
        for frame in frames
    ]


def test_frames_times_and_header(tmp_path):
    frames, video = read(make_clip(tmp_path / "a.mp4", frames=12))
    assert (video.size, video.rate, video.frame_count) == ((96, 128), RATE, 12)
    assert video.duration_s == pytest.approx(0.4)
    assert not video.live
    assert (video.broken, video.ended) == (0, True)
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(12) / RATE, atol=1e-4)
    np.testing.assert_allclose(shades(frames), 40 + 5 * np.arange(12), atol=3)
    image = frames[0].image
    assert (image.dtype, image.shape) == (np.uint8, (96, 128, 3))
    assert np.abs(image.astype(int) - grey_ramp((96, 128), 40))[2:40, 2:20].max() <= 6, "RGB"


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, ["red", "green", "blue", "grey"]),
        (90, ["green", "grey", "red", "blue"]),
        (180, ["grey", "blue", "green", "red"]),
        (-90, ["blue", "red", "grey", "green"]),
    ],
)
def test_turned_videos_come_upright(tmp_path, degrees, expected):
    frames, video = read(make_clip(tmp_path / "a.mp4", frames=2, rotation=degrees))
    assert corners(frames[1].image) == expected
    assert (
        video.size
        == frames[0].image.shape[:2]
        == ((128, 96) if degrees in (90, -90) else (96, 128))
    )


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1, 0], [0, 1]], ["green", "red", "grey", "blue"]),
        ([[1, 0], [0, -1]], ["blue", "grey", "red", "green"]),
        ([[0, 1], [1, 0]], ["red", "blue", "green", "grey"]),
        ([[0, -1], [-1, 0]], ["grey", "green", "blue", "red"]),
    ],
)
def test_mirrored_videos(matrix, expected):
    whole = np.zeros((3, 3), np.int32)
    whole[:2, :2] = np.array(matrix) << 16
    assert corners(_displayed(grey_ramp((96, 128), 40), whole)) == expected


def test_a_camera_that_is_turned_while_it_films(tmp_path):
    """Raw H.264 says so in the data of its key frames."""
    import av

    upright, turned = tmp_path / "upright.h264", tmp_path / "turned.h264"
    make_clip(upright, frames=1)
    with av.open(str(upright)) as whole, turned.open("wb") as part:
        turn = av.BitStreamFilterContext(
            "h264_metadata=rotate=90:display_orientation=insert", whole.streams.video[0]
        )
        for packet in whole.demux(video=0):
            part.writelines(map(bytes, turn.filter(packet)))
    both = tmp_path / "both.h264"
    both.write_bytes(upright.read_bytes() + turned.read_bytes() + upright.read_bytes())
    frames, _ = read(both)
    as_it_is, to_the_left = ["red", "green", "blue", "grey"], ["green", "grey", "red", "blue"]
    assert [corners(frame.image) for frame in frames] == [as_it_is, to_the_left, as_it_is]


@pytest.mark.parametrize("rotation", [None, 90])
def test_frames_and_readers_are_freed_at_once(tmp_path, rotation):
    """Without the help of the collector of cycles, which counts objects, not their pixels."""
    import av

    def alive():
        # isinstance would ask objects of other libraries for their class, and some warn.
        return sum(type(found) is av.VideoFrame for found in gc.get_objects())

    path = make_clip(tmp_path / "a.mp4", frames=60, rotation=rotation)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        with open_video(path) as video:
            assert sum(1 for _ in video) == 60
        assert alive() - before <= 3, "the first, whose matrix was read, and what FFmpeg holds"
        reader = weakref.ref(video)
        del video
        assert reader() is None
    finally:
        gc.enable()


def test_variable_rate(tmp_path):
    times_s = [0, 0.01, 0.3, 1.0, 1.5]
    frames, _ = read(make_clip(tmp_path / "a.mp4", times_s=times_s))
    np.testing.assert_allclose([frame.time_s for frame in frames], times_s, atol=1e-3)
    np.testing.assert_allclose(shades(frames), [40, 45, 50, 55, 60], atol=3)


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_times_count_from_the_start(tmp_path, suffix):
    path = make_clip(tmp_path / f"a{suffix}", frames=6, start_s=5, sound="aac")
    frames, video = read(path, sound=True)
    assert video.start_s == pytest.approx(5, abs=0.05)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(6) / RATE, atol=0.05)
    assert len(video.sound) > 5


def test_sound_is_kept_only_when_asked_for(tmp_path):
    path = make_clip(tmp_path / "a.mp4", frames=6, sound="aac")
    assert not read(path)[1].sound


def two_films(path, *, default=None):
    """Pictures of 64×48 px and of 128×96 px, and which of them is marked as the one to take."""
    import av

    with av.open(str(path), "w") as container:
        for number, size in enumerate([(48, 64), (96, 128)]):
            stream = container.add_stream("mpeg4", rate=RATE, width=size[1], height=size[0])
            if number == default:
                stream.disposition = type(stream.disposition).default
        for stream, size in zip(container.streams.video, [(48, 64), (96, 128)], strict=True):
            frame = av.VideoFrame.from_ndarray(grey_ramp(size, 90), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("default", "size", "taken", "left"),
    [
        (None, (96, 128), "1 (mpeg4, 128×96)", "0 (mpeg4, 64×48)"),
        (0, (48, 64), "0 (mpeg4, 64×48)", "1 (mpeg4, 128×96)"),
        (1, (96, 128), "1 (mpeg4, 128×96)", "0 (mpeg4, 64×48)"),
    ],
)
def test_the_main_pictures_are_taken_and_the_others_are_named(tmp_path, default, size, taken, left):
    with open_video(two_films(tmp_path / "a.mkv", default=default)) as video:
        assert video.size == size
        assert video.left_out == [
            f"pictures but those of stream {taken} are left out: stream {left}"
        ]


def test_sound_that_nobody_can_decode_is_named_where_sound_is_wanted(tmp_path):
    path = make_clip(tmp_path / "a.mkv", frames=2, sound="aac")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with open_video(path, sound=True) as video:
        assert video.left_out == ["sound that cannot be decoded is left out: stream 1"]
    with open_video(path) as video:
        assert video.left_out == []


def test_colours_of_high_definition(tmp_path):
    """720 lines without a word about colours mean BT.709; the encoder here wrote BT.601."""
    picture = np.full((720, 64, 3), (200, 30, 30), np.uint8)
    frames, _ = read(make_clip(tmp_path / "a.mp4", frames=1, picture=lambda _: picture))
    assert abs(int(frames[0].image[9, 9, 1]) - 30) > 10


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_nonsense_in_the_middle_loses_its_own_frames_only(tmp_path, suffix):
    path = make_clip(tmp_path / f"a{suffix}", frames=120, size=(192, 256), gop=10)
    frames, video = read(damage(path, 0.4, 300))
    assert video.ended
    assert video.broken <= 20
    assert video.broken > 0
    assert abs(len(frames) + video.broken - 120) <= 1
    assert frames[-1].time_s == pytest.approx(119 / RATE, abs=0.01), "it went on to the end"
    assert shades(frames)[-1] == pytest.approx(40 + 5 * 119 % 200, abs=3)


def test_a_truncated_file_loses_its_end_only(tmp_path):
    path = make_clip(tmp_path / "a.mp4", frames=60, size=(192, 256), movflags="+faststart")
    frames, video = read(truncate(path, 0.5))
    assert 10 < len(frames) < 50
    assert len(frames) + video.broken == 60
    path = make_clip(tmp_path / "a.mkv", frames=60, size=(192, 256))
    assert 10 < len(read(truncate(path, 0.5))[0]) < 50


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_hangs_or_crashes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = make_clip(tmp_path / ("a.mp4", "a.mkv", "a.ts")[seed % 3], frames=20, sound="aac")
    for _ in range(rng.integers(1, 6)):
        damage(path, rng.uniform(0, 0.95), int(rng.integers(1, 1000)))
    try:
        frames, _ = read(path, sound=True)
    except VideoError:
        return
    assert 1 <= len(frames) <= 20
    times_s = [frame.time_s for frame in frames]
    assert times_s == sorted(times_s)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.mp4", "there is no video file gone.mp4"),
        ("x" * 300, "there is no video file xxx"),
        (".", "is a folder"),
        ("text.mp4", "it is no video"),
        ("empty.mp4", "it is no video"),
        ("sound.m4a", "there is no video in sound.m4a"),
        (1234, r"there is no camera 1234 \(/dev/video1234\)"),
        ("1234", "there is no camera 1234"),
    ],
)
def test_what_cannot_be_read_says_why_in_a_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("no video" * 100)
    Path("empty.mp4").touch()
    if source == "sound.m4a":
        whole = make_clip(tmp_path / "a.mp4", frames=6, sound="aac")
        _only_sound(whole, Path("sound.m4a"))
    with pytest.raises(VideoError, match=message) as caught:
        open_video(source)
    assert "\n" not in str(caught.value)


def _only_sound(source, target):
    import av

    with av.open(str(source)) as whole, av.open(str(target), "w", format="mp4") as part:
        copy = part.add_stream_from_template(whole.streams.audio[0])
        for packet in whole.demux(audio=0):
            if packet.size:
                packet.stream = copy
                part.mux(packet)


def test_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1", "a:b.mp4", "50%d 's.mp4", "-x.mp4", "ä ö.mp4"):
        Path(name).write_bytes(make_clip(tmp_path / "whole.mp4", frames=2).read_bytes())
        assert len(read(name)[0]) == 2
        assert len(read(Path(name))[0]) == 2


def test_addresses(tmp_path):
    make_clip(tmp_path / "a.mp4", frames=6)
    handler = functools.partial(_Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            frames, video = read(
                f"http://user:secret@127.0.0.1:{server.server_port}/a.mp4?token=hidden"
            )
            assert len(frames) == 6
            assert video.name == f"http://***@127.0.0.1:{server.server_port}/a.mp4?token=***"
            with pytest.raises(VideoError, match="cannot open http"):
                open_video(f"http://127.0.0.1:{server.server_port}/gone.mp4")
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_server_that_says_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        address = f"rtsp://user:secret@127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(VideoError, match="no answer in time") as caught:
            open_video(address, connect_timeout_s=0.5)
        assert time.perf_counter() - start < 30
        assert "secret" not in str(caught.value)


def test_closing_while_a_thread_reads(tmp_path):
    """As when a camera hangs: nothing is pulled from under the thread."""
    video = open_video(make_clip(tmp_path / "a.mp4", frames=4))
    next(video)
    with video._reading:
        video.close()
    assert next(video).index == 1
    video.close()
    with pytest.raises(StopIteration):
        next(video)


def test_time_outs_are_positive():
    with pytest.raises(ValueError, match="time-outs must be positive"):
        open_video("a.mp4", read_timeout_s=0)


def test_the_extra_is_named(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[video\]'"):
        open_video(path)
