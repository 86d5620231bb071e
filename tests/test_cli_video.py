import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from clips import av, blob_clip, damage, streams, truncate
from conftest import blob_image, run_cli
from faceresnet.errors import VideoError
from faceresnet.video.reading import open_video
from faceresnet.video.window import Window


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return blob_clip(tmp_path_factory.mktemp("clips") / "whole.mp4", frames=24, sound="aac")


@pytest.fixture
def clip(whole, tmp_path, monkeypatch):
    """A clip of two blobs, ``a.mp4`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").write_bytes(whole.read_bytes())
    return Path("a.mp4")


@pytest.fixture
def run(blob_model, capsys):
    return partial(run_cli, capsys, "video", "--model", blob_model, "--threads", "1")


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def hidden():
    return [name for name in os.listdir() if name.startswith(".")]


def test_a_film_lines_and_a_table(clip, run):
    status, out, err = run(clip, "--save", "b.mp4", "--json", "b.jsonl", "--track")
    assert (status, err) == (0, "")
    table = {line.split()[0]: line.split() for line in out.splitlines() if line}
    for stage in ("decode", "detect", "encode", "total"):
        assert table[stage][1] == "24"
        assert float(table[stage][3]) > 0
    assert "48 faces in 24 frames, 2 tracks" in out
    assert "see b.mp4, b.jsonl" in out
    assert len(records(Path("b.jsonl").read_text())) == 24
    assert streams(Path("b.mp4")).keys() == {"video", "audio"}
    assert hidden() == []


def test_lines_on_standard_output_are_nothing_else(clip, run):
    status, out, err = run(clip, "--json", "-", "--every", "4")
    assert status == 0
    assert [record["detected"] for record in records(out)] == [n % 4 == 0 for n in range(24)]
    assert "track" not in out
    assert "total" in err


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_has_other_names(clip, run, name):
    status, out, err = run(clip, "--json", name, "--every", "4")
    assert status == 0
    assert len(records(out)) == 24
    assert "total" in err


def test_a_film_is_kept_when_the_reader_of_the_lines_leaves(clip, blob_model):
    blob_clip(clip, frames=150)
    command = [sys.executable, "-m", "faceresnet", "video", "a.mp4", "--save", "b.mp4"]
    with subprocess.Popen(
        [*command, "--json", "-", "--model", str(blob_model), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1, err
    assert "Traceback" not in err
    with open_video("b.mp4") as video:
        assert len(list(video)) > 0
    assert hidden() == []


def test_nothing_asked_for_says_what_can_be_had(clip, run):
    status, out, err = run(clip)
    assert status == 0
    assert "48 faces in 24 frames" in out
    assert "--save" in err


def test_pictures_that_nobody_looked_at_are_named(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    with av.open("two.mkv", "w") as container:
        for stream in [
            container.add_stream("mpeg4", rate=10, width=w, height=96) for w in (64, 128)
        ]:
            image = blob_image((96, stream.width), (30, 40, 20))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    status, _, err = run("two.mkv")
    assert status == 0
    assert "pictures but those of stream 1 (mpeg4, 128×96) are left out: stream 0 (mpeg4, 64" in err


def test_broken_videos_are_finished_and_say_what_was_lost(clip, run):
    damage(clip, 0.3, 200)
    status, _, err = run(clip, "--save", "b.mp4")
    assert status == 1
    assert "broken frames of a.mp4 are lost" in err
    with open_video("b.mp4") as video:
        assert 4 <= len(list(video)) < 24


def test_truncated_videos(clip, run):
    blob_clip(clip, frames=24, movflags="+faststart")
    status, _, err = run(truncate(clip, 0.6), "--save", "b.mp4")
    assert status == 1
    assert "broken frames of a.mp4 are lost" in err


def test_without_a_film_there_is_no_encoder_to_time(clip, run):
    _, out, err = run(clip)
    assert "detect" in out
    assert "encode" not in out
    assert "--save" in err


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, of Linux")
def test_a_place_that_takes_no_file_is_refused_in_one_line(clip, run):
    """It shows when the first packet is written, and here that is one of sound."""
    status, _, err = run(clip, "--save", "/proc/b.mp4")
    assert status == 2
    assert err == "faceresnet: cannot write /proc/b.mp4: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.mp4"], "there is no video file gone.mp4"),
        (["."], "is a folder"),
        (["text.mp4"], "it is no video"),
        (["99"], "there is no camera 99"),
        (["a.mp4", "--save", "a.mp4"], "is the video that is read"),
        (["a.mp4", "--json", "a.mp4"], "is the video that is read"),
        (["a.mp4", "--json", "."], "is a folder"),
        (["a.mp4", "--save", "b.mp4", "--json", "./b.mp4"], "--save and --json both name b.mp4"),
        (["gone.mp4", "--save", "b.mp4", "--json", "b.mp4"], "--save and --json both name b.mp4"),
        (["gone.mp4", "--save", "round.mp4", "--json", "b.jsonl"], "no video file gone.mp4"),
        (["a.mp4", "--save", "b.avi"], "ends in .mp4"),
        (["a.mp4", "--save", "text.mp4/b.mp4"], "cannot write"),
        (["a.mp4", "--json", "text.mp4/b.jsonl"], "cannot write"),
        (["a.mp4", "--every", "0"], "--every"),
        (["a.mp4", "--threshold", "2"], "threshold must lie"),
        (["a.mp4", "--tile", "maybe"], "--tile must be"),
        (["a.mp4", "--timeout", "0"], "time-outs must be positive"),
        (["http://127.0.0.1:1/a"], "Connection refused"),
        ([], "source"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(clip, run, arguments, message):
    Path("text.mp4").write_text("no video")
    Path("round.mp4").symlink_to("round.mp4")
    before = clip.read_bytes()
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert message.lower() in err.lower()
    assert err.count("\n") == 1
    assert clip.read_bytes() == before
    assert hidden() == []


def test_a_window_needs_a_screen(clip, run, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    status, _, err = run(clip, "--show")
    assert status == 2
    assert "window" in err
    assert err.count("\n") == 1


@pytest.fixture
def screen(tmp_path):
    """An X server without a screen: its name, and the file that its pixels are in."""
    if shutil.which("Xvfb") is None:
        pytest.skip("a window needs a screen: apt install xvfb")
    # Of its own: two servers that look for a free display at the same moment may take the same one.
    display = f":{100 + os.getpid() % 50_000}"
    pixels = ["-screen", "0", "800x600x24", "-fbdir", str(tmp_path)]
    command = ["Xvfb", display, "-displayfd", "1", *pixels]  # it writes there when it is ready
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert f":{server.stdout.readline().decode().strip()}" == display
            yield display, tmp_path / "Xvfb_screen0"
        finally:
            server.terminate()


@contextmanager
def showing(clip, display, model):
    """`video --show` in a process of its own: Qt draws in the main thread, and no PyAV came before.

    Skips where OpenCV draws no windows.
    """
    command = [sys.executable, "-m", "faceresnet", "video", str(clip), "--show"]
    with subprocess.Popen(
        [*command, "--model", str(model), "--threads", "1"],
        env={**os.environ, "DISPLAY": display, "QT_QPA_PLATFORM": "xcb"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as film:
        try:
            yield film
        finally:
            film.kill()


def ended(film):
    """Status, standard output and standard error of a film that comes to its end."""
    out, err = film.communicate(timeout=120)
    if "this one has none" in err:
        pytest.skip("this OpenCV draws no windows")
    return film.returncode, out, err


def test_a_window_ends_with_the_film(clip, screen, blob_model):
    with showing(clip, screen[0], blob_model) as film:
        status, out, err = ended(film)
    assert status == 0, err
    assert "48 faces in 24 frames" in out


def red_pixels(screen):
    """How many pixels of an 800×600 screen, blue, green, red and a spare byte each, are red."""
    pixels = np.frombuffer(screen.read_bytes()[-800 * 600 * 4 :], np.uint8).reshape(-1, 4)
    return int((pixels[:, :3] == (0, 0, 255)).all(axis=1).sum())


def test_a_window_shows_the_drawn_pictures(clip, screen, blob_model):
    blob_clip(clip, frames=20_000, step=0)  # more than a slow screen needs to show one
    display, pixels = screen
    assert red_pixels(pixels) == 0
    for _ in range(3):  # OpenCV's Qt never paints a window that a stalled X server was slow to open
        with showing(clip, display, blob_model) as film:
            seen, late = 0, time.monotonic() + 40
            while seen < 100 and film.poll() is None and time.monotonic() < late:
                time.sleep(0.02)
                seen = red_pixels(pixels)
            film.terminate()
            status, out, err = ended(film)
        if seen >= 100:
            break
    assert seen >= 100, (status, out, err)
    assert status == 130, err
    assert "stopped after" in err
    assert "faces in" in out


def test_a_window_comes_before_pyav(monkeypatch):
    """PyAV is here by now; Qt would freeze, other systems' windows would not."""
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   QT5\n")
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(VideoError, match="before PyAV"):
        Window("a.mp4")


def test_the_extra_is_named(clip, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = run(clip)
    assert status == 2
    assert "in the checkout, pip install -c constraints.txt '.[video]'" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_what_was_recorded(clip, blob_model, number):
    blob_clip(clip, frames=150, sound="aac")
    slow = (
        "import sys, time\n"
        "from faceresnet.apps import video\n"
        "draw = video.draw\n"
        "video.draw = lambda seen: (time.sleep(0.1), draw(seen))[1]\n"
        "from faceresnet.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", slow, "video", "a.mp4", "--save", "b.mp4", "--json", "b.jsonl"]
    process = subprocess.Popen(
        [*command, "--model", str(blob_model), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(name.endswith("part.mp4") for name in hidden()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "what was done until then is kept" in err
    assert "Traceback" not in err
    lines = records(Path("b.jsonl").read_text())
    with open_video("b.mp4") as video:
        frames = len(list(video))
    assert 0 < frames == len(lines) < 150
    assert hidden() == []


def test_stopped_before_the_first_frame(clip, run, monkeypatch):
    before = signal.getsignal(signal.SIGINT)

    def stop(*_, **__):  # a real signal would end the worker of pytest-xdist
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        assert handler is not before
        handler(signal.SIGINT, None)

    monkeypatch.setattr("faceresnet.apps.video._warm_up", stop)
    Path("b.mp4").write_text("old")
    assert run(clip, "--save", "b.mp4")[0] == 130
    assert Path("b.mp4").read_text() == "old"
    assert hidden() == []
    assert signal.getsignal(signal.SIGINT) is before
