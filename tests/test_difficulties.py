from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from faceresnet.difficulties import find_difficulties, read_difficulties
from faceresnet.errors import DataError
from faceresnet.evaluation import evaluate
from faceresnet.widerface import Photo

BOXES = [
    [np.array([[10, 10, 40, 40], [60, 10, 30, 30], [100, 100, 8, 8], [200, 0, 5, 5]])],
    [np.zeros((0, 4)), np.array([[0, 0, 20, 20]])],
]
FILES = [["0_Parade_a"], ["1_Hand_b", "1_Hand_c"]]
EVENTS = ["0--Parade", "1--Handshaking"]
PICKS = {
    "easy": [[[1]], [[], []]],
    "medium": [[[1, 2]], [[], []]],
    "hard": [[[1, 2, 3]], [[], [1]]],
}


def cell(values: list) -> np.ndarray:
    """A MATLAB cell array, as a column."""
    array = np.empty((len(values), 1), dtype=object)
    for index, value in enumerate(values):
        array[index, 0] = value
    return array


def column(numbers: list) -> np.ndarray:
    return np.array(numbers, np.float64).reshape(-1, 1)


def make_truth(folder: Path, picks: dict = PICKS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "event_list": cell(EVENTS),
        "file_list": cell([cell(files) for files in FILES]),
        "face_bbx_list": cell([cell(boxes) for boxes in BOXES]),
    }
    savemat(folder / "wider_face_val.mat", whole)
    for name, events in picks.items():
        gt_list = cell([cell([column(numbers) for numbers in event]) for event in events])
        savemat(folder / f"wider_{name}_val.mat", {"gt_list": gt_list})
    return folder


def test_reads_faces_and_difficulties(tmp_path: Path) -> None:
    truth = read_difficulties(make_truth(tmp_path))
    assert [photo.name for photo in truth.photos] == [
        "0--Parade/0_Parade_a.jpg",
        "1--Handshaking/1_Hand_b.jpg",
        "1--Handshaking/1_Hand_c.jpg",
    ]
    first = truth.photos[0]
    assert first.faces.tolist()[:2] == [[10, 10, 50, 50], [60, 10, 90, 40]]
    assert first.ignore.tolist() == [False, False, False, True]
    assert list(truth.subsets) == ["easy", "medium", "hard"]
    assert truth.subsets["easy"][0].tolist() == [True, False, False, False]
    assert truth.subsets["medium"][0].tolist() == [True, True, False, False]
    assert [mask.tolist() for mask in truth.subsets["hard"][1:]] == [[], [True]]


def test_evaluates_them(tmp_path: Path) -> None:
    truth = read_difficulties(make_truth(tmp_path))
    box = np.array([[10, 10, 50, 50]], np.float32)
    report = evaluate(
        {truth.photos[0].name: (box, np.ones(1, np.float32))},
        truth.photos,
        protocol="original",
        subsets=truth.subsets,
    )
    assert [(c.faces, c.ap) for c in report.curves.values()] == [(1, 1), (2, 0.5), (4, 0.25)]
    assert report.ap == 0.25


def test_pictures_come_from_the_data_set(tmp_path: Path) -> None:
    picture = tmp_path / "picture.webp"
    picture.write_bytes(b"a picture")
    faces = np.zeros((0, 4), np.float32)
    listed = Photo("1--Handshaking/1_Hand_c.webp", faces, np.zeros(0, bool), picture)
    truth = read_difficulties(make_truth(tmp_path), [listed])
    assert truth.photos[2].name == "1--Handshaking/1_Hand_c.webp"
    assert truth.photos[2].read_bytes() == b"a picture"
    assert truth.photos[2].faces.tolist() == [[0, 0, 20, 20]]


@pytest.mark.parametrize("place", ["", "ground_truth", "eval_tools/ground_truth"])
def test_finds_the_folder(tmp_path: Path, place: str) -> None:
    assert find_difficulties(tmp_path) is None
    make_truth(tmp_path / place)
    assert find_difficulties(tmp_path) == tmp_path / place


def test_broken_files(tmp_path: Path) -> None:
    for wrong in (0, 5):
        make_truth(tmp_path, {**PICKS, "easy": [[[1, wrong]], [[], []]]})
        with pytest.raises(DataError, match=f"face {wrong} of a photo that has 4"):
            read_difficulties(tmp_path)
    make_truth(tmp_path, {**PICKS, "easy": [[[1]]]})
    with pytest.raises(DataError, match="not WIDER FACE's"):
        read_difficulties(tmp_path)
    (tmp_path / "wider_easy_val.mat").write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(DataError, match=r"wider_easy_val\.mat cannot be read"):
        read_difficulties(tmp_path)
    (tmp_path / "wider_easy_val.mat").unlink()
    with pytest.raises(DataError, match=r"wider_easy_val\.mat cannot be read"):
        read_difficulties(tmp_path)
