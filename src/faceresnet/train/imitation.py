"""Imitation: a network with thinner blocks learns to compute what a trained one does.

What its stages and its pyramid give is compared with what the original gives for the same images
(Romero et al. 2015, "FitNets"), and so is what both predict where the original sees faces. Labels
are not used: the network would learn to miss the faces that they lack. Only in images that show no
face is the original not imitated: what it detects there is taught as background.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from faceresnet.train.model import FaceResNet

#: Added to the original's score, by which the error of a logit is weighted: background counts, too.
BACKGROUND = 0.01
#: Least score of the original from which its boxes are imitated.
LEAST = 0.05
#: Weight of what is predicted, beside the features.
PREDICTIONS = 0.5
#: Weight of what is seen in images without a face, beside the features.
MISTAKES = 0.1
#: In images without a face, what the original gives at least this score is left alone: it may well
#: be a face that the list lacks.
SURE = 0.85


def imitation_loss(
    model: FaceResNet, original: FaceResNet, images: Tensor, empty: Tensor | None = None
) -> dict[str, Tensor]:
    """How much a network's features and predictions differ from those of its original.

    Args:
        model: the network that learns.
        original: with the same stages, levels and anchors; no gradient reaches it.
        images: (N, S, S, 3) uint8.
        empty: (N,) bool, which of them show no face; none if not given.

    Returns:
        scalars ``loss``; ``features``: squared errors of stages and levels, each divided by the
        original's squares, added up; ``scores``: squared errors of the logits, weighted by the
        original's score; ``boxes``: smooth L1 of the deltas, so weighted, too; ``mistakes``: focal
        loss (γ = 1) of background in empty images, a mean over these.
    """
    with torch.no_grad():
        known_stages, known_levels = original.features(images)
        known_logits, known_deltas = original.predict(known_levels)
    stages, levels = model.features(images)
    logits, deltas = model.predict(levels)
    shown = torch.ones_like(images[:, 0, 0, 0], dtype=torch.bool) if empty is None else ~empty
    pairs = zip([*stages, *levels], [*known_stages, *known_levels], strict=True)
    with torch.autocast(images.device.type, enabled=False):
        features = torch.stack(
            [relative_error(own[shown].float(), known[shown].float()) for own, known in pairs]
        )
        logits, known_scores = logits.float(), known_logits.float().sigmoid()
        scores = known_scores[shown]
        weights = scores + BACKGROUND
        differences = logits[shown] - known_logits[shown].float()
        of_scores = (weights * differences**2).sum() / weights.sum().clamp(min=1e-12)
        sure = torch.where(scores >= LEAST, scores, 0.0)
        of_each = F.smooth_l1_loss(
            deltas[shown].float(), known_deltas[shown].float(), reduction="none"
        ).sum(-1)
        of_boxes = (sure * of_each).sum() / sure.sum().clamp(min=1)
        seen = torch.where(known_scores < SURE, logits, -torch.inf)[~shown]
        mistakes = (seen.sigmoid() * F.softplus(seen)).sum() / max(1, len(seen))
        loss = features.sum() + PREDICTIONS * (of_scores + of_boxes) + MISTAKES * mistakes
    return {
        "loss": loss,
        "features": features.sum().detach(),
        "scores": of_scores.detach(),
        "boxes": of_boxes.detach(),
        "mistakes": mistakes.detach(),
    }


def relative_error(own: Tensor, known: Tensor) -> Tensor:
    """Squared error, divided by the square of what is known; 0 of no images."""
    return ((own - known) ** 2).sum() / (known**2).sum().clamp(min=1e-12)
