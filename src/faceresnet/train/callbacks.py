"""What happens beside the steps of a training run: validation, the journal, the moving average."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from faceresnet.atomic import replacing
from faceresnet.train.recipes import Schedule


class Validations(Callback):
    """Validates at the end of every so many epochs and of the run."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Decide whether the epoch that starts ends with one."""
        end = self.schedule.epoch_end(self.schedule.start + trainer.global_step)
        due = end % (self.schedule.epoch * self.schedule.validate_every) == 0
        trainer.limit_val_batches = 1.0 if due or end == self.schedule.iterations else 0


class Journal(Callback):
    """A line of JSON in ``metrics.jsonl`` for each epoch."""

    def __init__(self, file: Path, start: int) -> None:
        self.file, self.start = file, start
        self._validated = False

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Remember that the figures of validation are this epoch's: Lightning keeps them on."""
        self._validated = True

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Drop the lines beyond the checkpoint that training goes on from: they come again."""
        if not trainer.is_global_zero or not self.file.exists():
            return
        lines = self.file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if self._iteration(line) <= self.start + trainer.global_step]
        with replacing(self.file) as partial:
            partial.write_text("".join(kept))

    @staticmethod
    def _iteration(line: str) -> float:
        """Iteration of a line; infinite where it is half a line, written while it was killed."""
        try:
            return float(json.loads(line)["iteration"])
        except (ValueError, KeyError, TypeError):
            return math.inf

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the epoch's line."""
        if not trainer.is_global_zero:
            return
        values = {
            name: round(float(value), 6)
            for name, value in trainer.callback_metrics.items()
            if self._validated or name.partition("/")[0] != "ap"
        }
        self._validated = False
        line = {"iteration": self.start + trainer.global_step, "time": round(time.time()), **values}
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")


class EndsAtOnce(Callback):
    """SIGTERM ends a run in several processes at once; it goes on from its last checkpoint.

    Lightning's handler broadcasts where the other processes may be adding up gradients: each waits
    for the others, for ever.
    """

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Replace Lightning's handler, set by now; at the end Lightning resets them all."""
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return

        def end(number: int, frame: FrameType | None) -> None:
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(signal.Signals(number))
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        signal.signal(signal.SIGTERM, end)


def moving_average(
    decay: float, averages: Sequence[Tensor], currents: Sequence[Tensor], updates: Tensor
) -> None:
    """Exponential moving average, in place, whose decay rises to `decay`: the start is forgotten.

    Without the rise the random initial weights would still be a third of the average after
    1 / (1 − decay) updates. All tensors change at once: one by one, a GPU waits for the processor.
    """
    reached = min(decay, (1 + int(updates)) / (10 + int(updates)))
    if averages[0].is_floating_point():
        torch._foreach_lerp_(list(averages), list(currents), 1 - reached)
    else:  # how many batches a normalisation has seen
        torch._foreach_copy_(list(averages), list(currents))
