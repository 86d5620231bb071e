from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from faceresnet.errors import TrainingError
from faceresnet.evaluation import evaluate
from faceresnet.protocols import predict
from faceresnet.shards import pack
from faceresnet.train import batches, callbacks, recipes, runs, training
from faceresnet.train.augment import make_batch
from faceresnet.train.export import load_run, save_weights
from faceresnet.train.loop import train
from faceresnet.train.losses import Loss
from faceresnet.train.model import FaceResNet
from faceresnet.train.photos import PhotoSet
from faceresnet.train.runs import make_spec
from faceresnet.train.settings import override
from faceresnet.train.targets import assign_by_iou
from faceresnet.train.training import TorchDetector
from faceresnet.widerface import read_split
from train.samples import PLAIN, face_photo, options, small_network, small_recipe, write_split


def run(recipe, data, folder, **options):
    """Train on the data set in this process; with its val split if it has one."""
    photos = read_split(data, "train")
    has_val = (data / "WIDER_val").exists()
    validation = read_split(data, "val") if has_val and not options.pop("blind", False) else []
    return train(recipe, photos, validation, folder, workers=0, accelerator="cpu", **options)


def journal(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", map_location="cpu", weights_only=True)


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run of six iterations in three epochs, never interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert run(small_recipe(), data, folder) == folder / "checkpoints/last.ckpt"
    return folder


def test_a_run_folder_holds_what_was_done(straight):
    assert runs.read_recipe(straight) == small_recipe()
    assert sorted(p.name for p in (straight / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    assert saved(straight)["global_step"] == 6
    assert any((straight / "tensorboard").iterdir())
    assert not list(straight.rglob("*.tmp")) + list(straight.rglob("*.part*"))


def test_the_journal_has_a_line_for_each_epoch(straight):
    lines = journal(straight)
    assert [line["iteration"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert {"loss", "classification", "boxes", "ap", "ap/event", "time"} <= line.keys()
        assert line["loss"] > 0


def test_validation_comes_every_few_epochs_and_its_figure_stands_where_it_was_measured(
    data, tmp_path
):
    run(small_recipe(iterations=9, validate_every=2), data, tmp_path / "run")
    # The end is validated, whatever its place.
    assert ["ap" in line for line in journal(tmp_path / "run")] == [False, True, False, True, True]


def test_every_iteration_has_a_batch_of_its_own(data, tmp_path, monkeypatch):
    seeds = []

    def counted(photos, augmentation, batch, seed):
        seeds.append(seed)
        return make_batch(photos, augmentation, batch, seed)

    monkeypatch.setattr(batches, "make_batch", counted)
    recipe = replace(small_recipe(iterations=5), seed=7)
    run(recipe, data, tmp_path / "run", blind=True)
    assert seeds == [(7, 0, iteration) for iteration in range(5)]
    assert [line["iteration"] for line in journal(tmp_path / "run")] == [2, 4, 5]

    longer = replace(recipe, schedule=replace(recipe.schedule, iterations=8))
    run(longer, data, tmp_path / "run", blind=True, resume=True)
    # The epoch of the checkpoint is looked at again, and nothing of it is left.
    assert list(dict.fromkeys(seeds)) == [(7, 0, iteration) for iteration in range(8)]
    assert [line["iteration"] for line in journal(tmp_path / "run")] == [2, 4, 5, 6, 8]


# --- resuming ---


class Killed(BaseException):
    pass


def die(monkeypatch, iterations, data, folder):
    """A run that is killed before the batch after so many iterations."""
    original = training.Training.training_step

    def training_step(self, batch, index):
        if self.global_step == iterations:
            raise Killed
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "training_step", training_step)
        with pytest.raises(Killed):
            run(small_recipe(), data, folder)


@pytest.mark.parametrize("iterations", [2, 3, 5])
def test_a_run_that_stopped_goes_on_as_if_it_had_not(
    data, straight, tmp_path, monkeypatch, iterations
):
    folder = tmp_path / "run"
    die(monkeypatch, iterations, data, folder)
    assert saved(folder)["global_step"] == iterations // 2 * 2
    run(small_recipe(), data, folder, resume=True)
    assert_same_run(folder, straight)


def assert_same_run(folder, straight):
    ours, expected = saved(folder), saved(straight)
    assert ours["global_step"] == expected["global_step"]
    assert same_state(ours["current_model_state"], expected["current_model_state"])
    assert same_state(ours["state_dict"], expected["state_dict"])
    assert not same_state(ours["state_dict"], ours["current_model_state"])
    assert same_state(saved(folder, "best")["state_dict"], saved(straight, "best")["state_dict"])
    ours, expected = (
        [{k: v for k, v in line.items() if k != "time"} for line in journal(f)]
        for f in (folder, straight)
    )
    assert ours == expected


def test_the_journal_forgets_what_was_not_saved(data, straight, tmp_path, monkeypatch):
    """As when the run is killed between a line of the journal and its checkpoint, or within."""
    folder = tmp_path / "run"
    die(monkeypatch, 4, data, folder)
    with (folder / "metrics.jsonl").open("a") as out:
        out.write('{"iteration": 6, "loss": 99}\n{"iteration": 8, "lo')
    run(small_recipe(), data, folder, resume=True)
    assert_same_run(folder, straight)


def test_a_finished_run_resumes_to_itself(straight, data, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    run(small_recipe(), data, folder, resume=True)
    assert_same_run(folder, straight)


def test_a_run_folder_may_be_moved(data, tmp_path):
    """The best figure comes along, and the old folder is left alone."""
    recipe = small_recipe(iterations=2)
    run(recipe, data, tmp_path / "old")
    state = saved(tmp_path / "old")
    for callback in state["callbacks"].values():
        if callback.get("monitor") == "ap":
            path = str(tmp_path / "old/checkpoints/best.ckpt")
            assert callback["best_model_path"] == path
            callback.update(
                best_model_score=torch.tensor(2.0),
                kth_value=torch.tensor(2.0),
                best_k_models={path: torch.tensor(2.0)},
            )
    torch.save(state, tmp_path / "old/checkpoints/last.ckpt")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    before = (tmp_path / "new/checkpoints/best.ckpt").read_bytes()
    run(
        replace(recipe, schedule=replace(recipe.schedule, iterations=4)),
        data,
        tmp_path / "new",
        resume=True,
    )
    assert saved(tmp_path / "new")["global_step"] == 4
    # No AP reaches 2, so the best one stays, in both places.
    assert (tmp_path / "new/checkpoints/best.ckpt").read_bytes() == before
    assert (tmp_path / "old/checkpoints/best.ckpt").read_bytes() == before
    assert saved(tmp_path / "old")["global_step"] == 2


#: Of a run in a process of its own.
SETTINGS = {
    "schedule.iterations": 40,
    "schedule.epoch": 2,
    "schedule.batch": 2,
    "schedule.validate_every": 10,
    "schedule.bf16": False,
    "augmentation.sizes": 64,
    "network.planes": "(16,16,16,32)",
    "network.inner": "()",
    "network.depths": "(1,1,1,1)",
    "network.pyramid": 16,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def process_until_its_first_checkpoint(command, folder):
    """A training process, in a group of its own, that has just saved."""
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "checkpoints/last.ckpt").exists():
            break
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_a_run_killed_by_the_system_goes_on_to_the_same_weights(data, tmp_path):
    command = [sys.executable, "-m", "faceresnet", "train", "--data", str(data), "--workers", "1"]
    settings = options(SETTINGS)
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    process = process_until_its_first_checkpoint(
        [*command, "--out", str(killed), *settings], killed
    )
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert saved(killed)["global_step"] < 40, "it was done before it could be killed"

    resumed = subprocess.run(
        [*command, "--out", str(killed), "--resume"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "trained:" in resumed.stdout
    recipe = override(recipes.recipe("faceresnet-n"), settings[1::2])
    run(recipe, data, whole)
    assert [line["iteration"] for line in journal(killed)] == list(range(2, 41, 2))
    for name in ("state_dict", "current_model_state"):
        assert same_state(saved(killed)[name], saved(whole)[name])


@pytest.mark.slow
def test_a_run_in_two_processes_ends_when_it_is_told_to(data, tmp_path):
    settings = options({**SETTINGS, "schedule.iterations": 100_000})
    command = [sys.executable, "-m", "faceresnet", "train", "--data", str(data), *settings]
    two = ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--workers", "0"]
    process = process_until_its_first_checkpoint(
        [*command, "--out", str(tmp_path / "run"), *two], tmp_path / "run"
    )
    assert (tmp_path / "run/checkpoints/last.ckpt").exists(), process.poll()
    process.terminate()
    try:  # until both processes have closed the pipe
        _, errors = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGTERM, errors.decode()


def test_a_signal_to_the_whole_group_leaves_the_batches_to_the_training(data):
    photos = PhotoSet(read_split(data, "train"))
    made = batches.Data(photos, small_recipe(iterations=8, epoch=8), 1, None)
    made.trainer = SimpleNamespace(global_step=0, global_rank=0)
    assert made.train_dataloader().worker_init_fn is batches._set_up
    code = """
import os, signal
from faceresnet.train.batches import _set_up
_set_up(0)
os.kill(os.getpid(), signal.SIGTERM)
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


# --- refusals ---


def test_a_run_is_not_overwritten(straight, data):
    before = (straight / "checkpoints/last.ckpt").stat().st_mtime_ns
    with pytest.raises(TrainingError, match="already holds a run: go on with --resume"):
        run(small_recipe(), data, straight)
    assert (straight / "checkpoints/last.ckpt").stat().st_mtime_ns == before


def test_there_must_be_something_to_resume(data, tmp_path):
    with pytest.raises(TrainingError, match="holds no checkpoint to resume"):
        run(small_recipe(), data, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_does_not_go_on_with_another_network(straight, data):
    other = small_recipe(network=small_network(pyramid=24))
    with pytest.raises(TrainingError, match="holds a run of another network"):
        run(other, data, straight, resume=True)
    assert runs.read_recipe(straight) == small_recipe()


def test_a_run_that_cannot_go_on_keeps_its_recipe(straight, data):
    other = small_recipe(iterations=20)
    with pytest.raises(TrainingError, match="cannot start here"):
        run(other, data, straight, resume=True, devices="abc")
    assert runs.read_recipe(straight) == small_recipe()
    with pytest.raises(ValueError, match="keep must be"):
        run(other, data, straight, resume=True, keep="zipped")
    assert runs.read_recipe(straight) == small_recipe()


def test_only_the_first_of_several_processes_writes_the_recipe(data, tmp_path, monkeypatch):
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    monkeypatch.setattr(lightning.Trainer, "fit", lambda *_, **__: None)
    run(small_recipe(), data, tmp_path / "run")
    assert not (tmp_path / "run/recipe.json").exists()


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("ends", "told", "says"),
    [
        (SystemExit(1), KeyboardInterrupt, None),
        (SIGTERMException(), KeyboardInterrupt, None),
        (FULL_DISK, TrainingError, r"run: No space left on device\. Make room"),
        (ConnectionError(errno.ECONNRESET, "reset by peer"), ConnectionError, "reset by peer"),
    ],
    ids=["Ctrl-C", "SIGTERM", "full disk", "another error of the system"],
)
def test_a_run_does_not_end_as_if_done(data, tmp_path, monkeypatch, ends, told, says):
    def fit(*_, **__):
        raise ends

    monkeypatch.setattr(lightning.Trainer, "fit", fit)
    with pytest.raises(told, match=says):
        run(small_recipe(), data, tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_broken_checkpoint_is_named(data, tmp_path, content):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    runs.write_json(folder / "recipe.json", asdict(small_recipe()))
    (folder / "checkpoints/last.ckpt").write_bytes(content)
    with pytest.raises(
        TrainingError, match=r"last\.ckpt cannot be read .* with --init .*best\.ckpt"
    ):
        run(small_recipe(), data, folder, resume=True)


def test_a_loss_that_is_not_finite_stops_with_its_batch(data, tmp_path, monkeypatch):
    def broken(*arguments):
        terms = original(*arguments)
        return {**terms, "loss": terms["loss"] * float("nan")}

    original = training.detection_loss
    monkeypatch.setattr(training, "detection_loss", broken)
    with pytest.raises(
        TrainingError, match=r"loss is nan at iteration 3: the batch is saved in \S*nonfinite\.pt"
    ):
        run(small_recipe(start=3), data, tmp_path / "run")
    batch = torch.load(tmp_path / "run/nonfinite.pt", weights_only=True)
    recipe = small_recipe()
    images, faces = make_batch(
        PhotoSet(read_split(data, "train")), recipe.augmentation, 2, (recipe.seed, 0, 3)
    )
    assert torch.equal(batch["images"], images)
    assert torch.equal(batch["boxes"], faces.boxes)
    assert torch.equal(batch["image"], faces.image)
    assert torch.equal(batch["ignore"], faces.ignore)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_photos_go_to_no_gpu_that_is_not_there(data, tmp_path):
    with pytest.raises(TrainingError, match="--data-device cuda needs a GPU") as caught:
        run(small_recipe(), data, tmp_path / "run", data_device="cuda")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_training_starts_on_no_gpu_that_is_not_there(data, tmp_path):
    photos = read_split(data, "train")
    with pytest.raises(TrainingError, match="training cannot start here"):
        train(small_recipe(), photos, [], tmp_path / "run", accelerator="gpu")


# --- without a val split, from a shard, from weights ---


def test_without_validation_the_last_checkpoint_is_the_best(data, tmp_path):
    run(small_recipe(iterations=2, average=0.0), data, tmp_path / "run", blind=True)
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]
    assert "ap" not in journal(tmp_path / "run")[0]
    _, model = load_run(tmp_path / "run", "best")
    assert same_state(
        {f"model.{n}": v for n, v in model.state_dict().items()},
        saved(tmp_path / "run")["state_dict"],
    )


def test_a_shard_trains_as_its_folder_does(data, straight, tmp_path):
    splits = {split: read_split(data, split) for split in ("train", "val")}
    pack(splits, tmp_path / "shard.zip")
    train(
        small_recipe(),
        read_split(tmp_path / "shard.zip", "train"),
        read_split(tmp_path / "shard.zip", "val"),
        tmp_path / "run",
        workers=0,
        accelerator="cpu",
        keep="encoded",
    )
    assert_same_run(tmp_path / "run", straight)


def test_another_seed_is_another_run(data, straight, tmp_path):
    run(replace(small_recipe(), seed=1), data, tmp_path / "run")
    assert not same_state(saved(tmp_path / "run")["state_dict"], saved(straight)["state_dict"])


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_fine_tuning_starts_from_weights(data, straight, tmp_path, kind):
    _, trained = load_run(straight, "last")
    file = straight / "checkpoints/last.ckpt"
    if kind == "safetensors":
        file = tmp_path / "weights" / "model.safetensors"
        save_weights(trained, file)
    # A rate next to nothing keeps the weights where they started.
    recipe = small_recipe(iterations=1, rate=1e-12, average=0.0, weight_decay=0.0)
    run(recipe, data, tmp_path / "tuned", init=file, blind=True)
    _, tuned = load_run(tmp_path / "tuned")
    for (name, ours), (_, theirs) in zip(
        tuned.named_parameters(), trained.named_parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-9), name


def test_a_grown_network_goes_on_from_what_the_small_one_knew(data, straight, tmp_path):
    """A step that learns nothing only moves averages: what they expect must have come already."""
    _, small = load_run(straight)
    network = replace(
        small.network,
        smooth=False,
        block="bottleneck",
        depths=(2, 2, 2, 2),
        planes=(32, 32, 32, 64),
        stem=32,
        pyramid=32,
    )
    weights = FaceResNet(replace(small.network, smooth=False)).eval()
    known = small.state_dict()
    weights.load_state_dict({name: known[name] for name in weights.state_dict()})
    save_weights(weights, tmp_path / "small.safetensors")
    still = small_recipe(network=network, iterations=1, rate=1e-12)
    run(still, data, tmp_path / "run", init=tmp_path / "small.safetensors", reshape="grow")
    _, large = load_run(tmp_path / "run", "last")
    images, _ = make_batch(PhotoSet(read_split(data, "train")), PLAIN, 4, (7,))
    with torch.no_grad():
        before, after = weights(images)[0], large(images)[0]
    assert before.std() > 0.02
    assert (after - before).abs().max() < 0.5 * before.std()


# --- the schedule ---


def test_the_rate_warms_up_and_falls_as_a_cosine():
    schedule = small_recipe(iterations=100, warmup=10).schedule
    factors = [schedule.rate_factor(i) for i in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(a > b for a, b in pairwise(factors[10:]))
    constant = replace(schedule, decay="constant", warmup=0)
    assert {constant.rate_factor(i) for i in range(101)} == {1.0}


def test_the_average_forgets_its_start():
    average, truth = torch.tensor([1000.0]), torch.tensor([1.0])
    for updates in range(1, 200):
        callbacks.moving_average(0.99, [average], [truth], torch.tensor(updates))
    assert (average - truth).abs() < 1
    steady = torch.tensor([0.0])
    callbacks.moving_average(0.99, [steady], [truth], torch.tensor(10**6))
    assert steady.item() == pytest.approx(0.01)
    seen = torch.tensor(3)
    callbacks.moving_average(0.99, [seen], [torch.tensor(8)], torch.tensor(10**6))
    assert seen == 8


def test_a_run_that_starts_late_warms_up_to_where_the_rate_is():
    schedule = small_recipe(iterations=100, warmup=10).schedule
    late = replace(schedule, start=55)
    assert late.rate_factor(55) == pytest.approx(0.05)
    assert [late.rate_factor(i) for i in range(65, 101)] == [
        schedule.rate_factor(i) for i in range(65, 101)
    ]
    with pytest.raises(ValueError, match=r"start must lie in 0\.\.99, got 100"):
        replace(schedule, start=100)


def test_a_run_that_starts_late_makes_the_batches_that_are_left(data, straight, tmp_path):
    late = small_recipe(start=3, epoch=2)
    run(late, data, tmp_path / "run", init=straight / "checkpoints/last.ckpt", blind=True)
    assert [line["iteration"] for line in journal(tmp_path / "run")] == [4, 6]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_only_matrices_decay(optimiser, tmp_path):
    module = training.Training(small_recipe(optimiser=optimiser, weight_decay=0.3), tmp_path)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(module.parameters()))


# --- learning ---


def test_eight_photos_are_learnt_by_heart(tmp_path):
    photos = write_split(tmp_path, "train", [face_photo(seed, (96, 128)) for seed in range(8)])
    recipe = small_recipe(
        augmentation=replace(PLAIN, sizes=(96,), face_px=(18.0, 50.0), max_scale=1.6),
        iterations=200,
        batch=8,
        rate=1e-2,
        warmup=10,
        average=0.95,
        epoch=100,
    )
    train(recipe, photos, [], tmp_path / "run", workers=0, accelerator="cpu")
    _, model = load_run(tmp_path / "run")
    detector = TorchDetector(model, make_spec(recipe))
    report = evaluate(predict(detector, photos, protocol="original"), photos, protocol="original")
    lines = journal(tmp_path / "run")
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert report.ap >= 0.95, lines


def test_the_loss_of_the_papers_recipe_falls(tmp_path):
    paper = recipes.recipe("paper")
    recipe = replace(paper, augmentation=replace(paper.augmentation, sizes=(256,)))
    photos = write_split(tmp_path, "train", [face_photo(seed) for seed in range(2)])
    images, faces = make_batch(PhotoSet(photos), recipe.augmentation, recipe.schedule.batch, (0,))
    assert images.shape == (2, 256, 256, 3)
    torch.manual_seed(0)
    module = training.Training(recipe, tmp_path)
    optimiser = module.configure_optimizers()["optimizer"]
    module.train()
    terms = []
    for _ in range(5):
        logits, deltas = module.model(images)
        anchors = module.anchors((256, 256))
        targets = batches.assign(recipe, anchors, faces, 2, (256, 256))
        loss = training.detection_loss(
            logits, deltas, anchors, targets, recipe.network.delta_scales, recipe.loss
        )
        terms.append(loss["loss"].item())
        optimiser.zero_grad()
        loss["loss"].backward()
        optimiser.step()
    assert len(targets.positive) > 0
    assert terms[-1] < terms[0]
    assert terms[-1] < terms[1]


def test_the_recipe_decides_how_anchors_are_assigned(data, tmp_path):
    loss = Loss(assigner="iou", positive_iou=0.6, negative_iou=0.3, best_anchor=False)
    recipe = small_recipe(loss=loss)
    _, faces = make_batch(PhotoSet(read_split(data, "train")), PLAIN, 2, (0,))
    anchors = training.Training(recipe, tmp_path).anchors((96, 96))
    ours = batches.assign(recipe, anchors, faces, 2, (96, 96))
    theirs = assign_by_iou(anchors, faces, 2, 0.6, 0.3, False)
    assert torch.equal(ours.positive, theirs.positive)
    assert torch.equal(ours.ignored, theirs.ignored)
    adaptive = batches.assign(small_recipe(), anchors, faces, 2, (96, 96))
    assert not torch.equal(adaptive.positive, theirs.positive)


def test_nothing_is_said_that_the_user_cannot_act_on(data, tmp_path, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(small_recipe(iterations=3), data, tmp_path / "run")
        run(small_recipe(iterations=4), data, tmp_path / "run", resume=True)
    assert [str(w.message) for w in caught] == []
    out, errors = capfd.readouterr()
    assert out == ""
    assert not re.search("tip|litlogger|warn", errors, re.I)
