"""Starting a network of bottlenecks from one of basic blocks: it computes the same in other blocks.

Net2Net (Chen et al. 2016) for networks of different kinds. Two bottlenecks do what one basic block
does: the first computes its hidden channels into spare channels of the stream, the second what it
adds to its input. A rectifier stands between a bottleneck's 3×3 convolution and its last one, so
what may be negative passes it as its positive and its negative part.

Everything else is new: random weights that what there was takes nothing from yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from faceresnet.train.model import FaceResNet
from faceresnet.train.narrow import EPSILON

#: What filters take: the first of the inputs they take it from, and weights (rows, inputs, k, k).
Taken = tuple[int, Tensor]
STATISTICS = ("running_mean", "running_var")


def grow(state: Mapping[str, Tensor], model: FaceResNet) -> dict[str, Tensor]:
    """Weights for a network of bottlenecks that computes what one of basic blocks does.

    Of a stage that has not twice as many bottlenecks as there were basic blocks the last of these
    are left out. Finer levels than there were come on top.

    Args:
        state: weights of the network of basic blocks, without max pooling, by name.
        model: the network of bottlenecks, as it was initialised.

    Returns:
        a state dict of `model`, for `settle`.

    Raises:
        ValueError: `model` is too narrow, or one of the two is of a kind that is not known.
    """
    _check_kind(state, model)
    growing = _Growing(_with_finer_levels(state, model), model)
    filters, biases = growing.folded("backbone.conv1")
    growing.plant("backbone.conv1", 0, [(0, filters)], biases)
    channels = len(filters)
    for stage in range(4):
        channels = _grow_stage(growing, f"backbone.layer{stage + 1}", channels)
        if stage >= model.first_stage:
            growing.copy(f"pyramid.lateral.{stage - model.first_stage}")
    _grow_head(growing, "classify", model)
    if model.regress is not None:
        _grow_head(growing, "regress", model)
    return growing.grown


def _with_finer_levels(state: Mapping[str, Tensor], model: FaceResNet) -> dict[str, Tensor]:
    """Weights for as many levels of the backbone as a network has, finer ones put first.

    A new level has the next one's features, enlarged, and its normalisations, until it learns.
    """
    known = {name: int(name.split(".")[2]) for name in state if name.startswith("pyramid.lateral.")}
    finer = 4 - model.first_stage - len(set(known.values()))
    if not known or finer <= 0:
        return dict(state)
    moved = {}
    for name, value in state.items():
        found = re.match(r"(pyramid\.lateral\.|pyramid\.output\.|.*\.norms\.)(\d+)(\..*)", name)
        if found is None:
            moved[name] = value
            continue
        before, level, after = found[1], int(found[2]), found[3]
        moved[f"{before}{level + finer}{after}"] = value
        if level > 0:
            continue
        for new in range(finer):
            start = value
            if name.startswith("pyramid.lateral."):
                stage = model.backbone.channels[model.first_stage + new]
                shape = (len(value), stage, 1, 1) if value.ndim > 1 else value.shape
                start = torch.zeros(shape)
            moved[f"{before}{new}{after}"] = start
    return moved


def _check_kind(state: Mapping[str, Tensor], model: FaceResNet) -> None:
    """Refuse what the blocks cannot be planted in, or taken from.

    Raises:
        ValueError: says what.
    """
    network = model.network
    if network.block != "bottleneck" or network.max_pool:
        raise ValueError("only bottlenecks without max pooling can be grown into")
    if network.head_block != "conv" or network.smooth:
        raise ValueError("only heads of convolutions, without smoothing, can be grown into")
    own = set(model.state_dict())
    for name in state:
        # Blocks beyond those of the network are left out, so only their kind is asked for.
        kind = re.sub(r"(layer\d)\.\d+", r"\1.0", name)
        if "conv3" in name or kind not in own:
            raise ValueError(f"{name} is of another kind of network")


def _grow_stage(growing: _Growing, stage: str, before: int) -> int:
    """Plant a stage's basic blocks.

    Args:
        growing: the weights.
        stage: its name.
        before: channels that reach it, the first of those there are.

    Returns:
        how many leave it, again the first.
    """
    bottlenecks = growing.count(growing.grown, stage)
    blocks = min(growing.count(growing.state, stage), bottlenecks // 2)
    width = len(growing.state[f"{stage}.0.conv2.weight"])
    same = _pass_on(width)
    # The stream has the channels that there were, the first block's hidden ones, the negative part
    # of the shortcut, and the other blocks' hidden ones.
    negative, end = 2 * width, (2 + blocks) * width
    hidden = [width, *range(3 * width, end, width)]
    for block in range(blocks):
        name, first, second = (f"{stage}.{n}" for n in (block, 2 * block, 2 * block + 1))
        into = before if block == 0 else width
        growing.plant(f"{first}.conv1", 0, [(0, _pass_on(into))])
        filters, biases = growing.folded(f"{name}.conv1")
        growing.plant(f"{first}.conv2", 0, [(0, filters)], biases)
        growing.silence(f"{first}.conv3", 0, width)
        growing.silence(f"{first}.conv3", hidden[block], end)  # what comes later stays 0
        growing.plant(f"{first}.conv3", hidden[block], [(0, same)])

        filters, biases = growing.folded(f"{name}.conv2")
        added = [(0, filters)]
        growing.plant(f"{second}.conv1", 0, [(hidden[block], same)])
        if block == 0:
            _grow_shortcut(growing, f"{stage}.0.downsample.0", negative, end)
            growing.plant(f"{second}.conv1", width, [(negative, same)])
            added.append((width, -same))
        growing.plant(f"{second}.conv2", 0, added, biases)
        growing.plant(f"{second}.conv2", width, [(at, -taken) for at, taken in added], -biases)
        growing.plant(f"{second}.conv3", 0, [(0, same), (width, -same)])
        if block + 1 < blocks:
            growing.silence(f"{second}.conv3", hidden[block + 1], end)
    for spare in range(2 * blocks, bottlenecks):
        growing.grown[f"{stage}.{spare}.bn3.weight"].zero_()  # it adds nothing yet
    return width


def _grow_shortcut(growing: _Growing, projection: str, negative: int, end: int) -> None:
    """Plant the projection of a stage's first block: its positive and its negative part."""
    filters, biases = growing.folded(projection)
    growing.silence(projection, 0, end)
    growing.plant(projection, 0, [(0, filters)], biases)
    growing.plant(projection, negative, [(0, -filters)], -biases)


def _grow_head(growing: _Growing, head: str, model: FaceResNet) -> None:
    """Plant a head, from the one that was shared where there was no other.

    Raises:
        ValueError: it predicts something else for each place.
    """
    state, grown = growing.state, growing.grown
    source = head if f"{head}.predict.weight" in state else "classify"
    width = state[f"{source}.predict.weight"].shape[1]
    known = growing.count(state, f"{source}.blocks")
    for block in range(growing.count(grown, f"{head}.blocks")):
        name, given = f"{head}.blocks.{block}", f"{source}.blocks.{block}"
        filters = state[f"{given}.conv.weight"] if block < known else _pass_on(width)
        for level in range(len(model.network.levels)):
            norm = f"norm.norms.{level}"
            growing.plant(f"{name}.conv", 0, [(0, filters)], norm=f"{name}.{norm}")
            for part in ("weight", "bias", *STATISTICS) if block < known else ():
                grown[f"{name}.{norm}.{part}"][:width] = state[f"{given}.{norm}.{part}"]
    anchors = model.network.anchors_per_cell
    wanted, given_outputs = len(grown[f"{head}.predict.bias"]), state[f"{source}.predict.bias"]
    each = len(given_outputs) // anchors
    rows = torch.arange(len(given_outputs))
    if wanted < len(given_outputs):  # the score comes first
        rows = rows[(rows % each == 0) == (head == "classify")]
    if len(rows) != wanted:
        raise ValueError(f"{source} predicts {len(given_outputs)} numbers a place, not {wanted}")
    grown[f"{head}.predict.weight"].zero_()
    grown[f"{head}.predict.weight"][:, :width] = state[f"{source}.predict.weight"][rows]
    grown[f"{head}.predict.bias"].copy_(given_outputs[rows])


def _pass_on(channels: int) -> Tensor:
    """1×1 filters that give what they get."""
    return torch.eye(channels)[:, :, None, None]


class _Growing:
    """The weights that come, and those of the network that they are planted in."""

    def __init__(self, state: Mapping[str, Tensor], model: FaceResNet) -> None:
        self.state = {name: value.float() for name, value in state.items()}
        self.grown = {name: value.clone() for name, value in model.state_dict().items()}

    @staticmethod
    def count(state: Mapping[str, Tensor], parent: str) -> int:
        """Modules that are numbered below this one."""
        start = f"{parent}."
        return len({n[len(start) :].split(".")[0] for n in state if n.startswith(start)})

    def folded(self, convolution: str) -> tuple[Tensor, Tensor]:
        """Filters and biases that do what a convolution and its normalisation did."""
        norm = _norm_of(convolution)
        weight, bias, mean, variance = (
            self.state[f"{norm}.{part}"] for part in ("weight", "bias", *STATISTICS)
        )
        scale = weight / (variance + EPSILON).sqrt()
        return self.state[f"{convolution}.weight"] * scale[:, None, None, None], bias - mean * scale

    def silence(self, convolution: str, start: int, end: int, norm: str = "") -> None:
        """Let filters take nothing, and their normalisation pass on what it gets.

        Its variance of 0 tells `settle` that it is not new.

        Raises:
            ValueError: there are fewer filters.
        """
        filters = self.grown[f"{convolution}.weight"]
        if len(filters) < end:
            raise ValueError(f"{convolution} has {len(filters)} filters, {end} are needed")
        filters[start:end] = 0
        norm = norm or _norm_of(convolution)
        self.grown[f"{norm}.weight"][start:end] = EPSILON**0.5
        for part in ("bias", *STATISTICS):
            self.grown[f"{norm}.{part}"][start:end] = 0

    def plant(
        self,
        convolution: str,
        start: int,
        taken: Sequence[Taken],
        biases: Tensor | None = None,
        norm: str = "",
    ) -> None:
        """Set filters, from `start` on, which take nothing but this; smaller ones in the middle.

        Raises:
            ValueError: the convolution has fewer filters or inputs, or smaller ones.
        """
        end = start + len(taken[0][1])
        self.silence(convolution, start, end, norm)
        for first, weights in taken:
            _add(self.grown[f"{convolution}.weight"], start, first, weights, convolution)
        if biases is not None:
            self.grown[f"{norm or _norm_of(convolution)}.bias"][start:end] = biases

    def copy(self, convolution: str) -> None:
        """Set the first filters and biases of a convolution that no normalisation follows."""
        weights, biases = self.state[f"{convolution}.weight"], self.state[f"{convolution}.bias"]
        self.grown[f"{convolution}.weight"][: len(biases)] = 0
        _add(self.grown[f"{convolution}.weight"], 0, 0, weights, convolution)
        self.grown[f"{convolution}.bias"][: len(biases)] = biases


def _add(filters: Tensor, start: int, first: int, weights: Tensor, name: str) -> None:
    """Add weights to filters, in place, from these rows and inputs on."""
    rows, inputs, height, width = weights.shape
    y, x = (filters.shape[2] - height) // 2, (filters.shape[3] - width) // 2
    room = filters[start : start + rows, first : first + inputs, y : y + height, x : x + width]
    if min(x, y) < 0 or room.shape != weights.shape:
        raise ValueError(f"{name} has no room for weights of shape {tuple(weights.shape)}")
    room += weights


def _norm_of(convolution: str) -> str:
    """The normalisation that follows one of a backbone's convolutions."""
    parent, _, last = convolution.rpartition(".")
    return f"{parent}.1" if last == "0" else f"{parent}.{last.replace('conv', 'bn')}"


@torch.no_grad()
def settle(model: FaceResNet, images: Tensor) -> None:
    """Let a grown network's normalisations expect what they get; what it computes stays the same.

    In training they take each batch's mean and variance off, so a channel that is to pass as it is
    needs these as its bias and weight. New channels are normalised by them.

    Args:
        model: grown; its normalisations change in place.
        images: (N, H, W, 3) uint8 of the kind that it will be trained on.
    """

    def expect(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        new = (mean == 0) & (variance == 1)
        scale = norm.weight / (variance + norm.eps).sqrt()
        shift = norm.bias - mean * scale
        mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        variance.copy_(inputs[0].var(dim=(0, 2, 3), correction=0))
        norm.weight.copy_(torch.where(new, norm.weight, scale * (variance + norm.eps).sqrt()))
        norm.bias.copy_(torch.where(new, norm.bias, shift + mean * scale))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(expect) for norm in norms]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
