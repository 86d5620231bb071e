"""Layers, and networks as a sequence of them (section 4.1, eq. 19).

A layer is a frozen description, a few numbers; it holds no array. Its parameters, which learn, and
its state, the moving averages of batch normalisation, are dictionaries that the caller keeps and
passes in:

    net = Sequential((BatchNorm(784), FullyConnected(784, 10), Apply(relu)))
    parameters, state = net.initialise(np.random.default_rng(0))
    step = training_step(net, parameters, state, x, labels)   # loss, gradients, new state
    optimiser.step(parameters, step.gradients, memory)
    y = net.predict(parameters, step.state, x)

Nothing is kept between calls, so a layer, or a whole network, may stand in several places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

from faceresnet.nn.fast_convolution import fast_conv2d
from faceresnet.nn.functional import (
    Backward,
    Backward3,
    Statistics,
    batch_norm,
    batch_norm_at_run_time,
    fully_connected,
    moving_average,
)
from faceresnet.nn.losses import LossBackward, softmax_cross_entropy
from faceresnet.nn.optim import Parameters, he_normal
from faceresnet.nn.shapes import Array, Pair, Scalar, pair

State = dict[str, Array]
Arrays = Mapping[str, Array]
DType = type[np.floating]

#: From the delta-error of a layer's output, that of its input and the gradients of its parameters.
LayerBackward = Callable[[Array], tuple[Array, Parameters]]
#: Output of a layer in training, its backward pass, and the state after it.
LayerForward = tuple[Array, LayerBackward, State]


class Layer(ABC):
    """What `Sequential` asks of a layer.

    By default it has nothing to learn, and the same output at run time as in training.
    """

    def initialise(self, rng: Generator, dtype: DType = np.float32) -> tuple[Parameters, State]:
        """Parameters and state before training."""
        return {}, {}

    @abstractmethod
    def forward(self, parameters: Arrays, state: Arrays, x: Array) -> LayerForward:
        """Output in training, its backward pass, and the state after it."""

    def predict(self, parameters: Arrays, state: Arrays, x: Array) -> Array:
        """Output at run time."""
        return self.forward(parameters, state, x)[0]


@dataclass(frozen=True)
class Apply(Layer):
    """An operation without parameters: ``Apply(relu)``, ``Apply(partial(max_pool2d, kernel=2))``.

    Attributes:
        operation: x → y, backward.
    """

    operation: Callable[[Array], tuple[Array, Backward]]

    def forward(self, parameters: Arrays, state: Arrays, x: Array) -> LayerForward:
        """Output, its backward pass, and no state."""
        y, backward = self.operation(x)
        return y, lambda dy: (backward(dy), {}), {}


@dataclass(frozen=True)
class FullyConnected(Layer):
    """Every neuron connected to every neuron of the next layer; parameters ``w`` and ``b``.

    Attributes:
        inputs: N, neurons before.
        outputs: N_out, neurons after.
    """

    inputs: int
    outputs: int

    def initialise(self, rng: Generator, dtype: DType = np.float32) -> tuple[Parameters, State]:
        """He's weights, and biases of 0."""
        w = he_normal((self.inputs, self.outputs), self.inputs, rng, dtype)
        return {"w": w, "b": np.zeros(self.outputs, dtype)}, {}

    def forward(self, parameters: Arrays, state: Arrays, x: Array) -> LayerForward:
        """Output, its backward pass, and no state."""
        y, backward = fully_connected(x, parameters["w"], parameters["b"])
        return y, _named(backward, "w", "b"), {}


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution with biases; parameters ``w`` and ``b``.

    Attributes:
        channels: C, feature maps before.
        channels_out: C_out, feature maps after.
        kernel: size of the kernel, one number or (height, width).
        stride: step of the kernel.
        padding: zeros put around the image.
        convolve: which of the convolutions computes it; all give the same.
    """

    channels: int
    channels_out: int
    kernel: Pair
    stride: Pair = 1
    padding: Pair = 0
    convolve: Callable[[Array, Array, Array | None, Pair, Pair], tuple[Array, Backward3]] = (
        fast_conv2d
    )

    def initialise(self, rng: Generator, dtype: DType = np.float32) -> tuple[Parameters, State]:
        """He's weights, and biases of 0."""
        shape = (self.channels_out, self.channels, *pair("kernel", self.kernel, 1))
        w = he_normal(shape, int(np.prod(shape[1:])), rng, dtype)
        return {"w": w, "b": np.zeros(self.channels_out, dtype)}, {}

    def forward(self, parameters: Arrays, state: Arrays, x: Array) -> LayerForward:
        """Output, its backward pass, and no state."""
        y, backward = self.convolve(x, parameters["w"], parameters["b"], self.stride, self.padding)
        return y, _named(backward, "w", "b"), {}


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation; parameters ``gamma`` and ``beta``, state ``mean`` and ``variance``.

    Attributes:
        channels: C, feature maps, or neurons after a fully connected layer.
        weight: λ of eq. 41–42, how much of each batch goes into the moving averages.
        epsilon: added to the variance.
    """

    channels: int
    weight: float = 0.1
    epsilon: float = 1e-5

    def initialise(self, rng: Generator, dtype: DType = np.float32) -> tuple[Parameters, State]:
        """No scale and no shift; averages of a standard normal distribution."""
        one, zero = np.ones(self.channels, dtype), np.zeros(self.channels, dtype)
        return {"gamma": one, "beta": zero}, {"mean": zero.copy(), "variance": one.copy()}

    def forward(self, parameters: Arrays, state: Arrays, x: Array) -> LayerForward:
        """Output by the batch's own statistics, its backward pass, and the averages after it."""
        y, backward, batch = batch_norm(x, parameters["gamma"], parameters["beta"], self.epsilon)
        average = Statistics(state["mean"], state["variance"])
        if len(x):  # an empty batch says nothing about the data
            average = moving_average(average, batch, self.weight)
        return y, _named(backward, "gamma", "beta"), dict(average._asdict())

    def predict(self, parameters: Arrays, state: Arrays, x: Array) -> Array:
        """Output at run time, by the moving averages."""
        average = Statistics(state["mean"], state["variance"])
        return batch_norm_at_run_time(
            x, parameters["gamma"], parameters["beta"], average, self.epsilon
        )[0]


@dataclass(frozen=True)
class Sequential(Layer):
    """Layers one after the other (eq. 19); itself a layer.

    Attributes:
        layers: from the input on. The parameter ``w`` of layer 3 has the name ``3.w``.
    """

    layers: tuple[Layer, ...]

    def initialise(self, rng: Generator, dtype: DType = np.float32) -> tuple[Parameters, State]:
        """Parameters and state of all layers."""
        parameters: Parameters = {}
        state: State = {}
        for index, layer in enumerate(self.layers):
            its_parameters, its_state = layer.initialise(rng, dtype)
            parameters |= _prefixed(index, its_parameters)
            state |= _prefixed(index, its_state)
        return parameters, state

    def forward(self, parameters: Arrays, state: Arrays, x: Array) -> LayerForward:
        """Output in training, its backward pass (section 3.5), and the state after it."""
        backwards: list[LayerBackward] = []
        after: State = {}
        for index, layer in enumerate(self.layers):
            x, backward, its_state = layer.forward(_part(index, parameters), _part(index, state), x)
            backwards.append(backward)
            after |= _prefixed(index, its_state)

        def backward_all(dy: Array) -> tuple[Array, Parameters]:
            gradients: Parameters = {}
            for index in reversed(range(len(backwards))):
                dy, its_gradients = backwards[index](dy)
                gradients |= _prefixed(index, its_gradients)
            return dy, gradients

        return x, backward_all, after

    def predict(self, parameters: Arrays, state: Arrays, x: Array) -> Array:
        """Output at run time."""
        for index, layer in enumerate(self.layers):
            x = layer.predict(_part(index, parameters), _part(index, state), x)
        return x


class TrainingStep(NamedTuple):
    """What one mini-batch says.

    Attributes:
        loss: L(θ), before any step.
        gradients: ∂L/∂θ under the names of the parameters.
        state: moving averages after this batch.
        y: output of the network in training.
    """

    loss: Scalar
    gradients: Parameters
    state: State
    y: Array


def training_step(
    net: Layer,
    parameters: Arrays,
    state: Arrays,
    x: Float[np.ndarray, "R *shape"],
    y: Float[np.ndarray, "R C"] | Int[np.ndarray, "R"],
    loss: Callable[[Array, Array], tuple[Scalar, LossBackward]] = softmax_cross_entropy,
) -> TrainingStep:
    """Loss and gradient of one mini-batch (section 3.6); an optimiser then makes the step.

    Args:
        net: the network; for the default loss it ends before the softmax.
        parameters: θ.
        state: moving averages so far.
        x: the mini-batch.
        y: its ground truth, as the loss takes it.
        loss: of the network's output and the ground truth.
    """
    output, backward, after = net.forward(parameters, state, x)
    value, loss_backward = loss(output, y)
    _, gradients = backward(loss_backward())
    return TrainingStep(value, gradients, after, output)


def _named(backward: Backward3, first: str, second: str) -> LayerBackward:
    """Give the derivatives by a layer's two parameters the parameters' names."""

    def named(dy: Array) -> tuple[Array, Parameters]:
        dx, dfirst, dsecond = backward(dy)
        return dx, {first: dfirst, second: dsecond}

    return named


def _prefixed(index: int, arrays: Arrays) -> dict[str, Array]:
    """Names as they stand in the whole network."""
    return {f"{index}.{name}": array for name, array in arrays.items()}


def _part(index: int, arrays: Arrays) -> dict[str, Array]:
    """Arrays of one layer, by their names in it."""
    prefix = f"{index}."
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
