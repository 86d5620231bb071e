from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from faceresnet import images
from faceresnet.evaluation import Report, evaluate
from faceresnet.evaluation_report import (
    GREEN,
    GREY,
    RED,
    YELLOW,
    draw_errors,
    plot_curves,
    save_worst,
    worst,
)
from faceresnet.widerface import Photo

FACES = [[10, 10, 30, 30], [50, 10, 70, 30], [50, 50, 70, 70]]
WRONG = [10, 60, 25, 75]


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    pictures = []
    for index, name in enumerate(["x/a.png", "x/b.png", "y/c.png"]):
        path = tmp_path / name
        images.write(np.full((100, 120, 3), 40 * index, np.uint8), path)
        ignore = np.array([False, False, True])
        pictures.append(Photo(name, np.array(FACES, np.float32), ignore, path))
    return pictures


@pytest.fixture
def report(photos: list[Photo]) -> Report:
    """a: one face missed, one detection wrong; b: one missed; c: nothing wrong."""
    rows = {"x/a.png": [FACES[0], WRONG], "x/b.png": FACES[:1], "y/c.png": FACES}
    predictions = {
        name: (np.array(boxes, np.float32), np.linspace(0.9, 0.8, len(boxes), dtype=np.float32))
        for name, boxes in rows.items()
    }
    return evaluate(predictions, photos, protocol="vga", threshold=0.5)


def test_worst(report: Report) -> None:
    assert [(errors.name, errors.cost) for errors in worst(report, 5)] == [
        ("x/a.png", 2),
        ("x/b.png", 1),
    ]
    assert len(worst(report, 1)) == 1


def test_colours(report: Report) -> None:
    drawn = draw_errors(np.zeros((100, 120, 3), np.uint8), report.photos[0])
    assert drawn.shape == (1600, 1920, 3)
    corners = {GREEN: FACES[0], YELLOW: FACES[1], GREY: FACES[2], RED: WRONG}
    for colour, (x1, y1, *_) in corners.items():
        assert tuple(drawn[y1 * 16, x1 * 16]) == colour
    assert {tuple(pixel) for pixel in drawn.reshape(-1, 3)} == {(0, 0, 0), *corners}


def test_large_photos_are_drawn_as_they_are(report: Report) -> None:
    assert draw_errors(np.zeros((100, 1000, 3), np.uint8), report.photos[0]).shape[1] == 1000


def test_saves_the_worst(report: Report, photos: list[Photo], tmp_path: Path) -> None:
    paths = save_worst(report, photos, 20, tmp_path / "worst")
    assert [path.name for path in paths] == ["1-x-a.png", "2-x-b.png"]
    assert images.read(paths[1]).shape == (1600, 1920, 3)
    assert sorted(paths) == sorted((tmp_path / "worst").iterdir())


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots_the_curves(report: Report, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"curves{suffix}"
    plot_curves(report, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".png":
        picture = images.read(path)
        assert picture.shape == (750, 1050, 3)
        assert picture.std() > 5


def test_the_plot_names_what_it_shows(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    plot_curves(report, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    for words in ("vga", f"all: AP {report.ap:.4f}", "x: AP", "y: AP 1.0000"):
        assert words in text


def test_plots_nothing_to_find(tmp_path: Path) -> None:
    photo = Photo("x/a.png", np.zeros((0, 4), np.float32), np.zeros(0, bool), tmp_path)
    plot_curves(evaluate({}, [photo], protocol="vga"), tmp_path / "curves.png")


def test_refuses_an_unknown_format(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curves\.doc"):
        plot_curves(report, tmp_path / "curves.doc")
