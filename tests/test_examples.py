"""Every example runs, as it is, on photos and clips made here."""

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceresnet import images

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def astronaut():
    from skimage import data

    return data.astronaut()


@pytest.fixture
def photo(astronaut, tmp_path, monkeypatch):
    """A photo of one face; the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photos" / "astronaut.jpg"
    path.parent.mkdir()
    Image.fromarray(astronaut).save(path, quality=95)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example in this process; gives what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def clip(astronaut, tmp_path):
    """Two seconds of a face that moves a little, and half a second without."""
    from clips import make_clip

    wide = np.full((256, 320, 3), images.PADDING, np.uint8)
    small = images.resize(astronaut, (256, 256))

    def picture(number):
        frame = wide.copy()
        if number < 20:
            frame[:, number : number + 256] = small
        return frame

    path = tmp_path / "clip.mp4"
    make_clip(path, frames=25, size=(256, 320), rate=10, picture=picture)
    return path


def test_every_example_is_short_and_tested():
    source = Path(__file__).read_text()
    examples = sorted(EXAMPLES.glob("*.py"))
    assert len(examples) >= 11
    for example in examples:
        assert len(example.read_text().splitlines()) < 40, example.name
        assert f'"{example.name}"' in source, f"{example.name} is not run"
        assert f"({example.name})" in (EXAMPLES / "README.md").read_text()


def test_detect_photo(photo, run, astronaut):
    assert re.match(r"0\.\d\d: \d+ \d+ to \d+ \d+ px\n", run("detect_photo.py", photo, "out.png"))
    assert (images.read("out.png") != astronaut).any()


def test_folder_to_csv(photo, run):
    (photo.parent / "broken.jpg").write_bytes(b"no photo")
    run("folder_to_csv.py", photo.parent, "out.csv")
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert {row["image"] for row in rows} == {"astronaut.jpg"}
    assert float(rows[0]["score"]) >= 0.5


def test_with_supervision(photo, run):
    pytest.importorskip("supervision")
    out = run("with_supervision.py", photo, "out.png")
    first, second = out.splitlines()
    assert "faces are larger than 40×40 px" in first
    assert len(json.loads(second)["faces"]) == int(first.split()[0]) >= 1
    assert Path("out.png").exists()


def test_video_tracks(clip, run):
    pytest.importorskip("trackers")
    out = run("video_tracks.py", clip)
    times = re.findall(r"face \d+: from (\d\.\d) to (\d\.\d) s", out)
    assert any(float(start) < 0.5 and 1.5 < float(end) < 2.2 for start, end in times), out


def test_watch_stream(clip, run):
    pytest.importorskip("trackers")
    out = run("watch_stream.py", clip)
    assert re.search(r"camera: \S*enter", out), out


def test_anonymise_photo(photo, run):
    out = run("anonymise_photo.py", photo, "covered.jpg")
    assert int(out.split()[0]) >= 1
    assert images.read("covered.jpg").shape == images.read(photo).shape


def test_tag_photo(photo, run):
    assert "faces, written to" in run("tag_photo.py", photo)
    assert "already in" in run("tag_photo.py", photo)
    assert "mwg-rs" in photo.with_name("astronaut.jpg.xmp").read_text()


def test_ask_service(photo, run):
    pytest.importorskip("fastapi")
    server = subprocess.Popen(
        [sys.executable, "-m", "faceresnet", "serve", "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = re.search(r"page (https?://\S+)/", server.stdout.readline())[1]
        wait_until_ready(address)
        assert re.match(r"astronaut.jpg: [1-9]\d* faces", run("ask_service.py", address, photo))
    finally:
        server.terminate()
        server.communicate(timeout=60)


def wait_until_ready(address):
    import time

    import httpx

    for _ in range(600):
        if httpx.get(f"{address}/readyz", timeout=60, trust_env=False).status_code == 200:
            return
        time.sleep(0.2)
    pytest.fail("the service does not get ready")


def test_batch_folder(photo, run):
    pytest.importorskip("pyarrow")
    (photo.parent / "broken.jpg").write_bytes(b"no photo")
    lines = run("batch_folder.py", photo.parent, "out").splitlines()
    assert re.fullmatch(r"2 photos, [1-9]\d* faces, 1 not read", lines[0])
    assert re.search(r"astronaut.jpg [1-9]", lines[1])
    assert "no image" in lines[2]


@pytest.fixture
def labelled(tmp_path):
    pytest.importorskip("lightning")
    from train.samples import write_faces

    return write_faces(tmp_path / "data")


def test_evaluate_model(labelled, run):
    out = run("evaluate_model.py", labelled)
    assert re.match(r"AP [01]\.\d{3} on 2 photos\nfaces of 16 to 32 px: \d, found \d+%", out)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_train_own(labelled, run, tmp_path):
    small = [
        *("schedule.iterations=2", "schedule.batch=2", "schedule.epoch=1", "schedule.bf16=false"),
        "schedule.validate_every=1",
    ]
    out = run("train_own.py", labelled, tmp_path / "run", tmp_path / "own.onnx", *small)
    assert "own.onnx: ready for FaceDetector" in out
    assert (tmp_path / "own.onnx").stat().st_size > 1e6
