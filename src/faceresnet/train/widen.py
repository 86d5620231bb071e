"""Starting a wide network from a narrow one: it computes the same, and has room to learn more.

Net2Net (Chen et al. 2016) widens by copies of channels, which then have to become different. Here
new channels are random, and the weights that read them start at 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from faceresnet.train.backbone import BasicBlock, Bottleneck
from faceresnet.train.model import FaceResNet


def widen(state: Mapping[str, Tensor], model: FaceResNet) -> dict[str, Tensor]:
    """Weights for a network that computes what a narrower or shallower one does.

    New channels keep the random weights they have in `model`, but the channels that there were
    take nothing from them yet. New blocks at the end of a stage start as the identity.

    Args:
        state: weights of the narrow network, by name.
        model: the wide network, as it was initialised.

    Returns:
        a state dict of `model`.

    Raises:
        ValueError: `state` holds something that `model` lacks or has less of.
    """
    wide = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if name not in wide:
            raise ValueError(f"{name} is unknown")
        target = wide[name]
        fits = target.ndim == value.ndim and all(
            own >= given for own, given in zip(target.shape, value.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, at most {tuple(target.shape)} is expected"
            )
        if value.ndim > 1:
            target[: len(value)] = 0
        target[tuple(slice(size) for size in value.shape)] = value
    for name, target in wide.items():
        if name not in state and _ends_block(name, model):
            target.zero_()
    return wide


def _ends_block(name: str, model: FaceResNet) -> bool:
    """Whether a new weight, at 0, lets the block that it belongs to add nothing to what comes in.

    Raises:
        ValueError: it belongs to no block that could.
    """
    block = ".".join(name.split(".")[:3])  # backbone.layer3.2
    module = model.get_submodule(block) if block.startswith("backbone.layer") else None
    if not isinstance(module, BasicBlock | Bottleneck) or module.downsample is not None:
        raise ValueError(f"{name} is missing")
    last = "bn3" if isinstance(module, Bottleneck) else "bn2"
    return name in (f"{block}.{last}.weight", f"{block}.{last}.bias")
