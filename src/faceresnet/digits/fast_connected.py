"""Fully connected layers, each after batch normalisation, in threads and with few passes.

The operations are those of `faceresnet.nn`. What is gained:

- The products are cut into blocks of 16 columns: with 50 images and some 1,000 inputs they are
  small enough for the kernels of OpenBLAS that need not copy the weights first (for processors
  with AVX-512), a quarter faster. The weights begin with a cache line (`nn.memory.on_a_line`), so
  that 16 columns of a row are one: forward, another quarter.
- Backward, the layer before waits for the delta-error alone. One thread goes ahead with that, and
  the others follow with the gradients; whoever is free helps with either, and only at the end do
  they wait for each other.
- Gradients are made in pieces, of which a thread moves the weights while they are in its cache. The
  gradient of a whole layer, as large as the layer, never exists.
- Batch normalisation takes a third of the passes, and no threads: an operation on 50 × 784 numbers
  takes less time than Python's lock takes to change hands.

The delta-error of the network's input is never used, but is computed all the same. Without it the
derivatives by γ and β before the first layer would have to come from the gradient of its weights,
in passes over all of them that take as long as the product they save.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise

import numpy as np

from faceresnet.digits.threads import Team
from faceresnet.nn.functional import Backward3, Statistics
from faceresnet.nn.memory import Workspace
from faceresnet.nn.optim import Mover, Parameters
from faceresnet.nn.shapes import Array

#: Columns of a product: one cache line of float32.
BLOCK = 16
#: Weights that a thread takes at a time: half a layer of 784.
PIECE = 320_000


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
        dx: (R, N) memory for the delta-error of x.
        backward: of the normalisation.
    """

    raw: Array
    x: Array
    dx: Array
    backward: Backward3


class Forward:
    """One pass through the layers, which `backward` then goes back through.

    What it computes lies in a workspace, until the next pass: asked for anew, 5 MB would go back to
    the system after every iteration and come page by page in the next.
    """

    def __init__(
        self, layers: list[Layer], weights: dict[str, Array], team: Team, work: Workspace
    ) -> None:
        self._layers, self._weights, self._team, self._work = layers, weights, team, work
        self._inputs: list[_Input] = []
        self._moving: list[Callable[[], list[None]]] = []
        #: Statistics of the batch at each batch normalisation.
        self.statistics: dict[int, Statistics] = {}

    def __call__(self, x: Array) -> Array:
        """(R, N) → (R, 10) logits."""
        shapes: list[tuple[int, int]] = []
        for layer in self._layers:
            inputs, outputs = self._weights[f"{layer.connected}.w"].shape
            shapes += [(len(x), inputs)] * 3 + [(len(x), outputs)]
        memory = iter(self._work.arrays(x.dtype, *shapes))
        for layer in self._layers:
            centred, normal, dx, y = islice(memory, 4)
            gamma, beta = (self._weights[f"{layer.norm}.{name}"] for name in ("gamma", "beta"))
            backward, self.statistics[layer.norm] = normalise(x, gamma, beta, centred, normal)
            self._inputs.append(_Input(x, normal, dx, backward))
            connect(normal, self._weights, layer, y, self._team)
            x = y
        return x

    def backward(self, dy: Array, move: Mover) -> tuple[Array, Parameters]:
        """Go back through the layers; the weights move meanwhile, until `finish`.

        Returns:
            the delta-error of the input, and the gradients of all parameters but the weights.
        """
        gradients: Parameters = {}
        for number in reversed(range(len(self._layers))):
            layer, into = self._layers[number], self._inputs[number]
            w = self._weights[f"{layer.connected}.w"]
            rows = pieces(w, axis=0)
            self._team.each(partial(times_transposed, dy, w, into.dx), rows)  # eq. 15
            one = partial(self._move, f"{layer.connected}.w", into.x, dy, move)
            self._moving.append(self._team.begin(one, rows))
            gradients[f"{layer.connected}.b"] = dy.sum(axis=0)
            dy, dgamma, dbeta = into.backward(into.dx)
            gradients |= {f"{layer.norm}.gamma": dgamma, f"{layer.norm}.beta": dbeta}
            if number > 0 and self._layers[number - 1].rectified:
                dy *= into.raw > 0
        return dy, gradients

    def finish(self) -> None:
        """Help to move the weights, and wait until all have moved."""
        for one in self._moving:
            one()

    def _move(self, name: str, x: Array, dy: Array, move: Mover, rows: slice) -> None:
        """Move some rows of a layer's weights by their gradient."""
        w = self._weights[name][rows]
        (dw,) = self._team.work.arrays(w.dtype, w.shape)
        transposed_times(x[:, rows], dy, dw)  # eq. 17
        move(name, w, dw, rows, scratch=dw)


def normalise(
    x: Array, gamma: Array, beta: Array, centred: Array, y: Array, epsilon: float = 1e-5
) -> tuple[Backward3, Statistics]:
    """What `nn.batch_norm` does to (R, N), in fewer passes; x − μ and the output go where told.

    Sums over R are products with a row of ones, γ is folded into the scale, and memory is used
    again: backward writes into the dy that it is given.
    """
    real = x.dtype.type
    ones, n = np.ones(len(x), x.dtype), real(max(1, len(x)))
    mean = (ones @ x) / n
    np.subtract(x, mean, out=centred)
    np.square(centred, out=y)
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

    return backward, Statistics(mean, variance)


def connect(x: Array, weights: dict[str, Array], layer: Layer, y: Array, team: Team) -> None:
    """X w + b (eq. 3), with its ReLU, into y."""
    w, b = weights[f"{layer.connected}.w"], weights[f"{layer.connected}.b"]
    zero = np.zeros_like(b)  # for `maximum` faster than the number 0

    def one(columns: slice) -> None:
        part = y[:, columns]
        np.matmul(x, _blocks(w[:, columns]), out=_blocks(part))
        part += b[columns]
        if layer.rectified:
            np.maximum(part, zero[columns], out=part)

    team.each(one, pieces(w, axis=1))


def times_transposed(x: Array, w: Array, y: Array, strip: slice) -> None:
    """Some columns of x wᵀ, into y."""
    np.matmul(x, _blocks(w[strip].T), out=_blocks(y[:, strip]))


def transposed_times(x: Array, y: Array, out: Array) -> None:
    """xᵀ y."""
    np.matmul(_blocks(x).transpose(0, 2, 1), y, out=_blocks(out.T).transpose(0, 2, 1))


def pieces(w: Array, axis: int) -> list[slice]:
    """Rows (0) or columns (1) of weights in pieces, of whole blocks where that goes."""
    length = w.shape[axis]
    block = BLOCK if length % BLOCK == 0 else 1
    blocks = length // block
    count = min(-(-w.size // PIECE), blocks)
    cuts = [block * (one * blocks // count) for one in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def _blocks(matrix: Array) -> Array:
    """(rows, columns) as (blocks, rows, 16), a view; one block where 16 does not divide."""
    rows, columns = matrix.shape
    block = BLOCK if columns % BLOCK == 0 else columns
    return matrix.reshape(rows, columns // block, block).transpose(1, 0, 2)
