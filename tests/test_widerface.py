from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from faceresnet.errors import DataError
from faceresnet.widerface import Layout, Photo, read_results, read_split, write_results

LIST = """\
0--Parade/a.jpg
2
10 20 30 40 2 1 1 0 2 1
-5 6 7.5 8 0 0 0 1 0 0
0--Parade/b.v2.webp
0
0 0 0 0 0 0 0 0 0 0
my photos/1 2 3 4
1
1 2 3 4
none/c.png
0
none/d.png
3
5 5 0 9 0 0 0 0 0 0
5 5 9 -1 0 0 0 0 0 0
5 5 9 9 0 0 0 0 0 0
"""
LABELS = "wider_face_split/wider_face_val_bbx_gt.txt"
NAMES = ["0--Parade/a.jpg", "0--Parade/b.v2.webp", "my photos/1 2 3 4", "none/c.png", "none/d.png"]


def make_folder(root: Path, text: str = LIST, split: str = "val") -> Path:
    layout = Layout(root, split)
    layout.labels.parent.mkdir(parents=True, exist_ok=True)
    layout.labels.write_text(text, encoding="utf-8", newline="")
    (layout.images / "0--Parade").mkdir(parents=True, exist_ok=True)
    (layout.images / "0--Parade" / "a.jpg").write_bytes(b"a picture")
    return root


def zip_folder(root: Path) -> None:
    for name in ("WIDER_val", "wider_face_split"):
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            for file in sorted((root / name).rglob("*")):
                archive.write(file, file.relative_to(root))
        for file in sorted((root / name).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (root / name).rmdir()


@pytest.fixture(params=["folder", "zip"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_folder(tmp_path)
    if request.param == "zip":
        zip_folder(tmp_path)
    return tmp_path


def test_reads_faces_and_what_to_ignore(root: Path) -> None:
    photos = {photo.name: photo for photo in read_split(root, "val")}
    assert list(photos) == NAMES
    a, b, c, d = (photos[name] for name in (NAMES[0], NAMES[1], NAMES[3], NAMES[4]))
    assert a.faces.dtype == np.float32
    assert a.faces.tolist() == [[10, 20, 40, 60], [-5, 6, 2.5, 14]]
    assert a.ignore.tolist() == [False, True]
    assert b.faces.shape == c.faces.shape == (0, 4)
    assert b.ignore.shape == (0,)
    assert b.ignore.dtype == bool
    assert d.ignore.tolist() == [True, True, False]
    assert (a.event, d.event) == ("0--Parade", "none")


def test_a_name_of_numbers_is_no_line_of_zeros(root: Path) -> None:
    photo = read_split(root, "val")[2]
    assert photo.name == "my photos/1 2 3 4"
    assert photo.faces.tolist() == [[1, 2, 4, 6]]


def test_reads_the_picture(root: Path) -> None:
    photos = read_split(root, "val")
    assert photos[0].read_bytes() == b"a picture"
    again: Photo = pickle.loads(pickle.dumps(photos[0]))
    assert again.read_bytes() == b"a picture"
    with pytest.raises(DataError, match=r"0--Parade/b\.v2\.webp is listed but cannot be read"):
        photos[1].read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_forked_readers_do_not_share_a_file_position(tmp_path: Path) -> None:
    make_folder(tmp_path)
    big = os.urandom(3_000_000)
    (Layout(tmp_path, "val").images / "0--Parade" / "a.jpg").write_bytes(big)
    zip_folder(tmp_path)
    photo = read_split(tmp_path, "val")[0]
    assert photo.read_bytes() == big
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            try:
                os._exit(0 if all(photo.read_bytes() == big for _ in range(5)) else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_faces_within_the_image(tmp_path: Path) -> None:
    make_folder(tmp_path, "x/a.jpg\n3\n-5 -5 10 10\n90 40 30 30\n101 5 10 10\n")
    faces, ignore = read_split(tmp_path, "val")[0].faces_within((50, 100))
    assert faces.tolist()[:2] == [[0, 0, 5, 5], [90, 40, 100, 50]]
    assert ignore.tolist() == [False, False, True]


def test_selects_events(root: Path) -> None:
    assert [p.name for p in read_split(root, "val", events=["none"])] == [
        "none/c.png",
        "none/d.png",
    ]
    assert len(read_split(root, "val", events="none")) == 2
    with pytest.raises(
        ValueError, match=r"no photo of nowhere; its events are 0--Parade, my photos"
    ):
        read_split(root, "val", events=["none", "nowhere"])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x/a.jpg\n2\n1 2 3 4\n", 4, "expected face 2 of 2 of x/a.jpg"),
        ("x/a.jpg\n2\n1 2 3 4\nx/b.jpg\n0\n", 4, "found 'x/b.jpg'"),
        ("x/a.jpg\n1\n1 2 3\n", 3, "found '1 2 3'"),
        ("x/a.jpg\n1\n.7 .3 .05 .06\n", 3, "the face '.7 .3 .05 .06' lies within the first pixel"),
        ("x/a.jpg\n1\n1 2 nan 4\n", 3, "found '1 2 nan 4'"),
        ("x/a.jpg\n1\n1e39 1 1e39 50\n", 3, "found '1e39 1 1e39 50'"),
        ("x/a.jpg\n" + "9" * 5000 + "\n", 2, "expected the number of faces of x/a.jpg"),
        ("x/a\0.jpg\n0\n", 1, "expected the name of a photo"),
        (".\n0\n", 1, "expected the name of a photo"),
        ("x/a.jpg\n0\n./x/a.jpg\n0\n", 3, "./x/a.jpg is listed twice"),
        ("x/a.jpg\n1\n1 2 3 4\n5 6 7 8\n", 4, "expected the name of a photo"),
        ("x/a.jpg\n1\n1 2 3 4\n0 0 0 0\n", 4, "expected the name of a photo"),
        ("x/a.jpg\nmany\n", 2, "expected the number of faces of x/a.jpg, found 'many'"),
        ("x/a.jpg\n-1\n", 2, "found '-1'"),
        ("x/a.jpg\n", 2, "found 'the end of the file'"),
        ("x/a.jpg\n0\n\nx/b.jpg\n0\n", 3, "expected the name of a photo, found ''"),
        ("x/a.jpg\n0\nx/a.jpg\n0\n", 3, "listed twice"),
        ("../a.jpg\n0\n", 1, "outside the data set"),
        ("/etc/a.jpg\n0\n", 1, "outside the data set"),
    ],
)
def test_names_the_broken_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    make_folder(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_split(tmp_path, "val")
    assert f"wider_face_val_bbx_gt.txt, line {line}:" in str(caught.value)
    assert message in str(caught.value)


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    make_folder(tmp_path, "\ufeff" + LIST.replace("\n", "\r\n") + "\r\n")
    assert [photo.name for photo in read_split(tmp_path, "val")] == NAMES
    zip_folder(tmp_path)
    assert [photo.name for photo in read_split(tmp_path, "val")] == NAMES


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train, val"):
        read_split(tmp_path, "test")
    with pytest.raises(DataError, match=r"there is no .*none: give"):
        read_split(tmp_path / "none", "val")
    make_folder(tmp_path)
    with pytest.raises(DataError, match=r"has no train split \(it has the val split only\)"):
        read_split(tmp_path, "train")
    (tmp_path / "WIDER_val").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"neither .*WIDER_val/images/ nor .*WIDER_val\.zip"):
        read_split(tmp_path, "val")
    assert [photo.name for photo in read_split(tmp_path, "val", need_images=False)] == NAMES
    (tmp_path / "wider_face_split.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_split(tmp_path, "train")


finite = st.floats(-1e4, 1e4, width=32)
predictions = st.integers(0, 5).flatmap(
    lambda count: st.tuples(
        hnp.arrays(np.float32, (count, 4), elements=finite),
        hnp.arrays(np.float32, (count,), elements=st.floats(0, 1, width=32)),
    )
)


@given(st.lists(predictions, min_size=5, max_size=5))
def test_results_come_back(tmp_path_factory: pytest.TempPathFactory, drawn: list) -> None:
    folder = tmp_path_factory.mktemp("results") / "new" / "results"
    written = dict(zip(NAMES, drawn, strict=True))
    write_results(folder, written)
    read = read_results(folder, NAMES)
    assert set(read) == set(NAMES)
    for name, (found, scores) in written.items():
        np.testing.assert_allclose(read[name][0], found, atol=2e-4)
        assert (read[name][1].astype(np.float32) == scores).all()
    assert os.listdir(folder.parent) == ["results"]


ONE = (np.array([[1, 2, 4, 6]], np.float32), np.array([0.5], np.float32))


def test_result_files_have_the_official_layout(tmp_path: Path) -> None:
    write_results(tmp_path, {"0--Parade/a.jpg": ONE})
    text = (tmp_path / "0--Parade" / "a.txt").read_text()
    assert text == "a\n1\n1.0000 2.0000 3.0000 4.0000 0.5\n"


def test_results_are_not_mixed_with_others(tmp_path: Path) -> None:
    write_results(tmp_path / "results", {"x/a.jpg": ONE})
    with pytest.raises(DataError, match="not an empty folder"):
        write_results(tmp_path / "results", {"x/b.jpg": ONE})
    assert [file.name for file in tmp_path.rglob("*.txt")] == ["a.txt"]
    with pytest.raises(ValueError, match="extension only"):
        write_results(tmp_path / "other", {"x/a.jpg": ONE, "x/a.png": ONE})


@pytest.mark.parametrize("top", ["", "Val/", "some/where/"])
@pytest.mark.parametrize("first", ["a", "a.jpg", "0--Parade/a.jpg", "anything at all"])
def test_published_layouts(tmp_path: Path, top: str, first: str) -> None:
    archive = tmp_path / "results.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            f"{top}0--Parade/a.txt", f"{first}\r\n2\r\n1 2 3 4 0.5\r\n1 2 3 4.5 1e-3 \r\n"
        )
        file.writestr(f"{top}0--Parade/not listed.txt", "broken")
        file.writestr("__MACOSX/0--Parade/a.txt", "broken")
        file.writestr(f"{top}none/c.txt", "c\n0\n")
    read = read_results(archive, NAMES)
    assert set(read) == {"0--Parade/a.jpg", "none/c.png"}
    assert read["0--Parade/a.jpg"][0].tolist() == [[1, 2, 4, 6], [1, 2, 4, 6.5]]
    assert read["0--Parade/a.jpg"][1].tolist() == [0.5, 0.001]


def test_stems_keep_their_letters(tmp_path: Path) -> None:
    # str.rstrip('.jpg') would turn both into "x/bi".
    names = ["x/big.jpg", "x/bipp.jpg"]
    write_results(tmp_path, dict.fromkeys(names, ONE))
    assert set(read_results(tmp_path, names)) == set(names)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a\n1\n1 2 3 4\n", 3, "found '1 2 3 4'"),
        ("a\n2\n1 2 3 4 0.5\n7\n", 4, "found '7'"),
        ("a\n1\n1 2 x 4 0.5\n", 3, "expected 'x y w h score'"),
        ("a\n1\n1 2 3 4 inf\n", 3, "expected 'x y w h score'"),
        ("a\n2\n1 2 3 4 0.5\n", 3, "expected 2 boxes, as line 2 says, found 1"),
        ("a\n0\n1 2 3 4 0.5\n", 2, "expected 0 boxes"),
        ("a\n1 2 3 4 0.5\n", 2, "expected the number of boxes"),
        ("", 2, "the end of the file"),
    ],
)
def test_names_the_broken_result(tmp_path: Path, text: str, line: int, message: str) -> None:
    (tmp_path / "0--Parade").mkdir()
    (tmp_path / "0--Parade" / "a.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_results(tmp_path, NAMES)
    assert f"0--Parade/a.txt, line {line}:" in str(caught.value)
    assert message in str(caught.value)


def test_results_that_belong_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no result file for any"):
        read_results(tmp_path, NAMES)
    with pytest.raises(DataError, match="there is no photo that"):
        read_results(tmp_path, [])
    with pytest.raises(DataError, match=r"\(No such file .*expected a folder or a \.zip"):
        read_results(tmp_path / "none.zip", NAMES)
    for folder in ("one", "two"):
        (tmp_path / folder / "none").mkdir(parents=True)
        (tmp_path / folder / "none" / "c.txt").write_text("c\n0\n")
    with pytest.raises(DataError, match=r"two result files for the photo none/c\.png"):
        read_results(tmp_path, NAMES)


def test_results_that_may_belong_to_two_photos(tmp_path: Path) -> None:
    names = ["x/a.jpg", "x/a.png", "y/b", "y/b.jpg"]
    write_results(tmp_path / "stem", {"x/a.jpg": ONE})
    with pytest.raises(DataError, match=r"x/a\.txt may belong to .* x/a\.jpg or to x/a\.png"):
        read_results(tmp_path / "stem", names)
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for name in names:
        (tmp_path / f"{name}.txt").write_text("a\n0\n")
    (tmp_path / "stem/x/a.txt").unlink()
    assert set(read_results(tmp_path, names)) == set(names)


def damage(archive: Path, kind: str) -> None:
    """Break what the members of an archive hold, or say that it is encrypted or packed oddly."""
    data = bytearray(archive.read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:  # entries of the central directory
        header = int.from_bytes(data[at + 42 : at + 46], "little")
        if kind == "encrypted":
            data[at + 8] |= 1
            data[header + 6] |= 1
        elif kind == "unknown compression":
            data[at + 10] = data[header + 8] = 99
        else:
            start = header + 30 + int.from_bytes(data[header + 26 : header + 28], "little")
            data[start] = 0xFF
        at += 4
    archive.write_bytes(data)


@pytest.mark.parametrize("kind", ["damaged", "encrypted", "unknown compression"])
def test_broken_archives_are_named(tmp_path: Path, kind: str) -> None:
    with zipfile.ZipFile(tmp_path / "shard.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(LABELS, LIST)
        archive.writestr("WIDER_val/images/0--Parade/a.jpg", b"a picture")
        archive.writestr("none/c.txt", "c\n0\n")
    photo = read_split(tmp_path / "shard.zip", "val")[0]
    damage(tmp_path / "shard.zip", kind)
    with pytest.raises(DataError, match=r"the list of faces in .*shard\.zip cannot be read"):
        read_split(tmp_path / "shard.zip", "val")
    with pytest.raises(DataError, match=r"a\.jpg is listed but cannot be read from .*shard\.zip"):
        photo.read_bytes()
    with pytest.raises(DataError, match=r"shard\.zip cannot be read"):
        read_results(tmp_path / "shard.zip", NAMES)


@pytest.mark.data
def test_the_real_photos(data_folder: Path) -> None:
    root = data_folder / "faces"
    photos = read_split(root, "val", events=["wider_small"])
    assert len(photos) == 191
    assert sum(len(photo.faces) for photo in photos) == 4243
    heads = read_split(root, "train", events=["heads"])
    assert all(photo.ignore.all() for photo in heads)
    assert photos[0].read_bytes()[8:12] == b"WEBP"
