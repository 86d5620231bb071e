"""Fully connected layers, each after batch normalisation, in threads and with few passes.

The operations are those of `faceresnet.nn`. What is gained lies in memory: weights are worked on in
strips that fit a core's cache, and each strip is moved by the optimiser as soon as its gradient is
there, so that the gradient of a whole layer, as large as the layer, never exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from faceresnet.digits.threads import Team
from faceresnet.nn import batch_norm, relu
from faceresnet.nn.functional import Backward, Backward3, Statistics
from faceresnet.nn.shapes import Array

#: Moves part of a parameter: its name, which rows, and their gradient.
Move = Callable[[str, slice, Array], None]
EVERYTHING = slice(None)
#: Strips that a layer's weights are worked on in.
STRIPS = 8


@dataclass(frozen=True)
class Layer:
    """Names of a layer's arrays.

    Attributes:
        norm: index of the batch normalisation.
        connected: index of the weights.
        rectified: whether a ReLU follows.
    """

    norm: int
    connected: int
    rectified: bool


class Forward:
    """One pass through the layers, which `backward` then goes back through."""

    def __init__(self, layers: list[Layer], weights: dict[str, Array], team: Team) -> None:
        self._layers, self._weights, self._team = layers, weights, team
        self._kept: list[tuple[Array, Backward3, Backward | None]] = []
        #: Statistics of the batch at each batch normalisation.
        self.statistics: dict[int, Statistics] = {}

    def __call__(self, x: Array) -> Array:
        """(R, N) → (R, 10) logits."""
        for layer in self._layers:
            gamma, beta = (self._weights[f"{layer.norm}.{name}"] for name in ("gamma", "beta"))
            x, norm_backward, self.statistics[layer.norm] = batch_norm(x, gamma, beta)
            y = connect(x, self._weights, layer.connected, self._team)
            rectified = relu(y) if layer.rectified else (y, None)
            self._kept.append((x, norm_backward, rectified[1]))
            x = rectified[0]
        return x

    def backward(self, dy: Array, move: Move) -> Array:
        """Move every parameter by its gradient; returns the delta-error of the input."""
        for layer, kept in zip(reversed(self._layers), reversed(self._kept), strict=True):
            x, norm_backward, relu_backward = kept
            if relu_backward is not None:
                dy = relu_backward(dy)
            dy, dgamma, dbeta = norm_backward(self._disconnect(layer.connected, x, dy, move))
            move(f"{layer.norm}.gamma", EVERYTHING, dgamma)
            move(f"{layer.norm}.beta", EVERYTHING, dbeta)
        return dy

    def _disconnect(self, index: int, x: Array, dy: Array, move: Move) -> Array:
        """Backward through `connect`, strip by strip of the weights."""
        w = self._weights[f"{index}.w"]
        dx = np.empty_like(x)

        def one(strip: slice) -> None:
            np.matmul(dy, w[strip].T, out=dx[:, strip])  # eq. 15, before the weights move
            (dw,) = self._team.work.arrays(w.dtype, w[strip].shape)
            np.matmul(x[:, strip].T, dy, out=dw)  # eq. 17
            move(f"{index}.w", strip, dw)

        self._team.each(one, strips(len(w)))
        move(f"{index}.b", EVERYTHING, dy.sum(axis=0))
        return dx


def connect(x: Array, weights: dict[str, Array], index: int, team: Team) -> Array:
    """x w + b (eq. 3)."""
    w, b = weights[f"{index}.w"], weights[f"{index}.b"]
    y = np.empty((len(x), w.shape[1]), x.dtype)

    def one(strip: slice) -> None:
        np.matmul(x, w[:, strip], out=y[:, strip])
        y[:, strip] += b[strip]

    team.each(one, strips(w.shape[1]))
    return y


def strips(length: int) -> list[slice]:
    """The rows or columns of a matrix in strips of the same size, whole vectors each."""
    size = max(16, -(-length // STRIPS // 16) * 16)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
