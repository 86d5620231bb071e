"""The networks by hand, trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from faceresnet.digits.engines import Step
from faceresnet.digits.nets import Net, as_input, sequential
from faceresnet.nn import training_step
from faceresnet.nn.optim import SGD, Adam
from faceresnet.nn.shapes import Array


class NumpyEngine:
    """`faceresnet.nn`, as it reads."""

    def __init__(
        self,
        net: Net,
        optimiser: SGD | Adam,
        weights: Mapping[str, Array],
        threads: int | None = None,
    ) -> None:
        self._net, self._optimiser, self._layers = net, optimiser, sequential(net)
        self.load(weights)

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        """Learn from one mini-batch."""
        x = as_input(self._net, images, self._dtype)
        one = training_step(self._layers, self._parameters, self._state, x, labels)
        self._optimiser.step(self._parameters, one.gradients, self._memory)
        self._state = one.state
        return Step(float(one.loss), int((one.y.argmax(axis=1) == labels).sum()), len(labels))

    def logits(self, images: np.ndarray) -> Array:
        """Outputs at run time."""
        x = as_input(self._net, images, self._dtype)
        return self._layers.predict(self._parameters, self._state, x)

    def weights(self) -> dict[str, Array]:
        """Copy of parameters and moving averages."""
        return {name: array.copy() for name, array in (self._parameters | self._state).items()}

    def memory(self) -> dict[str, Array]:
        """Copy of what the optimiser remembers."""
        return {name: array.copy() for name, array in self._memory.items()}

    def load(self, weights: Mapping[str, Array], memory: Mapping[str, Array] | None = None) -> None:
        """Take up what `weights` and `memory` once gave."""
        parameters, state = self._layers.initialise(np.random.default_rng(0))
        self._parameters = {name: weights[name].copy() for name in parameters}
        self._state = {name: weights[name].copy() for name in state}
        self._dtype = next(iter(self._parameters.values())).dtype.type
        if memory is None:
            self._memory = self._optimiser.initialise(self._parameters)
        else:
            self._memory = {name: array.copy() for name, array in memory.items()}
