"""A network with thinner blocks that learns to compute what another does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from faceresnet.errors import TrainingError
from faceresnet.train import training
from faceresnet.train.export import save_weights
from faceresnet.train.imitation import MISTAKES, imitation_loss, relative_error
from faceresnet.train.loop import fuse, train
from faceresnet.train.model import FaceResNet
from faceresnet.train.runs import LAST, load_original
from train.samples import make_faces, small_network, small_recipe, write_split
from train.test_grow import alive, images

WHOLE = small_network(planes=(16, 32, 32, 32))
THIN = replace(WHOLE, inner=(16, 16, 16, 16))


TERMS = ("loss", "features", "scores", "boxes", "mistakes")


@torch.no_grad()
def measure(model, original):
    return {k: v.item() for k, v in imitation_loss(model, original, images()).items()}


def test_who_computes_the_same_loses_nothing():
    original = alive(WHOLE, 1)
    twin = FaceResNet(WHOLE).eval()
    twin.load_state_dict(original.state_dict())
    assert measure(twin, original) == dict.fromkeys(TERMS, 0.0)


def test_predictions_count_where_the_original_sees_faces():
    original = alive(WHOLE, 1)
    with torch.no_grad():
        original.classify.predict.bias += 10.0  # faces everywhere
    other = FaceResNet(WHOLE).eval()
    other.load_state_dict(original.state_dict())
    with torch.no_grad():
        other.classify.predict.bias += 1.0
        other.regress.predict.bias += 0.5
    terms = measure(other, original)
    assert terms["features"] == 0
    assert terms["scores"] == pytest.approx(1.0, rel=1e-4)  # whatever the weights are
    assert terms["boxes"] == pytest.approx(4 * 0.5**2 / 2, rel=1e-4)
    with torch.no_grad():
        original.classify.predict.bias -= 100.0  # and none
    assert measure(other, original)["boxes"] == 0, "no face, no box"


def test_what_is_seen_in_images_without_a_face_is_unlearnt_not_imitated():
    shown = images()
    empty = torch.arange(len(shown)) == 0
    original = alive(WHOLE, 1)
    twin = FaceResNet(WHOLE).eval()
    twin.load_state_dict(original.state_dict())
    terms = imitation_loss(twin, original, shown, empty)
    logits = original(shown[:1])[0].detach()
    assert logits.max() < 1
    mistakes = float((logits.sigmoid() * torch.nn.functional.softplus(logits)).sum())
    assert terms["mistakes"].item() == pytest.approx(mistakes, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(MISTAKES * mistakes, rel=1e-4)
    terms["loss"].backward()
    bias = twin.classify.predict.bias.grad
    assert (bias > 0).all(), "scores sink"
    nothing = imitation_loss(twin, original, shown, torch.ones(len(shown), dtype=torch.bool))
    assert torch.isfinite(nothing["loss"])
    assert nothing["features"] == nothing["scores"] == nothing["boxes"] == 0
    with torch.no_grad():
        original.classify.predict.bias += 10.0
    sure = imitation_loss(twin, original, shown, empty)
    assert sure["mistakes"] == 0, "perhaps a face that the list lacks"


def test_images_without_a_listed_face_are_told_to_the_imitation(tmp_path, monkeypatch):
    told = []

    def loss(model, original, images_, empty=None):
        told.append(None if empty is None else empty.tolist())
        return imitation_loss(model, original, images_, empty)

    monkeypatch.setattr(training, "imitation_loss", loss)
    original = alive(WHOLE, 1)
    for share in (0.0, 0.5):
        recipe = small_recipe(network=WHOLE)
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, empty=share))
        module = training.Training(recipe, tmp_path, original=original)
        monkeypatch.setattr(module, "log", lambda *_, **__: None)
        faces = make_faces([((4, 4, 20, 20), 1, True), ((4, 4, 20, 20), 2, False)])
        module.training_step((images()[:4], faces, None), 0)
    assert told == [None, [True, False, False, True]]


def test_features_count_in_parts_of_what_they_are():
    known = torch.full((2, 3), 4.0)
    assert float(relative_error(known * 1.1, known)) == pytest.approx(0.01, rel=1e-4)
    assert float(relative_error(known, torch.zeros(2, 3))) > 1


def test_only_the_imitator_learns():
    original = alive(WHOLE, 1).requires_grad_(False)
    thin = alive(THIN, 2)
    imitation_loss(thin, original, images())["loss"].backward()
    assert all(parameter.grad is not None for parameter in thin.parameters())


def test_whatever_the_imitation_calls_is_fused(monkeypatch):
    """`torch.nn.Module.compile` reaches what calls the module, but not its methods."""
    called = []

    def compile(module, **_):
        def fused(*args):
            called.append(type(module).__name__)
            return module._call_impl(*args)

        module._compiled_call_impl = fused

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    model, original = FaceResNet(THIN).eval(), FaceResNet(WHOLE).eval()
    fuse(model, original)
    imitation_loss(model, original, images())
    assert sorted(called) == sorted(["ResNet", "FeaturePyramid", "Head", "Head"] * 2)
    called.clear()
    alone = FaceResNet(WHOLE).eval()
    fuse(alone, None)
    alone(images())
    assert called == ["FaceResNet"]


def test_the_original_is_told_from_its_weights(tmp_path):
    file = tmp_path / "original.safetensors"
    original = alive(WHOLE, 1)
    save_weights(original, file)
    read = load_original(file, THIN)
    assert read.network == replace(WHOLE, inner=(16, 32, 32, 32))
    assert not read.training
    for known, got in zip(original(images()), read(images()), strict=True):
        torch.testing.assert_close(got, known)


def test_what_cannot_be_imitated_is_refused_in_one_line(tmp_path):
    file = tmp_path / "original.safetensors"
    save_weights(FaceResNet(replace(WHOLE, planes=(16, 16, 32, 32))), file)
    with pytest.raises(TrainingError, match="cannot be imitated by this recipe's network") as error:
        load_original(file, THIN)
    assert "\n" not in str(error.value)
    file.write_bytes(b"no weights")
    with pytest.raises(TrainingError, match="cannot be imitated"):
        load_original(file, THIN)


def test_a_run_starts_from_the_strongest_filters_comes_closer_and_goes_on(tmp_path):
    photos = [(photo.numpy(), np.array([[4, 4, 40, 40]])) for photo in images()]
    photos = write_split(tmp_path / "data", "train", photos)
    file = tmp_path / "original.safetensors"
    original = alive(WHOLE, 1)
    save_weights(original, file)
    schedule = {"iterations": 6, "epoch": 3, "average": 0.0, "decay": "constant"}
    recipe = replace(small_recipe(network=THIN, **schedule), imitates=str(file))

    def distance(run):
        model = FaceResNet(THIN).eval()
        saved = torch.load(run / LAST, weights_only=True)["state_dict"]
        model.load_state_dict({k.removeprefix("model."): v for k, v in saved.items()})
        return measure(model, original)["loss"]

    here = {"workers": 0, "accelerator": "cpu", "devices": 1}
    short = replace(recipe, schedule=replace(recipe.schedule, iterations=3))
    train(short, photos, [], tmp_path / "run", **here)
    first = distance(tmp_path / "run")
    train(recipe, photos, [], tmp_path / "run", resume=True, **here)
    assert distance(tmp_path / "run") < first
