"""A run folder: what lies where, and what can be read back from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from faceresnet.atomic import replacing
from faceresnet.errors import TrainingError
from faceresnet.spec import ModelSpec
from faceresnet.train import recipes
from faceresnet.train.backbone import first_line, load_imagenet, load_state
from faceresnet.train.grow import grow
from faceresnet.train.model import FaceResNet
from faceresnet.train.narrow import narrow
from faceresnet.train.recipes import Recipe
from faceresnet.train.widen import widen

RECIPE_FILE = "recipe.json"
JOURNAL_FILE = "metrics.jsonl"
LAST = Path("checkpoints/last.ckpt")
BEST = Path("checkpoints/best.ckpt")
#: Files of a whole network's weights; others are torchvision's, of a backbone alone.
WHOLE = (".ckpt", ".safetensors")


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        TrainingError: the folder is no run.
    """
    try:
        return recipes.from_json(json.loads((folder / RECIPE_FILE).read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(
            f"{folder} is not a run folder: {RECIPE_FILE} cannot be read ({error})"
        ) from error


#: Ways to make weights for a network from those of another, and what that other one is.
RESHAPINGS = {
    "narrow": (narrow, "a wider"),
    "widen": (widen, "a narrower"),
    "grow": (grow, "a narrower, basic-block"),
}


def load_weights(model: FaceResNet, file: Path, *, reshape: str | None = None) -> None:
    """Start from weights: a run's checkpoint, a shipped ``.safetensors``, or torchvision's ResNet.

    Args:
        model: what is to start.
        file: the weights.
        reshape: ``narrow`` or ``widen`` weights of another width of the same kind, or ``grow`` them
            into a network of bottlenecks (`RESHAPINGS`).

    Raises:
        TrainingError: the file holds none of these, or of another network.
    """
    if file.suffix not in WHOLE:
        if reshape:
            raise TrainingError(f"to {reshape} takes a checkpoint or .safetensors, not {file}")
        load_imagenet(model.backbone, file)
        return
    fit, width = RESHAPINGS[reshape] if reshape else (None, "the same")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            saved = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            state = {name.removeprefix("model."): value for name, value in saved.items()}
        load_state(model, fit(state, model) if fit else state)
    except Exception as error:
        raise TrainingError(
            f"{file} does not fit this recipe's network: {first_line(error)}. "
            f"Expected a checkpoint or .safetensors of {width} network."
        ) from error


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
        recipe=recipe.name,
    )
    return replace(spec, **changes)


def write_json(file: Path, value: Any) -> None:
    """Write JSON atomically."""
    with replacing(file) as partial:
        partial.write_text(json.dumps(value, indent=1))
