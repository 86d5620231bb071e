import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import blob_image, crowd_image, run_cli
from faceresnet.apps.tag.packet import read_regions


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photos of one to three faces, one without, a broken one and a text; the current folder."""
    monkeypatch.chdir(tmp_path)
    for place, count in {"a/x.jpg": 1, "a/b/y.png": 3, "a/none.jpg": 0, "a/old.bmp": 2}.items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        squares = [(36 + 48 * i, 36, 18) for i in range(count)]
        Image.fromarray(blob_image((96, 200), *squares)).save(place, quality=95)
    Path("a/notes.txt").write_text("no photo")
    return tmp_path


@pytest.fixture
def run(blob_model, capsys):
    return partial(run_cli, capsys, "tag", "--model", blob_model, "--threads", "1")


def files():
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in Path().rglob("*") if p.is_file()
    }


def test_a_folder_gets_sidecars_and_a_second_run_changes_nothing(photos, run):
    before = files()
    status, out, err = run("a")
    assert (status, err) == (0, "")
    assert "6 faces in 4 photos, 3 sidecars written" in out
    after = files()
    assert set(after) - set(before) == {"a/x.jpg.xmp", "a/b/y.png.xmp", "a/old.bmp.xmp"}
    assert {name: after[name] for name in before} == before
    assert len(read_regions(after["a/b/y.png.xmp"][0])) == 3
    status, out, _ = run("a")
    assert "6 faces in 4 photos, 0 sidecars written" in out
    assert files() == after


def test_embedding_names_what_holds_no_xmp_and_does_the_rest(photos, run):
    pytest.importorskip("pyexiv2")
    pixels = np.asarray(Image.open("a/x.jpg").convert("RGB"))
    status, out, err = run("a", "--embed")
    assert status == 1
    assert "a/old.bmp: XMP cannot be written into its format: use --sidecar" in err
    assert err.splitlines()[-1] == "faceresnet: 1 of 4 not tagged"
    assert "4 faces in 3 photos, 2 photos written" in out
    assert not list(Path().rglob("*.xmp"))
    with Image.open("a/x.jpg") as image:
        assert len(read_regions(image.info["xmp"])) == 1
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)
    before = files()
    assert "4 faces in 3 photos, 0 photos written" in run("a", "--embed")[1]
    assert files() == before


def test_unreadable_photos_are_listed_and_the_rest_is_done(photos, run):
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    Path("a/x.jpg.xmp").write_text("<a")
    status, out, err = run("broken.jpg", "gone.jpg", "a/x.jpg", "a/b")
    assert status == 1
    assert "3 faces in 1 photo, 1 sidecar written" in out
    assert all(
        name in err
        for name in ("broken.jpg", "gone.jpg", "a/x.jpg: in x.jpg.xmp, its XMP cannot be read")
    )
    assert err.splitlines()[-1] == "faceresnet: 3 of 4 not tagged"
    assert Path("a/x.jpg.xmp").read_text() == "<a"


def test_options(photos, run):
    assert run("a", "--no-recursive", "--naming", "stem")[0] == 0
    assert sorted(os.listdir("a")) == [
        *("b", "none.jpg", "notes.txt", "old.bmp", "old.xmp", "x.jpg", "x.xmp")
    ]
    _, out, _ = run("a/b/y.png", "--min-size", "40")
    assert "0 faces in 1 photo, 0 sidecars written" in out
    assert not Path("a/b/y.png.xmp").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_crowds_are_looked_at_again_unless_told_not_to(photos, run):
    Image.fromarray(crowd_image()).save("crowd.png")
    assert "8 faces in 1 photo" in run("crowd.png", "--no-crowds")[1]
    assert "9 faces in 1 photo" in run("crowd.png")[1]


def test_links_that_lead_round_are_named(photos, run):
    for place in ("a/round.jpg", "a/x.jpg.xmp"):
        Path(place).symlink_to(Path(place).name)
    status, out, err = run("a/round.jpg", "a/x.jpg", "a/b/y.png")
    assert status == 1
    assert err.splitlines() == [
        "faceresnet: cannot read a/round.jpg: Too many levels of symbolic links",
        "faceresnet: cannot tag a/x.jpg: Too many levels of symbolic links",
        "faceresnet: 2 of 3 not tagged",
    ]
    assert "1 sidecar written" in out


def test_photos_of_one_sidecar_are_named_and_the_first_is_done(photos, run):
    Image.fromarray(blob_image((96, 200), (36, 36, 18), (84, 36, 18))).save("a/x.png")
    status, out, err = run("a", "--naming", "stem")
    assert status == 1
    assert err.splitlines() == [
        "faceresnet: a/x.png: its sidecar a/x.xmp is that of a/x.jpg too: "
        "use --naming full, or --embed",
        "faceresnet: 1 of 5 not tagged",
    ]
    assert "6 faces in 4 photos, 3 sidecars written" in out
    assert len(read_regions(Path("a/x.xmp").read_bytes())) == 1
    assert run("a")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--naming", "short"], "naming must be one of full, stem"),
        (["empty"], "in the folder empty"),
        (["https://example.com/a.jpg"], "is no file"),
        (["-"], "stdin is no file"),
        (["a", "--threshold", "2"], "threshold must lie in 0..1"),
        ([], "source"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(photos, run, arguments, message):
    Path("empty").mkdir()
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(Path().rglob("*.xmp"))


def test_a_missing_extra_is_named_before_anything_is_done(photos, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyexiv2", None)
    before = files()
    status, _, err = run("a", "--embed")
    assert status == 2
    assert "in the checkout, pip install -c constraints.txt '.[tag]'" in err
    assert files() == before
    assert run("a")[0] == 0


def test_names_in_the_table_are_no_markup(photos, run):
    name = r"\[red]x[b] :smile:.jpg"
    Path("a/x.jpg").rename(name)
    status, out, _ = run(name)
    assert status == 0
    assert name in out


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_name_that_is_no_text_hides_no_failure(photos, run):
    os.rename("a/x.jpg", os.fsdecode(b"a/caf\xe9.jpg"))
    Path("a/broken.jpg").write_bytes(b"no photo")
    status, out, err = run("a")
    assert status == 1
    assert r"caf\udce9.jpg" in out
    assert err.splitlines()[-1] == "faceresnet: 1 of 5 not tagged"
