"""Fully connected layers, each after batch normalisation, in threads and with few passes.

The operations are those of `faceresnet.nn`. What is gained:

- The products are cut into blocks of 16 columns: with 50 images and some 1,000 inputs they are
  small enough for the kernels of OpenBLAS that need not copy the weights first (for processors
  with AVX-512), a quarter faster. Two threads share them.
- Backward, a thread takes a piece of the weights that fits its core's cache, and does all that they
  are needed for in one go: the delta-error, the gradient, and the step of the optimiser. The
  gradient of a whole layer, as large as the layer, never exists.
- Batch normalisation takes a third of the passes, and no threads: an operation on 50 × 784 numbers
  takes less time than Python's lock takes to change hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from faceresnet.digits.threads import Team
from faceresnet.nn.functional import Backward3, Statistics
from faceresnet.nn.optim import Mover, Parameters
from faceresnet.nn.shapes import Array

#: Columns of a product: one cache line of float32.
BLOCK = 16
#: Parts that a product forward is cut into, and a layer backward: some 100 rows of 784 weights and
#: their gradient fit a cache of 1 MiB.
STRIPS, PIECES = 2, 8


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


@dataclass
class _Input:
    """What goes into a layer.

    Attributes:
        raw: (R, N) before batch normalisation; where a ReLU was before it, 0 is what that cut off.
        x: (R, N) after it.
        backward: of the normalisation.
    """

    raw: Array
    x: Array
    backward: Backward3


class Forward:
    """One pass through the layers, which `backward` then goes back through."""

    def __init__(self, layers: list[Layer], weights: dict[str, Array], team: Team) -> None:
        self._layers, self._weights, self._team = layers, weights, team
        self._inputs: list[_Input] = []
        #: Statistics of the batch at each batch normalisation.
        self.statistics: dict[int, Statistics] = {}

    def __call__(self, x: Array) -> Array:
        """(R, N) → (R, 10) logits."""
        for layer in self._layers:
            gamma, beta = (self._weights[f"{layer.norm}.{name}"] for name in ("gamma", "beta"))
            normal, backward, self.statistics[layer.norm] = normalise(x, gamma, beta)
            self._inputs.append(_Input(x, normal, backward))
            columns = self._weights[f"{layer.connected}.w"].shape[1]
            x = np.empty((len(normal), columns), normal.dtype)
            one = partial(connect, normal, self._weights, layer, x)
            self._team.each(one, strips(columns, STRIPS))
        return x

    def backward(self, dy: Array, move: Mover) -> tuple[Array, Parameters]:
        """Move every weight by its gradient.

        Returns:
            the delta-error of the input, and the gradients of all other parameters.
        """
        gradients: Parameters = {}
        for number in reversed(range(len(self._layers))):
            layer, into = self._layers[number], self._inputs[number]
            dx = self._disconnect(f"{layer.connected}.w", into.x, dy, move)
            gradients[f"{layer.connected}.b"] = dy.sum(axis=0)
            dy, dgamma, dbeta = into.backward(dx)
            gradients |= {f"{layer.norm}.gamma": dgamma, f"{layer.norm}.beta": dbeta}
            if number > 0 and self._layers[number - 1].rectified:
                dy *= into.raw > 0
        return dy, gradients

    def _disconnect(self, name: str, x: Array, dy: Array, move: Mover) -> Array:
        """Delta-error before a layer's product, whose weights move."""
        w = self._weights[name]
        dx = np.empty_like(x)

        def one(rows: slice) -> None:
            (dw,) = self._team.work.arrays(w.dtype, w[rows].shape)
            times_transposed(dy, w[rows], dx[:, rows])  # eq. 15, before the weights move
            transposed_times(x[:, rows], dy, dw)  # eq. 17
            move(name, w[rows], dw, rows, scratch=dw)

        self._team.each(one, strips(len(w), PIECES))
        return dx


def normalise(
    x: Array, gamma: Array, beta: Array, epsilon: float = 1e-5
) -> tuple[Array, Backward3, Statistics]:
    """What `nn.batch_norm` does to (R, N), in fewer passes.

    Sums over R are products with a row of ones, γ is folded into the scale, and memory is used
    again: backward writes into the dy that it is given.
    """
    real = x.dtype.type
    ones, n = np.ones(len(x), x.dtype), real(max(1, len(x)))
    mean = (ones @ x) / n
    centred = x - mean
    y = np.square(centred)
    variance = (ones @ y) / n
    scale = 1 / np.sqrt(variance + real(epsilon))
    np.multiply(centred, gamma * scale, out=y)
    y += beta

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        dbeta = ones @ dy
        through = dy * centred
        dgamma = (ones @ through) * scale
        np.multiply(centred, dgamma * scale / n, out=through)
        dy -= through
        dy -= dbeta / n
        dy *= gamma * scale
        return dy, dgamma, dbeta

    return y, backward, Statistics(mean, variance)


def connect(x: Array, weights: dict[str, Array], layer: Layer, y: Array, strip: slice) -> None:
    """Some columns of x w + b (eq. 3), with their ReLU, into y."""
    w, b = weights[f"{layer.connected}.w"], weights[f"{layer.connected}.b"]
    w, y = w[:, strip], y[:, strip]
    np.matmul(x, _blocks(w), out=_blocks(y))
    y += b[strip]
    if layer.rectified:
        np.maximum(y, np.zeros(y.shape[1], y.dtype), out=y)  # faster than beside the number 0


def times_transposed(x: Array, w: Array, out: Array) -> None:
    """X wᵀ."""
    np.matmul(x, _blocks(w.T), out=_blocks(out))


def transposed_times(x: Array, y: Array, out: Array) -> None:
    """xᵀ y."""
    np.matmul(_blocks(x).transpose(0, 2, 1), y, out=_blocks(out.T).transpose(0, 2, 1))


def strips(length: int, count: int) -> list[slice]:
    """Neurons in so many strips of about the same size, of whole blocks where that goes."""
    block = BLOCK if length % BLOCK == 0 else 1
    blocks = length // block
    count = min(count, max(1, length // BLOCK))
    cuts = [block * (one * blocks // count) for one in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def _blocks(matrix: Array) -> Array:
    """(rows, columns) as (blocks, rows, 16), a view; one block where 16 does not divide."""
    rows, columns = matrix.shape
    block = BLOCK if columns % BLOCK == 0 else columns
    return matrix.reshape(rows, columns // block, block).transpose(1, 0, 2)
