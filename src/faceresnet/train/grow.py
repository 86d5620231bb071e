"""Starting a network of bottlenecks from one of basic blocks: it computes the same in other blocks.

Net2Net (Chen et al. 2016) for networks of different kinds. Two bottlenecks do what one basic block
does: the first computes its hidden channels into spare channels of the stream, the second what it
adds to its input. A rectifier stands between a bottleneck's 3×3 convolution and its last one, so
what may be negative passes it as its positive and its negative part.

All other weights are new and random; the planted channels do not read from them yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from faceresnet.train.model import FaceResNet
from faceresnet.train.narrow import EPSILON, norm_scale

#: Variance that marks a planted channel of a normalisation, for `settle`; new channels have 1.
PLANTED = 0.0
NORM = ("weight", "bias", "running_mean", "running_var")


def grow(state: Mapping[str, Tensor], model: FaceResNet) -> dict[str, Tensor]:
    """Weights for a network of bottlenecks that computes what one of basic blocks does.

    Of a stage that has not twice as many bottlenecks as there were basic blocks the last of these
    are left out. A level at stride 4 that there was not has the next one's features, enlarged, and
    its normalisations, until it learns.

    Args:
        state: weights of the network of basic blocks, without max pooling, by name.
        model: the network of bottlenecks, as it was initialised.

    Returns:
        a state dict of `model`, for `settle`.

    Raises:
        ValueError: `model` is too narrow, or one of the two is of a kind that is not known.
    """
    _check_kind(state, model)
    growing = _Growing(state, model)
    filters, biases = growing.folded("backbone.conv1")
    growing.plant("backbone.conv1", 0, filters, biases)
    channels = len(filters)
    finer = 4 - model.first_stage - _count(state, "pyramid.lateral")
    for stage in range(4):
        channels = _grow_stage(growing, f"backbone.layer{stage + 1}", channels)
        level = stage - model.first_stage
        if level >= 0:
            _grow_lateral(growing, level, level - finer)
    for head in ("classify", "regress"):
        if getattr(model, head) is not None:
            _grow_head(growing, head, len(model.network.levels), finer)
            _grow_predictor(growing, head, model.network.anchors_per_cell)
    return growing.grown


def _check_kind(state: Mapping[str, Tensor], model: FaceResNet) -> None:
    """Refuse what the blocks cannot be planted in, or taken from.

    Raises:
        ValueError: says what.
    """
    network = model.network
    if network.block != "bottleneck" or network.max_pool:
        raise ValueError("only bottlenecks without max pooling can be grown into")
    if network.head_block != "conv" or network.smooth or len(model.pyramid.extra):
        raise ValueError("only heads of convolutions, without smoothing, down to stride 32, fit")
    own = set(model.state_dict())
    for name in state:
        # Blocks beyond those of the network are left out, so only their kind is asked for.
        kind = re.sub(r"(layer\d)\.\d+", r"\1.0", name)
        if "conv3" in name or kind not in own:
            raise ValueError(f"{name} is of another kind of network")


def _grow_stage(growing: _Growing, stage: str, before: int) -> int:
    """Plant a stage's basic blocks.

    The stream's channels are, `width` of each: what there was, the first block's hidden ones, the
    negative part of the shortcut, the second block's hidden ones, the third's and so on.

    Args:
        growing: the weights.
        stage: its name.
        before: channels that reach it, the first of those there are.

    Returns:
        how many leave it, again the first.

    Raises:
        ValueError: there is no room for one basic block.
    """
    bottlenecks = _count(growing.grown, stage)
    blocks = min(_count(growing.state, stage), bottlenecks // 2)
    if not blocks:
        raise ValueError(f"{stage} has {bottlenecks} bottleneck, 2 are needed")
    width, inner = growing.state[f"{stage}.0.conv2.weight"].shape[:2]
    same, within = _pass_on(width), _pass_on(inner)
    negative, end = 2 * width, (2 + blocks) * width
    hidden = [width, *range(3 * width, end, width)]
    for block in range(blocks):
        name, first, second = (f"{stage}.{n}" for n in (block, 2 * block, 2 * block + 1))
        growing.plant(f"{first}.conv1", 0, _pass_on(before if block == 0 else width))
        growing.plant(f"{first}.conv2", 0, *growing.folded(f"{name}.conv1"))
        growing.silence(f"{first}.conv3", 0, width)
        growing.silence(f"{first}.conv3", hidden[block], end)  # what comes later stays 0
        growing.plant(f"{first}.conv3", hidden[block], within)

        filters, biases = growing.folded(f"{name}.conv2")
        growing.plant(f"{second}.conv1", 0, within, taken=hidden[block])
        growing.plant(f"{second}.conv2", 0, filters, biases)
        growing.plant(f"{second}.conv2", width, -filters, -biases)
        if block == 0:
            _grow_shortcut(growing, f"{stage}.0.downsample.0", negative, end)
            growing.plant(f"{second}.conv1", width, same, taken=negative)
            growing.add(f"{second}.conv2", 0, -same, taken=width)
            growing.add(f"{second}.conv2", width, same, taken=width)
        growing.plant(f"{second}.conv3", 0, same)
        growing.add(f"{second}.conv3", 0, -same, taken=width)
        if block + 1 < blocks:
            growing.silence(f"{second}.conv3", hidden[block + 1], end)
    for spare in range(2 * blocks, bottlenecks):
        growing.grown[f"{stage}.{spare}.bn3.weight"].zero_()  # it adds nothing yet
    return width


def _grow_shortcut(growing: _Growing, projection: str, negative: int, end: int) -> None:
    """Plant the projection of a stage's first block: its positive and its negative part."""
    filters, biases = growing.folded(projection)
    growing.silence(projection, 0, end)
    growing.plant(projection, 0, filters, biases)
    growing.plant(projection, negative, -filters, -biases)


def _grow_lateral(growing: _Growing, level: int, known: int) -> None:
    """Plant a level's lateral convolution; it takes nothing yet where none is `known`."""
    name, given = f"pyramid.lateral.{level}", f"pyramid.lateral.{known}"
    width = len(growing.state["pyramid.lateral.0.bias"])
    growing.clear(name, 0, width)
    growing.grown[f"{name}.bias"][:width] = 0
    if known >= 0:
        growing.add(name, 0, growing.state[f"{given}.weight"])
        growing.grown[f"{name}.bias"][:width] = growing.state[f"{given}.bias"]


def _grow_head(growing: _Growing, head: str, levels: int, finer: int) -> None:
    """Plant a head's blocks, from those of the shared one where there was no other.

    Raises:
        ValueError: there were none.
    """
    state, source = growing.state, growing.source_of(head)
    width, known = state[f"{source}.predict.weight"].shape[1], _count(state, f"{source}.blocks")
    if not known:
        raise ValueError(f"{source} has no blocks")
    for block in range(_count(growing.grown, f"{head}.blocks")):
        name, given = f"{head}.blocks.{block}", f"{source}.blocks.{block}"
        growing.clear(f"{name}.conv", 0, width)
        growing.add(
            f"{name}.conv", 0, state[f"{given}.conv.weight"] if block < known else _pass_on(width)
        )
        for level in range(levels):
            scale, shift = (
                growing.affine(f"{given}.norm.norms.{max(0, level - finer)}")
                if block < known
                else (1.0, 0.0)
            )
            growing.plant_norm(f"{name}.norm.norms.{level}", 0, width, shift, scale)


def _grow_predictor(growing: _Growing, head: str, anchors: int) -> None:
    """Plant a head's last convolution, from that of the shared one where there was no other.

    Raises:
        ValueError: it was for another number of anchors.
    """
    state, source, name = growing.state, growing.source_of(head), f"{head}.predict"
    weight, bias = state[f"{source}.predict.weight"], state[f"{source}.predict.bias"]
    wanted = len(growing.grown[f"{name}.bias"])
    rows = torch.arange(len(bias))
    if "regress.predict.weight" not in state and wanted < 5 * anchors:  # a score, then a box
        rows = rows[(rows % 5 == 0) == (head == "classify")]
    if len(rows) != wanted:
        raise ValueError(f"{source} predicts {len(bias)} numbers a place, for other anchors")
    growing.clear(name, 0, wanted)
    growing.add(name, 0, weight[rows])
    growing.grown[f"{name}.bias"].copy_(bias[rows])


def _pass_on(channels: int) -> Tensor:
    """1×1 filters that give what they get."""
    return torch.eye(channels)[:, :, None, None]


def _count(state: Mapping[str, Tensor], parent: str) -> int:
    """Modules that are numbered below this one."""
    start = f"{parent}."
    return len({n[len(start) :].split(".")[0] for n in state if n.startswith(start)})


def _norm_of(convolution: str) -> str:
    """The normalisation that follows one of a backbone's convolutions."""
    parent, _, last = convolution.rpartition(".")
    return f"{parent}.1" if last == "0" else f"{parent}.{last.replace('conv', 'bn')}"


class _Growing:
    """The weights that come, and those of the network that they are planted in."""

    def __init__(self, state: Mapping[str, Tensor], model: FaceResNet) -> None:
        self.state = {name: value.float() for name, value in state.items()}
        self.grown = {name: value.clone() for name, value in model.state_dict().items()}

    def source_of(self, head: str) -> str:
        """The head that it comes from."""
        return head if f"{head}.predict.weight" in self.state else "classify"

    def affine(self, norm: str) -> tuple[Tensor, Tensor]:
        """What a normalisation multiplies by and then adds."""
        scale = norm_scale(self.state, norm)
        return scale, self.state[f"{norm}.bias"] - self.state[f"{norm}.running_mean"] * scale

    def folded(self, convolution: str) -> tuple[Tensor, Tensor]:
        """Filters and biases that do what a convolution and its normalisation did."""
        scale, shift = self.affine(_norm_of(convolution))
        return self.state[f"{convolution}.weight"] * scale[:, None, None, None], shift

    def plant(
        self,
        convolution: str,
        start: int,
        filters: Tensor,
        biases: Tensor | float = 0.0,
        taken: int = 0,
    ) -> None:
        """Set filters from `start` on, which take nothing but this, and what is added to them.

        Args:
            convolution: of the backbone.
            start: the first filter.
            filters: (filters, inputs, k, k); smaller ones than there are lie in the middle.
            biases: for each.
            taken: the first input.

        Raises:
            ValueError: the convolution has fewer filters or inputs, or smaller ones.
        """
        self.clear(convolution, start, start + len(filters))
        self.add(convolution, start, filters, taken)
        self.plant_norm(_norm_of(convolution), start, start + len(filters), biases)

    def silence(self, convolution: str, start: int, end: int) -> None:
        """Let some of the backbone's filters take nothing."""
        self.clear(convolution, start, end)
        self.plant_norm(_norm_of(convolution), start, end)

    def plant_norm(
        self,
        norm: str,
        start: int,
        end: int,
        shift: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
    ) -> None:
        """Let channels of a normalisation be multiplied and added to, whatever the batch is."""
        values = (scale * EPSILON**0.5, shift, 0.0, PLANTED)
        for part, value in zip(NORM, values, strict=True):
            self.grown[f"{norm}.{part}"][start:end] = value

    def clear(self, convolution: str, start: int, end: int) -> None:
        """Set filters to 0.

        Raises:
            ValueError: there are fewer.
        """
        filters = self.grown[f"{convolution}.weight"]
        if len(filters) < end:
            raise ValueError(f"{convolution} has {len(filters)} filters, {end} are needed")
        filters[start:end] = 0

    def add(self, convolution: str, start: int, filters: Tensor, taken: int = 0) -> None:
        """Add to filters (`plant`).

        Raises:
            ValueError: there are fewer or smaller ones.
        """
        target = self.grown[f"{convolution}.weight"]
        rows, inputs, height, width = filters.shape
        y, x = (target.shape[2] - height) // 2, (target.shape[3] - width) // 2
        room = target[start : start + rows, taken : taken + inputs, y : y + height, x : x + width]
        if min(x, y) < 0 or room.shape != filters.shape:
            shape = tuple(filters.shape)
            raise ValueError(f"{convolution} has no room for weights of shape {shape}")
        room += filters


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
        planted = variance == PLANTED
        scale = norm.weight / norm.eps**0.5
        mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        variance.copy_(inputs[0].var(dim=(0, 2, 3), correction=0))
        weight, bias = scale * (variance + norm.eps).sqrt(), norm.bias + mean * scale
        norm.weight.copy_(torch.where(planted, weight, norm.weight))
        norm.bias.copy_(torch.where(planted, bias, norm.bias))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(expect) for norm in norms]
    training = model.training
    model.eval().forward(images)  # not model(images), which may be compiled
    model.train(training)
    for hook in hooks:
        hook.remove()
