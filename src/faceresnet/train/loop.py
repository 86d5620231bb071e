"""The training run: Lightning drives what `training`, `batches` and `callbacks` say.

A run folder holds ``recipe.json`` (everything needed to repeat it), ``checkpoints/last.ckpt`` and
``best.ckpt``, ``metrics.jsonl`` and TensorBoard's events. Every batch is a function of the run's
seed and the iteration, and checkpoints hold weights, averages and optimiser, so a run that is
killed and resumed ends as one that was not.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

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

from faceresnet.errors import TrainingError, reason
from faceresnet.train.augment import make_batch
from faceresnet.train.backbone import first_line, load_state
from faceresnet.train.batches import Data
from faceresnet.train.callbacks import EndsAtOnce, Journal, Validations, moving_average
from faceresnet.train.grow import settle
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
    read_recipe,
    write_json,
)
from faceresnet.train.teacher import Teacher
from faceresnet.train.training import Training
from faceresnet.widerface import Photo

#: What writing fails with where there is no room.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Images of the first size whose statistics a grown network starts from (`grow.settle`).
SETTLED = 16


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
        TrainingError: nothing to resume, a run that is already there, a device that is not, a
            non-finite loss, an original that cannot be imitated, or a full disk.
        KeyboardInterrupt: Ctrl-C or SIGTERM ended it.
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
    teacher = Teacher(recipe.distillation) if recipe.distillation.teachers else None
    original = load_original(Path(recipe.imitates), recipe.network) if recipe.imitates else None
    folder.mkdir(parents=True, exist_ok=True)

    lightning.seed_everything(recipe.seed, verbose=False)
    module = Training(recipe, folder, validation, original)
    if init is not None and not resume:
        load_weights(module.model, init, reshape=reshape)
    elif original is not None:
        load_state(module.model, narrow(original.state_dict(), module.model))
    if compiled:
        fuse(module.model, original)
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
            write_json(folder / RECIPE_FILE, asdict(recipe))
        try:
            trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
        except SystemExit as error:  # how Lightning ends at Ctrl-C and SIGTERM, as if all were done
            raise KeyboardInterrupt from error
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise TrainingError(
                f"cannot write into {folder}: {reason(error)}. Make room, then go on with --resume"
            ) from error
    return last


def fuse(model: FaceResNet, original: FaceResNet | None) -> None:
    """Let ``torch.compile`` fuse a network, channels last, and the one that it imitates.

    Of these two `imitation_loss` calls the parts, so each part is fused for itself.
    """
    for network in (model,) if original is None else (model, original):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in (network,) if original is None else network.children():
            part.compile(dynamic=False)


def count_epochs(schedule: Schedule, checkpoint: Path | None) -> int:
    """Epochs of a whole run, those before its last checkpoint as they were.

    Raises:
        TrainingError: the checkpoint cannot be read.
    """
    epochs, done = 0, schedule.start
    if checkpoint is not None:
        try:
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            epochs, done = saved["epoch"] + 1, done + saved["global_step"]
        except Exception as error:  # whatever a file that is none makes torch stumble over
            raise TrainingError(
                f"{checkpoint} cannot be read ({first_line(error)}): start a new run, with --init "
                f"{checkpoint.with_name(BEST.name)} if that is whole"
            ) from error
    while (end := schedule.epoch_end(done)) > done:
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
    # TypeError: devices that are no number; ImportError: what an accelerator would need.
    except (MisconfigurationException, TypeError, ImportError) as error:
        raise TrainingError(f"training cannot start here: {error}") from error
