"""The training loop and its run folder.

    config.json          what is trained, and how
    metrics.jsonl        a line for each measurement
    weights.safetensors  the weights that did best on the validation digits
    last.safetensors     everything needed to go on: weights, optimiser, and how far it is

Every file is replaced whole. A measurement writes the best weights, then its line, then
``last.safetensors``; a run killed anywhere goes on from the last of these and does again, number
for number, what came after it. Batches and augmentation depend on the seed and the iteration alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from faceresnet.atomic import replacing
from faceresnet.digits.augment import augment
from faceresnet.digits.data import CLASSES, Digits
from faceresnet.digits.engines import Engine, Step, open_engine
from faceresnet.digits.nets import NETS, initial_weights
from faceresnet.digits.recipes import Config
from faceresnet.errors import TrainingError, while_writing
from faceresnet.nn import softmax_cross_entropy
from faceresnet.nn.shapes import Array

CONFIG, METRICS = "config.json", "metrics.jsonl"
BEST, LAST = "weights.safetensors", "last.safetensors"
#: What every measurement says; where there are test digits, their loss and accuracy too.
MEASURED = frozenset(
    {
        "iteration",
        "training_loss",
        "training_accuracy",
        "validation_loss",
        "validation_accuracy",
    }
)
#: Digits that are looked at together when measuring.
EVALUATION_BATCH = 250
#: Random streams of a run, kept apart by these numbers: its split, its epochs, its augmentation.
SPLIT, ORDER, AUGMENTATION = 1, 2, 3

#: Called after every iteration with its number, from 1, and what it said.
Progress = Callable[[int, Step], None]


@dataclass(frozen=True)
class Score:
    """How well digits are recognised.

    Attributes:
        loss: mean cross entropy.
        accuracy: share that is recognised.
    """

    loss: float
    accuracy: float


@dataclass
class _State:
    """How far a run is; what `LAST` keeps beside the arrays."""

    iteration: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    without_better: int = 0

    def improves(self, iteration: int, score: Score) -> bool:
        """Take note of a measurement; whether it is the best so far."""
        self.iteration = iteration
        if (score.accuracy, -score.loss) > (self.best_accuracy, -self.best_loss):
            self.without_better = 0
            self.best_accuracy, self.best_loss = score.accuracy, score.loss
            return True
        self.without_better += 1
        return False


@dataclass
class _Sum:
    """Training loss and accuracy since the last measurement."""

    losses: list[float] = field(default_factory=list)
    correct: int = 0

    def add(self, step: Step) -> None:
        self.losses.append(step.loss)
        self.correct += step.correct

    def score(self, batch_size: int) -> Score:
        n = len(self.losses)
        return Score(math.fsum(self.losses) / n, self.correct / (n * batch_size))


def train(
    config: Config,
    training: Digits,
    test: Digits | None,
    folder: Path,
    *,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a network, or go on with a run.

    Args:
        config: what to train; to resume, that of the run (`read_config`).
        training: digits to learn from, and to hold the validation digits out of.
        test: digits on which the loss and accuracy are tracked as in figure 13; nothing depends on
            them.
        folder: the run folder.
        resume: go on from the last checkpoint; a run that was killed before its first begins anew.
        threads: processor threads; None is as many as there are cores.
        progress: called after every iteration.

    Returns:
        The best weights.

    Raises:
        TrainingError: the folder holds a run already, or none to go on with, the loss is not
            finite, or weights cannot be written.
        ValueError: too few digits.
    """
    learn, validate = split(config, training)
    _check_folder(folder, config, resume)
    weights = _joined(*initial_weights(NETS[config.net], config.seed))
    engine = open_engine(config.engine, NETS[config.net], config.make_optimiser(), weights, threads)
    state = _load(folder / LAST, engine) if resume else _State()
    if not resume:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / CONFIG, config.to_json())
    _truncate(folder / METRICS, state.iteration)

    since = _Sum()
    began = time.monotonic()
    for iteration in range(state.iteration, config.iterations):
        if _stops(config, state):
            break
        images, labels = batch(config, learn, iteration)
        step = engine.step(images, labels)
        if not math.isfinite(step.loss):
            raise TrainingError(
                f"the loss is {step.loss} at iteration {iteration}: start again with a lower --lr"
            )
        since.add(step)
        if progress is not None:
            progress(iteration + 1, step)
        done = iteration + 1
        if done % config.evaluate_every and done != config.iterations:
            continue
        line = _measure(engine, since.score(config.batch_size), validate, test)
        score = Score(line["validation_loss"], line["validation_accuracy"])
        if state.improves(done, score):
            _save(folder / BEST, engine.weights(), {"iteration": str(done), **_about(config)})
        line = {"iteration": done, **line, "time_s": round(time.monotonic() - began, 2)}
        _append(folder / METRICS, line)
        _save_state(folder / LAST, engine, state)
        since, began = _Sum(), time.monotonic()
    return folder / BEST


def split(config: Config, training: Digits) -> tuple[Digits, Digits]:
    """Digits to learn from and digits to validate on, the same for every network.

    Raises:
        ValueError: too few digits.
    """
    left = len(training) - config.held_out
    if left < config.batch_size:
        raise ValueError(
            f"{len(training)} training digits, {config.held_out} held out for validation, leave "
            f"fewer than one batch of {config.batch_size}: lower --batch-size or --held-out"
        )
    order = np.random.default_rng((config.seed, SPLIT)).permutation(len(training))
    return training[np.sort(order[:left])], training[np.sort(order[left:])]


def batch(config: Config, learn: Digits, iteration: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of an iteration, counted from 0; each epoch has an order of its own."""
    per_epoch = len(learn) // config.batch_size
    epoch, number = divmod(iteration, per_epoch)
    order = _order(config.seed, epoch, len(learn))
    chosen = order[number * config.batch_size : (number + 1) * config.batch_size]
    rng = np.random.default_rng((config.seed, AUGMENTATION, iteration))
    images = augment(learn.images[chosen], rng, config.shift, config.turn, config.zoom)
    return images, learn.labels[chosen].astype(np.int64)


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Order of an epoch; the last one asked for is kept."""
    return np.random.default_rng((seed, ORDER, epoch)).permutation(n)


def evaluate(engine: Engine, digits: Digits) -> Score:
    """Loss and accuracy at run time."""
    loss, correct = 0.0, 0
    for start in range(0, len(digits), EVALUATION_BATCH):
        part = digits[start : start + EVALUATION_BATCH]
        logits = engine.logits(part.images).astype(np.float64)
        labels = part.labels.astype(np.int64)
        loss += float(softmax_cross_entropy(logits, labels)[0]) * len(part)
        correct += int((logits.argmax(axis=1) == labels).sum())
    return Score(loss / len(digits), correct / len(digits))


def read_config(folder: Path) -> Config:
    """The configuration of a run.

    Raises:
        TrainingError: the folder holds no run.
    """
    path = folder / CONFIG
    try:
        return Config.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{folder} holds no run: {path.name} is missing") from error
    except ValueError as error:
        raise TrainingError(f"{path} is no configuration: {error}") from error


def open_run(
    folder: Path,
    engine: str | None = None,
    threads: int | None = None,
    *,
    checkpoint: str = "best",
) -> Engine:
    """The network of a run with its best weights, or its last.

    Args:
        folder: the run folder.
        engine: "numpy" or "torch"; None is that which trained it.
        threads: processor threads; None is as many as there are cores.
        checkpoint: "best", those that did best on the validation digits, or "last".

    Raises:
        TrainingError: the folder holds no run, or none that has been measured.
        ValueError: no such checkpoint.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint must be best or last, got {checkpoint!r}")
    config = read_config(folder)
    if checkpoint == "best":
        file, weights = folder / BEST, _read(folder / BEST)
    else:
        file, prefix = folder / LAST, "weights."
        weights = {
            name.removeprefix(prefix): array
            for name, array in _read(file).items()
            if name.startswith(prefix)
        }
    net = NETS[config.net]
    expected = _joined(*initial_weights(net, 0))
    if {name: a.shape for name, a in weights.items()} != {
        name: a.shape for name, a in expected.items()
    }:
        raise TrainingError(f"{file} does not hold the weights of a {config.net}")
    return open_engine(engine or config.engine, net, config.make_optimiser(), weights, threads)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The measurements of a run.

    Raises:
        TrainingError: the folder holds no run, or none that has been measured.
    """
    read_config(folder)
    lines = list(_lines(folder / METRICS))
    if not lines:
        raise TrainingError(
            f"{folder} has not been measured yet: {METRICS} is missing or holds no measurement"
        )
    return [values for _, values in lines]


def _stops(config: Config, state: _State) -> bool:
    """Whether the validation accuracy has stopped improving (section 5.1)."""
    return 0 < config.patience <= state.without_better


def _measure(
    engine: Engine, training: Score, validate: Digits, test: Digits | None
) -> dict[str, float]:
    scores = {"training": training, "validation": evaluate(engine, validate)}
    if test is not None:
        scores["test"] = evaluate(engine, test)
    return {
        f"{name}_{what}": round(getattr(score, what), 6)
        for name, score in scores.items()
        for what in ("loss", "accuracy")
    }


def _check_folder(folder: Path, config: Config, resume: bool) -> None:
    if resume:
        if replace(read_config(folder), data=config.data) != config:
            raise TrainingError(f"{folder} holds a run with other settings: start a new run")
    elif (folder / CONFIG).exists():
        raise TrainingError(f"{folder} already holds a run: go on with --resume, or name another")


def _about(config: Config) -> dict[str, str]:
    """What a weights file says of itself."""
    return {"net": config.net, "engine": config.engine, "classes": str(CLASSES)}


def _joined(parameters: Mapping[str, Array], state: Mapping[str, Array]) -> dict[str, Array]:
    return {**parameters, **state}


def _save_state(path: Path, engine: Engine, state: _State) -> None:
    arrays = {f"weights.{name}": array for name, array in engine.weights().items()}
    arrays |= {f"memory.{name}": array for name, array in engine.memory().items()}
    _save(path, arrays, {name: repr(value) for name, value in vars(state).items()})


def _load(path: Path, engine: Engine) -> _State:
    """Put a checkpoint into the engine; where there is none yet, the run is at its start."""
    if not path.exists():
        return _State()
    arrays = _read(path)
    parts: dict[str, dict[str, Array]] = {"weights": {}, "memory": {}}
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata()
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        engine.load(parts["weights"], parts["memory"])
        return _State(**{name: type(value)(about[name]) for name, value in vars(_State()).items()})
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is no checkpoint of this run: {error}") from error


def _save(path: Path, arrays: Mapping[str, Array], about: dict[str, str]) -> None:
    content = save({name: np.array(a, order="C") for name, a in arrays.items()}, about)
    with while_writing(path, TrainingError), replacing(path) as partial:
        partial.write_bytes(content)


def _read(path: Path) -> dict[str, Array]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot read {path}: {error}. A run has it from its first measurement on."
        ) from error


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _append(path: Path, line: Mapping[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _truncate(path: Path, iteration: int) -> None:
    """Drop what lies beyond the checkpoint that training goes on from: it comes again."""
    kept = [text for text, values in _lines(path) if values["iteration"] <= iteration]
    _write(path, "".join(kept))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Whole measurements; a line that was being written when the run was killed is left out."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            values = json.loads(text)
        except ValueError:
            continue
        if text.endswith("\n") and _is_measurement(values):
            yield text, values


def _is_measurement(values: object) -> bool:
    """Whether a line of `METRICS` says what it must, in numbers alone."""
    return (
        isinstance(values, dict)
        and values.keys() >= MEASURED
        and all(type(value) in (int, float) for value in values.values())
    )
