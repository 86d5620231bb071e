import gzip

import numpy as np
import pytest

from faceresnet.corrections import Correction, correct, correct_all, read_corrections
from faceresnet.errors import DataError
from faceresnet.widerface import Photo

FACE, HEAD = (10, 10, 30, 34), (50, 10, 90, 60)
HEADER = "photo,x1,y1,x2,y2,verdict\n"


def photo(tmp_path, name="crowd/one.png"):
    boxes = np.array([FACE, HEAD], np.float32)
    return Photo(name, boxes, np.array([False, True]), tmp_path / "one.png")


def labels(one):
    return [
        (tuple(box), bool(ignored))
        for box, ignored in zip(one.faces.tolist(), one.ignore, strict=True)
    ]


@pytest.mark.parametrize(
    ("box", "verdict", "expected"),
    [
        ((60, 20, 80, 50), "face", [(FACE, False), (HEAD, True), ((60, 20, 80, 50), False)]),
        ((11, 11, 31, 35), "face", [(FACE, False), (HEAD, True)]),
        (HEAD, "face", [(FACE, False), (HEAD, True), (HEAD, False)]),
        (HEAD, "nothing", [(FACE, False)]),
        ((60, 20, 80, 50), "nothing", [(FACE, False), (HEAD, True)]),
        ((60, 10, 100, 60), "nothing", [(FACE, False)]),  # IoU with the head 0.6
        ((70, 10, 110, 60), "nothing", [(FACE, False), (HEAD, True)]),  # 0.33
        ((19, 10, 39, 34), "face", [(FACE, False), (HEAD, True)]),  # IoU with the face 0.38
        ((21, 10, 41, 34), "face", [(FACE, False), (HEAD, True), ((21, 10, 41, 34), False)]),
        (FACE, "nothing", [(FACE, False), (HEAD, True)]),
        ((100, 0, 110, 9), "ignore", [(FACE, False), (HEAD, True), ((100, 0, 110, 9), True)]),
        (FACE, "ignore", [(FACE, False), (HEAD, True)]),
    ],
)
def test_what_a_correction_changes(tmp_path, box, verdict, expected):
    before = photo(tmp_path)
    assert labels(correct(before, [Correction(box, verdict)])) == expected
    assert labels(before) == [(FACE, False), (HEAD, True)]


def test_the_same_face_is_added_once(tmp_path):
    twice = [Correction((60, 20, 80, 50), "face"), Correction((61, 20, 81, 50), "face")]
    assert len(correct(photo(tmp_path), twice).faces) == 3


def test_photos_without_corrections_stay(tmp_path):
    photos = [photo(tmp_path), photo(tmp_path, "crowd/two.png")]
    done = list(correct_all(photos, {"crowd/two.png": [Correction(HEAD, "nothing")]}))
    assert [len(one.faces) for one in done] == [2, 1]


def test_corrections_of_other_photos_are_an_error(tmp_path):
    with pytest.raises(DataError, match="of other photos, such as far/away"):
        correct_all([photo(tmp_path)], {"far/away.png": []})


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lists_are_read(tmp_path, pack):
    path = tmp_path / "list.csv"
    text = HEADER + '"a,b/x.jpg",1,2,3.5,4,face\nc/y.jpg,0,0,1,1,nothing\nc/y.jpg,2,2,3,3,ignore\n'
    path.write_bytes(pack(text.encode()))
    assert read_corrections(path) == {
        "a,b/x.jpg": [Correction((1, 2, 3.5, 4), "face")],
        "c/y.jpg": [Correction((0, 0, 1, 1), "nothing"), Correction((2, 2, 3, 3), "ignore")],
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first line must be photo,x1"),
        (b"name,x\n", "first line must be"),
        (HEADER.encode() + b"a,1,2,3,4,hand\n", "csv:2: expected photo"),
        (HEADER.encode() + b"a,1,2,3,4,face\na,1,2,1,4,face\n", "csv:3: expected"),
        (HEADER.encode() + b"a,1,4,3,4,face\n", "csv:2: expected"),
        (HEADER.encode() + b"a,1,2,nan,4,face\n", "csv:2: expected"),
        (HEADER.encode() + b"a,1,2,3\n", "csv:2: expected"),
        (HEADER.encode() + b"a,1,2,inf,4,face\n", "csv:2: expected"),
        (HEADER.encode() + b"a,-1e39,2,3,4,face\n", "csv:2: expected"),
        (HEADER.encode() + b"a" * 200_000, "csv:2: field larger"),
        (b"\xff\xfe", "cannot read the corrections"),
        (gzip.compress(HEADER.encode(), mtime=0)[:-6], "cannot read the corrections"),
        (b"\x1f\x8bnothing of the kind", "cannot read the corrections"),
    ],
)
def test_broken_lists_are_named(tmp_path, content, says):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_corrections(path)


def test_a_byte_order_mark_is_no_part_of_the_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "a.jpg,1,2,3,4,face\n", encoding="utf-8-sig")
    assert list(read_corrections(path)) == ["a.jpg"]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"corrections .*none\.csv"):
        read_corrections(tmp_path / "none.csv")
