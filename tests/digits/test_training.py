import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from faceresnet.digits import training
from faceresnet.digits.augment import augment
from faceresnet.digits.engines import Step
from faceresnet.digits.nets import FCC, initial_weights
from faceresnet.digits.recipes import RECIPES, Config, OneCycle, make_config
from faceresnet.errors import TrainingError
from faceresnet.nn import SGD, Adam

from .synthetic import digits, write

#: Seconds that a process may take, which on a busy machine are many.
PATIENCE_S = 120
CONFIG = Config(
    net="fcc",
    engine="numpy",
    iterations=12,
    batch_size=10,
    momentum=0.5,
    shift=1.0,
    turn=5.0,
    zoom=0.1,
    held_out=20,
    evaluate_every=3,
    patience=0,
)
TRAINING, TEST = digits(60), digits(20, 1)


def run(folder, config=CONFIG, **options):
    return training.train(config, TRAINING, TEST, folder, threads=1, **options)


def result(folder):
    """All that a run ends with, without its times."""
    lines = training.read_metrics(folder)
    for line in lines:
        del line["time_s"]
    arrays = {name: load_file(folder / name) for name in (training.BEST, training.LAST)}
    return lines, arrays


def assert_same(one, other) -> None:
    assert one[0] == other[0]
    for name, arrays in one[1].items():
        assert arrays.keys() == other[1][name].keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, other[1][name][key])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return result(folder)


def test_a_run_leaves_what_it_says(tmp_path) -> None:
    steps = []
    best = run(tmp_path / "run", progress=lambda i, step: steps.append((i, step)))
    assert best == tmp_path / "run" / "weights.safetensors"
    names = {path.name for path in best.parent.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "weights.safetensors", "last.safetensors"}
    assert training.read_config(best.parent) == CONFIG
    lines = training.read_metrics(best.parent)
    assert [line["iteration"] for line in lines] == [3, 6, 9, 12]
    assert [i for i, _ in steps] == list(range(1, 13))
    losses = [step.loss for _, step in steps[-3:]]
    assert lines[-1]["training_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    parts = ("training", "validation", "test")
    expected = {f"{part}_{what}" for part in parts for what in ("loss", "accuracy")}
    assert set(lines[0]) == expected | {"iteration", "time_s"}
    network = training.open_run(best.parent, threads=1)
    accuracies = [line["validation_accuracy"] for line in lines]
    _, validation = training.split(CONFIG, TRAINING)
    assert training.evaluate(network, validation).accuracy == pytest.approx(max(accuracies))


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_it_learns(tmp_path, engine) -> None:
    config = replace(
        CONFIG, engine=engine, iterations=60, evaluate_every=30, batch_size=20, shift=0, turn=0
    )
    training.train(config, digits(240), TEST, tmp_path / "run", threads=1)
    first, last = training.read_metrics(tmp_path / "run")
    assert last["training_loss"] < 0.5 * first["training_loss"]
    assert last["test_accuracy"] > 0.5  # of ten equal classes


@pytest.mark.parametrize(
    ("file", "number"),
    [("config", 1), ("weights", 1), ("metrics", 1), ("metrics", 2), ("last", 1), ("last", 3)],
)
def test_stopped_between_any_two_files_it_ends_the_same(
    tmp_path, monkeypatch, whole, file, number
) -> None:
    """Before the file is in its place; number 1 of metrics is its being made."""
    calls = 0
    replace_, append = os.replace, training._append

    def counted(target) -> None:
        nonlocal calls
        calls += str(target.name).startswith(file)
        if calls == number:
            raise KeyboardInterrupt

    def stopping_replace(source, target) -> None:
        counted(target)
        replace_(source, target)

    def stopping_append(path, line) -> None:
        if path.name.startswith(file):
            with path.open("a") as out:
                out.write('{"iteration": 3, "half a l')  # killed in the middle of it
        counted(path)
        append(path, line)

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopping_replace)
        patched.setattr(training, "_append", stopping_append)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    resumed = (folder / "config.json").exists()
    run(folder, resume=resumed)
    assert_same(result(folder), whole)


def test_killed_and_resumed_it_ends_the_same(tmp_path) -> None:
    """By SIGKILL, from the command line."""
    data = write(tmp_path / "mnist", 80, 20)

    def command(out, *more):
        return [sys.executable, "-m", "faceresnet", "digits", "train", "--out", str(out), *more]

    settings = ["--net", "fcc", "--data", str(data), "--iterations", "60", "--batch-size", "10"]
    settings += ["--held-out", "20", "--evaluate-every", "4", "--patience", "0", "--threads", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "timeout": PATIENCE_S}
    killed = tmp_path / "killed"
    with subprocess.Popen(command(killed, *settings), stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + PATIENCE_S
        while not (killed / training.LAST).exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = len(training.read_metrics(killed))
    done = subprocess.run(command(killed, "--resume", "--threads", "1"), **quiet)
    assert done.stderr == b""  # no terminal, no progress bar
    subprocess.run(command(tmp_path / "whole", *settings), check=True, **quiet)
    assert before < len(training.read_metrics(killed)) == 15
    assert_same(result(killed), result(tmp_path / "whole"))


def test_it_stops_when_validation_stops_improving(tmp_path, monkeypatch) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    monkeypatch.setattr(training, "evaluate", lambda *_: training.Score(0.1, next(scores)))
    config = replace(CONFIG, iterations=60, patience=3)
    training.train(config, TRAINING, None, tmp_path / "run", threads=1)
    assert [line["iteration"] for line in training.read_metrics(tmp_path / "run")] == [
        3, 6, 9, 12, 15
    ]  # fmt: skip
    kept = load_file(tmp_path / "run" / training.BEST)
    with training.safe_open(tmp_path / "run" / training.BEST, "numpy") as file:
        assert file.metadata()["iteration"] == "6"
    last = load_file(tmp_path / "run" / training.LAST)
    assert any(not np.array_equal(kept[name], last[f"weights.{name}"]) for name in kept)
    # Resuming what has stopped does nothing.
    training.train(config, TRAINING, None, tmp_path / "run", threads=1, resume=True)
    assert len(training.read_metrics(tmp_path / "run")) == 5


def test_a_run_is_not_written_over(tmp_path) -> None:
    run(tmp_path / "run", replace(CONFIG, iterations=3))
    with pytest.raises(TrainingError, match="already holds a run: go on with --resume"):
        run(tmp_path / "run")
    with pytest.raises(TrainingError, match="other settings"):
        run(tmp_path / "run", replace(CONFIG, seed=1), resume=True)


def test_what_is_no_run_is_refused(tmp_path) -> None:
    for use in (training.read_config, training.read_metrics, training.open_run):
        with pytest.raises(TrainingError, match="holds no run"):
            use(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="is no configuration"):
        training.read_config(tmp_path)
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with pytest.raises(TrainingError, match="has not been measured"):
        training.read_metrics(tmp_path)
    with pytest.raises(TrainingError, match="first measurement"):
        training.open_run(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(TrainingError, match="cannot read"):
        training.open_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("iterations", "40", "iterations must be a whole number, got '40'"),
        ("seed", 0.5, "seed must be a whole number, got 0.5"),
        ("patience", True, "patience must be a whole number, got True"),
        ("zoom", None, "zoom must be a number, got None"),
        ("data", 5, "data must be text, got 5"),
    ],
)
def test_a_setting_of_another_type_is_refused(tmp_path, name, value, says) -> None:
    settings = {**json.loads(CONFIG.to_json()), name: value}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match=f"config.json is no configuration: {says}"):
        training.read_config(tmp_path)


def test_weights_that_cannot_be_written_are_named(tmp_path, monkeypatch) -> None:
    original = Path.write_bytes

    def full(path, data):
        if path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingError, match=r"cannot write .*run/weights.safetensors: No space"):
        run(tmp_path / "run")
    assert not list(tmp_path.rglob("*.part*"))


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    run(tmp_path / "run", replace(CONFIG, iterations=3))
    (tmp_path / "run" / "config.json").write_text(replace(CONFIG, net="cnn").to_json())
    with pytest.raises(TrainingError, match="does not hold the weights of a cnn"):
        training.open_run(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "faceresnet.digits.numpy_engine.NumpyEngine.step",
        lambda self, images, labels: Step(float("nan"), 0, 10),
    )
    with pytest.raises(TrainingError, match="iteration 0: start again with a lower --lr"):
        run(tmp_path / "run")


def test_the_split_holds_digits_out_and_batches_show_each_once() -> None:
    config = replace(CONFIG, shift=0, turn=0, zoom=0)
    numbered = training.Digits(
        np.arange(60, dtype=np.uint8)[:, None, None] + np.zeros((28, 28), np.uint8),
        np.arange(60, dtype=np.uint8) % 10,
    )
    learn, validate = training.split(config, numbered)
    kept, held = set(learn.images[:, 0, 0]), set(validate.images[:, 0, 0])
    assert (len(kept), len(held), kept & held) == (40, 20, set())
    for epoch in range(2):
        given = [training.batch(config, learn, 4 * epoch + n) for n in range(4)]
        assert sorted(np.concatenate([i[:, 0, 0] for i, _ in given])) == sorted(kept)
        assert all((i[:, 0, 0] % 10 == labels).all() for i, labels in given)
    first, again, other = (training.batch(config, learn, n)[0] for n in (0, 0, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="fewer than one batch of 10"):
        training.split(replace(config, held_out=55), numbered)


def test_augmentation_moves_digits_but_not_far() -> None:
    images = digits(30).images
    assert augment(images, np.random.default_rng(0), 0, 0, 0) is images
    moved = augment(images, np.random.default_rng(0), 2, 10, 0.1)
    assert moved.shape == images.shape
    assert moved.dtype == np.uint8
    assert (moved != images).any(axis=(1, 2)).all()

    def centres(some):
        mass = some.astype(float)
        where = np.arange(28)
        total = mass.sum(axis=(1, 2))
        return np.stack([(mass.sum(axis=a) * where).sum(axis=1) / total for a in (1, 2)])

    away = np.abs(centres(moved) - centres(images))
    assert 0.5 < away.mean() < 2
    assert away.max() < 4
    shifted = augment(images, np.random.default_rng(1), 2, 0, 0)
    assert shifted.mean() == pytest.approx(images.mean(), rel=0.05)


def test_digits_turn_either_way_and_each_axis_changes_alone() -> None:
    bar = np.zeros((40, 28, 28), np.uint8)
    bar[:, 13:15, 4:24] = 255
    turned = augment(bar, np.random.default_rng(0), 0, 20, 0)
    rise = [np.flatnonzero(one[:, 20])[0] - np.flatnonzero(one[:, 7])[0] for one in turned]
    assert min(rise) < -2
    assert max(rise) > 2
    square = np.zeros((40, 28, 28), np.uint8)
    square[:, 8:20, 8:20] = 255
    zoomed = augment(square, np.random.default_rng(0), 0, 0, 0.3)
    heights, widths = ((zoomed > 127).any(axis=axis).sum(axis=1) for axis in (2, 1))
    assert np.abs(heights - widths).max() > 2


def test_the_same_digit_is_augmented_anew_in_each_iteration() -> None:
    one = digits(1)
    learn = training.Digits(one.images.repeat(10, axis=0), one.labels.repeat(10))
    first, second = (training.batch(CONFIG, learn, iteration)[0] for iteration in (0, 1))
    assert not np.array_equal(first, second)


def test_the_loss_is_the_mean_over_all_digits(tmp_path, monkeypatch) -> None:
    run(tmp_path / "run", replace(CONFIG, iterations=3))
    network = training.open_run(tmp_path / "run", threads=1)
    whole = training.evaluate(network, TRAINING)
    monkeypatch.setattr(training, "EVALUATION_BATCH", 7)
    parts = training.evaluate(network, TRAINING)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.accuracy == whole.accuracy


def test_of_two_equally_accurate_networks_the_surer_is_better(tmp_path, monkeypatch) -> None:
    scores = iter([training.Score(loss, 0.5) for loss in (0.9, 0.9, 0.8, 0.8, 0.85, 0.85)])
    monkeypatch.setattr(training, "evaluate", lambda *_: next(scores))
    run(tmp_path / "run", replace(CONFIG, iterations=9))
    with safe_open(tmp_path / "run" / training.BEST, "numpy") as file:
        assert file.metadata()["iteration"] == "6"


def test_a_run_goes_on_though_its_digits_have_moved(tmp_path) -> None:
    run(tmp_path / "run", replace(CONFIG, iterations=3, data="here"))
    run(tmp_path / "run", replace(CONFIG, iterations=3, data="there"), resume=True)
    assert len(training.read_metrics(tmp_path / "run")) == 1


def test_the_papers_rate_is_that_of_a_sum_over_the_batch() -> None:
    optimiser = make_config("paper", "cnn", "torch").make_optimiser()
    assert isinstance(optimiser, SGD)
    rate = optimiser.learning_rate
    assert [rate(i) for i in (0, 33_332, 33_333, 66_665, 66_666, 99_999)] == pytest.approx(
        [0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005]
    )
    assert make_config("paper", "cnn", "numpy").iterations == 5000
    adam = make_config("paper", "cnn", "numpy", optimiser="adam", schedule="constant")
    assert isinstance(adam.make_optimiser(), Adam)
    assert adam.make_optimiser().learning_rate(4999) == 0.001


def test_one_cycle_rises_and_falls_to_nothing() -> None:
    rate = OneCycle(0.1, 100)
    rates = [rate(i) for i in range(100)]
    assert rates[19] == max(rates) == pytest.approx(0.1)
    assert np.diff(rates[:20]).min() > 0
    assert np.diff(rates[20:]).max() < 0
    assert rates[-1] < 1e-4
    assert rate(100) == 0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("net", ["cnn", "fcc"])
def test_recipes_survive_json(recipe, net) -> None:
    config = make_config(recipe, net, "torch", iterations=2000, seed=None)
    assert Config.from_json(config.to_json()) == config
    assert config.evaluate_every == 100
    assert make_config(recipe, net, "numpy", iterations=20).evaluate_every == 100


def test_a_recipe_knows_its_length() -> None:
    for net, best in (("cnn", 25_000), ("fcc", 15_000)):
        assert make_config("paper", net, "numpy").iterations == 5_000
        assert make_config("paper", net, "torch").iterations == 100_000
        for engine in ("numpy", "torch"):
            assert make_config("best", net, engine).iterations == best


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"net": "rnn"}, "net must be one of cnn, fcc"),
        ({"schedule": "cosine"}, "steps, one-cycle, constant, got 'cosine'"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"shift": -1}, "shift must not be negative"),
    ],
)
def test_wrong_settings_are_refused(changes, says) -> None:
    with pytest.raises(ValueError, match=says):
        replace(CONFIG, **changes)


def test_unknown_recipes_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="paper, best, got 'mine'"):
        make_config("mine", "cnn", "numpy")
    with pytest.raises(ValueError, match="no such setting: rate"):
        make_config("paper", "cnn", "numpy", rate=1)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path) -> None:
    run(tmp_path / "run", replace(CONFIG, iterations=3))
    parameters, state = initial_weights(FCC, 0)
    training._save(tmp_path / "run" / training.LAST, {**parameters, **state}, {})
    with pytest.raises(TrainingError, match="is no checkpoint"):
        run(tmp_path / "run", replace(CONFIG, iterations=3), resume=True)


@pytest.mark.parametrize("wrong", [b'{"iteration": 9}', b"[9]", b"\xff"])
def test_lines_that_are_no_measurement_are_left_out(tmp_path, wrong) -> None:
    folder = tmp_path / "run"
    run(folder, replace(CONFIG, iterations=3))
    line = (folder / "metrics.jsonl").read_bytes()
    worded = line.replace(b'"iteration": 3', b'"iteration": "x"')
    (folder / "metrics.jsonl").write_bytes(line + worded + wrong + b"\n")
    assert [line["iteration"] for line in training.read_metrics(folder)] == [3]
    run(folder, replace(CONFIG, iterations=3), resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == line


def test_lines_are_json(tmp_path, whole) -> None:
    run(tmp_path / "run", replace(CONFIG, iterations=3))
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["iteration"] == 3
