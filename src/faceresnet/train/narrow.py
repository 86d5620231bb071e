"""Starting a narrow network from a wide one: each layer keeps its strongest filters.

A shallower one leaves out the last blocks of a stage: without what one residual block adds to its
input a network still works nearly as well (Veit et al. 2016, "Residual Networks Behave Like
Ensembles of Relatively Shallow Networks").

A filter's strength is the sum of its weights' magnitudes (Li et al. 2017, "Pruning Filters for
Efficient ConvNets"), here with its normalisation folded in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from faceresnet.train.model import FaceResNet

#: What is made narrower; everything else is taken over as it is, or starts anew.
CUT = ("backbone.", "pyramid.lateral.")
#: Of batch normalisation, as PyTorch has it.
EPSILON = 1e-5


def narrow(state: Mapping[str, Tensor], model: FaceResNet) -> dict[str, Tensor]:
    """Weights for a network from those of one that is as wide and deep or more so.

    The backbone keeps the first blocks of each stage and their strongest filters, and the pyramid's
    lateral convolutions the inputs that are left. Of everything else what has the same name and
    shape is taken over, and the rest stays as it is in `model`, to be learnt anew.

    Args:
        state: weights of the wide network, by name.
        model: the narrow network.

    Returns:
        a state dict of `model`.

    Raises:
        ValueError: `state` is of a backbone that is narrower or shallower, or of another kind.
    """
    own = model.state_dict()
    state = {name: value for name, value in state.items() if not _is_deeper(name, model)}
    _check_same_kind(state, own)
    narrowing = _Narrowing(state, own)
    stem = narrowing.strongest([("backbone.conv1", "backbone.bn1")])
    narrowing.keep("backbone.conv1", "backbone.bn1", stem, None)
    channels = stem
    for stage in range(1, 5):
        blocks = len(getattr(model.backbone, f"layer{stage}"))
        channels = _narrow_stage(narrowing, f"backbone.layer{stage}", blocks, channels)
        level = stage - 1 - model.first_stage
        if level >= 0:
            narrowing.keep_inputs(f"pyramid.lateral.{level}.weight", channels)
    return narrowing.kept


def norm_scale(state: Mapping[str, Tensor], norm: str) -> Tensor:
    """What a normalisation multiplies each channel by."""
    return state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPSILON).sqrt()


def _is_deeper(name: str, model: FaceResNet) -> bool:
    """Whether a weight belongs to a block after the last that the network has in its stage."""
    block = re.match(r"backbone\.(layer\d)\.(\d+)\.", name)
    return block is not None and int(block[2]) >= len(getattr(model.backbone, block[1], ()))


def _check_same_kind(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights whose backbone or lateral convolutions are not called as the network's."""
    ours, theirs = ({name for name in names if name.startswith(CUT)} for names in (own, state))
    if ours != theirs:
        missing, unknown = sorted(ours - theirs), sorted(theirs - ours)
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise ValueError(f"the backbone is of another kind, or shallower: {what}")


def _narrow_stage(narrowing: _Narrowing, stage: str, blocks: int, before: Tensor) -> Tensor:
    """Narrow the blocks of a stage; `before` are the channels that reach it, returned those after.

    All blocks add to the same channels, so their last convolutions choose together.
    """
    names = [f"{stage}.{block}" for block in range(blocks)]
    convolutions = [n for n in (1, 2, 3) if f"{names[0]}.conv{n}.weight" in narrowing.state]
    last = convolutions[-1]
    adding = [(f"{name}.conv{last}", f"{name}.bn{last}") for name in names]
    projection = f"{names[0]}.downsample.0", f"{names[0]}.downsample.1"
    if f"{projection[0]}.weight" in narrowing.state:
        after = narrowing.strongest([*adding, projection])
        narrowing.keep(*projection, after, before)
    else:  # what comes in is added as it is
        after = before
    for name in names:
        inner = before if name == names[0] else after
        for n in convolutions:
            layer = f"{name}.conv{n}", f"{name}.bn{n}"
            outgoing = after if n == last else narrowing.strongest([layer])
            narrowing.keep(*layer, outgoing, inner)
            inner = outgoing
    return after


class _Narrowing:
    """The weights that come, the shapes that are wanted, and the weights that are kept."""

    def __init__(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        self.state, self._own = state, own
        self.kept = {
            name: state[name] if name in state and state[name].shape == value.shape else value
            for name, value in own.items()
        }

    def strongest(self, layers: Sequence[tuple[str, str]]) -> Tensor:
        """Indices, ascending, of the strongest filters of convolutions with their normalisations.

        Several layers add up: they choose the same filters.
        """
        wanted = len(self._own[f"{layers[0][0]}.weight"])
        strength = torch.stack([self._strength(*layer) for layer in layers]).sum(0)
        if len(strength) < wanted:
            raise ValueError(f"{layers[0][0]} has {len(strength)} filters, {wanted} are wanted")
        return strength.topk(wanted).indices.sort().values

    def _strength(self, convolution: str, norm: str) -> Tensor:
        return norm_scale(self.state, norm).abs() * self.state[f"{convolution}.weight"].abs().sum(
            dim=(1, 2, 3)
        )

    def keep(self, convolution: str, norm: str, out: Tensor, into: Tensor | None) -> None:
        """Keep the filters `out` of a convolution and its normalisation, fed by `into`."""
        weight = self.state[f"{convolution}.weight"][out]
        self.kept[f"{convolution}.weight"] = weight if into is None else weight[:, into]
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.kept[f"{norm}.{part}"] = self.state[f"{norm}.{part}"][out]

    def keep_inputs(self, name: str, channels: Tensor) -> None:
        """Keep a convolution's weights for these inputs, if it has as many filters as wanted."""
        if len(self.state[name]) == len(self._own[name]):
            self.kept[name] = self.state[name][:, channels]
