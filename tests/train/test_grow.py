from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from faceresnet.anchors import Level
from faceresnet.errors import TrainingError
from faceresnet.train.export import save_weights
from faceresnet.train.grow import grow, settle
from faceresnet.train.model import FaceResNet
from faceresnet.train.recipes import recipe
from faceresnet.train.runs import load_weights
from faceresnet.weights import SHIPPED
from train.samples import learn, small_network
from train.test_narrow import random_model

SMALL = small_network(depths=(1, 2, 2, 1), planes=(16, 16, 32, 32), smooth=False)
LARGE = replace(
    SMALL,
    block="bottleneck",
    depths=(3, 4, 6, 3),
    planes=(32, 32, 64, 64),
    stem=32,
    stem_kernel=7,
    pyramid=32,
    head_blocks=2,
)


def images(n=4, seed=0):
    """Noise, blurred: of some size, so that something is left of it at every stride."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 3, 8, 12), generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return fine.permute(0, 2, 3, 1).to(torch.uint8)


def alive(network, seed):
    """A random model whose channels all do something, on these images, and whose outputs differ."""
    model = random_model(network, seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.fill_(0.3)
        for head in filter(None, (model.classify, model.regress)):
            head.predict.weight.normal_(std=0.3)
    return model


def grown(small, network=LARGE, seed=2):
    torch.manual_seed(seed)
    large = FaceResNet(network).eval()
    large.load_state_dict(grow(small.state_dict(), large))
    return large


@pytest.mark.parametrize(
    "changes", [{}, {"shared_head": True}, {"inner": (16, 16, 16, 16)}, {"inner": (16, 8, 20, 24)}]
)
@torch.no_grad()
def test_a_grown_network_computes_the_same(changes):
    small = alive(replace(SMALL, **changes), 1)
    large = grown(small)
    logits, deltas = small(images())
    assert logits.std() > 0.1
    assert deltas.std() > 0.1
    for before, after in zip((logits, deltas), large(images()), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_settling_changes_nothing_but_what_training_sees():
    small = alive(SMALL, 1)
    large = grown(small)
    expected = small(images())
    unsettled = large.train()(images())
    large = grown(small)
    settle(large, images())
    assert not large.training  # as it was
    in_training = grown(small)
    in_training.load_state_dict(large.state_dict())
    in_training.train()
    for before, after, trained, wrong in zip(
        expected, large(images()), in_training(images()), unsettled, strict=True
    ):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(trained, before, rtol=1e-2, atol=1e-3)
        assert not torch.allclose(wrong, before, rtol=0.1)


def test_everything_new_can_learn():
    """After three steps hardly a new weight is where it began: nothing is cut off from the loss."""
    large = grown(alive(SMALL, 1))
    settle(large, images())
    start = {name: value.clone() for name, value in large.state_dict().items()}
    learn(large.train(), images(), 0.01)
    for name, value in large.named_parameters():
        assert (value.detach() != start[name]).float().mean() > 0.5, name


@torch.no_grad()
def test_what_has_no_room_is_left_out():
    small = alive(replace(SMALL, depths=(2, 2, 2, 2)), 1)
    cut = FaceResNet(SMALL).eval()
    known = small.state_dict()
    cut.load_state_dict({name: known[name] for name in cut.state_dict()})
    assert not torch.allclose(cut(images())[0], small(images())[0], rtol=0.1)
    for before, after in zip(cut(images()), grown(small)(images()), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_finer_level_starts_as_the_next_one_enlarged():
    small = alive(SMALL, 1)
    finer = (Level(4, (8.0,)), *SMALL.levels)
    large = grown(small, replace(LARGE, levels=finer))
    before, after = small(images()), large(images())
    cells = before[0].shape[1]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new[:, -cells:], old, rtol=1e-3, atol=1e-4)
    # Images of 64×96 px: 16×24 cells, then 8×12. Away from the border a convolution over enlarged
    # features sees some of them twice, so only the features are the same.
    stages = large.backbone(((images().float() - large.mean) / large.std).permute(0, 3, 1, 2))
    levels = large.pyramid(stages)
    enlarged = levels[1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(levels[0][:, :16], enlarged[:, :16])
    norms = large.classify.blocks[0].norm.norms
    new, known = (norms[level].state_dict() for level in (0, 1))
    assert new.keys() == known.keys()
    assert all(torch.equal(new[part], known[part]) for part in new)


@torch.no_grad()
def test_the_shipped_small_network_grows_into_the_large_one():
    """All but a block for which ResNet-50 has no room."""
    small = recipe("faceresnet-n").network
    cut = FaceResNet(replace(small, depths=(*small.depths[:3], 1))).eval()
    shipped = load_file(SHIPPED / "faceresnet-n.safetensors")
    cut.load_state_dict({name: shipped[name] for name in cut.state_dict()})
    large = FaceResNet(recipe("faceresnet-50").network).eval()
    load_weights(large, SHIPPED / "faceresnet-n.safetensors", reshape="grow")
    for before, after in zip(cut(images(1)), large(images(1)), strict=True):
        torch.testing.assert_close(after[:, -before.shape[1] :], before, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_grown_is_refused_in_one_line(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_weights(FaceResNet(SMALL), file)
    two_anchors = tuple(Level(8 << i, (16.0, 20.0)) for i in range(3))
    for network, what in (
        (replace(SMALL, planes=(32, 32, 64, 64)), "only bottlenecks without max pooling"),
        (replace(LARGE, max_pool=True), "only bottlenecks without max pooling"),
        (replace(LARGE, smooth=True), "only heads of convolutions, without smoothing"),
        (replace(LARGE, levels=(*SMALL.levels, Level(64, (128.0,)))), "down to stride 32"),
        (replace(LARGE, depths=(3, 4, 6, 1)), "layer4 has 1 bottleneck, 2 are needed"),
        (replace(LARGE, head_block="bottleneck"), "only heads of convolutions"),
        (replace(LARGE, shared_head=True), r"regress\.\S+ is of another kind"),
        (replace(LARGE, planes=(16, 32, 64, 64)), r"layer1\.1\.conv\d has 16 filters, 32 are"),
        (replace(LARGE, stem=8), r"backbone\.conv1 has 8 filters, 16 are needed"),
        (replace(LARGE, stem_kernel=1), r"backbone\.conv1 has no room for weights"),
        (replace(LARGE, levels=two_anchors), "for other anchors"),
    ):
        with pytest.raises(TrainingError, match=what) as caught:
            load_weights(FaceResNet(network), file, reshape="grow")
        assert "\n" not in str(caught.value)
    save_weights(FaceResNet(LARGE), file)
    with pytest.raises(TrainingError, match="is of another kind of network"):
        load_weights(FaceResNet(LARGE), file, reshape="grow")
