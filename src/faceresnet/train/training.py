"""One network learning by one recipe, as Lightning wants it said: its steps, its validation."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from faceresnet import images
from faceresnet.anchors import make_anchors
from faceresnet.detections import Detections
from faceresnet.detector import postprocess
from faceresnet.errors import TrainingError
from faceresnet.evaluation import evaluate
from faceresnet.protocols import EVALUATION_THRESHOLD, predict
from faceresnet.spec import ModelSpec
from faceresnet.train.batches import Batch
from faceresnet.train.imitation import imitation_loss
from faceresnet.train.losses import detection_loss
from faceresnet.train.model import FaceResNet
from faceresnet.train.recipes import Recipe
from faceresnet.train.runs import LAST, make_spec
from faceresnet.widerface import Photo


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
        images_, faces, targets = batch
        if self._original:
            self.model.eval()  # its normalisations are the original's
            empty = None
            if self.recipe.augmentation.empty:
                every = torch.arange(len(images_), device=faces.image.device)
                empty = torch.isin(every, faces.image, invert=True)
            terms = imitation_loss(self.model, *self._original, images_, empty)
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
        iteration = self.recipe.schedule.start + self.global_step
        raise TrainingError(
            f"the loss is {terms['loss'].item()} at iteration {iteration}: the batch is saved in "
            f"{file}. Lower schedule.rate, or go on from an earlier checkpoint."
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
            optimiser, lambda i: s.rate_factor(s.start + i)
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


class TorchDetector:
    """A network in training as a detector: letterbox, forward, and the shared `postprocess`."""

    def __init__(self, model: FaceResNet, spec: ModelSpec) -> None:
        self.model, self.spec = model, spec

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Detections:
        """Detect in (H, W, 3) uint8 RGB, down to the lowest score an evaluation needs."""
        padded = images.letterbox(image, self.spec.size_multiple)
        device = next(self.model.parameters()).device
        # Not model(...): what is compiled for the training images' size would be so again for each.
        logits, deltas = self.model.forward(torch.tensor(padded, device=device)[None])
        anchors = make_anchors(self.spec.levels, (padded.shape[0], padded.shape[1]))
        size = (image.shape[0], image.shape[1])
        boxes, scores = postprocess(
            logits[0].float().cpu().numpy(),
            deltas[0].float().cpu().numpy(),
            anchors,
            self.spec,
            EVALUATION_THRESHOLD,
            size,
        )
        return Detections(boxes, scores, size)


def _relocate(value: Any, old: str, new: str) -> Any:
    """`value` with the folder `old` replaced by `new` in all paths it holds."""
    if isinstance(value, str):
        return new + value.removeprefix(old) if value.startswith(old) else value
    if isinstance(value, dict):
        return {_relocate(k, old, new): _relocate(v, old, new) for k, v in value.items()}
    return value
