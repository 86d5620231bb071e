"""Imitation: a network with thinner blocks learns to compute what a trained one does.

What its stages and its pyramid give is compared with what the original gives for the same images
(Romero et al. 2015, "FitNets"), and so is what both predict where the original sees faces. Labels
have no part in it: they would move the network along with what they lack.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from faceresnet.train.model import FaceResNet

#: Score that is added to the original's, as the weight of a place's logit: background counts a bit.
BACKGROUND = 0.01
#: Least score of the original from which its boxes are imitated.
LEAST = 0.05
#: Weight of what is predicted, beside the features.
PREDICTIONS = 0.5


def imitation_loss(model: FaceResNet, original: FaceResNet, images: Tensor) -> dict[str, Tensor]:
    """How much a network's features and predictions differ from those of its original.

    Args:
        model: the network that learns.
        original: with the same stages, levels and anchors; no gradient reaches it.
        images: (N, S, S, 3) uint8.

    Returns:
        scalars ``loss``; ``features``: squared errors of stages and levels, each divided by the
        original's squares, added up; ``scores``: squared errors of the logits, weighted by the
        original's score; ``boxes``: smooth L1 of the deltas, so weighted, too.
    """
    with torch.no_grad():
        known_stages, known_levels = original.features(images)
        known_logits, known_deltas = original.predict(known_levels)
    stages, levels = model.features(images)
    logits, deltas = model.predict(levels)
    pairs = zip([*stages, *levels], [*known_stages, *known_levels], strict=True)
    with torch.autocast(images.device.type, enabled=False):
        features = torch.stack([relative_error(own.float(), known.float()) for own, known in pairs])
        scores = known_logits.float().sigmoid()
        weights = scores + BACKGROUND
        of_scores = (weights * (logits.float() - known_logits.float()) ** 2).sum() / weights.sum()
        sure = torch.where(scores >= LEAST, scores, 0.0)
        of_each = F.smooth_l1_loss(deltas.float(), known_deltas.float(), reduction="none").sum(-1)
        of_boxes = (sure * of_each).sum() / sure.sum().clamp(min=1)
        loss = features.sum() + PREDICTIONS * (of_scores + of_boxes)
    return {
        "loss": loss,
        "features": features.sum().detach(),
        "scores": of_scores.detach(),
        "boxes": of_boxes.detach(),
    }


def relative_error(own: Tensor, known: Tensor) -> Tensor:
    """Mean squared error, divided by the mean square of what is known."""
    return ((own - known) ** 2).mean() / (known**2).mean().clamp(min=1e-12)
