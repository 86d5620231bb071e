"""The networks by hand, trained: `nn` as fast as NumPy runs it.

What is computed is `nn.training_step` of `nets.sequential`, which the tests compare with; how, say
`fast_convolutions` and `fast_connected`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from faceresnet.digits.engines import Step
from faceresnet.digits.fast_connected import Forward, Layer, connect
from faceresnet.digits.fast_convolutions import Convolutions
from faceresnet.digits.nets import Net, as_input, sequential
from faceresnet.digits.threads import Team, one_blas_thread
from faceresnet.nn import BatchNorm, FullyConnected, softmax_cross_entropy
from faceresnet.nn import batch_norm_at_run_time as normalise
from faceresnet.nn.functional import Statistics, moving_average
from faceresnet.nn.memory import Workspace, on_a_line
from faceresnet.nn.optim import SGD, Adam
from faceresnet.nn.shapes import Array


class NumpyEngine:
    """A network by hand."""

    def __init__(
        self,
        net: Net,
        optimiser: SGD | Adam,
        weights: Mapping[str, Array],
        threads: int | None = None,
    ) -> None:
        self._net, self._optimiser, self._team = net, optimiser, Team(threads)
        self._work = Workspace()
        layers = sequential(net).layers
        self._connected = [
            Layer(index - 1, index, rectified=index + 1 < len(layers))
            for index, layer in enumerate(layers)
            if isinstance(layer, FullyConnected)
        ]
        self._norms = [i for i, layer in enumerate(layers) if isinstance(layer, BatchNorm)]
        self.load(weights)

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        """Learn from one mini-batch."""
        with one_blas_thread():
            return self._step(as_input(self._net, images, self._dtype), labels)

    def _step(self, x: Array, labels: np.ndarray) -> Step:
        statistics: dict[int, Statistics] = {}
        if self._images:
            x, statistics = self._images.forward(x)
        forward = Forward(self._connected, self._weights, self._team, self._work)
        logits = forward(x)
        loss, loss_backward = softmax_cross_entropy(logits, labels)
        move = self._optimiser.mover(self._memory)
        dx, gradients = forward.backward(loss_backward(), move)
        if self._images:
            gradients |= self._images.backward(dx)
        for name, gradient in gradients.items():
            move(name, self._weights[name], gradient)
        for index, batch in (statistics | forward.statistics).items():
            average = moving_average(self._average(index), batch, BatchNorm(1).weight)
            self._weights[f"{index}.mean"][...] = average.mean
            self._weights[f"{index}.variance"][...] = average.variance
        forward.finish()
        self._memory["iteration"] += 1
        return Step(float(loss), int((logits.argmax(axis=1) == labels).sum()), len(labels))

    def logits(self, images: np.ndarray) -> Array:
        """Outputs at run time."""
        with one_blas_thread():
            x = as_input(self._net, images, self._dtype)
            if self._images:
                x = self._images.predict(x, {i: self._average(i) for i in self._norms})
            for layer in self._connected:
                gamma, beta = (self._weights[f"{layer.norm}.{name}"] for name in ("gamma", "beta"))
                x, _ = normalise(x, gamma, beta, self._average(layer.norm))
                y = np.empty((len(x), len(self._weights[f"{layer.connected}.b"])), x.dtype)
                connect(x, self._weights, layer, y, self._team)
                x = y
            return x

    def weights(self) -> dict[str, Array]:
        """Copy of parameters and moving averages."""
        return {name: array.copy() for name, array in self._weights.items()}

    def memory(self) -> dict[str, Array]:
        """Copy of what the optimiser remembers."""
        return {name: array.copy() for name, array in self._memory.items()}

    def load(self, weights: Mapping[str, Array], memory: Mapping[str, Array] | None = None) -> None:
        """Take up what `weights` and `memory` once gave."""
        self._weights = {name: on_a_line(array) for name, array in weights.items()}
        self._dtype = next(iter(self._weights.values())).dtype.type
        parameters = {
            name: array
            for name, array in self._weights.items()
            if not name.endswith((".mean", ".variance"))
        }
        self._memory = self._optimiser.initialise(parameters)
        if memory is not None:
            self._memory = {name: memory[name].copy() for name in self._memory}
        self._images: Convolutions | None = None
        if self._net.convolutions:
            self._images = Convolutions(self._net, self._weights, self._team)

    def _average(self, index: int) -> Statistics:
        return Statistics(self._weights[f"{index}.mean"], self._weights[f"{index}.variance"])
