"""Fully connected layers, each after batch normalisation, in threads and with few passes.

The operations are those of `faceresnet.nn`. What is gained lies in memory. The neurons of a layer
are cut into strips, and a thread does everything that concerns a strip, which fits its core's
cache, in one go: forward the product, the ReLU and the next layer's batch normalisation, which
knows no other neurons; backward the delta-error, the gradient, and the step of the optimiser, so
that the gradient of a whole layer, as large as the layer, never exists.

The products are cut further into blocks of 16 columns: with 50 images and some 1,000 inputs they
are small enough for the kernels of OpenBLAS that need not copy the weights first (for processors
with AVX-512), a quarter faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from faceresnet.digits.threads import Team
from faceresnet.nn import batch_norm
from faceresnet.nn.functional import Backward3, Statistics
from faceresnet.nn.shapes import Array

#: Moves part of a parameter: its name, which rows, and their gradient.
Move = Callable[[str, slice, Array], None]
EVERYTHING = slice(None)
#: Strips that a layer's neurons are worked on in: one for each of two threads, as more of them cost
#: more in calls than they spread. And columns of a product: one cache line.
STRIPS, BLOCK = 2, 16


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
        backwards: of the normalisation, for each strip.
    """

    raw: Array
    x: Array
    backwards: list[Backward3]


class Forward:
    """One pass through the layers, which `backward` then goes back through."""

    def __init__(self, layers: list[Layer], weights: dict[str, Array], team: Team) -> None:
        self._layers, self._weights, self._team = layers, weights, team
        self._inputs: list[_Input] = []
        #: Statistics of the batch at each batch normalisation.
        self.statistics: dict[int, Statistics] = {}

    def __call__(self, x: Array) -> Array:
        """(R, N) → (R, 10) logits."""
        self._normalise(x, 0, lambda strip: None)
        for number, layer in enumerate(self._layers):
            before = self._inputs[number].x
            w = self._weights[f"{layer.connected}.w"]
            y = np.empty((len(x), w.shape[1]), x.dtype)

            one = partial(connect, before, self._weights, layer, y)
            if number + 1 < len(self._layers):
                self._normalise(y, number + 1, one)
            else:
                self._team.each(one, strips(y.shape[1]))
        return y

    def _normalise(self, raw: Array, number: int, make: Callable[[slice], None]) -> None:
        """Batch normalisation before a layer, strip by strip, each of which is first made."""
        norm = self._layers[number].norm
        gamma, beta = (self._weights[f"{norm}.{name}"] for name in ("gamma", "beta"))
        x = np.empty_like(raw)

        def one(strip: slice) -> tuple[Backward3, Statistics]:
            make(strip)
            x[:, strip], backward, batch = batch_norm(raw[:, strip], gamma[strip], beta[strip])
            return backward, batch

        parts = self._team.each(one, strips(raw.shape[1]))
        self._inputs.append(_Input(raw, x, [backward for backward, _ in parts]))
        mean, variance = zip(*(batch for _, batch in parts), strict=True)
        self.statistics[norm] = Statistics(np.concatenate(mean), np.concatenate(variance))

    def backward(self, dy: Array, move: Move) -> Array:
        """Move every parameter by its gradient; returns the delta-error of the input."""
        for number in reversed(range(len(self._layers))):
            layer = self._layers[number]
            dy, dgamma, dbeta = self._disconnect(number, dy, move)
            move(f"{layer.norm}.gamma", EVERYTHING, dgamma)
            move(f"{layer.norm}.beta", EVERYTHING, dbeta)
        return dy

    def _disconnect(self, number: int, dy: Array, move: Move) -> tuple[Array, Array, Array]:
        """Backward through a layer's product, its batch normalisation and the ReLU before it."""
        name, into = self._layers[number].connected, self._inputs[number]
        rectified = number > 0 and self._layers[number - 1].rectified
        w, x, raw = self._weights[f"{name}.w"], into.x, into.raw
        dx = np.empty_like(x)
        all_strips = strips(len(w))

        def one(index: int) -> tuple[Array, Array]:
            strip = all_strips[index]
            through, dw = self._team.work.arrays(w.dtype, (len(x), len(w[strip])), w[strip].shape)
            times_transposed(dy, w[strip], through)  # eq. 15, before the weights move
            transposed_times(x[:, strip], dy, dw)  # eq. 17
            move(f"{name}.w", strip, dw)
            out, dgamma, dbeta = into.backwards[index](through)
            if rectified:
                out *= raw[:, strip] > 0
            dx[:, strip] = out
            return dgamma, dbeta

        parts = self._team.each(one, range(len(all_strips)))
        move(f"{name}.b", EVERYTHING, dy.sum(axis=0))
        dgamma, dbeta = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return dx, dgamma, dbeta


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


def strips(length: int) -> list[slice]:
    """The neurons of a layer in strips of about the same size, of whole blocks where that goes."""
    block = BLOCK if length % BLOCK == 0 else 1
    blocks = length // block
    count = STRIPS if length >= STRIPS * BLOCK else 1
    cuts = [block * (one * blocks // count) for one in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def _blocks(matrix: Array) -> Array:
    """(rows, columns) as (blocks, rows, 16), a view; one block where 16 does not divide."""
    rows, columns = matrix.shape
    block = BLOCK if columns % BLOCK == 0 else columns
    return matrix.reshape(rows, columns // block, block).transpose(1, 0, 2)
