from __future__ import annotations

import pytest
import torch

from faceresnet.errors import TrainingError
from faceresnet.train.export import save_weights
from faceresnet.train.model import FaceResNet
from faceresnet.train.runs import load_weights
from faceresnet.train.widen import widen
from train.samples import learn, small_network
from train.test_narrow import random_model

GROWTH = {"planes": (16, 32, 32, 48), "depths": (1, 2, 3, 1), "pyramid": 32}


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shared_head", [False, True])
@torch.no_grad()
def test_a_widened_network_computes_the_same(block, shared_head):
    narrow = random_model(small_network(block=block, shared_head=shared_head), 1)
    wide = random_model(small_network(block=block, shared_head=shared_head, **GROWTH), 2)
    for model in (narrow, wide):  # outputs that differ by more than their bias
        for head in filter(None, (model.classify, model.regress)):
            head.predict.weight.normal_(std=0.3)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    assert not torch.allclose(narrow(images)[0], wide(images)[0], rtol=0.1)
    wide.load_state_dict(widen(narrow.state_dict(), wide))
    for before, after in zip(narrow(images), wide(images), strict=True):
        torch.testing.assert_close(after, before)


def test_everything_new_can_learn():
    """After two steps no new weight is where it began: none is cut off from the loss."""
    torch.manual_seed(0)
    narrow, wide = FaceResNet(small_network()), FaceResNet(small_network(**GROWTH))
    start = widen(narrow.state_dict(), wide)
    wide.load_state_dict(start)
    images = torch.randint(0, 256, (4, 64, 96, 3), dtype=torch.uint8)
    learn(wide, images, 0.1)
    for name, value in wide.named_parameters():
        assert (value.detach() != start[name]).float().mean() > 0.5, name


@torch.no_grad()
def test_a_network_is_as_wide_as_itself():
    model = random_model(small_network(), 1)
    kept = widen(model.state_dict(), model)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_what_is_no_narrower_network_is_refused_in_one_line(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_weights(FaceResNet(small_network(**GROWTH)), file)
    for network, what in (
        (small_network(), r"backbone\.layer2\.1\.\S+ is unknown"),
        (small_network(depths=(1, 2, 3, 1)), r"has shape \(.*\), at most \(.*\) is expected"),
        (small_network(**GROWTH | {"shared_head": True}), r"regress\.\S+ is unknown"),
        (small_network(**GROWTH | {"head_blocks": 2}), r"classify\.blocks\.1\.\S+ is missing"),
    ):
        with pytest.raises(TrainingError, match=what) as caught:
            load_weights(FaceResNet(network), file, reshape="widen")
        assert "a narrower network" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="to widen takes a checkpoint"):
        load_weights(FaceResNet(small_network()), tmp_path / "weights.pth", reshape="widen")
