"""What trains a network: the same four methods for NumPy and for PyTorch.

Both start from the same weights, take the same batches and follow the same optimiser, so that they
give the same losses; files hold the same names whichever wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from faceresnet.digits.nets import Net
from faceresnet.errors import EngineError, how_to_install
from faceresnet.nn.optim import SGD, Adam
from faceresnet.nn.shapes import Array

ENGINES = ("numpy", "torch")


class Step(NamedTuple):
    """What one iteration says of its batch, before its step.

    Attributes:
        loss: mean cross entropy.
        correct: how many digits were recognised.
        digits: of how many.
    """

    loss: float
    correct: int
    digits: int


class Engine(Protocol):
    """A network in training."""

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        """Learn from one mini-batch: (R, 28, 28) uint8 images and (R,) labels."""
        ...

    def logits(self, images: np.ndarray) -> Array:
        """(R, 10) outputs at run time, before the softmax, of (R, 28, 28) uint8 images."""
        ...

    def weights(self) -> dict[str, Array]:
        """Copy of parameters and moving averages: all that prediction needs."""
        ...

    def memory(self) -> dict[str, Array]:
        """Copy of what the optimiser remembers."""
        ...

    def load(self, weights: Mapping[str, Array], memory: Mapping[str, Array] | None = None) -> None:
        """Take up what `weights` and `memory` once gave."""
        ...


def open_engine(
    name: str,
    net: Net,
    optimiser: SGD | Adam,
    weights: Mapping[str, Array],
    threads: int | None = None,
) -> Engine:
    """Make a network that is ready to train.

    Args:
        name: "numpy" or "torch".
        net: which network.
        optimiser: how it learns.
        weights: parameters and moving averages to start from; float32 or float64.
        threads: processor threads; None is as many as there are cores.

    Raises:
        EngineError: PyTorch is not installed.
        ValueError: no such engine, or "numpy" is to convolve with kernels other than 5×5.
    """
    make: Callable[..., Engine]
    if name == "numpy":
        from faceresnet.digits.numpy_engine import NumpyEngine as make
    elif name == "torch":
        try:
            from faceresnet.digits.torch_engine import TorchEngine as make
        except ImportError as error:
            raise EngineError(
                f"--engine torch needs PyTorch ({error}): {how_to_install('train')}; or use "
                "--engine numpy"
            ) from error
    else:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    return make(net, optimiser, weights, threads)
