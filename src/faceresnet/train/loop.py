"""The training run: Lightning drives, this says what a step is.

A run folder holds ``recipe.json`` (everything needed to repeat it), ``checkpoints/last.ckpt`` and
``best.ckpt``, ``metrics.jsonl`` and TensorBoard's events. Every batch is a function of the run's
seed and the iteration, and checkpoints hold weights, averages and optimiser, so a run that is
killed and resumed ends as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
    RichProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceresnet.anchors import make_anchors
from faceresnet.atomic import replacing
from faceresnet.errors import TrainingError
from faceresnet.evaluation import evaluate, predict
from faceresnet.train import recipes
from faceresnet.train.augment import make_batch
from faceresnet.train.backbone import load_state
from faceresnet.train.grow import settle
from faceresnet.train.imitation import imitation_loss
from faceresnet.train.losses import detection_loss
from faceresnet.train.machine import check_data_device, has_bf16, own_device, quiet
from faceresnet.train.model import FaceResNet
from faceresnet.train.narrow import narrow
from faceresnet.train.photos import PhotoSet, restyle
from faceresnet.train.recipes import Recipe, Schedule
from faceresnet.train.runs import (
    BEST,
    JOURNAL_FILE,
    LAST,
    RECIPE_FILE,
    load_original,
    load_weights,
    make_spec,
    read_recipe,
    write_json,
)
from faceresnet.train.targets import Faces, Targets, assign_adaptively, assign_by_iou
from faceresnet.train.teacher import Teacher
from faceresnet.train.validation import TorchDetector
from faceresnet.widerface import Photo

#: Images (N, S, S, 3) uint8, their faces, and what the loss asks of each anchor.
Batch = tuple[Tensor, Faces, Targets]
#: Images of the first size whose statistics a grown network starts from (`grow.settle`).
SETTLED = 16


class Batches(Dataset[Batch]):
    """The batches of one epoch, each made when it is asked for.

    The targets come with them: assigning them takes hundreds of small steps, for which a GPU would
    wait at each iteration, and which processes that make batches do beside it.
    """

    def __init__(
        self,
        photos: PhotoSet,
        recipe: Recipe,
        first: int,
        count: int,
        rank: int = 0,
        teacher: Teacher | None = None,
    ) -> None:
        self.photos, self.recipe, self.teacher = photos, recipe, teacher
        self.first, self.count, self.rank = first, count, rank
        self._anchors: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        """Batch `index` of the epoch."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        seed = (self.recipe.seed, self.rank, self.first + index)
        batch = self.recipe.schedule.batch
        images_, faces = make_batch(self.photos, self.recipe.augmentation, batch, seed)
        if self.teacher is not None:
            faces = self.teacher(images_, faces)
        size = (images_.shape[1], images_.shape[2])
        if size not in self._anchors:
            made = make_anchors(self.recipe.network.levels, size)
            self._anchors[size] = torch.tensor(made, device=images_.device)
        return images_, faces, assign(self.recipe, self._anchors[size], faces, len(images_), size)


def assign(recipe: Recipe, anchors: Tensor, faces: Faces, n: int, size: tuple[int, int]) -> Targets:
    """The recipe's assignment of anchors (R, 4) to the faces of `n` images of `size` (h, w) px."""
    loss = recipe.loss
    if loss.assigner == "adaptive":
        return assign_adaptively(anchors, faces, n, recipe.network.levels, size)
    return assign_by_iou(anchors, faces, n, loss.positive_iou, loss.negative_iou, loss.best_anchor)


class Training(lightning.LightningModule):
    """One network learning by one recipe."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        validation: Sequence[Photo] = (),
        original: FaceResNet | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.folder, self.validation = recipe, folder, tuple(validation)
        self.model = FaceResNet(recipe.network)
        self._original = () if original is None else (original,)  # no part of what is saved
        self._anchors: dict[tuple[int, int], Tensor] = {}

    def anchors(self, size: tuple[int, int]) -> Tensor:
        """(R, 4) anchors for images of `size` (height, width) px, on this module's device."""
        if size not in self._anchors:
            made = make_anchors(self.recipe.network.levels, size)
            self._anchors[size] = torch.tensor(made, device=self.device)
        return self._anchors[size]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a run folder be moved: its checkpoints lie where it lies now."""
        here = os.path.realpath(self.folder / LAST.parent)
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "dirpath" in state:
                moved = _relocate(state, str(state["dirpath"]), here)
                state.update(moved)

    def on_fit_start(self) -> None:
        """Bring what is imitated, which Lightning does not know, to where the network is."""
        for original in self._original:
            original.to(self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch (equation 61), or of its imitation."""
        images_, _, targets = batch
        if self._original:
            self.model.eval()  # its normalisations are the original's
            terms = imitation_loss(self.model, *self._original, images_)
        else:
            anchors = self.anchors((images_.shape[1], images_.shape[2]))
            logits, deltas = self.model(images_)
            with torch.autocast(self.device.type, enabled=False):
                scales = self.recipe.network.delta_scales
                terms = detection_loss(logits, deltas, anchors, targets, scales, self.recipe.loss)
        if not torch.isfinite(terms["loss"]):
            self._stop(batch, terms)
        for name, value in terms.items():
            self.log(
                name,
                value.detach(),
                on_step=False,
                on_epoch=True,
                prog_bar=True,
                batch_size=len(images_),
                sync_dist=True,
            )
        return terms["loss"]

    def _stop(self, batch: Batch, terms: dict[str, Tensor]) -> None:
        file = self.folder / "nonfinite.pt"
        images_, faces, _ = batch
        saved = {
            "images": images_,
            "boxes": faces.boxes,
            "image": faces.image,
            "ignore": faces.ignore,
            "score": faces.score,
        }
        torch.save({name: value.cpu() for name, value in saved.items()}, file)
        raise TrainingError(
            f"the loss is {terms['loss'].item()} at iteration {self.global_step}: the batch is "
            f"saved in {file}. Lower schedule.rate, or go on from an earlier checkpoint."
        )

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, with warm-up and decay by iteration."""
        s = self.recipe.schedule
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": s.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimiser: torch.optim.Optimizer
        if s.optimiser == "sgd":
            optimiser = torch.optim.SGD(groups, s.rate, s.momentum)
        else:
            optimiser = torch.optim.AdamW(groups, s.rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda i: rate_factor(s, s.start + i)
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; Lightning's own refuses fused optimisers, for what float16 would do."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def validation_step(self, batch: Any, index: int) -> None:
        """Measure AP on all validation photos at their original size, in the one batch there is."""
        detector = TorchDetector(self.model, make_spec(self.recipe))
        # Almost every photo has a size of its own: searching for its fastest kernels takes longer.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False):
            found = predict(detector, self.validation, protocol="original")
        report = evaluate(found, self.validation, protocol="original")
        self.log("ap", report.ap, prog_bar=True, batch_size=1, sync_dist=True)
        for event, curve in report.events.items():
            if not math.isnan(curve.ap):  # an event without faces
                self.log(f"ap/{event}", curve.ap, batch_size=1, sync_dist=True)


def _relocate(value: Any, old: str, new: str) -> Any:
    """`value` with the folder `old` replaced by `new` in all paths it holds."""
    if isinstance(value, str):
        return new + value.removeprefix(old) if value.startswith(old) else value
    if isinstance(value, dict):
        return {_relocate(k, old, new): _relocate(v, old, new) for k, v in value.items()}
    return value


def rate_factor(schedule: Schedule, iteration: int) -> float:
    """Share of the peak learning rate: linear warm-up, then constant or half a cosine to zero.

    A run that starts late warms up again, to where the cosine is by then.
    """
    warm = min(1.0, (iteration - schedule.start + 1) / max(1, schedule.warmup))
    if schedule.decay == "constant":
        return warm
    done = (iteration - schedule.warmup) / max(1, schedule.iterations - schedule.warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))


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


def epoch_end(schedule: Schedule, done: int) -> int:
    """The iteration at which an epoch ends that starts after so many iterations.

    Epochs end at multiples of `Schedule.epoch` and with the run: one that follows the end of a
    shorter run is cut short.
    """
    following = (done // schedule.epoch + 1) * schedule.epoch
    return max(done, min(following, schedule.iterations))


class Data(lightning.LightningDataModule):
    """Epoch after epoch of batches."""

    def __init__(
        self, photos: PhotoSet, recipe: Recipe, workers: int, teacher: Teacher | None
    ) -> None:
        super().__init__()
        self.photos, self.recipe, self.workers, self.teacher = photos, recipe, workers, teacher

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches of the epoch that starts."""
        assert self.trainer is not None
        done = self.recipe.schedule.start + self.trainer.global_step
        # Lightning wants one even of a run that is done, and then takes none.
        count = max(1, epoch_end(self.recipe.schedule, done) - done)
        rank = self.trainer.global_rank
        batches = Batches(self.photos, self.recipe, done, count, rank, self.teacher)
        # Forks share the photos; other start methods would copy them to every worker.
        fork = "fork" if self.workers and sys.platform == "linux" else None
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context=fork,
            worker_init_fn=_single_threaded,
            pin_memory=self.workers > 0 and torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[int]:
        """One batch; `Training.validation_step` reads the photos itself."""
        return [0]


def _single_threaded(worker: int) -> None:
    """Keep the threads of OpenCV, one for each core, out of every process that makes batches."""
    import cv2

    cv2.setNumThreads(0)


class Validations(Callback):
    """Validates at the end of every so many epochs and of the run."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Decide whether the epoch that starts ends with one."""
        end = epoch_end(self.schedule, self.schedule.start + trainer.global_step)
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
        """Lightning has its handler by now, and takes down this one with it."""
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return

        def end(number: int, frame: FrameType | None) -> None:
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(signal.Signals(number))
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        signal.signal(signal.SIGTERM, end)


def train(
    recipe: Recipe,
    training: Sequence[Photo],
    validation: Sequence[Photo],
    folder: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    reshape: str | None = None,
    data_device: str = "cpu",
    keep: str = "decoded",
    workers: int = 1,
    compiled: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    nodes: int = 1,
    progress: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter,
) -> Path:
    """Train a recipe, or go on with a run.

    Args:
        recipe: what to train; to resume, its network must be that of the run folder.
        training: photos to learn from.
        validation: photos to measure AP on; none measures nothing.
        folder: the run folder.
        resume: go on from its last checkpoint.
        init: weights to start from (`load_weights`); without, a network that imitates starts as the
            strongest filters of its original.
        reshape: ``narrow``, ``widen`` or ``grow`` them, as they are of another network; one that
            was grown is settled (`grow.settle`).
        data_device: ``cuda`` keeps photos in GPU memory and makes the batches there.
        keep: ``decoded`` or ``encoded`` (`PhotoSet`).
        workers: processes that make batches, for photos in main memory; none with a teacher, which
            must not be forked.
        compiled: let ``torch.compile`` fuse the network, channels last; pays on GPUs.
        accelerator: Lightning's: ``auto``, ``cpu`` or ``gpu``.
        devices: Lightning's: how many.
        strategy: Lightning's, for several GPUs or machines.
        nodes: how many machines.
        progress: wraps the iterator over the photos read, to show it.

    Returns:
        the last checkpoint.

    Raises:
        TrainingError: nothing to resume, a run that is already there, a device that is not, or a
            non-finite loss, or an original that cannot be imitated.
        ModelError: there is no such teacher.
        ValueError: no such device.
    """
    last = folder / LAST
    check_data_device(data_device)
    if resume and not last.exists():
        raise TrainingError(f"{folder} holds no checkpoint to resume: start without --resume")
    if not resume and last.exists():
        raise TrainingError(f"{folder} already holds a run: go on with --resume, or name another")
    if resume and read_recipe(folder).network != recipe.network:
        raise TrainingError(f"{folder} holds a run of another network: start a new run")
    teacher = Teacher(recipe.distillation) if recipe.distillation.teacher else None
    original = load_original(Path(recipe.imitates), recipe.network) if recipe.imitates else None
    folder.mkdir(parents=True, exist_ok=True)

    lightning.seed_everything(recipe.seed, verbose=False)
    module = Training(recipe, folder, validation, original)
    if init is not None and not resume:
        load_weights(module.model, init, reshape=reshape)
    elif original is not None:
        load_state(module.model, narrow(original.state_dict(), module.model))
    if compiled:
        module.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        module.model.compile(dynamic=False)
    with quiet():
        trainer = make_trainer(
            recipe,
            folder,
            epochs=count_epochs(recipe.schedule, last if resume else None),
            validates=bool(validation),
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            nodes=nodes,
        )
        photos = PhotoSet(
            [restyle(photo, recipe.augmentation.label_styles) for photo in training],
            device=own_device(data_device),
            keep=keep,
            event_weights=recipe.augmentation.event_weights,
            progress=progress,
        )
        if reshape == "grow" and not resume:
            seen, _ = make_batch(photos, recipe.augmentation, SETTLED, (recipe.seed, 1))
            settle(module.model, seen.cpu())
        # The teacher's engine has threads, which a fork would lack.
        alone = data_device != "cpu" or teacher is not None
        data = Data(photos, recipe, 0 if alone else workers, teacher)
        if trainer.is_global_zero:  # not before everything that can be refused
            write_json(folder / RECIPE_FILE, recipes.to_json(recipe))
        trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
    return last


def count_epochs(schedule: Schedule, checkpoint: Path | None) -> int:
    """Epochs of a whole run, those before its last checkpoint as they were."""
    epochs, done = 0, schedule.start
    if checkpoint is not None:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        epochs, done = saved["epoch"] + 1, done + saved["global_step"]
    while (end := epoch_end(schedule, done)) > done:
        epochs, done = epochs + 1, end
    return epochs


def make_trainer(
    recipe: Recipe,
    folder: Path,
    *,
    epochs: int,
    validates: bool,
    accelerator: str,
    devices: int | str,
    strategy: str,
    nodes: int,
) -> lightning.Trainer:
    """Lightning's trainer for a run, with everything the run folder gets written by.

    Raises:
        TrainingError: the accelerator or its devices are not here.
    """
    schedule = recipe.schedule
    interactive = sys.stderr.isatty()
    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder / LAST.parent,
            filename="last",
            save_top_k=1,
            monitor=None,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
        Journal(folder / JOURNAL_FILE, schedule.start),
        EndsAtOnce(),
    ]
    if validates:
        callbacks += [
            Validations(schedule),
            ModelCheckpoint(
                folder / BEST.parent,
                filename="best",
                monitor="ap",
                mode="max",
                enable_version_counter=False,
                save_on_train_epoch_end=False,
            ),
        ]
    if schedule.average:
        callbacks.append(WeightAveraging(multi_avg_fn=partial(moving_average, schedule.average)))
    if interactive:
        callbacks.append(RichProgressBar())
    try:
        return lightning.Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            num_nodes=nodes,
            precision="bf16-mixed" if schedule.bf16 and has_bf16(accelerator) else "32-true",
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            benchmark=len(recipe.augmentation.sizes) == 1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=schedule.clip or None,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            log_every_n_steps=min(50, schedule.epoch),
            enable_progress_bar=interactive,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError) as error:  # TypeError: devices that are no number
        raise TrainingError(f"training cannot start here: {error}") from error
