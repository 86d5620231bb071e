import csv
import errno
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import blob_image, crowd_image, run_cli
from faceresnet import images, weights
from faceresnet.cli import sources
from faceresnet.cli.sources import expand


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Folders with photos of one to three blobs, a broken photo and a text; the current folder."""
    monkeypatch.chdir(tmp_path)
    for place, count in {"a/x.png": 1, "a/y.jpg": 2, "b/x.png": 3, "b/deep/z.bmp": 1}.items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        squares = [(36 + 48 * i, 36, 18) for i in range(count)]
        Image.fromarray(blob_image((96, 200), *squares)).save(place, quality=95)
    Path("a/notes.txt").write_text("no photo")
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    return tmp_path


@pytest.fixture
def run(blob_model, capsys):
    """Run the command line; gives exit status, standard output and standard error."""

    def run(*arguments):
        command, *rest = arguments
        model = ["--model", blob_model, "--threads", "1"] if command == "detect" else []
        return run_cli(capsys, command, *model, *rest)

    return run


def test_a_table_and_a_hint(photos, run):
    status, out, err = run("detect", "a")
    assert status == 0
    assert "a/x.png" in out
    assert "a/y.jpg" in out
    assert "notes" not in out
    row = next(line.split() for line in out.splitlines() if "a/y.jpg" in line)
    assert row[:3] == ["a/y.jpg", "200×96", "2"]
    assert "--save" in err


def test_crowds_are_looked_at_again_unless_told_not_to(photos, run):
    Image.fromarray(crowd_image()).save("crowd.png")
    counts = []
    for options in ([], ["--no-crowds"]):
        status, out, _ = run("detect", "crowd.png", *options)
        assert status == 0
        counts.append(next(line.split()[2] for line in out.splitlines() if "crowd.png" in line))
    assert counts == ["9", "8"]


def test_json_on_standard_output_is_nothing_else(photos, run):
    status, out, err = run("detect", "a/y.jpg", "--json", "-")
    assert status == 0
    assert err == ""
    (photo,) = json.loads(out)
    assert photo["image"] == "a/y.jpg"
    assert len(photo["faces"]) == 2


def test_unreadable_photos_are_listed_and_the_rest_is_done(photos, run):
    status, out, err = run(
        "detect", "broken.jpg", "a/x.png", "gone.png", "a/notes.txt", "b/x.png", "--json", "-"
    )
    assert status == 1
    assert [photo["image"] for photo in json.loads(out)] == ["a/x.png", "b/x.png"]
    assert all(name in err for name in ("broken.jpg", "gone.png", "notes.txt"))
    assert err.splitlines()[-1] == "faceresnet: 3 of 5 not read"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/x.png", "--threshold", "2"], "threshold must lie in 0..1"),
        (["a/x.png", "--threshold", "high"], "--threshold"),
        (["a/x.png", "--tresholt", "0.5"], "--tresholt"),
        (["a/x.png", "--tile", "maybe"], "--tile must be"),
        (["a/x.png", "--format", "xml"], "--format must be one of"),
        (["a/x.png", "--format", "yolo"], "add --output FOLDER"),
        (["a/x.png", "--format", "yolo", "--json", "a/notes.txt"], "is a file"),
        (["a/x.png", "--json", "a"], "is a folder"),
        (
            ["a/x.png", "--json", "a.XLSX"],
            "--output ends in .XLSX, a layout that is not written here",
        ),
        (["a/x.png", "--save", "a/notes.txt"], "is a file"),
        (["a", "--save", "drawn.png"], "--save needs a folder for 2 photos, got drawn.png"),
        (["a/x.png", "--json", "a/notes.txt/faces.json"], "cannot write a/notes.txt/faces.json"),
        (["a/x.png", "--engine", "magic"], "engine must be one of"),
        (["a/x.png", "--device", "cuda"], "only: cpu"),
        (["a/x.png", "--model", "nothing"], "no model is called 'nothing'"),
        (
            ["a/x.png", "--save", "drawn.gif"],
            "--save writes .jpeg, .jpg, .png, .webp",
        ),
        (["a/x.png", "--save", "o.png", "--json", "o.png"], "o.png is where other results go"),
        (["a/x.png", "--model", "m.onnx", "--json", "m.onnx"], "m.onnx is the model"),
        (["empty"], "in the folder empty"),
        (["a/x.png", ""], "an argument is empty, after a/x.png"),
        (["a/x.png", "--save="], "an argument is empty, after --save"),
        (["*.nothing"], "no photo matches *.nothing"),
        ([], "source"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(photos, run, arguments, message):
    Path("empty").mkdir()
    status, out, err = run("detect", *arguments)
    assert status == 2
    assert out == ""
    assert message.lower() in err.lower()
    assert err.count("\n") == 1
    assert err.startswith("faceresnet: ")


def test_a_result_may_be_called_as_a_shipped_model(photos, run):
    assert run("detect", "a/x.png", "--model", "faceresnet-n", "--json", "faceresnet-n")[0] == 0
    assert Path("faceresnet-n").is_file()


def test_what_can_be_no_photo_is_listed_and_the_rest_is_done(photos, run):
    """An address that is none, a name longer than names can be, a line break in a name."""
    sources = ["http://[::1", "x" * 300 + ".jpg", "new\n\x1bline.jpg", "a/x.png"]
    status, out, err = run("detect", *sources, "--json", "-")
    assert status == 1
    assert [photo["image"] for photo in json.loads(out)] == ["a/x.png"]
    assert len(err.splitlines()) == 4
    assert "cannot download http://[::1" in err
    assert "new \\x1bline.jpg" in err


def test_names_in_the_table_are_printable(photos, run):
    Path("a/x.png").rename("a/\x1b[31mx.png")
    status, out, _ = run("detect", "a/\x1b[31mx.png")
    assert status == 0
    assert "\x1b[31m" not in out
    assert "a/\\x1b[31mx.png" in out


def test_results_of_addresses_have_names_that_files_can_have():
    found = expand(["http://h/" + "y" * 300 + ".jpg", "http://h/a%00b.jpg"])
    assert [str(source.picture) for source in found] == ["y" * 60 + ".png", "ab.png"]


def test_a_folder_that_cannot_be_listed_is_refused(photos, run, monkeypatch):
    list_folder = os.scandir

    def closed(place):
        if str(place) in ("a/in", "a/.Trashes"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return list_folder(place)

    Path("a/in").mkdir()
    Path("a/.Trashes").mkdir()
    monkeypatch.setattr(os, "scandir", closed)
    status, out, err = run("detect", "a", "--recursive")
    assert (status, out) == (2, "")
    assert err == "faceresnet: cannot list a/in: Permission denied\n"
    Path("a/in").rmdir()
    assert run("detect", "a", "--recursive")[0] == 0, "nobody looks into hidden folders"


def test_debug_shows_the_trace(photos, run):
    status, _, err = run("detect", "a/x.png", "--threshold", "2", "--debug")
    assert status == 2
    assert "Traceback" in err
    assert "ValueError: threshold must lie" in err


def test_save_draws_and_keeps_photos_of_one_name_apart(photos, run):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    status, out, err = run("detect", "a", "b", "--recursive", "--save", "out")
    assert (status, err) == (0, "faceresnet: b/x.png → x-2, another photo has its name\n")
    assert "a/x.png" in out, "the table is printed as well"
    saved = {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}
    assert saved == {"x.png", "y.jpg", "x-2.png", "deep/z.png"}
    assert images.read("out/x.png")[27, 36].tolist() == [255, 0, 0]
    assert {path: path.read_bytes() for path in before} == before


def test_copies_that_cannot_be_written_are_listed_and_the_rest_is_done(photos, run):
    Image.new("RGB", (70_000, 3)).save("a/xy.jpg", "PNG")
    status, out, err = run("detect", "a", "--save", "out", "--json", "new.json")
    assert (status, out) == (1, "3 faces in 3 photos: see new.json\n")
    found = [photo["image"] for photo in json.loads(Path("new.json").read_text())]
    assert found == ["a/x.png", "a/xy.jpg", "a/y.jpg"]
    assert sorted(os.listdir("out")) == ["x.png", "y.jpg"]
    first, last = err.splitlines()
    assert first.startswith("faceresnet: cannot write out/xy.jpg: ")
    assert last == "faceresnet: 1 of 3 copies not written"
    status, out, err = run("detect", "broken.jpg", "a", "--save", "out", "--json", "new.json")
    assert (status, out) == (1, "3 faces in 3 photos: see new.json\n")
    assert "broken.jpg" in err
    assert err.splitlines()[-1] == "faceresnet: 2 of 4 not read or copies not written"


@pytest.mark.parametrize(
    ("options", "photo_count"), [([], 3), (["-r"], 4), (["-r", "--no-recursive"], 3)]
)
def test_recursive(photos, run, options, photo_count):
    status, out, _ = run("detect", "a", "b", *options, "--json", "-")
    assert status == 0
    assert len(json.loads(out)) == photo_count


def test_one_photo_is_saved_to_a_file(photos, run):
    status, _, _ = run("detect", "a/y.jpg", "--save", "new/drawn.png")
    assert status == 0
    assert images.read("new/drawn.png")[27, 36].tolist() == [255, 0, 0]
    Path("folder.png").mkdir()
    run("detect", "a/y.jpg", "--save", "folder.png")
    assert os.listdir("folder.png") == ["y.jpg"]


def test_no_photo_is_overwritten(photos, run):
    before = Path("a/x.png").read_bytes()
    for arguments in (
        ["a/x.png", "--save", "a"],
        ["a/x.png", "--save", "a/x.png"],
        ["a/x.png", "--json", "a/../a/x.png"],
    ):
        status, _, err = run("detect", *arguments)
        assert status == 2
        assert "is one of the photos" in err
    os.rename("a/x.png", "a/x.txt")
    status, _, err = run("detect", "a/x.txt", "--format", "yolo", "--json", "a")
    assert status == 2
    assert Path("a/x.txt").read_bytes() == before


def test_jsonl_csv_and_coco_files(photos, run):
    for format in ("jsonl", "csv", "coco", "json"):
        status, out, _ = run(
            "detect", "a", "b/x.png", "--format", format, "--json", f"new/{format}"
        )
        assert (status, out) == (0, f"6 faces in 3 photos: see new/{format}\n")
    assert sorted(os.listdir("new")) == ["coco", "csv", "json", "jsonl"]
    lines = [json.loads(line) for line in Path("new/jsonl").read_text().splitlines()]
    assert [len(line["faces"]) for line in lines] == [1, 2, 3]
    assert json.loads(Path("new/json").read_text()) == lines
    rows = list(csv.DictReader(io.StringIO(Path("new/csv").read_text())))
    assert [row["image"] for row in rows] == ["a/x.png"] + ["a/y.jpg"] * 2 + ["b/x.png"] * 3
    coco = json.loads(Path("new/coco").read_text())
    assert [photo["file_name"] for photo in coco["images"]] == ["a/x.png", "a/y.jpg", "b/x.png"]
    assert [face["id"] for face in coco["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [face["image_id"] for face in coco["annotations"]] == [1, 2, 2, 3, 3, 3]
    assert coco["categories"] == [{"id": 1, "name": "face"}]


def test_a_video_is_sent_to_its_own_command(photos, run):
    Path("film.MP4").write_bytes(b"\x00\x00\x00\x20ftypisom")
    status, _, err = run("detect", "film.MP4", "gone.mp4")
    assert status == 1
    assert "faceresnet: film.MP4 is a video: see 'faceresnet video'\n" in err
    assert "faceresnet: gone.mp4 does not exist\n" in err


def test_the_suffix_of_a_file_says_its_layout(photos, run):
    for name in ("a.csv", "a.JSONL", "a.json", "a.txt"):
        _, out, _ = run("detect", "a/x.png", "broken.jpg", "--json", name)
        assert out == f"1 face in 1 photo: see {name}\n"
    assert Path("a.csv").read_text().startswith("image,x1,y1,x2,y2,score\n")
    (line,) = Path("a.JSONL").read_text().splitlines()
    assert json.loads(Path("a.json").read_text()) == [json.loads(line)]
    assert Path("a.txt").read_text() == Path("a.json").read_text()
    assert run("detect", "a/x.png", "--json", "b.xml", "--format", "json")[0] == 0
    run("detect", "a/x.png", "--json", "b.csv", "--format", "json")
    assert Path("b.csv").read_text() == Path("a.json").read_text()


def test_csv_of_no_face_has_a_header(photos, run):
    _, out, _ = run("detect", "a/x.png", "--format", "csv", "--threshold", "1")
    assert out == "image,x1,y1,x2,y2,score\n"


def test_names_are_explained_only_where_files_are_called_so(photos, run):
    assert run("detect", "a", "b", "-r", "--json", "faces.json")[::2] == (0, "")


def test_what_is_not_named_as_a_photo_is_counted(photos, run):
    for name in ("a/1.HEIC", "a/2.heic", "a/scan", "b/deep/film.mp4", "a/x.png.xmp", "a/.hidden"):
        Path(name).touch()
    status, _, err = run("detect", "a", "b", "a", "-r", "--json", "faces.json")
    assert status == 0
    assert err == (
        "faceresnet: 4 files left out, not named as photos are: without suffix 1, .heic 2, .mp4 1\n"
    )


def test_yolo_and_wider_fill_folders(photos, run):
    for format in ("yolo", "wider"):
        status, _, err = run("detect", "a", "b", "-r", "--format", format, "--json", format)
        assert (status, err) == (0, "faceresnet: b/x.png → x-2, another photo has its name\n")
        written = {str(path.relative_to(format)) for path in Path(format).rglob("*.*")}
        assert written == {"x.txt", "y.txt", "x-2.txt", "deep/z.txt"}
    assert Path("yolo/y.txt").read_text().count("\n") == 2
    assert Path("wider/y.txt").read_text().splitlines()[:2] == ["y", "2"]


def test_outputs_appear_whole_or_not_at_all(photos, run, monkeypatch):
    Path("old.json").write_text("old")

    def fail(*_):
        raise ValueError("the network is out of order")

    monkeypatch.setattr("faceresnet.detector.FaceDetector.__call__", fail)
    for format in ("json", "jsonl"):
        status, _, err = run("detect", "a", "--format", format, "--json", "old.json")
        assert status == 2
        assert "out of order" in err
    assert Path("old.json").read_text() == "old"
    assert not [path for path in photos.iterdir() if ".part" in path.name]


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_a_file_that_cannot_be_finished_leaves_nothing(photos, run, monkeypatch, format):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    status, _, err = run("detect", "a", "--format", format, "--json", "new.json")
    assert (status, err) == (2, "faceresnet: cannot write new.json: No space left on device\n")
    assert not [path for path in photos.iterdir() if "new" in path.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("place", ["pipe", "/dev/fd/{}"])
def test_results_go_through_a_pipe(photos, run, place):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("pipe", os.O_WRONLY)
    try:
        status, _, _ = run("detect", "a/y.jpg", "--json", place.format(writer))
        assert status == 0
        (photo,) = json.loads(os.read(reader, 10_000))
        assert len(photo["faces"]) == 2
    finally:
        os.close(reader)
        os.close(writer)
    assert Path("pipe").is_fifo()


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="needs /dev/stdout")
def test_standard_output_by_its_name_is_standard_output(photos, blob_model):
    command = [sys.executable, "-m", "faceresnet", "detect", "a/x.png", "--json", "/dev/stdout"]
    with Path("out.json").open("w") as out:
        subprocess.run([*command, "--model", str(blob_model)], stdout=out, check=True)
    assert len(json.loads(Path("out.json").read_text())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "coco", "wider"])
def test_a_name_that_is_no_text_loses_no_results(photos, run, format):
    name = os.fsdecode(b"caf\xe9.png")
    os.rename("a/x.png", name)
    status, _, _ = run("detect", name, "a", "--format", format, "--json", "out")
    assert status == 0
    written = [path for path in [Path("out"), *Path("out").glob("*")] if path.is_file()]
    assert r"caf\udce9" in "".join(path.read_text() for path in written)
    if format == "wider":
        return
    status, out, _ = run("detect", name, "a", "--format", format)
    assert (status, out) == (0, written[0].read_text())
    assert r"caf\udce9" in run("detect", name)[1]


def test_closed_standard_streams_are_one_line(photos, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, _, err = run("detect", "-")
    assert status == 1
    assert err.splitlines()[0].startswith("faceresnet: standard input is closed")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        status, _, err = run("detect", "a/x.png", "--json", "-")
    assert (status, err.count("\n")) == (2, 1)
    assert "standard output is closed" in err


def test_links_that_go_round_are_one_line(photos, run):
    Path("round.png").symlink_to("round.png")
    status, _, err = run("detect", "round.png")
    assert (status, err.splitlines()[-1]) == (1, "faceresnet: 1 of 1 not read")
    status, _, err = run("detect", "a/x.png", "--json", "round.png")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot write round.png" in err


def test_globs(photos, run):
    _, out, _ = run("detect", "**/x.*", "--format", "jsonl")
    assert [json.loads(line)["image"] for line in out.splitlines()] == ["a/x.png", "b/x.png"]


def test_a_photo_named_twice_is_looked_at_once(photos):
    assert [source.name for source in expand(["a/x.png", "a", "./a/x.png"])] == [
        "a/x.png",
        "a/y.jpg",
    ]


def test_targets_are_unique_whatever_the_case(photos):
    Path("a/X.jpeg").write_bytes(Path("a/y.jpg").read_bytes())
    targets = [str(source.target).lower() for source in expand(["a", "b"])]
    assert len(set(targets)) == len(targets) == 4


def test_standard_input(photos, run, monkeypatch):
    content = Path("a/y.jpg").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, out, _ = run("detect", "-", "--json", "-")
    assert status == 0
    (photo,) = json.loads(out)
    assert (photo["image"], len(photo["faces"])) == ("stdin", 2)


def test_ctrl_c_ends_the_wait_for_standard_input(photos, run, monkeypatch):
    """A thread of its own would go on waiting."""
    readers = []

    class Silent:
        def read(self):
            readers.append(threading.current_thread())
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Silent()))
    status, _, err = run("detect", "a/x.png", "-")
    assert (status, err) == (130, "faceresnet: interrupted\n")
    assert readers == [threading.main_thread()]


def test_hidden_folders_are_left_out_unless_they_are_named(photos):
    for place in ("b/.dtrash/files", "b/.Trash-1000"):
        Path(place).mkdir(parents=True)
        shutil.copy("a/x.png", place)
    found = [source.name for source in expand(["b"], recursive=True)]
    assert found == ["b/deep/z.bmp", "b/x.png"]
    found = [source.name for source in expand(["b/.dtrash", "b/.Trash-1000"], recursive=True)]
    assert found == ["b/.dtrash/files/x.png", "b/.Trash-1000/x.png"]


@pytest.fixture
def server(photos):
    """The address of a server of the current folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/cut.bmp":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"BM")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_addresses(server, run, monkeypatch):
    status, out, err = run(
        "detect", f"{server}/a/y.jpg?size=large", f"{server}/gone.jpg", "--json", "-", "--save", "o"
    )
    assert status == 1
    assert [len(photo["faces"]) for photo in json.loads(out)] == [2]
    assert "gone.jpg" in err
    assert os.listdir("o") == ["y.png"]
    monkeypatch.setattr(sources, "URL_BYTES", 100)
    status, _, err = run("detect", f"{server}/a/y.jpg")
    assert status == 1
    assert "larger than the limit" in err


def test_passwords_are_not_told(server, run):
    address = f"{server.replace('//', '//joe:geheim@')}/a/y.jpg"
    status, out, err = run("detect", address, f"{address}s?token=1234", "--json", "-")
    assert status == 1
    assert json.loads(out)[0]["image"] == address.replace("geheim", "***")
    assert "geheim" not in err
    assert "y.jpgs?token=*** HTTP 404" in err


def test_an_address_that_breaks_off(server, run):
    status, _, err = run("detect", f"{server}/cut.bmp")
    assert status == 1
    assert "cut.bmp: IncompleteRead(2 bytes read, 998 more expected)" in err


def test_max_pixels(photos, run):
    status, _, err = run("detect", "a/x.png", "--max-pixels", "100")
    assert status == 1
    assert "--max-pixels" in err
    assert run("detect", "a/x.png", "--max-pixels", "0")[0] == 0
    assert run("detect", "a/x.png", "--max-pixels", "-1")[0] == 2


def test_models_lists_what_is_shipped(run, blob_model, monkeypatch):
    monkeypatch.setattr(weights, "SHIPPED", blob_model.parent)
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run("models", "--speed")
    assert status == 0
    row = next(line for line in out.splitlines() if line.startswith("blob"))
    assert "fp32" in row
    assert "AP VGA blobs: 1.000" in row
    assert "AP, one look, IoU 0.5" in out
    assert "MODEL_CARD.md tells of the sets" in out
    assert "none" in row


def test_names_of_models_can_be_searched_for(run, blob_model, tmp_path, monkeypatch):
    name = "a-model-whose-name-is-long"
    shutil.copy(blob_model, tmp_path / f"{name}.onnx")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert name in run("models")[1]


def test_models_of_an_empty_installation(run, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    status, _, err = run("models")
    assert status == 2
    assert "ships no model" in err


def test_demo(run, blob_model, tmp_path):
    pytest.importorskip("skimage")
    picture = tmp_path / "demo.png"
    status, out, _ = run("demo", "--model", blob_model, "--save", picture)
    assert status == 0
    assert "101 in the picture" in out
    assert images.read(picture).shape == (512, 1032, 3)


def test_demo_refuses_at_once_what_it_cannot_write(run, tmp_path, monkeypatch):
    monkeypatch.setattr("faceresnet.apps.demo.make_crowd", lambda: pytest.fail("it has begun"))
    status, _, err = run("demo", "--save", tmp_path / "x.psd")
    assert status == 2
    assert err == (
        "faceresnet: no image format that can be written has the suffix of "
        f"{tmp_path / 'x.psd'}: use .png or .jpg\n"
    )


def test_demo_needs_its_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    status, _, err = run("demo")
    assert status == 2
    assert "pip install -c constraints.txt '.[demo]'" in err


def test_no_command_shows_the_help(capsys):
    assert run_cli(capsys)[0] == 2


def test_a_reader_that_has_seen_enough(photos, blob_model):
    """As in `faceresnet detect … | head`."""
    command = [sys.executable, "-m", "faceresnet", "detect", *["a", "b"], "--format", "jsonl"]
    process = subprocess.Popen(
        [*command, "--model", str(blob_model), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert err == ""


def test_drawn_boxes_are_those_of_the_detections(photos, run):
    run("detect", "a/x.png", "--save", "out")
    before, after = images.read("a/x.png"), images.read("out/x.png")
    changed = np.argwhere((before != after).any(axis=2))
    assert changed.min(axis=0).tolist() == [27, 27]
    assert changed.max(axis=0).tolist() == [45, 45]


def test_names_in_the_table_are_no_markup(photos, run):
    names = ["[red]x.png", r"\[b].png", ":smile:.png", "[1].png"]
    for name in names:
        Path(name).write_bytes(Path("a/x.png").read_bytes())
    status, out, _ = run("detect", *names)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == names
