"""The detection loss: focal classification and box regression (paper, equations 59–61)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from faceresnet.boxes import MAX_LOG_RATIO
from faceresnet.train.targets import Targets, pairwise_iou


@dataclass(frozen=True)
class Loss:
    """The numbers of the loss.

    Attributes:
        assigner: ``iou`` (the paper's thresholds) or ``adaptive`` (`targets.assign_adaptively`).
        positive_iou: for ``iou``, at least this IoU makes an anchor positive.
        negative_iou: for ``iou``, less than this makes it background; between, it is left out.
        best_anchor: for ``iou``, every face keeps its best anchor whatever the overlap, unless that
            could serve another and overlaps it more.
        gamma: focusing exponent of the focal loss.
        alpha: weight of the foreground; the background's is 1.
        quality: teach the classifier the IoU of the box predicted, not 1 (Li et al. 2020).
        right: for `quality`, the IoU from which a box is taught as 1, a smaller one in proportion:
            below 1, tiny faces, whose boxes hardly reach more, score as high as large ones.
        box_loss: ``smooth_l1`` on the deltas or ``diou`` on the decoded boxes.
        box_weight: factor of the box loss.
        balance: 0 counts every positive anchor the same, 1 every face: a face of 32 px has six
            times as many anchors as one of 7 px. Between, a face counts as its anchors' number to
            the power of 1 − `balance`.
        per_positive: divide the classification loss by the number of positive anchors (RetinaNet;
            the sum of their scores, where a teacher is not sure of them) instead of by the number
            of all anchors (equation 61).
    """

    assigner: str = "adaptive"
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    best_anchor: bool = True
    gamma: float = 2.0
    alpha: float = 1.0
    quality: bool = True
    right: float = 1.0
    box_loss: str = "diou"
    box_weight: float = 2.0
    balance: float = 0.0
    per_positive: bool = True

    def __post_init__(self) -> None:
        if self.assigner not in ("iou", "adaptive"):
            raise ValueError(f"assigner must be iou or adaptive, got {self.assigner!r}")
        if self.box_loss not in ("smooth_l1", "diou"):
            raise ValueError(f"box_loss must be smooth_l1 or diou, got {self.box_loss!r}")
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                "negative_iou and positive_iou must lie in 0..1, the first not above the second, "
                f"got {self.negative_iou} and {self.positive_iou}"
            )
        if not (self.gamma >= 0 and self.alpha > 0 and self.box_weight >= 0):
            raise ValueError(
                "gamma and box_weight must not be negative and alpha positive, "
                f"got {self.gamma}, {self.box_weight} and {self.alpha}"
            )
        if not 0 < self.right <= 1:
            raise ValueError(f"right must be above 0 and at most 1, got {self.right}")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance must be between 0 and 1, got {self.balance}")


def decode(deltas: Tensor, anchors: Tensor, scales: tuple[float, float]) -> Tensor:
    """`boxes.decode` with gradients: deltas and anchors (P, 4) → boxes (P, 4) px."""
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * anchor_size * scales[0]
    half = anchor_size * (deltas[:, 2:] * scales[1]).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([centre - half, centre + half], dim=1)


def encode(boxes: Tensor, anchors: Tensor, scales: tuple[float, float]) -> Tensor:
    """`boxes.encode` on tensors: boxes and anchors (P, 4) px → deltas (P, 4)."""
    size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    return torch.cat(
        [shift / anchor_size / scales[0], (size / anchor_size).log() / scales[1]], dim=1
    )


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of each logit (equation 60; Lin et al. 2017), for hard and soft targets.

    With target t and p = sigmoid(logit): |t − p|^γ · cross entropy(p, t), times α where t > 0.
    For t in {0, 1} this is the focal loss; for t between, the quality focal loss of Li et al. 2020.
    """
    error = (targets - logits.sigmoid()).abs()
    if 0 < gamma < 1:  # the slope of |t − p|^γ is infinite at 0, where the sigmoid saturates
        error = error.clamp(min=torch.finfo(error.dtype).tiny)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = torch.where(targets > 0, alpha, 1.0)
    return weight * error**gamma * entropy


def diou_loss(boxes: Tensor, faces: Tensor) -> Tensor:
    """1 − IoU + squared centre distance over squared enclosing diagonal (Zheng et al. 2020)."""
    low = torch.minimum(boxes[:, :2], faces[:, :2])
    high = torch.maximum(boxes[:, 2:], faces[:, 2:])
    diagonal = ((high - low) ** 2).sum(1).clamp(min=1e-9)
    shift = (boxes[:, :2] + boxes[:, 2:] - faces[:, :2] - faces[:, 2:]) / 2
    return 1 - pairwise_iou(boxes, faces) + (shift**2).sum(1) / diagonal


def anchor_weights(face: Tensor, balance: float) -> Tensor:
    """How much each positive anchor counts (`Loss.balance`): (P,), 1 on average.

    Args:
        face: (P,) the face of each.
        balance: 0 … 1.
    """
    if not balance or not len(face):
        return torch.ones(len(face), device=face.device)
    weights = face.bincount()[face].float() ** -balance
    return weights / weights.mean()


def detection_loss(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    targets: Targets,
    scales: tuple[float, float],
    loss: Loss,
) -> dict[str, Tensor]:
    """The total of equation 61 and its two terms.

    A face of which a teacher is not sure is taught as its score (times the quality), and its boxes
    count as much as that.

    Args:
        logits: (N, R).
        deltas: (N, R, 4).
        anchors: (R, 4) px.
        targets: of the same batch.
        scales: of the deltas.
        loss: which terms, and how they are weighed.

    Returns:
        scalars ``loss``, ``classification`` and ``boxes``.
    """
    logits, deltas = logits.float(), deltas.float()
    positives = targets.score.sum().clamp(min=1)
    chosen_deltas = deltas.flatten(0, 1)[targets.positive]
    chosen_anchors = anchors[targets.positive % len(anchors)]
    boxes = decode(chosen_deltas, chosen_anchors, scales)
    if loss.box_loss == "smooth_l1":
        wanted = encode(targets.boxes, chosen_anchors, scales)
        box_terms = F.smooth_l1_loss(chosen_deltas, wanted, reduction="none").sum(1)
    else:
        box_terms = diou_loss(boxes, targets.boxes)
    weights = anchor_weights(targets.face, loss.balance)
    box_term = (weights * targets.score * box_terms).sum() / positives

    labels = torch.zeros_like(logits).flatten()
    labels[targets.positive] = targets.score
    if loss.quality:
        quality = pairwise_iou(boxes.detach(), targets.boxes) / loss.right
        labels[targets.positive] = targets.score * quality.clamp(max=1.0)
    terms = focal_loss(logits, labels.view_as(logits), loss.gamma, loss.alpha)
    counted = (~targets.ignored).to(terms.dtype)
    counted.view(-1)[targets.positive] = weights.to(terms.dtype)
    divisor = positives if loss.per_positive else counted.sum().clamp(min=1)
    classification = (terms * counted).sum() / divisor
    return {
        "loss": classification + loss.box_weight * box_term,
        "classification": classification.detach(),
        "boxes": box_term.detach(),
    }
