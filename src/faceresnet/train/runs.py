"""A run folder: what lies where, and what can be read back from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from faceresnet.atomic import replacing
from faceresnet.errors import TrainingError
from faceresnet.spec import ModelSpec
from faceresnet.train import settings
from faceresnet.train.backbone import first_line, load_imagenet, load_state
from faceresnet.train.fold import unfold_pixels
from faceresnet.train.grow import grow
from faceresnet.train.model import FaceResNet, Network
from faceresnet.train.narrow import narrow
from faceresnet.train.recipes import Recipe
from faceresnet.train.widen import widen

RECIPE_FILE = "recipe.json"
JOURNAL_FILE = "metrics.jsonl"
LAST = Path("checkpoints/last.ckpt")
BEST = Path("checkpoints/best.ckpt")
#: Files of a whole network's weights; others are torchvision's, of a backbone alone.
WHOLE = (".ckpt", ".safetensors", ".onnx")
#: What follows a weight's name in a .onnx file that has it in float16.
HALF = "_fp16"


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        TrainingError: the folder is no run.
    """
    try:
        return settings.from_json(Recipe, json.loads((folder / RECIPE_FILE).read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(
            f"{folder} is not a run folder, or is one of another version: {RECIPE_FILE} cannot be "
            f"read ({error})"
        ) from error


#: Ways to make weights for a network from those of another, and what that other one is.
RESHAPINGS = {
    "narrow": (narrow, "a wider"),
    "widen": (widen, "a narrower"),
    "grow": (grow, "a narrower, basic-block"),
}


def load_weights(model: FaceResNet, file: Path, *, reshape: str | None = None) -> None:
    """Start from weights: a run's checkpoint, an exported file, or torchvision's ResNet.

    Args:
        model: what is to start.
        file: the weights: ``.ckpt``, ``.safetensors``, ``.onnx`` in fp32 or fp16, or else a state
            dict of torchvision's.
        reshape: ``narrow`` or ``widen`` weights of another width of the same kind, or ``grow`` them
            into a network of bottlenecks (`RESHAPINGS`).

    Raises:
        TrainingError: the file holds none of these, or of another network.
    """
    if file.suffix not in WHOLE:
        if reshape:
            raise TrainingError(
                f"to {reshape} takes a checkpoint, .safetensors or .onnx, not {file}"
            )
        load_imagenet(model.backbone, file)
        return
    fit, width = RESHAPINGS[reshape] if reshape else (None, "the same")
    try:
        state = _read_whole(file)
        load_state(model, fit(state, model) if fit else state)
    except Exception as error:
        raise TrainingError(
            f"{file} does not fit this recipe's network: {first_line(error)}. "
            f"Expected a checkpoint, .safetensors, or fp32 or fp16 .onnx of {width} network."
        ) from error


def load_original(file: Path, network: Network) -> FaceResNet:
    """A trained network that one with thinner blocks may imitate.

    Args:
        file: its weights, as for `load_weights`.
        network: of the thinner one; nothing but `Network.inner` may differ.

    Raises:
        TrainingError: the file holds no weights of such a network.
    """
    try:
        state = _read_whole(file)
        inner = tuple(len(state[f"backbone.layer{stage}.0.conv1.weight"]) for stage in range(1, 5))
        original = FaceResNet(replace(network, inner=inner))
        load_state(original, state)
    except Exception as error:
        raise TrainingError(
            f"{file} cannot be imitated by this recipe's network: {first_line(error)}. Expected "
            "the weights of one that differs in the width inside its blocks alone."
        ) from error
    return original.eval().requires_grad_(False)


def _read_whole(file: Path) -> dict[str, Tensor]:
    """A whole network's weights, by name, from one of the files in `WHOLE`."""
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".onnx":
        return _read_onnx(file)
    saved = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in saved.items()}


def _read_onnx(file: Path) -> dict[str, Tensor]:
    """The weights of a model file, as they were before `export.export` and `export.halve`.

    Raises:
        ValueError: it is in int8, which has lost too much.
    """
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(file)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if ModelSpec.from_metadata(metadata, str(file)).precision == "int8":
        raise ValueError("int8 is for detecting only")
    state = {}
    for weight in proto.graph.initializer:
        if "." in weight.name:  # of a module; others are constants
            values = torch.tensor(numpy_helper.to_array(weight))
            state[weight.name.removesuffix(HALF)] = values.float()
    for name in [name for name in state if name.endswith(".running_mean")]:
        seen = torch.tensor(0)  # batches, which nothing reads but a state dict must have
        state[name.replace("running_mean", "num_batches_tracked")] = seen
    unfold_pixels(state)
    return state


def make_spec(recipe: Recipe, **changes: Any) -> ModelSpec:
    """The specification of a recipe's model."""
    network = recipe.network
    spec = ModelSpec(
        name=recipe.name,
        levels=network.levels,
        delta_scales=network.delta_scales,
        size_multiple=network.size_multiple,
        largest_face=recipe.largest_face,
        excess=recipe.excess,
        nms_iou=recipe.nms_iou,
        recipe=recipe.name,
    )
    return replace(spec, **changes)


def write_json(file: Path, value: Any) -> None:
    """Write JSON atomically."""
    with replacing(file) as partial:
        partial.write_text(json.dumps(value, indent=1))
