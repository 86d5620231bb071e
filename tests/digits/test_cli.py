import io
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import run_cli
from faceresnet.cli import app, digits
from faceresnet.digits import data, training
from faceresnet.digits.engines import Step
from faceresnet.digits.figures import draw_figure
from faceresnet.errors import DownloadError, MissingExtraError, TrainingError

from .synthetic import printed, write

TINY = ["--iterations", "12", "--batch-size", "20", "--held-out", "20", "--evaluate-every", "4"]


def call(*arguments):
    return CliRunner().invoke(app, ["digits", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"), 200, 40)


@pytest.fixture(scope="module")
def runs(mnist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for engine in ("numpy", "torch"):
        arguments = ["--net", "fcc", "--engine", engine, "--threads", 1, *TINY]
        result = call("train", "--data", mnist, "--out", folder / engine, *arguments)
        assert "12 iterations, validation accuracy" in result.stdout
        assert f"faceresnet digits evaluate {folder / engine}" in result.stdout
    return folder / "numpy", folder / "torch"


def test_both_engines_train_to_the_same(runs) -> None:
    ours, theirs = (training.read_metrics(run) for run in runs)
    for one, other in zip(ours, theirs, strict=True):
        assert one["training_loss"] == pytest.approx(other["training_loss"], rel=1e-2)


def test_evaluate_uses_the_runs_own_digits(runs) -> None:
    result = call("evaluate", runs[0], "--threads", 1)
    assert "of 40 test digits wrong" in result.stdout
    by_torch = call("evaluate", runs[0], "--engine", "torch", "--threads", 1)
    assert by_torch.stdout.split("loss")[0] == result.stdout.split("loss")[0]


def test_evaluate_measures_the_last_weights_too(runs) -> None:
    result = call("evaluate", runs[0], "--checkpoint", "last", "--threads", 1)
    last = training.read_metrics(runs[0])[-1]
    assert f"accuracy {last['test_accuracy']:.2%}" in result.stdout
    assert f"loss {last['test_loss']:.4f}" in result.stdout


def test_figure_13(runs, tmp_path) -> None:
    result = call("figure", *runs, "--out", tmp_path / "new" / "figure.png")
    assert result.stdout.strip() == str(tmp_path / "new" / "figure.png")
    with Image.open(tmp_path / "new" / "figure.png") as figure:
        assert figure.width > 1000
        colours = figure.convert("RGB").getcolors(1 << 24)
    drawn = {colour for _, colour in colours}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= drawn  # a line for each run
    call("figure", runs[0])
    assert (runs[0] / "figure.png").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_figure_leaves_out_lines_that_are_no_measurement(runs, tmp_path) -> None:
    copy = shutil.copytree(runs[0], tmp_path / "run")
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(b'{"iteration": 99}\n\xff\n')
    call("figure", copy)
    assert (copy / "figure.png").exists()


def test_a_figure_needs_runs_and_png(runs, tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        draw_figure([], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"end in \.png"):
        draw_figure(runs, tmp_path / "x.jpg")
    with pytest.raises(TrainingError, match="holds no run"):
        draw_figure([tmp_path], tmp_path / "x.png")


def test_predict_names_each_photo(runs, tmp_path) -> None:
    for name, invert in (("a.png", 0), ("b.png", 255)):
        image = printed(3, np.random.default_rng(0)) ^ invert
        cv2.imwrite(str(tmp_path / name), cv2.resize(image, (90, 90)))
    result = call("predict", runs[0], tmp_path / "a.png", tmp_path / "b.png", "--threads", 1)
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / n) for n in ("a.png", "b.png")]
    assert lines[0].split(": ")[1].split()[0] == lines[1].split(": ")[1].split()[0]


def test_predict_goes_on_after_a_photo_it_cannot_read(runs, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "white.png"), np.full((30, 30), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "a.png"), printed(3, np.random.default_rng(0)))
    photos = [tmp_path / name for name in ("white.png", "missing.png", "a.png")]
    result = call("predict", runs[0], *photos, "--threads", 1)
    assert result.exit_code == 1
    assert "white.png shows no digit" in result.stderr
    assert "missing.png does not exist" in result.stderr
    assert str(tmp_path / "a.png") in result.stdout


def refused(capsys, *arguments) -> str:
    status, _, errors = run_cli(capsys, "digits", *arguments)
    assert status == 2
    return errors


def test_what_cannot_be_is_said_in_a_line(runs, mnist, tmp_path, capsys) -> None:
    train = ("train", "--out", tmp_path / "new")
    assert "give --data" in refused(capsys, *train)
    assert "does not hold train-images" in refused(capsys, *train, "--data", tmp_path)
    assert not (tmp_path / "new").exists()
    assert "cnn, fcc, got 'rnn'" in refused(capsys, *train, "--data", mnist, "--net", "rnn")
    assert "holds no run" in refused(capsys, *train, "--resume")
    assert "already holds a run" in refused(
        capsys, "train", "--out", runs[0], "--data", mnist, *TINY
    )
    assert "has batch_size 20, so --resume cannot go on with 21" in refused(
        capsys, "train", "--out", runs[0], "--resume", "--batch-size", 21
    )
    for recipe, says in (("best", "15000 of --recipe best"), ("mine", "paper, best, got 'mine'")):
        assert says in refused(capsys, "train", "--out", runs[0], "--resume", "--recipe", recipe)
    assert "holds no run" in refused(capsys, "evaluate", tmp_path)
    assert "best or last, got 'first'" in refused(
        capsys, "evaluate", tmp_path, "--checkpoint", "first"
    )


@pytest.mark.parametrize("again", [(), ("--recipe", "paper", *TINY)])
def test_resuming_a_finished_run_changes_nothing(runs, again) -> None:
    before = (runs[0] / "metrics.jsonl").read_bytes()
    result = call("train", "--out", runs[0], "--resume", "--threads", 1, *again)
    assert result.exit_code == 0
    assert (runs[0] / "metrics.jsonl").read_bytes() == before


def test_a_missing_package_is_named(monkeypatch, runs) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[digits\]'"):
        CliRunner().invoke(app, ["digits", "figure", str(runs[0])], catch_exceptions=False)


def test_the_progress_bar_shows_loss_accuracy_and_speed(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with digits.progress_bar(10) as advance:
        assert advance is not None
        for iteration in range(1, 9):
            advance(iteration, Step(0.25, 45, 50))
    shown = terminal.getvalue()
    for what in ("loss 0.2500", "accuracy 90.00%", "/s", "8/10"):
        assert what in shown


def test_without_a_terminal_there_is_no_bar() -> None:
    with digits.progress_bar(10) as advance:
        assert advance is None


def test_data_mnist_downloads(monkeypatch, tmp_path) -> None:
    def download(out, *, progress, timeout_s):
        progress("train-images-idx3-ubyte.gz", 5, 10)
        assert timeout_s == 3
        return [out / "train-images-idx3-ubyte.gz"]

    monkeypatch.setattr(data, "download_mnist", download)
    arguments = ["data", "mnist", "--out", str(tmp_path), "--timeout-s", "3"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "train-images-idx3-ubyte.gz  verified" in result.stdout
    assert f"faceresnet digits train --data {tmp_path}" in result.stdout


def test_a_failed_download_is_said_in_a_line(monkeypatch, tmp_path, capsys) -> None:
    def download(out, *, progress, timeout_s):
        raise DownloadError("no mirror answered")

    monkeypatch.setattr(data, "download_mnist", download)
    assert run_cli(capsys, "data", "mnist", "--out", tmp_path)[2] == (
        "faceresnet: no mirror answered\n"
    )
