import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import blob_image, run_cli
from faceresnet import ImageError
from faceresnet.cli.anonymise import _plan


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photos of one to three faces, and files that are none; the current folder."""
    monkeypatch.chdir(tmp_path)
    for place, count in {"a/x.jpg": 1, "a/b/x.png": 3, "a/none.jpg": 0, "c/x.jpg": 2}.items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        squares = [(36 + 48 * i, 36, 18) for i in range(count)]
        Image.fromarray(blob_image((96, 200), *squares)).save(place, quality=95)
    Path("a/notes.txt").write_text("no photo")
    Path("a/raw.heic").write_bytes(b"unknown")
    Path("a/.hidden.jpg").write_bytes(Path("a/x.jpg").read_bytes())
    return tmp_path


@pytest.fixture
def run(blob_model, capsys):
    return partial(run_cli, capsys, "anonymise", "--model", blob_model, "--threads", "1")


def files(folder="."):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def faces_show(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return bool((pixels[:, :, 0] - pixels[:, :, 1:].max(axis=2) > 100).mean() > 0.002)


def test_a_folder_and_a_photo(photos, run):
    before = files()
    status, out, err = run("a", "c/x.jpg", "--out", "out", "--method", "box")
    assert status == 0
    assert set(files("out")) == {"x.jpg", "b/x.png", "none.jpg", "x-2.jpg"}
    assert not any(faces_show(Path("out") / name) for name in files("out"))
    assert {name: files()[name] for name in before} == before
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines()}
    assert rows["a/b/x.png"] == ["3", "1"]
    assert rows["a/none.jpg"] == ["0", "1"]
    assert "1 file, neither photo nor video, left out of the results: a/raw.heic" in err


@pytest.mark.parametrize("method", ["blur", "pixelate", "box"])
@pytest.mark.parametrize("shape", ["ellipse", "rectangle"])
def test_one_photo_to_a_file(photos, run, method, shape):
    status, _, _ = run("c/x.jpg", "-o", "new/y.jpg", "--method", method, "--shape", shape)
    assert status == 0
    assert os.listdir("new") == ["y.jpg"]
    with Image.open("c/x.jpg") as before, Image.open("new/y.jpg") as after:
        changed = np.abs(np.asarray(before).astype(int) - np.asarray(after)).max(axis=2) > 30
    assert changed[26:46, 26:46].any(), "the edge of the red square is gone"
    assert not changed[60:].any()
    assert faces_show("new/y.jpg") == (method != "box")


def test_the_photos_of_telephones_that_hold_several_pictures_are_photos(photos, run):
    with Image.open("a/x.jpg") as photo:
        photo.save("a/x.mpo", save_all=True, append_images=[photo.copy()])
    status, _, err = run("a", "--out", "out", "--method", "box")
    assert status == 0
    assert "x.mpo" not in err
    assert not faces_show("out/x.mpo")
    with Image.open("out/x.mpo") as covered:
        assert covered.format == "JPEG"


def test_names_in_the_table_are_printable(photos, run):
    Path("a/x.jpg").rename("a/\x1b[31mx.jpg")
    status, out, _ = run("a/\x1b[31mx.jpg", "--out", "out")
    assert status == 0
    assert "\x1b[31m" not in out
    assert "a/\\x1b[31mx.jpg" in out


def test_results_below_their_sources_are_no_sources(photos, run):
    for _ in range(2):
        assert run("a", "--out", "a/out")[0] == 0
    assert set(files("a/out")) == {"x.jpg", "b/x.png", "none.jpg"}


def test_no_source_is_overwritten_under_any_name(photos, run):
    Path("links").mkdir()
    Path("hard").mkdir()
    os.symlink("a", "other")
    os.symlink(Path("a/x.jpg").resolve(), "links/x.jpg")
    os.link("a/x.jpg", "hard/x.jpg")
    before = files()
    for arguments in (
        ["a", "--out", "a"],
        ["a/x.jpg", "--out", "a"],
        ["a/x.jpg", "--out", "a/../a/x.jpg"],
        ["a", "--out", "other"],
        ["a/x.jpg", "--out", "links"],
        ["a/x.jpg", "--out", "hard"],
        ["c", "a/b/x.png", "a/x.jpg", "--out", "a"],
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert "is the source" in err
        assert files() == before


def test_a_second_run_writes_again_unless_resuming_is_asked_for(photos, run):
    run("a", "--out", "out", "--method", "box")
    os.remove("out/x.jpg")
    Path("out/none.jpg").write_bytes(b"old")
    status, out, err = run("a", "--out", "out", "--resume")
    assert status == 0
    assert "2 left out by --resume: their results are there" in err
    assert Path("out/x.jpg").exists()
    assert Path("out/none.jpg").read_bytes() == b"old"
    assert "none.jpg" not in out
    run("a", "--out", "out")
    assert Path("out/none.jpg").read_bytes() != b"old"


def test_results_of_an_earlier_run_are_no_photos_to_a_glob(photos, run):
    for _ in range(2):
        assert run("a/**/*.jpg", "--out", "a/out", "--method", "box")[0] == 0
    assert sorted(path.name for path in Path("a/out").iterdir()) == ["none.jpg", "x.jpg"]
    status, _, err = run("a/out/*.jpg", "--out", "a/out")
    assert (status, "is the source" in err) == (2, True)


def test_no_result_is_taken_for_that_of_a_source_that_came_later(photos):
    pytest.importorskip("av")

    def results(*names):
        Path("films").mkdir(exist_ok=True)
        for name in names:
            (Path("films") / name).touch()
        jobs, _ = _plan(["films"], Path("out"), recursive=True, resume=False)
        return {job.path.name: job.target.name for job in jobs}

    assert results("a.avi") == {"a.avi": "a.avi.mp4"}
    assert results("b.mp4") == {"a.avi": "a.avi.mp4", "b.mp4": "b.mp4"}
    assert results("a.mp4", "a.wmv", "b.avi", "b.jpg") == {
        "a.avi": "a.avi.mp4",
        "a.mp4": "a.mp4",
        "a.wmv": "a.wmv.mp4",
        "b.avi": "b.avi.mp4",
        "b.jpg": "b.jpg",
        "b.mp4": "b.mp4",
    }
    assert results("b.avi.mp4")["b.avi.mp4"] == "b.avi.mp4"


def test_resuming_is_refused_where_two_results_want_one_name(photos, run):
    run("c", "--out", "out")
    status, out, err = run("a", "c", "--out", "out", "--resume")
    assert (status, out) == (2, "")
    assert "the results of a/x.jpg and c/x.jpg apart, both would be x.jpg: run them" in err
    assert err.count("\n") == 1
    assert set(files("out")) == {"x.jpg"}
    assert run("a", "--out", "out", "--resume")[0] == 0


def test_resuming_is_refused_where_a_source_is_called_like_the_result_of_another(photos):
    pytest.importorskip("av")
    Path("films").mkdir()
    for name in ("a.avi", "A.avi.mp4"):
        (Path("films") / name).touch()
    with pytest.raises(ValueError, match=r"films/A.avi.mp4 and films/a.avi apart, both"):
        _plan(["films"], Path("out"), recursive=True, resume=True)


def test_unreadable_files_are_listed_and_the_rest_is_done(photos, run):
    Path("a/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    status, _, err = run("a", "gone.png", "--out", "out")
    assert status == 1
    assert "a/broken.jpg: it" in err
    assert "gone.png" in err
    assert err.splitlines()[-1] == "faceresnet: 2 of 5 not covered"
    assert set(files("out")) == {"x.jpg", "b/x.png", "none.jpg"}


def test_failures_are_listed_though_nothing_more_can_be_loaded(photos, run, monkeypatch):
    """As when the memory is full."""

    def fail(*_, **__):
        monkeypatch.setitem(sys.modules, "rich.console", None)
        raise ImageError("cannot read c/x.jpg: not enough memory")

    monkeypatch.setattr("faceresnet.apps.anonymise.anonymise_photo", fail)
    status, _, err = run("c/x.jpg", "--out", "out")
    assert status == 1
    assert "faceresnet: cannot read c/x.jpg: not enough memory\n" in err


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_that_lead_round_are_named(photos, run):
    Path("a/round.jpg").symlink_to("round.jpg")
    status, _, err = run("a/round.jpg", "a", "--out", "out")
    assert status == 1
    _, first, last = err.splitlines()
    assert first == "faceresnet: cannot read a/round.jpg: Too many levels of symbolic links"
    assert last == "faceresnet: 1 of 4 not covered"
    assert set(files("out")) == {"x.jpg", "b/x.png", "none.jpg"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "--out"),
        (["a", "--out", "out", "--method", "smear"], "method must be one of blur, pixelate, box"),
        (["a", "--out", "out", "--margin", "-1"], "margin must lie in 0..2"),
        (["a", "--out", "out", "--shape", "star"], "shape must be one of"),
        (["a", "--out", "out", "--hold", "-1"], "must not be negative"),
        (["a", "--out", "out", "--threshold", "2"], "threshold must lie in 0..1"),
        (["a", "--out", "a/notes.txt"], "is a file"),
        (["a/x.jpg", "--out", "x.png"], "keeps the format of a/x.jpg: let --out end in .jpg"),
        (["scan", "--out", "x.png"], "keeps the format of scan: let --out be a folder"),
        (["empty", "--out", "out"], "no photo or video in empty"),
        (["*.nothing", "--out", "out"], "no file matches *.nothing"),
        (["rtsp://camera/1", "--out", "out"], "is no file"),
        (["a", "--out", "blocked"], "is a folder"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(photos, run, arguments, message):
    Path("empty").mkdir()
    Path("scan").write_bytes(Path("a/x.jpg").read_bytes())
    Path("blocked/x.jpg").mkdir(parents=True)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_a_missing_extra_is_named_before_anything_is_done(photos, run, monkeypatch):
    Path("a/film.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = run("a", "--out", "out")
    assert status == 2
    assert "in the checkout, pip install -c constraints.txt '.[video]'" in err
    assert not Path("out").exists()


def test_a_video_among_photos(photos, run):
    av = pytest.importorskip("av")
    pytest.importorskip("trackers")
    with av.open("a/film.avi", "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(10):
            image = blob_image((96, 128), (30 + 4 * number, 48, 28))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    Path("a/broken.mp4").write_bytes(b"no film")
    status, out, err = run("a", "--out", "out", "--method", "box", "--shape", "rectangle")
    assert status == 1
    assert "broken.mp4" in err
    assert set(files("out")) == {"x.jpg", "b/x.png", "none.jpg", "film.avi.mp4"}
    assert "film.avi" in out
    with av.open("out/film.avi.mp4") as film:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    assert len(frames) == 10
    red = [(frame[:, :, 0] - frame[:, :, 1:].max(axis=2) > 100).mean() for frame in frames]
    assert max(red) < 0.002
    assert run("a/film.avi", "--out", "one.mkv")[0] == 0
    assert Path("one.mkv").exists()


def test_faces_of_films_are_held_as_from_python(photos, run, monkeypatch):
    pytest.importorskip("av")
    pytest.importorskip("trackers")
    from faceresnet.apps.anonymise import video
    from faceresnet.apps.anonymise.filling import Filling

    fillings = []

    def cover(*_, filling, **__):
        fillings.append(filling)
        return video.CoveredVideo(0, 0)

    monkeypatch.setattr(video, "anonymise_video", cover)
    Path("a/film.mp4").touch()
    assert run("a/film.mp4", "--out", "out")[0] == 0
    assert fillings == [Filling()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_and_leave_nothing_half_done(photos, run, monkeypatch, number):
    from faceresnet.apps.anonymise import photos as photos_module

    before = signal.getsignal(number)
    monkeypatch.setattr(photos_module, "cover", lambda *_, **__: os.kill(os.getpid(), number))
    assert run("a", "--out", "out")[0] == 130
    assert not list(Path().glob("out/**/*"))
    assert signal.getsignal(number) == before


def test_names_in_the_table_are_no_markup(photos, run):
    name = r"\[red]x :smile:.jpg"
    Path("a/x.jpg").rename(name)
    status, out, _ = run(name, "--out", "out")
    assert status == 0
    assert out.count(name) == 2, "the source and the result"


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_name_that_is_no_text_hides_no_failure(photos, run):
    os.rename("a/x.jpg", os.fsdecode(b"a/caf\xe9.jpg"))
    Path("a/broken.jpg").write_bytes(b"no photo")
    status, out, err = run("a", "--out", "out")
    assert status == 1
    assert r"caf\udce9.jpg" in out
    assert err.splitlines()[-1] == "faceresnet: 1 of 4 not covered"
