"""The machine that trains: what it can do, and which messages of its libraries are hidden."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import torch
from lightning.pytorch.utilities import rank_zero_only

from faceresnet.errors import TrainingError

#: How the warnings begin that nobody who trains need act on: one worker is enough; the folder of a
#: resumed run is not empty; the last epoch may be short; Lightning itself calls something old.
NOT_FOR_USERS = (
    "The 'train_dataloader' does not have many workers",
    "The 'val_dataloader' does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)


def check_data_device(name: str) -> None:
    """Refuse a device for the photos that is not here, before anything is read.

    Raises:
        ValueError: it is neither cpu nor cuda.
        TrainingError: it is cuda, and torch finds no GPU.
    """
    if name not in ("cpu", "cuda"):
        raise ValueError(f"the photos' device must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            f"--data-device cuda needs a GPU, and torch {torch.__version__} finds none here: "
            "leave it out to keep the photos in main memory, or install torch for your GPU"
        )


def own_device(name: str) -> str:
    """The device of this process: each of several on a machine has a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name


def has_bf16(accelerator: str) -> bool:
    """Whether the processor that will train computes in bfloat16 natively."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("bf16"))


def is_first_process() -> bool:
    """Whether this one, of those that train together, speaks for all."""
    return not getattr(rank_zero_only, "rank", 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the user what Lightning and torch say about their own business."""
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = tips.level
    tips.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in NOT_FOR_USERS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        tips.setLevel(level)
