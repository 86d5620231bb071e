import io
import json
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apps.batch.photos import faces_by_name, make_photo, make_photos
from faceresnet.apps import batch
from faceresnet.apps.batch import BatchOptions, job, local, read_rows
from faceresnet.apps.batch.storage import open_storage
from faceresnet.errors import DataError, EngineError, MissingExtraError

EXPECTED = [(f"{number:04d}.png", number % 4) for number in range(10)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ten photos in the folder photos; the current folder is above it."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 10)
    return tmp_path


@pytest.fixture
def options(blob_model):
    return BatchOptions(model=blob_model, shard_size=4)


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def no_workers(*_, **__):
    raise AssertionError("a worker was started")


def test_a_job_with_a_break(photos, options, monkeypatch):
    """Killed after its first part, the job ends with the rows of one that was not."""
    (photos / "photos" / "0004x.png").write_bytes(b"no photo")
    whole = batch.run("photos", "whole", options, workers=2)
    assert (whole.photos, whole.faces, whole.errors, whole.parts) == (11, 13, 1, 3)
    assert whole.photos_now == 11

    class Killed(BaseException):
        pass

    def kill(job):
        original = job.part_name

        def part_name(number):
            if len(list((photos / "out").glob("part-*"))) == 1:
                raise Killed
            return original(number)

        job.part_name = part_name

    with pytest.raises(Killed):
        batch.run("photos", "out", options, workers=1, on_start=kill)
    assert len(parts(photos / "out")) == 1
    make_photo(photos / "photos" / "later.png", 1)
    seen = []
    resumed = batch.run("photos", "out", options, workers=1, on_photos=seen.append)
    assert (resumed.photos, resumed.photos_now, sum(seen)) == (11, 7, 7)
    assert parts(photos / "out") == parts(photos / "whole")
    rows = faces_by_name(read_rows("out"))
    assert [row for row in rows if row[0] != "0004x.png"] == EXPECTED
    assert "no image" in dict(rows)["0004x.png"]

    monkeypatch.setattr(local, "Supervisor", no_workers)
    again = batch.run("photos", "out", options)
    assert (again.photos, again.faces, again.photos_now) == (11, 13, 0)


def test_broken_parts_and_left_overs(photos, options):
    """What a power cut or a kill left behind is cleared away and made again."""
    batch.run("photos", "out", options, workers=1)
    out = photos / "out"
    before = parts(out)
    (out / "_summary.json").unlink()
    (out / "part-00001.parquet").write_bytes(before["part-00001.parquet"][:-9])
    (out / ".part-00002.123.part.parquet").write_bytes(b"half")
    assert batch.run("photos", "out", options, workers=1).photos_now == 4
    assert parts(out) == before
    assert not list(out.glob(".part-*"))


def test_parts_that_are_lost_after_the_end_are_made_again(photos, blob_model, monkeypatch):
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    lines = BatchOptions(model=blob_model, shard_size=4, format="jsonl")
    batch.run("photos", "out", lines)
    out = photos / "out"
    before = parts(out)
    for harm in (
        (out / "part-00001.jsonl").unlink,
        lambda: (out / "part-00000.jsonl").write_bytes(before["part-00000.jsonl"][:-9]),
        lambda: (out / "part-00000.jsonl").write_bytes(b""),
    ):
        harm()
        summary = batch.run("photos", "out", lines)
        assert (summary.photos, summary.photos_now) == (10, 4)
        assert parts(out) == before
        assert batch.run("photos", "out", lines).photos_now == 0


def test_the_parts_of_a_finished_job_are_not_read(photos, options, monkeypatch):
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    for out in ("out", "memory://finished/out"):
        batch.run("photos", out, options)
        with monkeypatch.context() as patch:
            patch.setattr(job, "count_part", no_workers)
            assert batch.run("photos", out, options).photos_now == 0


def test_a_finished_job_whose_summary_lacks_its_bytes_is_looked_at_once(
    photos, options, monkeypatch
):
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    batch.run("photos", "out", options)
    (photos / "out" / "_summary.json").write_text('{"photos": 10, "faces": 0, "errors": 0}')
    (photos / "out" / "part-00001.parquet").unlink()
    assert batch.run("photos", "out", options).photos_now == 4
    monkeypatch.setattr(job, "count_part", no_workers)
    assert batch.run("photos", "out", options).photos_now == 0


def test_another_list_on_standard_input_is_refused(photos, options, monkeypatch):
    def run(text):
        stdin = io.TextIOWrapper(io.BytesIO(text))
        monkeypatch.setattr("sys.stdin", stdin)
        return batch.run("-", "out", options)

    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    first = run(b"photos/0003.png\nphotos/0001.png\n")
    assert (first.photos, first.photos_now) == (2, 2)
    before = parts(photos / "out")
    assert run(b"photos/0003.png\nphotos/0001.png\n").photos_now == 0
    with pytest.raises(DataError, match="the list on standard input has changed since"):
        run(b"photos/0003.png\nphotos/0002.png\n")
    assert parts(photos / "out") == before
    assert [Path(row["source"]).name for row in read_rows("out")] == ["0003.png", "0001.png"]


def test_formats_and_sources_give_the_same_rows(photos, options, blob_model):
    """As JSON lines from a Parquet file of bytes, into a store; and from a list."""
    expected = batch.run("photos", "out", options, workers=1)
    content = [path.read_bytes() for path in sorted((photos / "photos").glob("*.png"))]
    pq.write_table(pa.table({"photo": content, "id": range(10)}), "t.parquet", row_group_size=3)
    in_lines = BatchOptions(model=blob_model, shard_size=4, format="jsonl", column="photo")
    summary = batch.run("t.parquet", "memory://job/out", in_lines, workers=1)
    assert (summary.photos, summary.faces, summary.errors) == (10, 13, 0)
    rows, same = list(read_rows("out")), list(read_rows("memory://job/out"))
    assert summary.faces == expected.faces
    for number, (row, other) in enumerate(zip(rows, same, strict=True)):
        assert other["source"] == f"t.parquet#{number}"
        assert row["source"] == f"photos/{number:04d}.png"
        assert row["faces"] == [pytest.approx(face, abs=1e-5) for face in other["faces"]]
        assert {**row, "source": 0, "faces": 0} == {**other, "source": 0, "faces": 0}
    names = {path.rpartition("/")[2] for path in fsspec.filesystem("memory").ls("/job/out", False)}
    assert names >= {"part-00002.jsonl", "_job.json", "_summary.json"}
    assert batch.run("t.parquet", "memory://job/out", in_lines).photos_now == 0

    (photos / "list.txt").write_text("photos/0003.png\n" + (photos / "photos/0001.png").as_uri())
    batch.run("list.txt", "list", options, workers=1)
    assert faces_by_name(read_rows("list")) == [("0003.png", 3), ("0001.png", 1)]


def change_list(photos):
    (photos / "list.txt").write_text("photos/0000.png\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.9}, "begun without --threshold, and is now to go on with --threshold 0.9"),
        ({"shard_size": None}, "begun with --shard-size 4, and is now to go on without"),
        ({"format": "jsonl"}, "begun with --format parquet, and is now to go on with --format jso"),
        ({"crowds": False}, "begun with --crowds, and is now to go on with --no-crowds"),
        ({"tile": False}, "begun with --tile auto, and is now to go on with --tile off"),
        ({"max_pixels": None}, "and is now to go on with --max-pixels 0: give the same, or choose"),
        ({"model": "faceresnet-n"}, "begun with a --model of sha256"),
        ({"source": "photos"}, "holds a job for .*list.txt, not .*photos"),
        ({"source": change_list}, "list.txt has changed since"),
    ],
)
def test_another_job_is_refused(photos, options, blob_model, monkeypatch, change, message):
    (photos / "list.txt").write_text("photos/0003.png\n")
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    batch.run("list.txt", "out", options)
    before = parts(photos / "out")
    source = change.pop("source", "list.txt") if "source" in change else "list.txt"
    if callable(source):
        source(photos)
        source = "list.txt"
    other = BatchOptions(**{"model": blob_model, "shard_size": 4, **change})
    with pytest.raises(DataError, match=message):
        batch.run(source, "out", other)
    assert parts(photos / "out") == before


class FakeSupervisor:
    """Finds nothing, at once."""

    def __init__(self, plan, timeout_s):
        pass

    def look(self, entries, on_photo):
        from faceresnet.apps.batch.rows import Looked

        for _ in entries:
            on_photo()
        return [Looked(1, 1)] * len(entries)

    def close(self):
        pass


def test_a_job_without_parts_may_be_changed(photos, options, blob_model, monkeypatch):
    broken = BatchOptions(model=blob_model, device="npu")
    with pytest.raises(EngineError, match="npu"):
        batch.run("photos", "out", broken, workers=1)
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    assert batch.run("photos", "out", options).photos == 10


def test_the_same_from_another_folder(photos, options, monkeypatch):
    """Relative paths start where they started when the job began."""
    (photos / "list.txt").write_text("photos/0003.png\nphotos/0002.png")
    one = BatchOptions(model=options.model, shard_size=1)
    batch.run("list.txt", "out", one, workers=1)
    (photos / "out" / "_summary.json").unlink()
    (photos / "out" / "part-00001.parquet").unlink()
    (photos / "elsewhere").mkdir()
    monkeypatch.chdir(photos / "elsewhere")
    batch.run("../list.txt", "../out", one, workers=1)
    assert faces_by_name(read_rows("../out")) == [("0003.png", 3), ("0002.png", 2)]


def test_many_photos_need_few_files(photos, blob_model, monkeypatch):
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    listed = []
    (photos / "list.txt").write_text("".join(f"{number}.jpg\n" for number in range(70_000)))
    options = BatchOptions(model=blob_model, format="jsonl")
    summary = batch.run("list.txt", "out", options, on_listed=listed.append)
    assert (summary.photos, summary.parts) == (70_000, 70)
    assert listed[-1] == 70_000
    names = [row["source"] for row in read_rows("out")]
    assert names == [f"{number}.jpg" for number in range(70_000)]


def test_two_jobs_in_one_folder(photos, options):
    with (
        open_storage("out").lock(),
        pytest.raises(DataError, match="another job is writing into out"),
    ):
        batch.run("photos", "out", options)


def test_folders_of_something_else(photos, options):
    (photos / "out").mkdir()
    (photos / "out" / "part-00000.parquet").touch()
    with pytest.raises(DataError, match=r"holds part-00000.parquet of something else"):
        batch.run("photos", "out", options)
    (photos / "file").touch()
    with pytest.raises(DataError, match="file is a file"):
        batch.run("photos", "file", options)
    (photos / "out" / "_job.json").write_text("{}")
    with pytest.raises(DataError, match="is broken"):
        batch.run("photos", "out", options)


def test_a_listing_that_is_broken(photos, options, monkeypatch):
    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    batch.run("photos", "out", options)
    out = photos / "out"
    (out / "_summary.json").unlink()
    (out / "part-00001.parquet").unlink()
    listing = (out / "_listing.jsonl.gz").read_bytes()
    for broken in (listing[:-12], listing[:12] + bytes(8) + listing[20:]):
        (out / "_listing.jsonl.gz").write_bytes(broken)
        with pytest.raises(DataError, match=r"_listing\.jsonl\.gz is broken"):
            batch.run("photos", "out", options)


def test_a_job_killed_in_place_of_another_leaves_no_mixture(photos, options, monkeypatch):
    """Between its listing and its own facts the folder must not look like the other's job."""

    def kill(*_, **__):
        raise KeyboardInterrupt

    def list_and_kill(storage, entries, on_listed):
        write_listing(storage, entries, on_listed)
        kill()

    write_listing = job._write_listing
    with monkeypatch.context() as patched:
        patched.setattr(job.Job, "run", kill)
        with pytest.raises(KeyboardInterrupt):
            batch.run("photos/000[0-4].png", "out", options)
        patched.setattr(job, "_write_listing", list_and_kill)
        with pytest.raises(KeyboardInterrupt):
            batch.run("photos/000[5-9].png", "out", options)
    batch.run("photos/000[0-4].png", "out", options, workers=1)
    assert faces_by_name(read_rows("out")) == EXPECTED[:5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "csv"}, "format must be one of parquet, jsonl"),
        ({"runtime": "torch"}, "runtime must be one of"),
        ({"threshold": 2.0}, "threshold must lie"),
        ({"max_side": 4}, "max_side must be"),
        ({"shard_size": 0}, "shard_size must be"),
    ],
)
def test_wrong_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchOptions(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"engine": "spark"}, {"workers": 0}, {"timeout_s": 0}, {"timeout_s": float("nan")}],
)
def test_wrong_arguments(photos, options, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        batch.run("photos", "out", options, **arguments)


def test_a_missing_ray_is_said_before_anything_is_listed(photos, options, monkeypatch):
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[ray\]'"):
        batch.run("photos", "out", options, engine="ray")
    with pytest.raises(ValueError, match="engine must be one of local, ray"):
        batch.run("photos", "out", options, engine="spark")
    assert not Path("out").exists()


def test_json_lines_say_what_the_schema_says(photos, blob_model):
    options = BatchOptions(model=blob_model, format="jsonl")
    batch.run("photos/0003.png", "out", options, workers=1)
    row = json.loads((photos / "out" / "part-00000.jsonl").read_text())
    assert list(row) == ["source", "width", "height", "faces", "error", "model"]
    assert row["model"].startswith("blob@")
    assert list(row["faces"][0]) == ["x1", "y1", "x2", "y2", "score"]
    shutil.rmtree(photos / "out")
