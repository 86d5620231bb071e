from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import blob_image, run_cli
from faceresnet import FaceDetector, images
from faceresnet.cli import main
from faceresnet.cli.training import calibration_photos, measured
from faceresnet.engine import read_spec
from faceresnet.train import recipes
from faceresnet.train.runs import read_recipe
from faceresnet.widerface import read_split
from train.samples import face_photo, options, write_faces, write_split

#: A network and a schedule that take a second.
SMALL = {
    "schedule.iterations": 2,
    "schedule.epoch": 1,
    "schedule.batch": 2,
    "schedule.validate_every": 1,
    "schedule.warmup": 0,
    "schedule.bf16": "false",
    "augmentation.sizes": 64,
    "augmentation.event_weights": "()",
    "network.planes": "(16,16,16,32)",
    "network.inner": "()",
    "network.depths": "(1,1,1,1)",
    "network.pyramid": 16,
}
SETTINGS = options(SMALL)
HERE = ["--workers", "0", "--accelerator", "cpu"]


def succeed(capsys, *arguments):
    status, out, errors = run_cli(capsys, *arguments)
    assert status == 0, errors
    return out


def refuse(capsys, *arguments):
    """The one line that a refused command says."""
    status, out, errors = run_cli(capsys, *arguments)
    assert status == 2, (out, errors)
    lines = [line for line in errors.splitlines() if line.startswith("faceresnet: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    assert len(lines[0]) < 600
    return lines[0]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of two iterations."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--data", str(data), "--out", str(folder), *SETTINGS, *HERE])
    assert stopped.value.code == 0
    return folder


def test_a_run_starts_is_kept_and_goes_on(capsys, data, trained):
    assert (trained / "checkpoints/best.ckpt").exists()
    said = refuse(capsys, "train", "--data", data, "--out", trained, *SETTINGS, *HERE)
    assert "already holds a run: go on with --resume" in said
    said = refuse(
        capsys, "train", "--data", data, "--out", trained, "--resume", "--recipe", "paper"
    )
    assert "has the recipe faceresnet-n, so --resume cannot go on with paper" in said
    out = succeed(
        capsys, "train", "--data", data, "--out", trained, "--resume",
        "--set", "schedule.iterations=3", *HERE,
    )  # fmt: skip
    assert f"trained: {trained}/checkpoints/last.ckpt" in out
    assert f"faceresnet export {trained}" in out
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3]


def test_without_a_val_split_it_says_so_and_goes_on(capsys, tmp_path):
    data = write_faces(tmp_path / "data", val=0)
    status, out, errors = run_cli(
        capsys, "train", "--data", data, "--out", tmp_path / "run", *SETTINGS, *HERE
    )
    assert status == 0, errors
    assert "no validation photos" in errors
    assert "trained:" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "{data}", "--resume"], "holds no checkpoint to resume|is not a run folder"),
        ([], "train needs photos: give --data"),
        (["--data", "{data}/none"], "there is no"),
        (["--data", "{data}", "--recipe", "huge"], "unknown recipe 'huge', expected one of: paper"),
        (["--data", "{data}", "--set", "rate=3"], "unknown setting 'rate'"),
        (["--data", "{data}", "--set", "schedule.rate=x"], "takes a finite float, such as"),
        (["--data", "{data}", "--event", "none"], "has no photo of none"),
        (["--data", "{data}", "--init", "none.pth"], "neither a file nor a shipped model"),
        (["--data", "{data}", "--init", "{data}/notes.ckpt"], "does not fit this recipe's network"),
        (["--data", "{data}", "--init", "{data}/notes.pth"], "does not hold weights"),
        (["--data", "{data}", "--reshape", "bend"], "--reshape must be one of narrow, widen, grow"),
        (["--data", "{data}", "--reshape", "widen"], "needs the weights of another network"),
        (["--data", "{data}", "--teacher", "nobody"], "no model is called 'nobody'"),
        (["--data", "{data}", "--recipe", "faceresnet-n-taught"], "there is none: give --teacher"),
        (["--data", "{data}", "--set", "distillation.trust=0.9"], "there is none: give --teacher"),
        (["--data", "{data}", "--yunet", "x"], "yunet speaks together with a teacher"),
        (
            ["--data", "{data}", "--teacher", "faceresnet-n", "--yunet", "{data}/notes.pth"],
            "cannot load YuNet from",
        ),
        (["--data", "{data}", "--imitate", "nobody"], "--imitate nobody is neither a file nor"),
        (["--data", "{data}", "--imitate", "{data}/notes.ckpt"], "cannot be imitated by this"),
        (["--data", "{data}", "--set", "distillation.trust=2"], "trust must be above 0"),
        (["--data", "{data}", "--set", "imitates=x", "--teacher", "x"], "leave --teacher out"),
        (["--data", "{data}", "--keep", "zipped"], "keep must be decoded or encoded"),
        (["--data", "{data}", "--data-device", "tpu"], "must be cpu or cuda"),
        (["--data", "{data}", "--accelerator", "abacus"], "accelerator"),
        (["--data", "{data}", "--accelerator", "tpu"], "training cannot start"),
        (["--data", "{data}", "--accelerator", "cpu", "--devices", "abc"], "training cannot start"),
    ],
)
def test_training_is_refused_in_one_line(capsys, data, tmp_path, arguments, says):
    for name in ("notes.ckpt", "notes.pth"):
        (data / name).write_text("no weights")
    given = [argument.format(data=data) for argument in arguments]
    said = refuse(capsys, "train", "--out", tmp_path / "run", *SETTINGS, *given, "--workers", "0")
    assert re.search(says, said), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_one_line(capsys, data, tmp_path):
    given = ["train", "--data", data, "--out", tmp_path / "run"]
    assert "needs a GPU" in refuse(capsys, *given, "--data-device", "cuda")
    assert "training cannot start here" in refuse(capsys, *given, "--accelerator", "gpu")


def test_a_broken_photo_is_one_line(capsys, tmp_path):
    data = write_faces(tmp_path / "data")
    (data / "WIDER_train/images/event/1.png").write_bytes(b"no image")
    said = refuse(capsys, "train", "--data", data, "--out", tmp_path / "run", *SETTINGS, *HERE)
    assert "the photo event/1.png in" in said


@pytest.mark.parametrize("module", ["torch", "lightning"])
def test_without_the_extra_it_says_what_to_install(capsys, data, tmp_path, monkeypatch, module):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == module else find(name))
    said = refuse(capsys, "train", "--data", data, "--out", tmp_path / "run")
    assert "in the checkout, pip install -c constraints.txt '.[train]'" in said


# --- export ---


def test_a_run_is_cut_down_to_a_smaller_network(capsys, trained, tmp_path, monkeypatch):
    recipe = read_recipe(trained)
    planes = (*recipe.network.planes[:3], recipe.network.planes[3] // 2)
    thin = replace(recipe, name="thin", network=replace(recipe.network, planes=planes))
    monkeypatch.setitem(recipes.RECIPES, "thin", lambda: thin)
    whole, out = tmp_path / "whole.onnx", tmp_path / "thin.onnx"
    succeed(capsys, "export", trained, "--out", whole)
    succeed(capsys, "export", trained, "--out", out, "--narrow", "thin")
    assert read_spec(out).recipe == "thin"
    assert out.stat().st_size < whole.stat().st_size
    refused = ["export", trained, "--out", tmp_path / "no.onnx", "--narrow"]
    assert "unknown recipe 'wide'" in refuse(capsys, *refused, "wide")
    assert "would start anew" in refuse(capsys, *refused, "paper")
    assert not (tmp_path / "no.onnx").exists()


def test_weights_are_averaged_with_those_of_relatives(capsys, trained, tmp_path):
    from safetensors.torch import load_file, save_file

    own, mean = tmp_path / "own.safetensors", tmp_path / "mean.safetensors"
    succeed(capsys, "export", trained, "--out", own)
    state = load_file(own)
    name = "classify.predict.bias"
    relatives = [tmp_path / "up.safetensors", tmp_path / "down.safetensors"]
    for file, change in zip(relatives, (4.0, -1.0), strict=True):
        save_file({**state, name: state[name] + change}, file)
    averaged = [part for file in relatives for part in ("--average", file)]
    succeed(capsys, "export", trained, "--out", mean, *averaged)
    found = load_file(mean)
    torch.testing.assert_close(found.pop(name), state.pop(name) + 1.0)
    assert all(torch.equal(found[key], value) for key, value in state.items())
    save_file(state, relatives[0])  # of which a tensor is missing
    said = refuse(capsys, "export", trained, "--out", tmp_path / "no.onnx", *averaged)
    assert f"{relatives[0]} does not fit this recipe's network: {name} is missing" in said
    backbone = tmp_path / "resnet50.pth"
    backbone.touch()
    for option in ("--average", "--checkpoint"):
        said = refuse(capsys, "export", trained, "--out", own, option, backbone)
        assert "resnet50.pth is no checkpoint, .safetensors or .onnx of a whole network" in said


def test_scores_are_shifted(capsys, trained, tmp_path):
    from safetensors.torch import load_file

    own, shifted = tmp_path / "own.safetensors", tmp_path / "shifted.safetensors"
    succeed(capsys, "export", trained, "--out", own)
    succeed(capsys, "export", trained, "--out", shifted, "--shift", "-0.5")
    name = "classify.predict.bias"
    change = load_file(shifted)[name] - load_file(own)[name]
    assert set(change.round(decimals=5).tolist()) <= {-0.5, 0.0}
    assert change.min() == -0.5
    said = refuse(capsys, "export", trained, "--out", own, "--shift", "nan")
    assert said == "faceresnet: --shift must be a finite number, got nan"


def test_a_run_becomes_a_model(capsys, trained, tmp_path):
    out = tmp_path / "models" / "mine.onnx"
    weights = tmp_path / "weights" / "mine.safetensors"
    printed = succeed(capsys, "export", trained, "--out", out, "--licence", "mine")
    assert re.search(r"mine\.onnx: \d+\.\d MB, fp32", printed)
    spec = read_spec(out)
    assert (spec.name, spec.recipe, spec.licence) == ("mine", "faceresnet-n", "mine")
    assert spec.measured == {}
    assert "fp32" in succeed(capsys, "export", trained, "--out", weights)
    assert weights.exists()
    FaceDetector(out, threads=1)(np.zeros((40, 60, 3), np.uint8))


def test_int8_prints_the_ap_before_and_after(capsys, data, trained, tmp_path):
    out = tmp_path / "small.onnx"
    printed = succeed(
        capsys, "export", trained, "--out", out, "--int8", "--data", data, "--name", "small-int8"
    )
    found = re.findall(r"(\w+): AP (\d\.\d{4}) on (\S+) \(val, original size\)", printed)
    assert [(precision, event) for precision, _, event in found] == [
        ("fp32", "all"), ("fp32", "event"), ("int8", "all"), ("int8", "event")
    ]  # fmt: skip
    spec = read_spec(out)
    assert (spec.name, spec.precision) == ("small-int8", "int8")
    assert spec.measured == {event: float(ap) for p, ap, event in found if p == "int8"}
    assert 0 <= spec.threshold <= 1
    assert "MB, int8" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{run}", "--out", "x.pt"], "must end in .onnx"),
        (
            ["{run}", "--out", "{tmp}/x.onnx", "--checkpoint", "first"],
            "be best, last or a file",
        ),
        (["{run}", "--out", "{tmp}/x.onnx", "--int8"], "--int8 needs --data"),
        (["{run}", "--out", "{tmp}/x.onnx", "--int8", "--fp16", "--data", "."], "export twice"),
        (["{run}", "--out", "{tmp}/x.safetensors", "--int8", "--data", "."], "without --int8"),
        (["{run}", "--out", "{tmp}/x.safetensors", "--name", "x"], "holds only weights"),
        (["{tmp}", "--out", "{tmp}/x.onnx"], "is not a run folder"),
        (["{run}", "--out", "{tmp}/x.onnx", "--data", "{tmp}/none"], "there is no"),
        (["{run}", "--out", "{tmp}/x.onnx", "--int8", "--data", "{tmp}/val"], "no training photos"),
    ],
)
def test_export_is_refused_in_one_line(capsys, trained, tmp_path, arguments, says):
    labels = write_faces(tmp_path / "val", train=1) / "wider_face_split"
    (labels / "wider_face_train_bbx_gt.txt").write_text("")
    given = [argument.format(run=trained, tmp=tmp_path) for argument in arguments]
    assert says in refuse(capsys, "export", *given)
    assert not list(tmp_path.glob("*.onnx"))


# --- data pack ---


@pytest.mark.parametrize("archive", ["wider_face_split.zip", "WIDER_val.zip"])
def test_no_shard_takes_the_place_of_an_archive_of_the_data_set(capsys, data, tmp_path, archive):
    (tmp_path / "sets").symlink_to(data)
    (place := data / archive).write_bytes(b"published")
    given = ["--data", tmp_path / "sets", "--out", place, "--event", "event"]
    try:
        says = refuse(capsys, "data", "pack", *given)
        assert f"{archive} is part of the data set" in says
        assert place.read_bytes() == b"published"
    finally:
        place.unlink()


def test_a_data_set_becomes_a_shard(capsys, data, tmp_path):
    out = tmp_path / "shard.zip"
    printed = succeed(capsys, "data", "pack", "--data", data, "--out", out, "--max-side", "64")
    assert "6 photos" in printed
    packed = read_split(out, "train")
    assert len(packed) == 4
    assert max(packed[0].read().shape) == 64
    printed = succeed(capsys, "train", "--data", out, "--out", tmp_path / "run", *SETTINGS, *HERE)
    assert "trained:" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "{data}", "--out", "x.tar"], "must end in .zip"),
        (["--data", "{tmp}", "--out", "{tmp}/x.zip"], "holds neither a train nor a val split"),
        (["--data", "{data}", "--out", "{tmp}/x.zip", "--event", "none"], "has no photo of none"),
        (["--data", "{data}", "--out", "{tmp}/x.zip", "--quality", "0"], "--quality"),
        (["--data", "{data}/broken.zip", "--out", "{tmp}/x.zip"], "broken.zip cannot be read"),
    ],
)
def test_packing_is_refused_in_one_line(capsys, data, tmp_path, arguments, says):
    (data / "broken.zip").write_bytes(b"no archive")
    given = [argument.format(data=data, tmp=tmp_path) for argument in arguments]
    assert says in refuse(capsys, "data", "pack", *given)
    assert not list(tmp_path.iterdir())


def test_an_event_of_one_split_is_enough(capsys, tmp_path):
    write_split(tmp_path / "data", "train", [face_photo(0)], event="here")
    write_split(tmp_path / "data", "val", [face_photo(1)], event="there")
    out = tmp_path / "shard.zip"
    for event, split in (("here", "train"), ("there", "val")):
        printed = succeed(
            capsys, "data", "pack", "--data", tmp_path / "data", "--out", out, "--event", event
        )
        assert "1 photos" in printed
        assert [photo.event for photo in read_split(out, split)] == [event]
    said = refuse(
        capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--event", "there"
    )
    assert "no training photos of these events" in said


# --- data relabel ---


def test_a_model_labels_the_photos_again(capsys, blob_model, tmp_path):
    """The model made by hand takes red squares for faces; one of two has a box."""
    root, out = tmp_path / "data", tmp_path / "again"
    for split in ("train", "val"):
        pixels = blob_image((128, 192), (40, 60, 18), (140, 60, 42))
        images.write(pixels, root / f"WIDER_{split}/images/squares/two.png")
        lists = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        lists.parent.mkdir(exist_ok=True)
        lists.write_text("squares/two.png\n1\n31 51 18 18\n")
    printed = succeed(
        capsys, "data", "relabel", "--data", root, "--out", out, "--model", blob_model
    )
    assert "1 faces (0 new), 1 ignored boxes (1 new)" in printed
    (photo,) = read_split(out, "train")
    assert photo.ignore.tolist() == [False, True]
    assert np.allclose(photo.faces[1], (119, 39, 161, 81), atol=8)
    (photo,) = read_split(out, "val")
    assert len(photo.faces) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "{data}", "--complete", "none"], "no event of the photos: none"),
        (["--data", "{data}", "--teach", "2"], "teach must be above 0 and at most 1, got 2.0"),
        (["--data", "{tmp}"], "has no train split"),
        (["--data", "{data}", "--out", "{data}"], "holds the labels as annotated"),
    ],
)
def test_relabelling_is_refused_in_one_line(capsys, data, blob_model, tmp_path, arguments, says):
    given = [argument.format(data=data, tmp=tmp_path) for argument in arguments]
    out = tmp_path / "again"
    assert says in refuse(capsys, "data", "relabel", "--model", blob_model, "--out", out, *given)
    assert not out.exists()


def test_labels_are_corrected(capsys, data, tmp_path):
    photo = read_split(data, "train")[0]
    corrections = tmp_path / "list.csv"
    corrections.write_text(f"photo,x1,y1,x2,y2,verdict\n{photo.name},0,0,9,9,ignore\n")
    out = tmp_path / "again"
    printed = succeed(
        capsys, "data", "correct", "--data", data, "--corrections", corrections, "--out", out
    )
    assert "(0 new), 1 ignored boxes (1 new)" in printed
    again = read_split(out, "train")
    assert again[0].ignore.tolist() == [*photo.ignore.tolist(), True]
    assert [len(one.faces) for one in again[1:]] == [
        len(one.faces) for one in read_split(data, "train")[1:]
    ]
    assert len(read_split(out, "val")) == len(read_split(data, "val"))


def test_corrections_of_photos_that_are_not_there_are_counted(capsys, data, tmp_path):
    photo = read_split(data, "train")[0]
    corrections = tmp_path / "list.csv"
    rows = [f"{name},0,0,9,9,ignore\n" for name in ("no/a.png", photo.name, "no/b.png", "no/a.png")]
    corrections.write_text("photo,x1,y1,x2,y2,verdict\n" + "".join(rows))
    arguments = ["--data", data, "--corrections", corrections, "--out", tmp_path / "again"]
    status, _, errors = run_cli(capsys, "data", "correct", *arguments)
    assert not status
    assert errors == "left out 3 corrections of other photos, no/a.png first\n"


def test_corrections_of_no_photo_are_refused(capsys, data, tmp_path):
    corrections = tmp_path / "list.csv"
    corrections.write_text("photo,x1,y1,x2,y2,verdict\nfar/away.png,0,0,9,9,face\n")
    out = tmp_path / "again"
    arguments = ["--data", data, "--corrections", corrections, "--out", out]
    assert "of other photos" in refuse(capsys, "data", "correct", *arguments)
    assert not out.exists()


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 700, 1023, 1024, 5120, 8933])
def test_calibration_photos_are_spread_over_the_data_set(count):
    """None of its parts is left out, as photos are listed by event."""
    taken = calibration_photos(range(count))
    assert len(taken) == len(set(taken)) == min(count, 512)
    assert list(taken) == sorted(taken)
    if count:
        gaps = np.diff([*taken, count])
        assert taken[0] == 0
        assert gaps.max() <= -(-count // 512)


def test_help_needs_no_torch(capsys):
    for command in (
        ["train"],
        ["export"],
        ["data", "pack"],
        ["data", "relabel"],
        ["data", "correct"],
    ):
        assert "Usage" in succeed(capsys, *command, "--help")
    assert "faceresnet.cli.training" in sys.modules


def test_events_without_faces_have_no_ap(blob_model, tmp_path, capsys):
    face = (blob_image((96, 128), (60, 50, 40)), [[40, 30, 80, 70]])
    nothing = (blob_image((96, 128)), np.zeros((0, 4)))
    faces = write_split(tmp_path, "val", [face], event="faces")
    scenery = write_split(tmp_path / "b", "val", [nothing], event="scenery")
    spec = read_spec(blob_model)
    assert measured(blob_model, spec, faces + scenery).measured == {"all": 1.0, "faces": 1.0}
    assert "nan" not in capsys.readouterr().out
    assert measured(blob_model, spec, scenery) == spec
    elsewhere = (blob_image((96, 128)), [[40, 30, 80, 70]])
    missed = write_split(tmp_path / "c", "val", [elsewhere], event="missed")
    found = measured(blob_model, spec, missed)
    assert (found.measured["all"], found.threshold) == (0, spec.threshold)


def test_the_threshold_is_the_best_for_photos_without_a_face_too(blob_model, tmp_path):
    large, faint = (60, 50, 40), (180, 50, 9)  # found with .999 and .25
    faces = np.array([[40, 30, 80, 70], [174, 46, 186, 58]])
    shown = [(blob_image((96, 240), large, faint), faces)]
    photos = write_split(tmp_path, "val", shown)
    three = blob_image((96, 240), faint, (116, 50, 9), (52, 50, 9))
    scenery = write_split(tmp_path / "b", "val", [(three, np.zeros((0, 4)))], event="scenery")
    spec = read_spec(blob_model)
    assert measured(blob_model, spec, photos).threshold == 0.25
    assert measured(blob_model, spec, photos + scenery).threshold > 0.9
