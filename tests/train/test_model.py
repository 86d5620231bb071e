from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.anchors import Level, make_anchors
from faceresnet.train import recipes
from faceresnet.train.model import PIXEL_MEAN, PIXEL_STD, FaceResNet
from train.samples import small_network

LEVELS = {name: make().network.levels for name, make in recipes.RECIPES.items()}
LEVELS["three levels"] = small_network().levels
SMALL = {name: FaceResNet(small_network(levels=levels)).eval() for name, levels in LEVELS.items()}
sides = st.integers(1, 7).map(lambda i: 32 * i)


def noise(n, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, height, width, 3), generator=generator, dtype=torch.uint8)


@given(name=st.sampled_from(list(LEVELS)), height=sides, width=sides)
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_one_logit_and_four_deltas_for_each_anchor(name, height, width):
    logits, deltas = SMALL[name](noise(2, height, width))
    anchors = make_anchors(LEVELS[name], (height, width))
    assert logits.shape == (2, len(anchors))
    assert deltas.shape == (2, len(anchors), 4)


class CellNumbers(torch.nn.Module):
    """A pyramid whose features say where they are: level, row and column."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, stages):
        size = (stages[-1].shape[2] * 32, stages[-1].shape[3] * 32)
        levels = []
        for number, level in enumerate(self.network.levels):
            rows, columns = level.grid(size)
            x = torch.zeros(len(stages[-1]), self.network.pyramid, rows, columns)
            x[:, 0] = number
            x[:, 1] = torch.arange(rows)[:, None].float()
            x[:, 2] = torch.arange(columns).float()
            levels.append(x)
        return levels


def reveal(head, outputs, anchors_per_cell):
    """Make output k of anchor a in cell (level, row, column) the number 'level row column a k'."""
    torch.nn.init.zeros_(head.predict.weight)
    with torch.no_grad():
        for channel, factor in enumerate((10**6, 10**4, 10**2)):
            head.predict.weight[:, channel, 1, 1] = factor
        a = torch.arange(anchors_per_cell).repeat_interleave(outputs)
        k = torch.arange(outputs).repeat(anchors_per_cell)
        head.predict.bias.copy_(10 * a + k)


@given(name=st.sampled_from(list(LEVELS)), height=sides, width=sides, shared=st.booleans())
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_the_outputs_are_in_the_order_of_the_anchors(name, height, width, shared):
    network = small_network(levels=LEVELS[name], head_blocks=0, shared_head=shared)
    model = FaceResNet(network).eval()
    model.pyramid = CellNumbers(network)
    reveal(model.classify, 5 if shared else 1, network.anchors_per_cell)
    if not shared:
        reveal(model.regress, 4, network.anchors_per_cell)
    logits, deltas = model(noise(1, height, width))
    # The position that each output says it has is where the anchor of the same index lies.
    said = logits[0].numpy().astype(int)
    number, row, column, a = (
        said // 10**6,
        said // 10**4 % 100,
        said // 10**2 % 100,
        said // 10 % 10,
    )
    stride = np.array([level.stride for level in network.levels])[number]
    h, w = np.array([level.shapes for level in network.levels])[number, a].T
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    there = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    assert np.allclose(there, make_anchors(network.levels, (height, width)), atol=1e-3)
    codes = [[code + shared + k for k in range(4)] for code in said.tolist()]
    assert deltas[0].tolist() == codes


@pytest.mark.parametrize("name", ["three levels", "faceresnet-50"])
def test_an_anchor_looks_at_the_pixels_around_it(name):
    torch.manual_seed(0)
    network = small_network(levels=LEVELS[name][:4], head_blocks=0)
    model = FaceResNet(network).eval()
    size = (256, 320)
    images = noise(1, *size).float().requires_grad_()
    logits, _ = model(images)
    start = 0
    for level in network.levels:
        rows, columns = level.grid(size)
        row, column = rows // 2, columns // 4
        index = start + (row * columns + column) * network.anchors_per_cell
        (gradient,) = torch.autograd.grad(logits[0, index], images, retain_graph=True)
        weight = gradient[0].square().sum(-1)
        y = (weight.sum(1) @ (torch.arange(size[0]) + 0.5)) / weight.sum()
        x = (weight.sum(0) @ (torch.arange(size[1]) + 0.5)) / weight.sum()
        anchor = make_anchors(network.levels, size)[index]
        centre = (anchor[:2] + anchor[2:]) / 2
        reach = 1.25 * max(level.stride, 16)
        assert abs(x.item() - centre[0]) < reach, (level, x, centre)
        assert abs(y.item() - centre[1]) < reach, (level, y, centre)
        start += rows * columns * network.anchors_per_cell


@torch.no_grad()
def test_pixels_are_normalised_by_the_network():
    model = SMALL["three levels"]
    seen = []
    hook = model.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    images = noise(1, 32, 64)
    as_bytes, as_floats = model(images)[0], model(images.float())[0]
    hook.remove()
    expected = (images.numpy().astype(np.float64) - PIXEL_MEAN) / PIXEL_STD
    assert np.abs(seen[0].permute(0, 2, 3, 1).numpy() - expected).max() < 1e-5
    assert torch.equal(as_bytes, as_floats)


@torch.no_grad()
def test_levels_are_smoothed_or_left_as_they_are_merged():
    for smooth in (True, False):
        pyramid = FaceResNet(small_network(smooth=smooth)).eval().pyramid
        assert any(name.startswith("output.") for name in pyramid.state_dict()) == smooth
        stages = [torch.rand(1, c, 8 >> i, 8 >> i) for i, c in enumerate((16, 16, 32))]
        merged = pyramid.lateral[2](stages[2])
        assert torch.equal(pyramid(stages)[2], merged) != smooth
        above = merged.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert torch.equal(pyramid(stages)[1], pyramid.lateral[1](stages[1]) + above) != smooth


@torch.no_grad()
def test_an_image_has_the_same_outputs_alone_and_in_a_batch():
    model = SMALL["faceresnet-n"]
    images = noise(3, 64, 96)
    alone = zip(*(model(images[i : i + 1]) for i in range(3)), strict=True)
    for whole, parts in zip(model(images), alone, strict=True):
        assert torch.allclose(whole, torch.cat(parts), atol=1e-4)


def same_levels(before, after, counts):
    """Whether each level's part of (N, R) logits is unchanged."""
    parts = zip(before.split(counts, 1), after.split(counts, 1), strict=True)
    return [torch.equal(a, b) for a, b in parts]


@torch.no_grad()
@pytest.mark.parametrize("head_block", ["conv", "bottleneck"])
def test_each_level_has_its_own_normalisation_and_shares_the_convolutions(head_block):
    model = FaceResNet(small_network(head_block=head_block)).eval()
    for norm in model.modules():  # the last ones of bottlenecks start at 0 and would hide the rest
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(norm.weight)
    images = noise(1, 96, 96)
    before = model(images)[0]
    levels = [len(make_anchors((level,), (96, 96))) for level in model.network.levels]
    norms = [m for m in model.classify.modules() if type(m).__name__ == "LevelNorm"]
    assert all(len(norm.norms) == 3 for norm in norms)
    norms[-1].norms[1].bias += 1
    own = same_levels(before, model(images)[0], levels)
    assert own == [True, False, True]
    convolution = next(m for m in model.classify.blocks.modules() if isinstance(m, torch.nn.Conv2d))
    before = model(images)[0]
    convolution.weight *= 2
    own = same_levels(before, model(images)[0], levels)
    assert own == [False, False, False]


def test_levels_of_a_batch_are_normalised_apart():
    model = FaceResNet(small_network()).train()
    model(noise(2, 96, 96))
    norm = model.classify.blocks[0].norm
    means = [n.running_mean for n in norm.norms]
    assert all(int(n.num_batches_tracked) == 1 for n in norm.norms)
    assert not torch.allclose(means[0], means[1])


@torch.no_grad()
@pytest.mark.parametrize("prior", [0.01, 0.2, None])
def test_the_untrained_classifier_gives_the_prior_everywhere(prior):
    torch.manual_seed(0)
    model = FaceResNet(small_network(prior=prior)).eval()
    expected = 0.5 if prior is None else prior
    scores = model(noise(1, 96, 96))[0].sigmoid()
    assert scores.mean().item() == pytest.approx(expected, rel=0.25)
    torch.nn.init.zeros_(model.classify.predict.weight)
    assert model(noise(1, 96, 96))[0].sigmoid().numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"levels": ()}, "at least one level"),
        ({"levels": (Level(16, (8.0,)), Level(32, (16.0,)))}, "double from 4 or 8"),
        ({"levels": (Level(8, (8.0,)), Level(32, (16.0,)))}, "double from 4 or 8"),
        ({"levels": (Level(8, (8.0,)), Level(16, (16.0,)))}, "reach stride 32"),
        (
            {"levels": (Level(8, (8.0, 9.0)), Level(16, (16.0,)), Level(32, (32.0,)))},
            "same number of anchors",
        ),
        ({"head_block": "dense"}, "head_block must be"),
        ({"head_block": "bottleneck", "pyramid": 18}, "4 · n channels"),
        ({"block": "dense"}, "block must be one of basic, bottleneck"),
        ({"depths": (1, 1, 1)}, "four positive numbers"),
        ({"planes": (8, 8, 8, 0)}, "four positive numbers"),
        ({"stem": -1}, "stem and pyramid must be at least 1"),
        ({"pyramid": 0}, "stem and pyramid must be at least 1"),
        ({"head_blocks": -1}, "head_blocks at least 0"),
        ({"stem_kernel": 2}, "stem_kernel must be odd and positive"),
        ({"inner": (16, 16, 16)}, "inner needs four positive numbers or none"),
        ({"prior": 1.0}, "prior must lie"),
        ({"delta_scales": (0.1, 0.0)}, "delta_scales must be positive"),
    ],
)
def test_impossible_networks_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        small_network(**change)


@pytest.mark.parametrize("stride", [4, 8])
@torch.no_grad()
def test_the_pyramid_starts_at_stride_4_or_8(stride):
    levels = tuple(Level(stride << i, (16.0,)) for i in range(5))
    model = FaceResNet(small_network(levels=levels)).eval()
    assert len(model.pyramid.lateral) == (4 if stride == 4 else 3)
    assert model(noise(1, 32, 96))[0].shape == (1, len(make_anchors(levels, (32, 96))))


def test_a_network_is_a_value():
    assert small_network() == replace(small_network(pyramid=32), pyramid=16)
    assert hash(small_network()) == hash(small_network())
