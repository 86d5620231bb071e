"""Starting a narrow network from a wide one: each layer keeps its strongest filters.

A filter's strength is the sum of its weights' magnitudes (Li et al. 2017, "Pruning Filters for
Efficient ConvNets"), here with its normalisation folded in.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from faceresnet.train.model import FaceResNet

Channels = Tensor
"""Indices of the channels that are kept, ascending."""


def narrow(state: Mapping[str, Tensor], model: FaceResNet) -> dict[str, Tensor]:
    """Weights for a network from those of one that is as wide or wider.

    The backbone and the pyramid's lateral convolutions keep their strongest filters; of everything
    else what has the same name and shape is taken over, and the rest stays as it is in `model`, to
    be learnt anew.

    Args:
        state: weights of the wide network, by name.
        model: the narrow network.

    Returns:
        a state dict of `model`.

    Raises:
        ValueError: a part of the backbone is missing in `state`, or narrower there.
    """
    own = model.state_dict()
    kept = {
        name: state[name] if name in state and state[name].shape == value.shape else value
        for name, value in own.items()
    }
    source = _Source(state, own, kept)
    stem = source.strongest([("backbone.conv1", "backbone.bn1")])
    source.take("backbone.conv1", "backbone.bn1", stem, None)
    before = stem
    for stage in range(1, 5):
        blocks = len(getattr(model.backbone, f"layer{stage}"))
        before = _narrow_stage(source, f"backbone.layer{stage}", blocks, before)
        level = stage - 1 - model.first_stage
        if level >= 0:
            lateral = f"pyramid.lateral.{level}.weight"
            if lateral in state and len(state[lateral]) == len(own[lateral]):
                kept[lateral] = state[lateral][:, before]
    return kept


def _narrow_stage(source: _Source, stage: str, blocks: int, before: Channels) -> Channels:
    """Narrow the blocks of a stage; `before` are the channels that reach it, returned those after.

    All blocks add to the same channels, so their last convolutions choose together.
    """
    names = [f"{stage}.{block}" for block in range(blocks)]
    convolutions = [n for n in (1, 2, 3) if f"{names[0]}.conv{n}.weight" in source.own]
    last = convolutions[-1]
    adding = [(f"{name}.conv{last}", f"{name}.bn{last}") for name in names]
    shortcuts = [f"{name}.downsample" for name in names]
    shortcuts = [name for name in shortcuts if f"{name}.0.weight" in source.own]
    adding += [(f"{name}.0", f"{name}.1") for name in shortcuts]
    after = source.strongest(adding)
    for name in names:
        incoming = inner = before if name == names[0] else after
        for n in convolutions:
            layer = f"{name}.conv{n}", f"{name}.bn{n}"
            outgoing = after if n == last else source.strongest([layer])
            source.take(*layer, outgoing, inner)
            inner = outgoing
        if f"{name}.downsample" in shortcuts:
            source.take(f"{name}.downsample.0", f"{name}.downsample.1", after, incoming)
    return after


class _Source:
    """Where weights come from, what shape they must have, and where they go."""

    def __init__(
        self, state: Mapping[str, Tensor], own: Mapping[str, Tensor], kept: dict[str, Tensor]
    ) -> None:
        self.state, self.own, self.kept = state, own, kept

    def strongest(self, layers: list[tuple[str, str]]) -> Channels:
        """The strongest output channels of convolutions with their normalisations, summed up."""
        wanted = len(self.own[f"{layers[0][0]}.weight"])
        strength = torch.stack([self._strength(*layer) for layer in layers]).sum(0)
        if len(strength) < wanted:
            raise ValueError(f"{layers[0][0]} has {len(strength)} filters, {wanted} are wanted")
        return strength.topk(wanted).indices.sort().values

    def _strength(self, convolution: str, norm: str) -> Tensor:
        if f"{convolution}.weight" not in self.state:
            raise ValueError(f"{convolution}.weight is missing")
        weight = self.state[f"{convolution}.weight"]
        scale = self.state[f"{norm}.weight"] / self.state[f"{norm}.running_var"].sqrt()
        return scale.abs() * weight.abs().sum(dim=(1, 2, 3))

    def take(self, convolution: str, norm: str, out: Channels, into: Channels | None) -> None:
        """Keep the channels `out` of a convolution and its normalisation, fed by `into`."""
        weight = self.state[f"{convolution}.weight"][out]
        self.kept[f"{convolution}.weight"] = weight if into is None else weight[:, into]
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.kept[f"{norm}.{part}"] = self.state[f"{norm}.{part}"][out]
