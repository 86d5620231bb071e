"""Every operation of this package with arrays to check it on: ``faceresnet nn gradcheck``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from faceresnet.nn import functional, losses, spatial
from faceresnet.nn.fast_convolution import fast_conv2d
from faceresnet.nn.gradcheck import GradientError, gradcheck
from faceresnet.nn.shapes import Array
from faceresnet.nn.winograd import winograd_conv2d


@dataclass(frozen=True)
class Case:
    """One operation and where it is checked.

    Attributes:
        name: of the operation, and what is special about this case.
        equations: of the paper.
        operation: y and backward from the inputs.
        inputs: float64 arrays by name.
    """

    name: str
    equations: str
    operation: Callable[..., tuple[Any, ...]]
    inputs: Mapping[str, Array]

    def check(self, seed: int = 0) -> list[GradientError]:
        """Relative error of every derivative of the operation."""
        return gradcheck(self.operation, self.inputs, seed=seed)


def cases(seed: int = 0) -> list[Case]:
    """All operations, on small arrays, and the two heaviest on large ones too.

    Args:
        seed: of the arrays.
    """
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal
    apart = partial(_apart, rng)
    truth = functional.softmax(normal((5, 7)))[0]
    labels = rng.integers(7, size=5)
    channels = {"gamma": normal(3), "beta": normal(3)}
    known = functional.Statistics(normal(3), rng.uniform(0.5, 2, 3))
    image = {"x": normal((2, 3, 8, 9)), "w": normal((4, 3, 3, 2)), "b": normal(4)}
    five = {"x": normal((2, 3, 8, 9)), "w": normal((4, 3, 5, 5)), "b": normal(4)}
    large = {"x": normal((8, 16, 20, 20)), "w": normal((16, 16, 5, 5)), "b": normal(16)}
    connected = {"x": normal((5, 6)), "w": normal((6, 4)), "b": normal(4)}
    connected_large = {"x": normal((50, 784)), "w": normal((784, 784)), "b": normal(784)}
    one_image = {"x": normal((2, 3, 4, 5)), **channels}
    at_run_time = partial(_at_run_time, known)
    return [
        Case("fully_connected", "1–4, 15, 17, 18", functional.fully_connected, connected),
        Case("fully_connected, large", "1–4", functional.fully_connected, connected_large),
        Case("relu", "5, 29–30", functional.relu, {"x": apart((5, 7)) + 0.01}),
        Case("sigmoid", "6, 29–30", functional.sigmoid, {"x": normal((5, 7))}),
        Case("tanh", "7, 29–30", functional.tanh, {"x": normal((5, 7))}),
        Case("flatten", "section 4", functional.flatten, {"x": normal((2, 3, 4, 5))}),
        Case("conv2d", "20–28", spatial.conv2d, image),
        Case(
            "conv2d, stride, padding",
            "20–28",
            partial(spatial.conv2d, stride=(2, 1), padding=(1, 2)),
            image,
        ),
        Case("conv2d, large", "20–28", spatial.conv2d, large),
        Case("fast_conv2d", "20–28", fast_conv2d, image),
        Case(
            "fast_conv2d, stride, padding",
            "20–28",
            partial(fast_conv2d, stride=(2, 1), padding=(1, 2)),
            image,
        ),
        Case("fast_conv2d, large", "20–28", fast_conv2d, large),
        Case("winograd_conv2d, padding", "20–28", partial(winograd_conv2d, padding=(1, 2)), five),
        Case("winograd_conv2d, large", "20–28", winograd_conv2d, large),
        Case(
            "max_pool2d",
            "31–36",
            partial(spatial.max_pool2d, kernel=2),
            {"x": apart((2, 3, 6, 4))},
        ),
        Case(
            "max_pool2d, overlapping",
            "31–36",
            partial(spatial.max_pool2d, kernel=(3, 2), stride=1),
            {"x": apart((2, 3, 6, 4))},
        ),
        Case("batch_norm over R, H, W", "37–53", functional.batch_norm, one_image),
        Case(
            "batch_norm over R", "37–53", functional.batch_norm, {"x": normal((6, 3)), **channels}
        ),
        Case("batch_norm_at_run_time", "39–42", at_run_time, one_image),
        Case("softmax", "54–55", functional.softmax, {"x": normal((5, 7))}),
        Case(
            "mean_squared_error",
            "8, 16",
            lambda y_hat: losses.mean_squared_error(y_hat, truth),
            {"y_hat": normal((5, 7))},
        ),
        Case(
            "cross_entropy",
            "56–57",
            lambda y_hat: losses.cross_entropy(y_hat, truth),
            {"y_hat": functional.softmax(0.3 * normal((5, 7)))[0]},
        ),
        Case(
            "softmax_cross_entropy",
            "54–57",
            lambda x: losses.softmax_cross_entropy(x, truth),
            {"x": normal((5, 7))},
        ),
        Case(
            "softmax_cross_entropy, labels",
            "54–57",
            lambda x: losses.softmax_cross_entropy(x, labels),
            {"x": normal((5, 7))},
        ),
    ]


def _apart(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers around 0 in random order, none closer than 0.05 to another."""
    n = int(np.prod(shape))
    return (rng.permutation(n).reshape(shape) - n / 2) * 0.05


def _at_run_time(
    statistics: functional.Statistics, x: Array, gamma: Array, beta: Array
) -> tuple[Array, functional.Backward3]:
    """Batch normalisation with its inputs last, to be bound to statistics."""
    return functional.batch_norm_at_run_time(x, gamma, beta, statistics)
