"""How the networks are trained, as numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from faceresnet.digits.engines import ENGINES
from faceresnet.digits.nets import NETS
from faceresnet.nn.optim import SGD, Adam, StepSchedule


@dataclass(frozen=True)
class OneCycle:
    """A learning rate that rises evenly to its peak and falls to 0 by half a cosine.

    Attributes:
        peak: the largest α.
        iterations: length of the run.
        warm_up: share of it in which the rate rises.
    """

    peak: float
    iterations: int
    warm_up: float = 0.2

    def __call__(self, iteration: int) -> float:
        """α at this iteration."""
        rise = max(1, round(self.warm_up * self.iterations))
        if iteration < rise:
            return self.peak * (iteration + 1) / rise
        done = (iteration - rise) / max(1, self.iterations - rise)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        net: "cnn" or "fcc".
        engine: "numpy" or "torch".
        iterations: how many mini-batches.
        batch_size: R, digits in each.
        learning_rate: α; with "sgd" of the loss of eq. 56, which sums over the batch.
        schedule: "steps", the paper's, divides α by 10 after a third and two thirds of the
            iterations; "one-cycle" rises to α and falls to 0; "constant".
        optimiser: "sgd" or "adam".
        momentum: of "sgd".
        weight_decay: how strongly parameters are drawn to 0.
        shift: largest displacement of a digit while training, px in either axis.
        turn: largest rotation, degrees either way.
        zoom: largest change of size, as a share of it, either way.
        seed: of weights, batches and augmentation.
        held_out: training digits that are kept for validation.
        evaluate_every: iterations from one measurement, and checkpoint, to the next.
        patience: measurements without a better validation accuracy after which training stops; 0
            never stops it.
        data: folder that the digits came from, for commands that are not told.
    """

    net: str = "cnn"
    engine: str = "numpy"
    iterations: int = 5000
    batch_size: int = 50
    learning_rate: float = 0.001
    schedule: str = "steps"
    optimiser: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    shift: float = 0.0
    turn: float = 0.0
    zoom: float = 0.0
    seed: int = 0
    held_out: int = 5000
    evaluate_every: int = 250
    patience: int = 10
    data: str = ""

    def __post_init__(self) -> None:
        for name, known in (
            ("net", tuple(NETS)),
            ("engine", ENGINES),
            ("schedule", tuple(_SCHEDULES)),
            ("optimiser", ("sgd", "adam")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name in ("iterations", "batch_size", "held_out", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("momentum", "weight_decay", "shift", "turn", "zoom", "seed", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    def make_optimiser(self) -> SGD | Adam:
        """The optimiser with the schedule of its rate."""
        # Both engines minimise the mean over the batch; α of the sum is R·α of the mean. Adam
        # divides the scale of the loss out.
        scale = self.batch_size if self.optimiser == "sgd" else 1
        rate = _SCHEDULES[self.schedule](self.learning_rate * scale, self.iterations)
        if self.optimiser == "adam":
            return Adam(rate, weight_decay=self.weight_decay)
        return SGD(rate, self.momentum, self.weight_decay)

    def to_json(self) -> str:
        """As the text of ``config.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of `to_json`.

        Raises:
            ValueError: it is not the text of a configuration.
        """
        values = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            raise ValueError(f"it must have the keys {', '.join(sorted(known))}")
        for field in dataclasses.fields(cls):
            _check_type(field.name, values[field.name], type(field.default))
        return cls(**values)


def _check_type(name: str, value: object, expected: type) -> None:
    """Refuse a setting of another type; a whole number is a number too."""
    types, called = {
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        str: ((str,), "text"),
    }[expected]
    if type(value) not in types:
        raise ValueError(f"{name} must be {called}, got {value!r}")


_SCHEDULES: dict[str, Callable[[float, int], Callable[[int], float]]] = {
    "steps": lambda rate, n: StepSchedule(rate, (n // 3, 2 * n // 3)),
    "one-cycle": OneCycle,
    "constant": lambda rate, n: StepSchedule(rate),
}

_BEST: dict[str, float | str] = {
    "schedule": "one-cycle",
    "momentum": 0.9,
    "learning_rate": 0.0005,
    "weight_decay": 5e-4,
    "shift": 2.0,
    "turn": 10.0,
    "zoom": 0.1,
    "patience": 0,
}
#: What ``--recipe`` names: settings that differ from those of `Config`, for each network.
RECIPES: dict[str, dict[str, dict[str, float | str]]] = {
    "paper": {"cnn": {}, "fcc": {}},
    "best": {"cnn": {**_BEST, "iterations": 25_000}, "fcc": {**_BEST, "iterations": 15_000}},
}
#: Iterations unless told, by the recipe or otherwise: the paper's by hand, and in PyTorch.
ITERATIONS = {"numpy": 5_000, "torch": 100_000}
#: How many measurements a run makes unless told, and the least iterations between two: by hand, a
#: measurement takes the time of a hundred.
MEASUREMENTS, LEAST_BETWEEN = 20, 100


def make_config(recipe: str, net: str, engine: str, **changes: object) -> Config:
    """A recipe's configuration with some settings changed.

    Args:
        recipe: one of `RECIPES`.
        net: which network.
        engine: which engine.
        changes: settings of `Config`; None keeps the recipe's.

    Raises:
        ValueError: no such recipe, setting, or value.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    settings: dict[str, object] = {"iterations": ITERATIONS.get(engine, 1)}
    settings |= RECIPES[recipe].get(net, {})
    settings |= {name: value for name, value in changes.items() if value is not None}
    if "evaluate_every" not in settings and isinstance(settings["iterations"], int):
        settings["evaluate_every"] = max(LEAST_BETWEEN, settings["iterations"] // MEASUREMENTS)
    unknown = set(settings) - {field.name for field in dataclasses.fields(Config)}
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
    return Config(net=net, engine=engine, **settings)  # type: ignore[arg-type]
