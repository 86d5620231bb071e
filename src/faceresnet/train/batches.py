"""What a training run learns from: batch after batch, and what is asked of the network in each."""

from __future__ import annotations

import signal
import sys

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceresnet.anchors import make_anchors
from faceresnet.train.augment import make_batch
from faceresnet.train.photos import PhotoSet
from faceresnet.train.recipes import Recipe
from faceresnet.train.targets import Faces, Targets, assign_adaptively, assign_by_iou
from faceresnet.train.teacher import Teacher

#: Images (N, S, S, 3) uint8, their faces, and what the loss asks of each anchor.
Batch = tuple[Tensor, Faces, Targets]


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
        count = max(1, self.recipe.schedule.epoch_end(done) - done)
        rank = self.trainer.global_rank
        batches = Batches(self.photos, self.recipe, done, count, rank, self.teacher)
        # Forks share the photos; other start methods would copy them to every worker.
        fork = "fork" if self.workers and sys.platform == "linux" else None
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context=fork,
            worker_init_fn=_set_up,
            pin_memory=self.workers > 0 and torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[int]:
        """One batch; `Training.validation_step` reads the photos itself."""
        return [0]


def _set_up(worker: int) -> None:
    """Set up a process that makes batches.

    OpenCV's threads, one for each core, are kept out. SIGTERM, sent to the whole group by `timeout`
    and service managers, is left to the training process, which ends this one.
    """
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
