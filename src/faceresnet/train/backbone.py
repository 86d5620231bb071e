"""Residual networks (He et al. 2015), with torchvision's parameter names.

Because the names agree, torchvision's ImageNet weights load unchanged: `load_imagenet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceresnet.errors import TrainingError


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps H and W at stride 1; batch normalisation follows."""
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (He et al. 2015, figure 5 left).

    Args:
        c_in: channels that come in.
        planes: channels that go out.
        inner: channels between the two; as many as go out in ResNet.
        stride: of the first.
    """

    expansion = 1

    def __init__(self, c_in: int, planes: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        c_out = planes * self.expansion
        self.conv1 = conv(c_in, inner, 3, stride)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, c_out, 3)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, planes, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 around a shortcut (He et al. 2015, figure 5 right); stride on the 3×3.

    Args:
        c_in: channels that come in.
        planes: a quarter of the channels that go out.
        inner: channels between the convolutions; `planes` in ResNet.
        stride: of the second.
    """

    expansion = 4

    def __init__(self, c_in: int, planes: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        c_out = planes * self.expansion
        self.conv1 = conv(c_in, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, c_out, 1)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 4 · planes, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


def shortcut(c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """A projection where the shape changes, else nothing (He et al. 2015, option B)."""
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class ResNet(nn.Module):
    """A residual network without its classifier.

    Args:
        block: ``basic`` or ``bottleneck``.
        depths: blocks in each of the four stages; (3, 4, 6, 3) bottlenecks make ResNet-50.
        planes: width of each stage before the block's expansion.
        inner: width inside the blocks of each stage.
        stem: channels of the first convolution.
        stem_kernel: its side; 7 in ResNet.
        max_pool: whether a 3×3 max pooling follows, as in ResNet; without it the first stage
            halves the size instead, which is cheaper and learns the pooling.
    """

    def __init__(
        self,
        block: str,
        depths: Sequence[int],
        planes: Sequence[int],
        inner: Sequence[int],
        stem: int,
        stem_kernel: int,
        max_pool: bool,
    ) -> None:
        super().__init__()
        self.conv1 = conv(3, stem, stem_kernel, 2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if max_pool else nn.Identity()
        make = BLOCKS[block]
        channels = stem
        self.channels: list[int] = []
        self.layer1: nn.Module
        self.layer2: nn.Module
        self.layer3: nn.Module
        self.layer4: nn.Module
        for index, (depth, width, within) in enumerate(zip(depths, planes, inner, strict=True)):
            first_stride = 1 if index == 0 and max_pool else 2
            blocks = []
            for i in range(depth):
                blocks.append(make(channels, width, within, first_stride if i == 0 else 1))
                channels = width * make.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            self.channels.append(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) → the four stages' outputs, at strides 4, 8, 16 and 32."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            stages.append(x)
        return stages


def load_imagenet(backbone: ResNet, file: Path) -> None:
    """Load torchvision's ImageNet weights (a state dict saved by ``torch.save``).

    Raises:
        TrainingError: the file is no state dict of this architecture.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
        load_state(backbone, state)
    except Exception as error:
        raise TrainingError(
            f"{file} does not hold weights of this backbone: {first_line(error)}. "
            "Expected the state dict of a torchvision ResNet of the same depth."
        ) from error


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict that must have all the module's names and shapes, and no others.

    Raises:
        ValueError: it has not; the message counts what differs instead of listing it.
    """
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        own = module.state_dict()
        shared = [name for name in own if name in state]
        differing = {
            "is missing": [name for name in own if name not in state],
            "is unknown": [name for name in state if name not in own],
            "has another shape": [n for n in shared if own[n].shape != state[n].shape],
        }
        counts = [
            f"{names[0]} {what}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
            for what, names in differing.items()
            if names
        ]
        raise ValueError("; ".join(counts) or first_line(error)) from error


def first_line(error: Exception) -> str:
    """What an error says in its first line: those of torch go on for pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
