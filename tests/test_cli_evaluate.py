from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from conftest import blob_image
from faceresnet import evaluation_report, images, widerface, widerface_download
from faceresnet.cli import app, evaluate
from faceresnet.errors import DataError
from faceresnet.widerface import read_results, read_split
from test_difficulties import make_truth

#: Centres and sides of the red squares that the model finds, and of a blue face that it does not.
SQUARES = {
    "x/a.png": [(100.0, 68.0, 16), (176.0, 80.0, 64)],
    "x/b.png": [(60.0, 52.0, 16)],
    "y/c.png": [],
}
MISSED = (200, 20, 216, 36)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    lines = []
    for name, squares in SQUARES.items():
        image = blob_image((160, 256), *squares)
        boxes = [(x - s / 2, y - s / 2, s, s) for x, y, s in squares]
        if name == "y/c.png":
            x1, y1, x2, y2 = MISSED
            image[y1:y2, x1:x2] = (0, 0, 250)
            boxes = [(x1, y1, x2 - x1, y2 - y1)]
        images.write(image, root / "WIDER_val" / "images" / name)
        lines += [name, str(len(boxes)), *(" ".join(f"{v:g}" for v in box) for box in boxes)]
    (root / "wider_face_split").mkdir()
    text = "\n".join(lines) + "\n"
    (root / "wider_face_split" / "wider_face_val_bbx_gt.txt").write_text(text)
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    if result.exception:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def test_help_says_how_the_shipped_protocol_looks() -> None:
    words = [word for word in succeed("evaluate", "--help").split() if word != "│"]
    assert "tiles, reduced scales and closer looks at small faces" in " ".join(words)


def test_measures_a_model(data: Path, blob_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = succeed(
        "evaluate", "--data", data, "--model", blob_model, "--threads", 1,
        "--curves", out / "curves.png", "--worst", 5, "--save", out / "worst",
        "--write-results", out / "results", "--json", out / "figures.json",
    )  # fmt: skip
    assert "original: photos in their own size" in printed
    figures = json.loads((out / "figures.json").read_text())
    assert figures["ap"] == {"all": {"ap": 0.75, "plain_ap": 0.75, "photos": 3, "faces": 4}}
    assert figures["events"]["x"]["ap"] == 1
    assert figures["events"]["y"]["ap"] == 0
    assert figures["model"] == str(blob_model)
    assert figures["threshold"] == 0.5
    for figure in ("0.7500", "1.0000", "0.0000"):
        assert figure in printed
    assert [path.name for path in (out / "worst").iterdir()] == ["1-y-c.png"]
    yellow = images.read(out / "worst" / "1-y-c.png")[MISSED[1] * 7, MISSED[0] * 7 + 28]
    assert yellow[0] > 150
    assert yellow[2] < 100
    assert images.read(out / "curves.png").std() > 5
    results = read_results(out / "results", SQUARES)
    np.testing.assert_allclose(results["x/b.png"][0][0], [52, 44, 68, 60], atol=1)


def test_says_what_it_found_where_no_face_is(data: Path, blob_model: Path) -> None:
    arguments = ["evaluate", "--data", data, "--model", blob_model, "--threads", 1]
    printed = succeed(*arguments)
    assert "By lowest score that counts (of all)" in printed
    assert "without a listed face" not in printed
    labels = data / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    for name, squares in {"z/a.png": [(60.0, 52.0, 16), (176.0, 80.0, 64)], "z/b.png": []}.items():
        images.write(blob_image((160, 256), *squares), data / "WIDER_val" / "images" / name)
        labels.write_text(labels.read_text() + f"{name}\n0\n0 0 0 0 0 0 0 0 0 0\n")
    line = "Photos without a listed face (at score 0.5): 1 of 2 with a box, 2 boxes"
    printed = succeed(*arguments)
    assert line in printed
    title = "By lowest score that counts (of all, photos without a listed face included)"
    assert title in printed


@pytest.mark.parametrize("protocol", ["vga", "multiscale"])
def test_names_the_protocol(data: Path, blob_model: Path, protocol: str) -> None:
    printed = succeed(
        "evaluate", "--data", data, "--model", blob_model, "--protocol", protocol, "--threads", 1
    )
    assert f"Average precision at IoU 0.5 ({protocol}: photos " in printed


def test_measures_result_files(data: Path, blob_model: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--data", data, "--model", blob_model, "--threads", 1]
    model = json.loads(succeed(*arguments, "--json", "-", "--write-results", tmp_path / "results"))
    archive = tmp_path / "results.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (tmp_path / "results").rglob("*.txt"):
            file.write(path, Path("top") / path.relative_to(tmp_path / "results"))
    for place in (tmp_path / "results", archive):
        for truth in ("--ground-truth", "--data"):
            figures = json.loads(
                succeed("evaluate", "--predictions", place, truth, data, "--json", "-")
            )
            assert figures["ap"] == model["ap"]
            assert figures["protocol"] == f"results in {place}, protocol not stated"
            assert "model" not in figures


def test_one_event(data: Path, blob_model: Path) -> None:
    arguments = ["evaluate", "--data", data, "--model", blob_model, "--threads", 1, "--json", "-"]
    assert json.loads(succeed(*arguments, "--event", "x"))["ap"]["all"]["photos"] == 2
    result = run(*arguments, "--event", "z")
    assert "no photo of z" in str(result.exception)


def test_official_difficulties(tmp_path: Path) -> None:
    truth = make_truth(tmp_path / "truth")
    results = tmp_path / "results" / "0--Parade"
    results.mkdir(parents=True)
    (results / "0_Parade_a.txt").write_text("a\n1\n10 10 40 40 0.9\n")
    result = run("evaluate", "--predictions", results.parent, "--ground-truth", truth)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    for row in (["easy", "3", "1", "1.0000"], ["medium", "3", "2", "0.5000"], ["hard", "3", "4"]):
        assert any(line[: len(row)] == row for line in rows)
    assert "2 of 3 photos have no result file" in result.stderr


def test_every_event_named_must_be_in_the_official_ground_truth(tmp_path: Path) -> None:
    truth = make_truth(tmp_path / "truth")
    results = tmp_path / "results" / "0--Parade"
    results.mkdir(parents=True)
    (results / "0_Parade_a.txt").write_text("a\n1\n10 10 40 40 0.9\n")
    command = ["evaluate", "--predictions", results.parent, "--ground-truth", truth]
    assert run(*command, "--event", "0--Parade").exit_code == 0
    result = run(*command, "--event", "0--Parade", "--event", "0--parade")
    assert "no photo of 0--parade" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data DIR, or --predictions with --ground-truth DIR"),
        (["--predictions", "x.zip"], "--ground-truth DIR"),
        (["--data", "DATA", "--protocol", "native"], "protocol must be one of vga"),
        (["--data", "DATA", "--worst", "3"], "--worst N and --save DIR go together"),
        (["--data", "DATA", "--worst", "0", "--save", "x"], "--worst must be at least 1"),
        (["--data", "DATA", "--curves", "x.doc"], r"no picture format has the suffix of x\.doc"),
        (["--data", "DATA", "--write-results", "DATA"], "not an empty folder"),
        (["--data", "DATA", "--json", "DATA"], "is a folder: name a file"),
        (["--data", "DATA", "--curves", "DATA/x.png"], "is a folder: name a file"),
        (["--data", "DATA", "--json", "DATA/file/x.json"], "file is no folder"),
        (["--data", "DATA", "--curves", "DATA/file/below/x.png"], "file is no folder"),
        (["--data", "DATA", "--write-results", "DATA/file/x"], "file is no folder"),
        (["--data", "DATA", "--worst", "1", "--save", "DATA/file/x"], "file is no folder"),
        (["--data", "DATA", "--worst", "1", "--save", "DATA/file"], "--save needs a folder"),
        (["--data", "DATA", "--ground-truth", "DATA"], r"does not hold wider_hard_val\.mat"),
        (["--data", "DATA", "--split", "train"], "has no train split"),
    ],
)
def test_refuses_at_once(data: Path, arguments: list[str], message: str) -> None:
    # No model is given that could be opened: refusals come before.
    (data / "file").touch()
    (data / "x.png").mkdir()
    filled = [argument.replace("DATA", str(data)) for argument in arguments]
    result = run("evaluate", *filled, "--model", "no such model")
    assert isinstance(result.exception, ValueError | DataError)
    with pytest.raises(type(result.exception), match=message):
        raise result.exception


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "{data}/wider_face_split/wider_face_val_bbx_gt.txt"], "part of what is read"),
        (["--curves", "{data}/WIDER_val/images/x/a.png"], "part of what is read"),
        (["--predictions", "{data}/r", "--curves", "{data}/r/x/a.png"], "part of what is read"),
        (["--predictions", "{data}/w.zip", "--json", "{data}/w.zip"], "part of what is read"),
        (["--model", "{data}/m.onnx", "--json", "{data}/m.onnx"], "part of what is read"),
        (["--curves", "a.png", "--json", "a.png"], "named for two results"),
    ],
)
def test_nothing_is_written_over_what_is_read(data: Path, options: list[str], message: str) -> None:
    (data / "r/x").mkdir(parents=True)
    (data / "r/x/a.txt").touch()
    given = [option.format(data=data) for option in options]
    with pytest.raises(ValueError, match=message):
        succeed("evaluate", "--data", data, *given)


def test_a_score_above_1_is_refused(data: Path) -> None:
    result = run("evaluate", "--data", str(data), "--threshold", "3")
    assert result.exit_code == 2
    assert "--threshold" in result.stderr


def test_the_figures_are_printed_before_a_file_fails(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("the disk is full")

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b.txt").write_text("b\n1\n52 44 16 16 0.9\n")
    for place in (widerface, evaluation_report):
        for name in ("write_results", "plot_curves", "save_worst"):
            monkeypatch.setattr(place, name, full, raising=False)
    monkeypatch.setattr(evaluate, "_write_json", full)
    for option in (
        ["--write-results", tmp_path / "new"],
        ["--curves", tmp_path / "new.png"],
        ["--worst", 1, "--save", tmp_path / "new"],
        ["--json", tmp_path / "new.json"],
    ):
        result = run("evaluate", "--predictions", tmp_path, "--data", data, *option)
        assert "the disk is full" in str(result.exception)
        assert "Average precision at IoU 0.5" in result.stdout


def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(out: Path, *, splits: list[str], progress, timeout_s: float) -> list[Path]:
        asked.update(out=out, splits=list(splits), timeout_s=timeout_s)
        progress("WIDER_val.zip", 1, 2)
        progress("WIDER_val.zip", 2, 2)
        return [out / "WIDER_val.zip"]

    monkeypatch.setattr(widerface_download, "download_widerface", download)
    printed = succeed("data", "widerface", "--out", tmp_path, "--split", "val")
    assert asked == {"out": tmp_path, "splits": ["val"], "timeout_s": 30}
    assert f"{tmp_path / 'WIDER_val.zip'}  verified" in printed
    succeed("data", "widerface", "--out", tmp_path)
    assert asked["splits"] == ["train", "val"]


@pytest.mark.data
def test_the_real_photos(data_folder: Path, blob_model: Path, tmp_path: Path) -> None:
    # Faces are not red blobs: the point is that real files go through.
    photos = read_split(data_folder / "faces", "val")[:1]
    arguments = ["--data", data_folder / "faces", "--event", photos[0].event, "--threads", 1]
    arguments += ["--model", blob_model, "--protocol", "vga", "--json", "-"]
    figures = json.loads(succeed("evaluate", *arguments))
    assert figures["ap"]["all"]["faces"] == 1350
