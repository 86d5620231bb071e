import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from apps.batch.photos import faces_by_name, make_photo, make_photos
from conftest import run_cli
from faceresnet.apps.batch import read_rows


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Eight photos and a broken one in the folder photos; the current folder is above it."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 8)
    (tmp_path / "photos" / "0002x.png").write_bytes(b"no photo")
    return tmp_path


@pytest.fixture
def run(blob_model, capsys):
    return partial(run_cli, capsys, "batch", "--model", blob_model)


def test_a_folder_and_the_same_again(photos, run):
    status, out, err = run("photos", "--out", "out", "--workers", "1", "--format", "jsonl")
    assert status == 1, "a photo could not be read"
    assert out.startswith("9 photos, 12 faces; 1 not read, their rows say why; 1 part in out")
    assert err == ""
    assert len(list(read_rows("out"))) == 9
    written = (photos / "out" / "part-00000.jsonl").stat()
    make_photo(photos / "photos" / "later.png", 1)
    status, out, err = run("photos", "--out", "out", "--format", "jsonl")
    assert status == 1
    assert "nothing left to do" in out
    assert err == (
        "faceresnet: 9 of 9 photos are done already; photos added since the job began need "
        "another --out\n"
    )
    assert (photos / "out" / "part-00000.jsonl").stat() == written


def test_what_is_not_named_as_a_photo_is_counted_each_time(photos, run):
    for name in ("raw.heic", "scan", "0000.png.xmp"):
        Path("photos", name).touch()
    for _ in range(2):
        _, out, err = run("photos", "--out", "out", "--workers", "1", "--format", "jsonl")
        assert out.startswith("9 photos")
        assert err.splitlines()[0] == (
            "faceresnet: 2 files left out, not named as photos are: without suffix 1, .heic 1"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "--out"),
        (["gone", "--out", "out"], "cannot read gone: it does not exist"),
        (["photos", "--out", "out", "--threshold", "2"], "threshold must lie in 0..1"),
        (
            ["photos", "--out", "out", "--engine", "openvino"],
            "(the network's is --runtime)",
        ),
        (["photos", "--out", "out", "--runtime", "ray"], "runtime must be one of openvino"),
        (["photos", "--out", "out", "--format", "csv"], "format must be one of parquet, jsonl"),
        (["photos", "--out", "out", "--tile", "maybe"], "--tile must be"),
        (["photos", "--out", "out", "--workers", "0"], "workers must be at least 1"),
        (["photos", "--out", "photos/0000.png"], "is a file"),
        (["photos", "--out", "nonsense://x"], "cannot open nonsense://x"),
    ],
)
def test_what_is_refused_says_so_in_a_line(photos, run, arguments, message):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_closed_standard_input_is_refused_in_a_line(photos, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    status, out, err = run("-", "--out", "out")
    assert (status, out) == (2, "")
    assert err == "faceresnet: standard input is closed: there is no list to read\n"


def start(blob_model, source="photos", out="out"):
    """The command in a process group of its own, in the current folder."""
    command = ["-m", "faceresnet", "batch", source, "--out", out, "--workers", "1"]
    options = ["--model", str(blob_model), "--shard-size", "3", "--format", "jsonl"]
    return subprocess.Popen(
        [sys.executable, *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(process):
    """Processes whose parent is this one, where there is a /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid:
            found.append(int(path.parent.name))
    return found


def wait_for(condition, timeout_s=120):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_at_any_moment_it_ends_with_every_row_once(photos, blob_model):
    """`kill -9` of the command, or of it and its workers, at random moments of three runs.

    Between two kills the job gets at least as far as its first message or part, so that each of
    them interrupts something.
    """
    make_photos(photos / "photos", 36)
    expected = [(f"{number:04d}.png", number % 4) for number in range(36)]
    out, chance = photos / "out", random.Random(os.urandom(8))
    for number in range(3):
        process = start(blob_model)
        parts = len(list(out.glob("part-*")))
        progress = [
            lambda: (out / "_listing.jsonl.gz").exists(),
            lambda there=parts: len(list(out.glob("part-*"))) > there,
            lambda there=parts: len(list(out.glob("part-*"))) > there,
        ][number]
        wait_for(
            lambda progress=progress, process=process: progress() or process.poll() is not None
        )
        time.sleep(chance.uniform(0, 0.05))
        if number % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        if process.returncode == 1:
            break  # it was faster: nothing is left to interrupt
        assert process.returncode == -signal.SIGKILL
    process = start(blob_model)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr
    assert stdout.startswith("37 photos, 54 faces; 1 not read")
    rows = faces_by_name(read_rows(out))
    assert [row for row in rows if row[0] != "0002x.png"] == expected
    assert len(rows) == 37
    assert json.loads((out / "_summary.json").read_text())["photos"] == 37
    assert not list(out.glob(".*.part*"))


@pytest.mark.skipif(not Path("/proc").exists(), reason="there is no /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_end_cleanly(photos, blob_model, number):
    names = "".join(f"photos/{index % 8:04d}.png\n" for index in range(20_000))
    (photos / "photos.txt").write_text(names)
    process = start(blob_model, "photos.txt", "long")
    wait_for(lambda: list((photos / "long").glob("part-*")) or process.poll() is not None)
    workers = workers_of(process)
    assert workers
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list((photos / "long").glob(".*.part*"))
    assert not (photos / "long" / "_summary.json").exists()


def test_a_line_a_minute_where_there_is_no_terminal(capsys, monkeypatch):
    from faceresnet.cli import batch

    class Done:
        photos = 10

    class Job:
        photos, done, resumed, may_grow, left_out = 100, Done, True, False, None

    monkeypatch.setattr(batch, "LINE_S", 0.0)
    with batch._Display() as display:
        display.listed(100)
        display.start(Job)
        display.advance(40)
    err = capsys.readouterr().err
    assert "10 of 100 photos are done already" in err
    assert "50 of 100 photos" in err
    assert "min left" in err
