"""How the parameters of a network start, and how they move.

Parameters and their gradients are dictionaries of arrays with the same names. An optimiser is a
frozen description; what it remembers from step to step lies in a second dictionary, so that a run
can be saved and taken up again. Nothing else in this package writes into what it is given: an
optimiser does, into the parameters and that memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from faceresnet.nn.shapes import Array, check

Parameters = dict[str, Array]

#: The learning rate at an iteration, counted from 0.
Schedule = Callable[[int], float]
ALL_ROWS = slice(None)
#: Moves a parameter, or some rows of one, in one iteration; its arguments: `Optimiser.mover`.
Mover = Callable[..., None]


def he_normal(
    shape: tuple[int, ...],
    fan_in: int,
    rng: np.random.Generator,
    dtype: type[np.floating] = np.float32,
) -> Float[np.ndarray, "..."]:
    """Weights that keep the variance of activations from layer to layer under ReLU.

    Args:
        shape: of the weights.
        fan_in: how many neurons each neuron of the next layer sums.
        rng: where the numbers come from.
        dtype: float32 or float64; both are rounded from the same numbers.

    Returns:
        Normal numbers of variance 2 / fan_in (He et al. 2015, eq. 10).
    """
    if fan_in < 1:
        raise ValueError(f"fan_in must be at least 1, got {fan_in}")
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(dtype)


@dataclass(frozen=True)
class StepSchedule:
    """A learning rate that is divided at given iterations, as in section 5.1.

    Attributes:
        learning_rate: α at the start.
        milestones: iterations, counted from 0, from which on the rate is one factor smaller.
        factor: what each milestone multiplies the rate by.
    """

    learning_rate: float
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __call__(self, iteration: int) -> float:
        """α at this iteration."""
        return self.learning_rate * self.factor ** sum(iteration >= at for at in self.milestones)


class Optimiser(ABC):
    """How parameters move by their gradients.

    With g = ∂L/∂θ + decay · θ a step is θ → θ − `_change` of g.

    Attributes:
        learning_rate: α, or a schedule of it.
        weight_decay: how strongly every parameter is drawn to 0.
    """

    learning_rate: float | Schedule
    weight_decay: float

    def initialise(self, parameters: Mapping[str, Array]) -> Parameters:
        """Memory before the first step: ``iteration`` counts the steps done, all else is 0."""
        memory: Parameters = {"iteration": np.zeros((), dtype=np.float64)}
        for kind in self._remembered():
            memory |= {f"{kind}.{name}": np.zeros_like(one) for name, one in parameters.items()}
        return memory

    def mover(self, memory: Parameters) -> Mover:
        """What moves single parameters, or rows of them, in the coming iteration.

        `step` is this for all of them; who calls it directly adds 1 to ``memory["iteration"]``
        after the last.

        Returns:
            what moves one in place, ``move(name, theta, gradient, rows, scratch)``: the parameter's
            name, the rows of it to be written to, their gradient ∂L/∂θ, which rows they are (by
            default all), and memory of that shape to work in, the gradient's own if it is not
            needed any more (by default new memory).
        """
        iteration = int(memory["iteration"])
        rate = self.learning_rate
        rate = rate(iteration) if callable(rate) else rate

        def move(
            name: str,
            theta: Array,
            gradient: Array,
            rows: slice = ALL_ROWS,
            scratch: Array | None = None,
        ) -> None:
            g = gradient
            if self.weight_decay:
                g = np.add(g, theta.dtype.type(self.weight_decay) * theta, out=scratch)
            past = [memory[f"{kind}.{name}"][rows] for kind in self._remembered()]
            theta -= self._change(g, past, rate, iteration, scratch)

        return move

    def step(
        self, parameters: Parameters, gradients: Mapping[str, Array], memory: Parameters
    ) -> None:
        """Move the parameters by one step, in place, and update the memory.

        Args:
            parameters: θ, written to.
            gradients: ∂L/∂θ under the same names.
            memory: what `initialise` gave and earlier steps changed, written to.
        """
        _check_gradients(parameters, gradients)
        move = self.mover(memory)
        for name, theta in parameters.items():
            move(name, theta, gradients[name])
        memory["iteration"] += 1

    @abstractmethod
    def _remembered(self) -> tuple[str, ...]:
        """Names of what is remembered of every parameter."""

    @abstractmethod
    def _change(
        self, g: Array, past: list[Array], rate: float, iteration: int, scratch: Array | None
    ) -> Array:
        """What is taken from θ.

        Args:
            g: gradient with weight decay.
            past: what is remembered, in the order of `_remembered`, written to.
            rate: α now.
            iteration: counted from 0.
            scratch: memory to work in, which may be that of g; None for new memory.
        """


@dataclass(frozen=True)
class SGD(Optimiser):
    """Stochastic gradient descent (eq. 12), with momentum and weight decay.

    With g = ∂L/∂θ + decay · θ and v → momentum · v + g, a step is θ → θ − α v. Both extras at 0
    leave eq. 12. PyTorch's SGD does the same.

    Attributes:
        learning_rate: α, or a schedule of it.
        momentum: how much of the last step's v goes on, in [0, 1).
        weight_decay: how strongly every parameter is drawn to 0.
    """

    learning_rate: float | Schedule
    momentum: float = 0.0
    weight_decay: float = 0.0

    def _remembered(self) -> tuple[str, ...]:
        return ("v",) if self.momentum else ()

    def _change(
        self, g: Array, past: list[Array], rate: float, iteration: int, scratch: Array | None
    ) -> Array:
        real = g.dtype.type
        if self.momentum:
            (v,) = past
            v *= real(self.momentum)
            v += g
            g = v
        return np.multiply(g, real(rate), out=scratch)


@dataclass(frozen=True)
class Adam(Optimiser):
    """Steps of about α in every parameter, whatever the size of its gradient.

    m → β₁ m + (1 − β₁) g, v → β₂ v + (1 − β₂) g², both divided by 1 − βᵗ for their start at 0, then
    θ → θ − α m / (√v + ε) (Kingma and Ba 2015, algorithm 1).

    Attributes:
        learning_rate: α, or a schedule of it.
        beta1: weight of the past in the mean of the gradients.
        beta2: weight of the past in the mean of their squares.
        epsilon: keeps the quotient finite.
        weight_decay: added to the gradient as weight_decay · θ, as in `SGD`.
    """

    learning_rate: float | Schedule = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def _remembered(self) -> tuple[str, ...]:
        return ("m", "v")

    def _change(
        self, g: Array, past: list[Array], rate: float, iteration: int, scratch: Array | None
    ) -> Array:
        real, (m, v), t = g.dtype.type, past, iteration + 1
        m += real(1 - self.beta1) * (g - m)
        v += real(1 - self.beta2) * (np.square(g) - v)
        scale = np.sqrt(v)
        scale /= real(np.sqrt(1 - self.beta2**t))
        scale += real(self.epsilon)
        return real(rate / (1 - self.beta1**t)) * (m / scale)


def _check_gradients(parameters: Parameters, gradients: Mapping[str, Array]) -> None:
    """Refuse gradients that are not one for each parameter, of its shape and precision.

    Looked at before anything is written, so that a refused step changes nothing.
    """
    if parameters.keys() != gradients.keys():
        raise ValueError(
            "gradients must have the names of the parameters: "
            f"missing {sorted(parameters.keys() - gradients.keys())}, "
            f"unknown {sorted(gradients.keys() - parameters.keys())}"
        )
    for name, theta in parameters.items():
        axes = {str(axis): length for axis, length in enumerate(theta.shape)}
        check(f"gradient of {name}", gradients[name], theta, axes)
