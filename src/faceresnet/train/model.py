"""FaceResNet: a residual backbone, a feature pyramid and its heads (paper, section 5.2).

The paper has two heads, for scores and for boxes; a small network shares one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceresnet.anchors import Level
from faceresnet.train.backbone import BLOCKS, ResNet, conv

#: Mean and standard deviation of ImageNet's red, green and blue, for pixels in [0, 255].
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Network:
    """The numbers that make one FaceResNet; there is no other code for another size.

    Attributes:
        levels: the pyramid and its anchors, strides rising by 2 from 4 or 8; the same A everywhere.
        block: backbone block, ``basic`` or ``bottleneck``.
        depths: backbone blocks in each stage.
        planes: backbone width in each stage, before the block's expansion.
        inner: width inside the blocks of each stage; none is `planes`, as in ResNet.
        stem: channels of the first convolution.
        stem_kernel: side of the first convolution.
        max_pool: pooling after it, as in ResNet.
        pyramid: channels of the feature pyramid.
        head_block: ``bottleneck`` (the paper's residual blocks) or ``conv`` (3×3 convolutions).
        head_blocks: blocks in each head.
        smooth: a 3×3 convolution of each of the backbone's levels after the top-down path, as in
            the paper.
        shared_head: one head predicts both scores and boxes, instead of one for each.
        prior: probability of a face that the untrained classifier gives everywhere (Lin et al.
            2017, section 4.1); None starts at 0.5 as the paper does.
        delta_scales: divisors of centre offsets and log sizes (`boxes.encode`).
    """

    levels: tuple[Level, ...]
    block: str
    depths: tuple[int, ...]
    planes: tuple[int, ...]
    inner: tuple[int, ...] = ()
    stem: int = 64
    stem_kernel: int = 7
    max_pool: bool = True
    pyramid: int = 256
    head_block: str = "bottleneck"
    head_blocks: int = 8
    smooth: bool = True
    shared_head: bool = False
    prior: float | None = 0.01
    delta_scales: tuple[float, float] = (0.1, 0.2)

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("a network needs at least one level")
        strides = [level.stride for level in self.levels]
        if strides[0] not in (4, 8) or strides != [strides[0] << i for i in range(len(strides))]:
            raise ValueError(f"strides must double from 4 or 8, got {strides}")
        if strides[-1] < 32:
            raise ValueError(f"the pyramid must reach stride 32, got {strides}")
        if len({level.anchors_per_cell for level in self.levels}) != 1:
            raise ValueError("every level needs the same number of anchors: the heads are shared")
        if self.head_block not in ("bottleneck", "conv"):
            raise ValueError(f"head_block must be bottleneck or conv, got {self.head_block!r}")
        if self.head_block == "bottleneck" and self.pyramid % 4:
            raise ValueError(
                f"bottleneck heads need a pyramid of 4 · n channels, got {self.pyramid}"
            )
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}")
        if len(self.depths) != 4 or len(self.planes) != 4 or min(self.depths + self.planes) < 1:
            raise ValueError(
                "depths and planes need four positive numbers, one for each stage, "
                f"got {self.depths} and {self.planes}"
            )
        if min(self.stem, self.pyramid) < 1 or self.head_blocks < 0:
            raise ValueError(
                "stem and pyramid must be at least 1 and head_blocks at least 0, "
                f"got {self.stem}, {self.pyramid} and {self.head_blocks}"
            )
        if self.stem_kernel < 1 or self.stem_kernel % 2 == 0:
            raise ValueError(f"stem_kernel must be odd and positive, got {self.stem_kernel}")
        if self.inner and (len(self.inner) != 4 or min(self.inner) < 1):
            raise ValueError(f"inner needs four positive numbers or none, got {self.inner}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise ValueError(f"prior must lie between 0 and 1, got {self.prior}")
        if min(self.delta_scales) <= 0:
            raise ValueError(f"delta_scales must be positive, got {self.delta_scales}")

    @property
    def anchors_per_cell(self) -> int:
        """A: anchors in each cell."""
        return self.levels[0].anchors_per_cell

    @property
    def size_multiple(self) -> int:
        """px; sides of the input must be multiples of it, so that the top-down path nests.

        Coarser levels than the backbone's last round up and ask for nothing.
        """
        return 32


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid (Lin et al. 2016), with RetinaNet's extra coarse levels.

    Args:
        c_in: channels of the backbone's stages.
        channels: of each level.
        extra: coarser levels than the backbone's.
        smooth: whether a convolution follows the top-down path.
    """

    def __init__(self, c_in: list[int], channels: int, extra: int, smooth: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in c_in])
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) if smooth else nn.Identity() for _ in c_in
        )
        self.extra = nn.ModuleList(
            nn.Conv2d(c_in[-1] if i == 0 else channels, channels, 3, 2, padding=1)
            for i in range(extra)
        )

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Backbone stages, fine to coarse → levels of equal width, fine to coarse."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, stages, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2.0, mode="nearest")
        levels = [output(x) for output, x in zip(self.output, merged, strict=True)]
        x = stages[-1]
        for i, downsample in enumerate(self.extra):
            x = downsample(x if i == 0 else F.relu(x))
            levels.append(x)
        return levels


class LevelNorm(nn.Module):
    """Batch normalisation with statistics and affine terms of its own for each level.

    The heads' convolutions are shared, but the levels' features differ in scale: one running
    average over all of them would fit none at run time.
    """

    def __init__(self, channels: int, levels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList()
        for _ in range(levels):
            norm = nn.BatchNorm2d(channels)
            nn.init.constant_(norm.weight, scale)
            self.norms.append(norm)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(N, C, H, W) of one level, normalised."""
        return self.norms[level](x)


class ConvBlock(nn.Module):
    """A 3×3 convolution, normalised and rectified: the light head."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3)
        self.norm = LevelNorm(channels, levels)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(N, C, H, W) → the same shape."""
        return F.relu(self.norm(self.conv(x), level))


class BottleneckBlock(nn.Module):
    """A residual bottleneck that keeps its shape: the paper's head."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        planes = channels // 4
        self.convs = nn.ModuleList(
            [conv(channels, planes, 1), conv(planes, planes, 3), conv(planes, channels, 1)]
        )
        self.norms = nn.ModuleList(
            [
                LevelNorm(planes, levels),
                LevelNorm(planes, levels),
                LevelNorm(channels, levels, scale=0.0),  # the block starts as the identity
            ]
        )

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(N, C, H, W) → the same shape."""
        y = x
        for i in range(3):
            y = self.norms[i](self.convs[i](y), level)
            if i < 2:
                y = F.relu(y)
        return F.relu(x + y)


class Head(nn.Module):
    """One subnetwork, its convolutions shared by all levels.

    Args:
        network: what it is part of.
        biases: from which each output of an anchor starts.
    """

    def __init__(self, network: Network, biases: Sequence[float]) -> None:
        super().__init__()
        block = BottleneckBlock if network.head_block == "bottleneck" else ConvBlock
        self.blocks = nn.ModuleList(
            block(network.pyramid, len(network.levels)) for _ in range(network.head_blocks)
        )
        self.outputs = len(biases)
        anchors = network.anchors_per_cell
        self.predict = nn.Conv2d(network.pyramid, len(biases) * anchors, 3, padding=1)
        nn.init.normal_(self.predict.weight, std=0.01)
        self.predict.bias = nn.Parameter(torch.tensor(biases).repeat(anchors))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels of (N, C, H, W) → (N, R, outputs), in the anchors' order."""
        flat = []
        for level, x in enumerate(levels):
            for block in self.blocks:
                x = block(x, level)
            flat.append(self.predict(x).permute(0, 2, 3, 1).flatten(1))
        joined = torch.cat(flat, dim=1)
        return joined.view(joined.shape[0], -1, self.outputs)


class FaceResNet(nn.Module):
    """The whole network: uint8 photos in, a logit and four deltas for each anchor out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.backbone = ResNet(
            network.block,
            network.depths,
            network.planes,
            network.inner or network.planes,
            network.stem,
            network.stem_kernel,
            network.max_pool,
        )
        self.first_stage = 0 if network.levels[0].stride == 4 else 1
        stages = self.backbone.channels[self.first_stage :]
        self.pyramid = FeaturePyramid(
            stages, network.pyramid, len(network.levels) - len(stages), network.smooth
        )
        bias = 0.0 if network.prior is None else -log((1 - network.prior) / network.prior)
        # A shared head predicts the boxes, too; its weights keep their name.
        score, box = (bias,), (0.0, 0.0, 0.0, 0.0)
        self.classify = Head(network, score + box if network.shared_head else score)
        self.regress = None if network.shared_head else Head(network, box)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Photos to predictions.

        Args:
            images: (N, H, W, 3) RGB in [0, 255], uint8 or float; sides multiples of
                `Network.size_multiple`.

        Returns:
            logits (N, R) and deltas (N, R, 4), in the order of `anchors.make_anchors`.
        """
        _, levels = self.features(images)
        return self.predict(levels)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Photos, as for `forward`, to the backbone's stages and the pyramid's levels."""
        x = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        stages: list[Tensor] = self.backbone(x)
        return stages, self.pyramid(stages[self.first_stage :])

    def predict(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The pyramid's levels to what `forward` returns."""
        found = self.classify(levels)
        deltas = found[..., 1:] if self.regress is None else self.regress(levels)
        return found[..., 0], deltas
