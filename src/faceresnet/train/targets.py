"""Which anchors answer for which faces.

A batch's ground truth is flat: all its faces in one (T, 4) tensor beside the index of their image,
so that nothing loops over photos or pads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from faceresnet.anchors import Level

#: An anchor that overlaps an ignored face by more than this IoU is neither face nor background.
NEAR_IOU = 0.3


class Faces(NamedTuple):
    """The ground truth of a batch of N images.

    Attributes:
        boxes: (T, 4) float32 px, all faces of all images.
        image: (T,) int64, which image each belongs to.
        ignore: (T,) bool, faces that are neither taught as faces nor as background.
        score: (T,) float32, how sure it is that each is a face: 1 but for a teacher's doubt.
    """

    boxes: Tensor
    image: Tensor
    ignore: Tensor
    score: Tensor

    def none(self) -> Faces:
        """No faces, of the same types on the same device."""
        return Faces(*(column[:0] for column in self))


class Targets(NamedTuple):
    """What the loss asks of each anchor.

    Attributes:
        positive: (P,) int64 flat indices into (N, R) of the anchors that answer for a face.
        boxes: (P, 4) px, the face of each.
        face: (P,) int64, the index of that face among the batch's `Faces`.
        score: (P,) float32, how sure it is that it is one.
        ignored: (N, R) bool, anchors left out of the classification loss.
    """

    positive: Tensor
    boxes: Tensor
    face: Tensor
    score: Tensor
    ignored: Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of the boxes beside each other in `a` and `b`, (..., 4) that broadcast (eq. 58)."""
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    return intersection / (area_a + area_b - intersection).clamp(min=1e-9)


def assign_by_iou(
    anchors: Tensor,
    faces: Faces,
    images: int,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    best_anchor: bool = False,
) -> Targets:
    """Label every anchor by its overlap with the nearest face (paper, section 5.2; RetinaNet).

    Args:
        anchors: (R, 4) px.
        faces: ground truth of the batch.
        images: N.
        positive_iou: an anchor with at least this IoU answers for the face.
        negative_iou: below it an anchor is background; the band between is left out of the loss.
        best_anchor: each face may have its best anchor even below `positive_iou`: it goes untaught
            only where that anchor serves another (the paper leaves it without; tiny faces suffer).

    Returns:
        the targets; an anchor that could serve several faces serves the one it overlaps most.
    """
    matched = torch.full((images, len(anchors)), -1, dtype=torch.int64, device=anchors.device)
    ignored = torch.zeros((images, len(anchors)), dtype=torch.bool, device=anchors.device)
    for image in range(images):
        own = torch.nonzero((faces.image == image) & ~faces.ignore).flatten()
        if len(own) == 0:
            continue
        overlap = pairwise_iou(anchors[:, None], faces.boxes[own][None])
        answers = overlap >= positive_iou
        if best_anchor:
            answers = answers.scatter(0, overlap.argmax(dim=0, keepdim=True), True)
        best, which = overlap.where(answers, -1.0).max(dim=1)
        matched[image] = torch.where(best >= 0, own[which], -1)
        ignored[image] = overlap.amax(dim=1) >= negative_iou
    return _targets(matched, ignored | near_ignored(anchors, faces, images), faces)


def assign_adaptively(
    anchors: Tensor,
    faces: Faces,
    images: int,
    levels: tuple[Level, ...],
    image_size: tuple[int, int],
) -> Targets:
    """Adaptive training sample selection (Zhang et al. 2020), looking only where a face is.

    The candidates of a face are the anchors of the 3×3 cells around its centre on every level.
    Those whose IoU reaches the candidates' mean plus standard deviation, with their centre inside
    the face, answer for it: each face sets its own threshold, whatever its size. Its best candidate
    always answers, and a face that loses all its anchors to others takes the best one left over,
    so that no face is left without an anchor while one of its candidates is free.

    Unlike the published form no (R, G) overlap matrix is built: a crowd costs G · 9 · A · levels.

    Args:
        anchors: (R, 4) px, as `anchors.make_anchors` lists them.
        faces: ground truth of the batch.
        images: N.
        levels: the anchor pyramid.
        image_size: (height, width) px.
    """
    taught = torch.nonzero(~faces.ignore).flatten()
    boxes, image = faces.boxes[taught], faces.image[taught]
    candidate, inside_grid = _cells_around(boxes, levels, image_size)
    candidate_boxes = anchors[candidate]
    overlap = pairwise_iou(candidate_boxes, boxes[:, None]).where(inside_grid, -1.0)

    count = inside_grid.sum(1).clamp(min=1)
    known = overlap.clamp(min=0)
    mean = known.sum(1) / count
    spread = ((known - mean[:, None]) ** 2 * inside_grid).sum(1) / (count - 1).clamp(min=1)
    centre = (candidate_boxes[..., :2] + candidate_boxes[..., 2:]) / 2
    centred = ((centre > boxes[:, None, :2]) & (centre < boxes[:, None, 2:])).all(-1)
    answers = inside_grid & centred & (overlap >= (mean + spread.sqrt())[:, None])
    best = overlap.argmax(1, keepdim=True) if len(boxes) else overlap.new_zeros((0, 1)).long()
    answers = answers.scatter(1, best, True) & inside_grid
    # A face's best candidate outbids every other claim on that anchor but another face's best.
    claim = overlap.scatter_add(1, best, torch.ones_like(best, dtype=overlap.dtype))

    slots = image[:, None] * len(anchors) + candidate
    matched = torch.full((images * len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    _settle(matched, slots, claim, answers, taught)
    for _ in range(len(taught)):  # each round serves one face at least
        served = torch.zeros(len(faces.boxes) + 1, dtype=torch.bool, device=anchors.device)
        served[matched] = True  # index −1 is the spare last slot
        free = inside_grid & (matched[slots] < 0) & ~served[taught][:, None]
        if not free.any():
            break
        second = overlap.where(free, -1.0)
        choice = torch.zeros_like(free).scatter(1, second.argmax(1, keepdim=True), True) & free
        _settle(matched, slots, second, choice, taught)
    ignored = near_ignored(anchors, faces, images)
    return _targets(matched.view(images, -1), ignored, faces)


def _cells_around(
    boxes: Tensor, levels: tuple[Level, ...], image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Anchors of the 3×3 cells around each box's centre on each level.

    Returns:
        indices into the anchors (T, K) and whether each lies inside the grid (T, K).
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    step = torch.arange(-1, 2, device=boxes.device)
    indices, inside, start = [], [], 0
    for level in levels:
        rows, columns = level.grid(image_size)
        a = level.anchors_per_cell
        cell = (centre / level.stride).floor().long()
        column = (cell[:, 0, None] + step)[:, None, :].expand(-1, 3, -1).flatten(1)
        row = (cell[:, 1, None] + step)[:, :, None].expand(-1, -1, 3).flatten(1)
        valid = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        first = (row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)) * a + start
        anchor = torch.arange(a, device=boxes.device)
        indices.append((first[:, :, None] + anchor).flatten(1))
        inside.append(valid[:, :, None].expand(-1, -1, a).flatten(1))
        start += rows * columns * a
    return torch.cat(indices, 1), torch.cat(inside, 1)


def _settle(matched: Tensor, slots: Tensor, claim: Tensor, answers: Tensor, faces: Tensor) -> None:
    """Give each claimed anchor to its highest bidder, in place.

    Args:
        matched: (N · R,) the face of each anchor or −1.
        slots: (T, K) flat anchor indices.
        claim: (T, K) bids.
        answers: (T, K) which bids stand.
        faces: (T,) the face that bids.
    """
    slot, bid = slots[answers], claim[answers]
    face = faces[:, None].expand_as(slots)[answers]
    highest = torch.full(matched.shape, -2.0, device=matched.device)
    highest.scatter_reduce_(0, slot, bid, "amax")
    won = bid >= highest[slot]
    matched[slot[won]] = face[won]


def near_ignored(anchors: Tensor, faces: Faces, images: int) -> Tensor:
    """Anchors (N, R) with half their area in an ignored face, or that overlap it by `NEAR_IOU`."""
    mask = torch.zeros((images, len(anchors)), dtype=torch.bool, device=anchors.device)
    # Coordinate by coordinate, (G, R): nearly twice as fast as (R, G, 2).
    x1, y1, x2, y2 = anchors.T.contiguous()
    anchor_area = (x2 - x1) * (y2 - y1)
    # A box smaller than this share of the smallest anchor is near none.
    area = (faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(1)
    counts = faces.ignore & (area > NEAR_IOU * anchor_area.min())
    for image in torch.unique(faces.image[counts]).tolist():
        boxes = faces.boxes[counts & (faces.image == image)]
        left, top, right, bottom = boxes.T[..., None]
        width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
        height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
        shared = width.mul_(height)
        union = anchor_area + (right - left) * (bottom - top) - shared
        # IoU above NEAR_IOU, or half of the anchor covered
        near = (shared > NEAR_IOU * union) | (shared > 0.5 * anchor_area)
        mask[image] = near.any(0)
    return mask


def _targets(matched: Tensor, ignored: Tensor, faces: Faces) -> Targets:
    positive = torch.nonzero(matched.flatten() >= 0).flatten()
    face = matched.flatten()[positive]
    return Targets(positive, faces.boxes[face], face, faces.score[face], ignored & (matched < 0))
