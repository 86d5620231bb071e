from __future__ import annotations

import pytest
import torch

from faceresnet.errors import TrainingError
from faceresnet.train.backbone import ResNet, load_imagenet, load_state

PLANES = (64, 128, 256, 512)
#: Name, block and depths of torchvision's networks, and their parameters without ``fc``.
TORCHVISION = [
    ("resnet18", "basic", (2, 2, 2, 2), 11_176_512),
    ("resnet34", "basic", (3, 4, 6, 3), 21_284_672),
    ("resnet50", "bottleneck", (3, 4, 6, 3), 23_508_032),
]
NARROW = (4, 6, 8, 10)


def make(block, depths, planes=PLANES, max_pool=True, stem=64):
    return ResNet(block, depths, planes, planes, stem, 7, max_pool)


def norm(name, channels):
    return {
        f"{name}.weight": (channels,),
        f"{name}.bias": (channels,),
        f"{name}.running_mean": (channels,),
        f"{name}.running_var": (channels,),
        f"{name}.num_batches_tracked": (),
    }


def torchvision_state(block, depths, planes=PLANES, stem=64):
    """Names and shapes of torchvision's state dict of a ResNet, without ``fc``."""
    expansion = {"basic": 1, "bottleneck": 4}[block]
    shapes = {"conv1.weight": (stem, 3, 7, 7), **norm("bn1", stem)}
    c_in = stem
    for stage, (depth, width) in enumerate(zip(depths, planes, strict=True), start=1):
        c_out = width * expansion
        for i in range(depth):
            at = f"layer{stage}.{i}"
            if block == "basic":
                convs = [(c_in, width, 3), (width, width, 3)]
            else:
                convs = [(c_in, width, 1), (width, width, 3), (width, c_out, 1)]
            for number, (c_from, c_to, side) in enumerate(convs, start=1):
                shapes[f"{at}.conv{number}.weight"] = (c_to, c_from, side, side)
                shapes |= norm(f"{at}.bn{number}", c_to)
            if i == 0 and (stage > 1 or c_in != c_out):
                shapes[f"{at}.downsample.0.weight"] = (c_out, c_in, 1, 1)
                shapes |= norm(f"{at}.downsample.1", c_out)
            c_in = c_out
    return shapes


@pytest.mark.parametrize(("name", "block", "depths", "parameters"), TORCHVISION)
def test_has_the_names_and_shapes_of_torchvision(name, block, depths, parameters):
    with torch.device("meta"):
        backbone = make(block, depths)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    assert shapes == torchvision_state(block, depths)
    assert sum(p.numel() for p in backbone.parameters()) == parameters


@pytest.mark.parametrize(("name", "block", "depths", "parameters"), TORCHVISION)
@pytest.mark.parametrize("max_pool", [True, False])
def test_stages_lie_at_strides_4_to_32(name, block, depths, parameters, max_pool):
    with torch.device("meta"):
        backbone = make(block, depths, max_pool=max_pool)
        stages = backbone(torch.zeros(2, 3, 96, 160))
    expansion = 4 if block == "bottleneck" else 1
    assert backbone.channels == [width * expansion for width in PLANES]
    assert [tuple(stage.shape) for stage in stages] == [
        (2, channels, 96 // stride, 160 // stride)
        for channels, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


def test_the_stride_of_a_bottleneck_is_on_its_3x3_as_in_torchvision():
    with torch.device("meta"):
        block = make("bottleneck", (1, 1, 1, 1)).layer2[0]
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [
        (1, 1),
        (2, 2),
        (1, 1),
    ]


def test_a_block_adds_its_shortcut():
    backbone = make("basic", (2, 1, 1, 1), NARROW, stem=4).eval()
    block = backbone.layer1[1]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 8, 8)
    assert block.downsample is None
    assert torch.equal(block(x), x)


def random_state(block, depths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for name, shape in torchvision_state(block, depths, NARROW, stem=4).items()
    }
    return {**state, "fc.weight": torch.zeros(1000, 10), "fc.bias": torch.zeros(1000)}


def test_loads_the_weights_of_torchvision(tmp_path):
    state = random_state("bottleneck", (1, 2, 1, 1))
    torch.save(state, tmp_path / "resnet.pth")
    backbone = make("bottleneck", (1, 2, 1, 1), NARROW, stem=4)
    load_imagenet(backbone, tmp_path / "resnet.pth")
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_loads_old_files_without_counts_of_batches(tmp_path):
    state = random_state("basic", (1, 1, 1, 1))
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet.pth")
    backbone = make("basic", (1, 1, 1, 1), NARROW, stem=4)
    load_imagenet(backbone, tmp_path / "resnet.pth")
    assert torch.equal(backbone.bn1.running_var, state["bn1.running_var"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: random_state("basic", (2, 1, 1, 1)), "layer1.1.conv1.weight is unknown"),
        (lambda: {"fc.bias": torch.zeros(3)}, "conv1.weight is missing (and 71 more)"),
        (lambda: [1, 2, 3], "list"),
    ],
)
def test_refuses_other_weights_in_one_line(tmp_path, content, says):
    torch.save(content(), tmp_path / "other.pth")
    with pytest.raises(TrainingError) as caught:
        load_imagenet(make("basic", (1, 1, 1, 1), NARROW, stem=4), tmp_path / "other.pth")
    message = str(caught.value)
    assert says in message
    assert str(tmp_path / "other.pth") in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
def test_refuses_files_of_another_kind(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(TrainingError, match=r"other\.pth does not hold weights") as caught:
        load_imagenet(make("basic", (1, 1, 1, 1), NARROW, stem=4), tmp_path / "other.pth")
    assert "\n" not in str(caught.value)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(TrainingError, match="No such file"):
        load_imagenet(make("basic", (1, 1, 1, 1), NARROW, stem=4), tmp_path / "none.pth")


def test_a_state_of_other_shapes_is_named():
    module = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="weight has another shape"):
        load_state(module, {"weight": torch.zeros(3, 3), "bias": torch.zeros(3)})
