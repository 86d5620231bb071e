from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from faceresnet.errors import TrainingError
from faceresnet.train.export import cut_down, save_weights
from faceresnet.train.model import FaceResNet
from faceresnet.train.narrow import narrow
from faceresnet.train.runs import load_weights
from train.samples import small_network

WIDE, NARROW = (16, 24, 24, 32), (12, 16, 20, 24)


def networks(block):
    """A wide network and a narrow one of the same kind; the narrow one has one head of its own."""
    wide = small_network(block=block, depths=(1, 2, 1, 2), planes=WIDE, stem=12)
    changes = {"planes": NARROW, "stem": 8, "smooth": False, "shared_head": True}
    return wide, small_network(block=block, depths=(1, 2, 1, 2), **changes)


def random_model(network, seed):
    torch.manual_seed(seed)
    model = FaceResNet(network).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            parts = module.weight.data, module.bias.data, module.running_mean, module.running_var
            for tensor in parts:
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def silence(convolution, norm, dead):
    """Make some channels 0, whatever comes in."""
    for tensor in (convolution.weight.data, norm.weight.data, norm.bias.data):
        tensor[dead] = 0


def silence_all_but(model, planes, stem):
    """Silence random channels until each layer has as many as a narrower network.

    Returns:
        of each stage, which channels are left.
    """
    backbone = model.backbone
    silence(backbone.conv1, backbone.bn1, torch.randperm(len(backbone.conv1.weight))[stem:])
    left = []
    for number, width in enumerate(planes, start=1):
        blocks = getattr(backbone, f"layer{number}")
        last = 3 if hasattr(blocks[0], "conv3") else 2
        expansion = blocks[0].expansion
        order = torch.randperm(len(getattr(blocks[0], f"conv{last}").weight))
        dead = order[width * expansion :]
        for block in blocks:
            for n in range(1, last):
                convolution = getattr(block, f"conv{n}")
                inner = torch.randperm(len(convolution.weight))[width:]
                silence(convolution, getattr(block, f"bn{n}"), inner)
            silence(getattr(block, f"conv{last}"), getattr(block, f"bn{last}"), dead)
            if block.downsample is not None:
                silence(*block.downsample, dead)
        left.append(order[: width * expansion].sort().values)
    return left


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@torch.no_grad()
def test_what_is_silent_is_what_goes(block):
    wide, thin = networks(block)
    before, after = random_model(wide, 1), random_model(thin, 2)
    left = silence_all_but(before, NARROW, stem=8)
    after.load_state_dict(narrow(before.state_dict(), after))
    x = torch.rand(2, 3, 64, 96)
    stages = list(zip(before.backbone(x), after.backbone(x), left, strict=True))
    for wide_stage, thin_stage, channels in stages:
        assert thin_stage.shape[1] == len(channels) < wide_stage.shape[1]
        torch.testing.assert_close(thin_stage, wide_stage[:, channels])
    laterals = zip(before.pyramid.lateral, after.pyramid.lateral, stages[1:], strict=True)
    for wide_lateral, thin_lateral, (wide_stage, thin_stage, _) in laterals:
        torch.testing.assert_close(thin_lateral(thin_stage), wide_lateral(wide_stage))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@torch.no_grad()
def test_blocks_can_be_narrow_inside_alone(block):
    whole = small_network(block=block, depths=(1, 2, 1, 2), planes=WIDE)
    inner = (12, 16, 24, 16)
    before = random_model(whole, 1)
    after = random_model(replace(whole, inner=inner), 2)
    for number, width in enumerate(inner, start=1):
        for part in getattr(before.backbone, f"layer{number}"):
            for n in range(1, 3 if block == "bottleneck" else 2):
                filters = getattr(part, f"conv{n}")
                dead = torch.randperm(len(filters.weight))[width:]
                silence(filters, getattr(part, f"bn{n}"), dead)
    after.load_state_dict(narrow(before.state_dict(), after))
    assert len(after.backbone.layer2[1].conv1.weight) == 16
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    for ours, theirs in zip(after(images), before(images), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@torch.no_grad()
def test_blocks_that_add_nothing_can_go(block):
    deep, shallow = (small_network(block=block, depths=(1, n, 1, n)) for n in (3, 2))
    before, after = random_model(deep, 1), random_model(shallow, 2)
    for blocks in (before.backbone.layer2, before.backbone.layer4):
        last = blocks[2].bn3 if block == "bottleneck" else blocks[2].bn2
        last.weight[:], last.bias[:] = 0, 0
    thin = cut_down(before, after.network)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    for ours, theirs in zip(thin(images), before(images), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shared_head": False}, "classify.predict.weight would start anew"),
        ({"pyramid": 32}, "would start anew"),
        ({"planes": (16, 24, 24, 64)}, "cannot be cut down to that: .* filters, 64 are wanted"),
    ],
)
def test_only_the_backbone_is_cut_down_without_training(change, says):
    before = FaceResNet(small_network(planes=WIDE, shared_head=True))
    after = small_network(**{"planes": WIDE, "shared_head": True, **change})
    with pytest.raises(TrainingError, match=says):
        cut_down(before, after)


@torch.no_grad()
def test_what_fits_is_kept_and_the_rest_starts_anew():
    wide, thin = networks("basic")
    before, after = random_model(wide, 1), random_model(thin, 2)
    fresh = {name: value.clone() for name, value in after.state_dict().items()}
    kept = narrow(before.state_dict(), after)
    state = before.state_dict()
    tower = "classify.blocks.0.conv.weight"
    assert torch.equal(kept[tower], state[tower])
    predict = "classify.predict.weight"  # of five outputs instead of one
    assert torch.equal(kept[predict], fresh[predict])
    assert kept.keys() == fresh.keys()


@torch.no_grad()
def test_a_network_is_as_narrow_as_itself():
    model = random_model(small_network(), 1)
    kept = narrow(model.state_dict(), model)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize(("gamma", "variance"), [(0.1, 1.0), (1.0, 100.0)])
def test_filters_are_as_strong_as_their_normalisation_leaves_them(gamma, variance):
    before = random_model(small_network(), 1)
    backbone = before.backbone
    backbone.conv1.weight[:] = 1.0
    backbone.bn1.weight[:], backbone.bn1.running_var[:] = 1.0, 1.0
    weak = torch.tensor([2, 5, 11])
    backbone.bn1.weight[weak], backbone.bn1.running_var[weak] = gamma, variance
    backbone.conv1.weight[7], backbone.bn1.running_var[7] = 0.0, 0.0  # dead, not infinitely strong
    backbone.bn1.weight[[1, 4]] *= -1  # a filter turned round is as strong
    thin = FaceResNet(small_network(stem=12))
    backbone.bn1.bias[:] = torch.arange(16)
    kept = narrow(before.state_dict(), thin)
    left = [n for n in range(16) if n not in (2, 5, 7, 11)]
    assert kept["backbone.bn1.bias"].tolist() == left


@torch.no_grad()
def test_a_stage_without_projection_keeps_the_channels_that_reach_it():
    """Basic blocks behind a pooling, as in ResNet-18: the first shortcut is the identity."""
    shape = {"max_pool": True, "planes": (16, 24, 24, 32)}
    before = random_model(small_network(stem=16, **shape), 1)
    silence(before.backbone.conv1, before.backbone.bn1, torch.tensor([0, 3, 4, 9]))
    inner = before.backbone.layer1[0]
    silence(inner.conv2, inner.bn2, torch.tensor([0, 3, 4, 9]))
    silence(inner.conv1, inner.bn1, torch.tensor([1, 2, 12, 15]))
    after = random_model(small_network(stem=12, **{**shape, "planes": (12, 24, 24, 32)}), 2)
    after.load_state_dict(narrow(before.state_dict(), after))
    x = torch.rand(2, 3, 64, 96)
    for wide_stage, thin_stage in zip(before.backbone(x)[1:], after.backbone(x)[1:], strict=True):
        torch.testing.assert_close(thin_stage, wide_stage)


def test_a_wider_network_is_refused_in_one_line(tmp_path):
    wide, thin = networks("basic")
    save_weights(FaceResNet(thin), tmp_path / "thin.safetensors")
    with pytest.raises(TrainingError, match="8 filters, 12 are wanted") as caught:
        load_weights(FaceResNet(wide), tmp_path / "thin.safetensors", reshape="narrow")
    assert "\n" not in str(caught.value)
    shape = {"depths": (1, 2, 1, 2), "planes": NARROW, "stem": 8}
    for change, what in (
        ({"depths": (1, 3, 1, 2)}, r"layer2\.2\.bn1\.bias is missing"),
        ({"block": "bottleneck"}, r"layer1\.0\.bn3\.bias is missing"),
    ):
        other = FaceResNet(small_network(**{**shape, **change}))
        says = rf"another kind, or shallower: backbone\.{what}"
        with pytest.raises(TrainingError, match=says):
            load_weights(other, tmp_path / "thin.safetensors", reshape="narrow")
    with pytest.raises(TrainingError, match="to narrow takes a checkpoint"):
        load_weights(FaceResNet(thin), tmp_path / "thin.pth", reshape="narrow")
