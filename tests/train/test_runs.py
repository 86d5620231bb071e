from __future__ import annotations

import os
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from faceresnet.cli.training import weights_file
from faceresnet.engine import read_spec
from faceresnet.errors import TrainingError
from faceresnet.train import recipes
from faceresnet.train.export import save_weights
from faceresnet.train.model import FaceResNet
from faceresnet.train.runs import load_weights, make_spec, read_recipe, write_json
from faceresnet.weights import SHIPPED
from train.samples import small_network, small_recipe


def test_a_recipe_is_read_back(tmp_path):
    write_json(tmp_path / "recipe.json", asdict(small_recipe()))
    assert read_recipe(tmp_path) == small_recipe()
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


def test_a_model_is_described_by_its_recipe():
    recipe = small_recipe()
    spec = make_spec(recipe, name="mine", threshold=0.3)
    assert (spec.name, spec.recipe, spec.threshold) == ("mine", "small", 0.3)
    assert (spec.levels, spec.delta_scales) == (recipe.network.levels, recipe.network.delta_scales)
    assert spec.size_multiple == 32
    assert make_spec(recipe).name == "small"
    with pytest.raises(TypeError):
        make_spec(recipe, nme="mine")


@pytest.mark.parametrize("content", [None, "{", "{}", "[1]", '{"name": "x", "speed": 3}'])
def test_a_folder_without_a_recipe_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(TrainingError, match="is not a run folder"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("name", "made_by", "file"),
    [
        ("faceresnet-n", "faceresnet-n-negatives", "faceresnet-n.safetensors"),
        ("faceresnet-50", "faceresnet-50-taught", "faceresnet-50-fp16.onnx"),
    ],
)
def test_the_shipped_weights_fit_the_recipe_that_made_them(name, made_by, file):
    recipe = recipes.recipe(made_by)
    assert weights_file(name) == SHIPPED / file
    load_weights(FaceResNet(recipe.network), weights_file(name))
    shipped = read_spec(SHIPPED / f"{name}.onnx")
    assert (shipped.name, shipped.precision, shipped.recipe) == (name, "int8", recipe.name)
    assert shipped.levels == recipe.network.levels
    for measured in ("largest_face", "excess", "nms_iou"):
        assert getattr(shipped, measured) == getattr(recipe, measured)
    assert "non-commercial" in shipped.licence


def test_a_gpu_can_go_on_from_the_shipped_weights_in_a_wider_network():
    large = FaceResNet(recipes.recipe("faceresnet-50").network).eval()
    thin = FaceResNet(recipes.recipe("faceresnet-50-taught").network).eval()
    load_weights(large, weights_file("faceresnet-50"), reshape="widen")
    load_weights(thin, weights_file("faceresnet-50"))
    image = torch.randint(0, 256, (1, 64, 64, 3), generator=torch.manual_seed(1))
    with torch.no_grad():
        for wide, narrow in zip(large(image), thin(image), strict=True):
            assert torch.allclose(wide, narrow, atol=1e-3)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path):
    save_weights(FaceResNet(small_network()), tmp_path / "small.safetensors")
    model = FaceResNet(small_network(pyramid=24))
    with pytest.raises(TrainingError, match="has another shape") as caught:
        load_weights(model, tmp_path / "small.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(TrainingError, match=r"is missing \(and \d+ more\)"):
        load_weights(model, tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".onnx", ".pth"])
@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_files_that_hold_no_weights_are_refused_in_one_line(tmp_path, suffix, content):
    file = tmp_path / f"x{suffix}"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        load_weights(FaceResNet(small_network()), file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


class Dangerous:
    def __reduce__(self):
        return (os.system, ("echo executed > executed",))


def test_checkpoints_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Dangerous()}, "evil.ckpt")
    with pytest.raises(TrainingError):
        load_weights(FaceResNet(small_network()), tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()
