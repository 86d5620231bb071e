from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from faceresnet import boxes as boxes_
from faceresnet.train.losses import (
    Loss,
    anchor_weights,
    decode,
    detection_loss,
    diou_loss,
    encode,
    focal_loss,
)
from faceresnet.train.targets import Targets

box = st.tuples(
    st.floats(-50, 300, width=32),
    st.floats(-50, 300, width=32),
    st.floats(0.5, 300, width=32),
    st.floats(0.5, 300, width=32),
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
pairs = st.lists(st.tuples(box, box), min_size=1, max_size=5)
scales = st.sampled_from([(1.0, 1.0), (0.1, 0.2)])


def columns(pairs_):
    return [np.array(column, np.float32) for column in zip(*pairs_, strict=True)]


@given(pairs, scales)
@settings(deadline=None)
def test_encode_is_the_one_of_boxes(pairs_, scales_):
    boxes, anchors = columns(pairs_)
    ours = encode(torch.tensor(boxes), torch.tensor(anchors), scales_)
    assert np.allclose(ours, boxes_.encode(boxes, anchors, scales_), rtol=1e-4, atol=1e-3)


@given(
    anchors=st.lists(box, min_size=3, max_size=3),
    deltas=hnp.arrays(np.float32, (3, 4), elements=st.floats(-60, 60, width=32)),
    scales_=scales,
)
@settings(deadline=None)
def test_decode_is_the_one_of_boxes(anchors, deltas, scales_):
    anchors = np.array(anchors, np.float32)
    ours = decode(torch.tensor(deltas), torch.tensor(anchors), scales_)
    assert np.allclose(ours, boxes_.decode(deltas, anchors, scales_), rtol=1e-4, atol=1e-2)


@given(pairs, scales)
@settings(deadline=None)
def test_decode_inverts_encode(pairs_, scales_):
    boxes, anchors = (torch.tensor(column, dtype=torch.float64) for column in columns(pairs_))
    size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    if ((size[0] / size[1]).log().abs() > boxes_.MAX_LOG_RATIO).any():
        return
    assert torch.allclose(decode(encode(boxes, anchors, scales_), anchors, scales_), boxes)


# --- focal loss ---


@given(st.floats(-15, 15), st.booleans(), st.sampled_from([(2.0, 3.0), (2.0, 1.0), (0.0, 1.0)]))
@settings(deadline=None)
def test_the_focal_loss_is_the_textbooks(logit, is_face, numbers):
    gamma, alpha = numbers
    p = 1 / (1 + math.exp(-logit))
    p_t = p if is_face else 1 - p
    expected = -(alpha if is_face else 1.0) * (1 - p_t) ** gamma * math.log(p_t)
    found = focal_loss(
        torch.tensor(logit, dtype=torch.float64),
        torch.tensor(float(is_face), dtype=torch.float64),
        gamma,
        alpha,
    )
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_right_answer_weighs_less_by_the_square_of_its_error():
    easy, hard = focal_loss(torch.tensor([4.0, -4.0]), torch.ones(2), 2.0, 3.0)
    p = torch.tensor(4.0).sigmoid()
    ratio = ((1 - p) / p) ** 2 * p.log() / (1 - p).log()
    assert (easy / hard).item() == pytest.approx(ratio.item(), rel=1e-4)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [2.0, 1.5, 1.0, 0.5, 0.1, 0.0])
def test_the_focal_loss_and_its_gradient_are_finite_far_out(target, gamma):
    logits = torch.tensor([-100.0, -30.0, 0.0, 30.0, 100.0], requires_grad=True)
    loss = focal_loss(logits, torch.full((5,), target), gamma, 3.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


def test_the_soft_focal_loss_is_least_where_the_score_is_the_quality():
    quality = 0.7
    logits = torch.linspace(-4, 4, 801, dtype=torch.float64)
    loss = focal_loss(logits, torch.full_like(logits, quality), 2.0, 1.0)
    best = logits[loss.argmin()].sigmoid().item()
    assert best == pytest.approx(quality, abs=5e-3)


@pytest.mark.parametrize(("target", "factor"), [(0.0, 1.0), (0.1, 3.0), (0.5, 3.0), (1.0, 3.0)])
def test_alpha_weighs_whatever_is_a_face_however_unsure(target, factor):
    logits, targets = torch.linspace(-3, 3, 7), torch.full((7,), target)
    plain, weighed = (focal_loss(logits, targets, 2.0, alpha) for alpha in (1.0, 3.0))
    torch.testing.assert_close(weighed, factor * plain)


@pytest.mark.parametrize("gamma", [2.0, 1.0, 0.5])
def test_the_focal_loss_has_its_derivative(gamma):
    logits = torch.linspace(-5, 5, 12, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.35] * 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, targets, gamma, 3.0), logits)


# --- boxes ---


def diou_slowly(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    ex, ey = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    return 1 - shared / union + (dx**2 + dy**2) / (ex**2 + ey**2)


@given(pairs)
@settings(deadline=None)
def test_the_distance_iou_loss_agrees_with_scalars(pairs_):
    boxes, faces = (torch.tensor(column, dtype=torch.float64) for column in columns(pairs_))
    expected = [diou_slowly(a, b) for a, b in zip(boxes.tolist(), faces.tolist(), strict=True)]
    assert diou_loss(boxes, faces).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_distance_iou_loss_is_0_for_the_face_itself_and_below_2_far_away():
    face = torch.tensor([[10.0, 10, 30, 40]])
    assert diou_loss(face, face).item() == pytest.approx(0, abs=1e-6)
    assert 1.9 < diou_loss(face + 1e5, face).item() <= 2


def test_the_distance_iou_loss_has_its_derivative():
    boxes = torch.tensor([[0.0, 0, 10, 12], [3, 4, 30, 31], [80, 5, 95, 21]], dtype=torch.float64)
    faces = torch.tensor([[1.0, 2, 9, 15], [5, 5, 28, 40], [10, 60, 30, 90]], dtype=torch.float64)
    boxes.requires_grad_()
    assert torch.autograd.gradcheck(lambda b: diou_loss(b, faces), boxes)
    (gradient,) = torch.autograd.grad(diou_loss(boxes, faces)[2], boxes)
    assert gradient[2].abs().min() > 0  # boxes apart are still pulled together


# --- the total ---

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20]])
#: Two images of three anchors: the second anchor of the first and the first of the second serve a
#: face; one anchor is left out.
TARGETS = Targets(
    torch.tensor([1, 3]),
    torch.tensor([[11.0, 0, 21, 10], [0, 0, 10, 20]]),
    torch.tensor([0, 1]),
    torch.ones(2),
    torch.tensor([[True, False, False], [False, False, False]]),
)
LOGITS = torch.tensor([[5.0, 0.5, -1.0], [2.0, -2.0, 0.0]])
DELTAS = torch.tensor(
    [[[9.0, 9, 9, 9], [0.3, 0, 0, 0], [9, 9, 9, 9]], [[0, 1.8, 0, 1.0], [9] * 4, [9] * 4]]
)
PAPER = Loss(
    assigner="iou",
    alpha=3.0,
    quality=False,
    box_loss="smooth_l1",
    box_weight=1.0,
    per_positive=False,
)


def smooth_l1(x):
    """Equation 59."""
    return 0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5


def focal(logit, is_face, alpha=3.0):
    p = 1 / (1 + math.exp(-logit))
    return -alpha * (1 - p) ** 2 * math.log(p) if is_face else -(p**2) * math.log(1 - p)


@pytest.mark.parametrize("per_positive", [False, True])
def test_the_total_is_equation_61(per_positive):
    loss = Loss(**{**vars(PAPER), "per_positive": per_positive})
    found = detection_loss(LOGITS, DELTAS, ANCHORS, TARGETS, (1.0, 1.0), loss)
    # Deltas wanted: (0.1 0 0 0) and (0 0.5 0 log 2).
    regression = smooth_l1(0.3 - 0.1) + smooth_l1(1.8 - 0.5) + smooth_l1(1.0 - math.log(2))
    classes = [(0.5, True), (-1.0, False), (2.0, True), (-2.0, False), (0.0, False)]
    classification = sum(focal(*entry) for entry in classes) / (2 if per_positive else 5)
    assert found["boxes"].item() == pytest.approx(regression / 2, rel=1e-5)
    assert found["classification"].item() == pytest.approx(classification, rel=1e-5)
    assert found["loss"].item() == pytest.approx(classification + regression / 2, rel=1e-5)


def test_the_improved_total_teaches_the_iou_of_the_predicted_box():
    loss = Loss(alpha=1.0, box_weight=2.0)
    deltas = DELTAS.clone().requires_grad_()
    found = detection_loss(LOGITS, deltas, ANCHORS, TARGETS, (1.0, 1.0), loss)
    boxes = decode(DELTAS.flatten(0, 1)[[1, 3]], ANCHORS[[1, 0]], (1.0, 1.0)).tolist()
    pairs_ = list(zip(boxes, TARGETS.boxes.tolist(), strict=True))
    regression = sum(diou_slowly(*pair) for pair in pairs_) / 2
    quality = [boxes_.iou(*(np.array([b], np.float32) for b in pair))[0, 0] for pair in pairs_]
    labels = torch.tensor([[0, quality[0], 0], [quality[1], 0, 0]])
    terms = focal_loss(LOGITS, labels, 2.0, 1.0) * ~TARGETS.ignored
    assert found["boxes"].item() == pytest.approx(regression, rel=1e-5)
    assert found["classification"].item() == pytest.approx(terms.sum().item() / 2, rel=1e-5)
    total = terms.sum().item() / 2 + 2 * regression
    assert found["loss"].item() == pytest.approx(total, rel=1e-5)
    # The quality is a label: no gradient flows through it into the boxes.
    (whole,) = torch.autograd.grad(found["loss"], deltas, retain_graph=True)
    again = decode(deltas.flatten(0, 1)[[1, 3]], ANCHORS[[1, 0]], (1.0, 1.0))
    (alone,) = torch.autograd.grad(2 * diou_loss(again, TARGETS.boxes).sum() / 2, deltas)
    assert torch.allclose(whole, alone)


@pytest.mark.parametrize(
    ("right", "taught"), [(1.0, 0.8), (0.9, 0.8 / 0.9), (0.8, 1.0), (0.5, 1.0)]
)
def test_a_box_that_is_right_is_taught_as_one(right, taught):
    """The box predicted is the anchor, and the face four fifths of it."""
    targets = Targets(
        torch.tensor([0]),
        torch.tensor([[0.0, 0, 10, 8]]),
        torch.tensor([0]),
        torch.ones(1),
        torch.tensor([[False]]),
    )
    logits = torch.tensor([[0.3]])
    found = detection_loss(
        logits, torch.zeros(1, 1, 4), ANCHORS[:1], targets, (1.0, 1.0), Loss(right=right)
    )
    expected = focal_loss(logits, torch.tensor([[taught]]), 2.0, 1.0)
    assert found["classification"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_anchors_left_out_and_background_boxes_have_no_gradient():
    logits, deltas = LOGITS.clone().requires_grad_(), DELTAS.clone().requires_grad_()
    found = detection_loss(logits, deltas, ANCHORS, TARGETS, (1.0, 1.0), PAPER)
    found["loss"].backward()
    assert (logits.grad == 0).tolist() == TARGETS.ignored.tolist()
    background = torch.ones(6, dtype=torch.bool)
    background[TARGETS.positive] = False
    assert not deltas.grad.flatten(0, 1)[background].any()
    assert deltas.grad.flatten(0, 1)[TARGETS.positive].any(1).all()


@pytest.mark.parametrize("loss", [PAPER, Loss()])
@pytest.mark.parametrize("all_ignored", [False, True])
def test_no_positive_anchor_is_no_trouble(loss, all_ignored):
    logits, deltas = LOGITS.clone().requires_grad_(), DELTAS.clone().requires_grad_()
    nothing = Targets(
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
        torch.full((2, 3), all_ignored),
    )
    found = detection_loss(logits, deltas, ANCHORS, nothing, (1.0, 1.0), loss)
    found["loss"].backward()
    assert torch.isfinite(found["loss"])
    assert found["boxes"].item() == 0
    assert (found["loss"].item() == 0) == all_ignored
    assert torch.isfinite(logits.grad).all()
    assert not deltas.grad.any()


def test_balance_counts_faces_instead_of_anchors():
    face = torch.tensor([0, 2, 2, 2, 2])
    assert anchor_weights(face, 0.0).tolist() == [1.0] * 5
    assert anchor_weights(face, 1.0).tolist() == pytest.approx([2.5] + [2.5 / 4] * 4)
    assert anchor_weights(face, 0.5).tolist() == pytest.approx([5 / 3] + [5 / 6] * 4)
    assert anchor_weights(face[:0], 1.0).shape == (0,)


def test_a_balanced_total_weighs_both_terms_of_each_positive_anchor():
    """Two anchors of one face and one of another: they count 3/4, 3/4 and 3/2."""
    targets = Targets(
        torch.tensor([1, 3, 4]),
        torch.tensor([[11.0, 0, 21, 10], [0, 0, 10, 20], [0, 0, 10, 20]]),
        torch.tensor([0, 1, 1]),
        torch.ones(3),
        TARGETS.ignored,
    )
    loss = Loss(**{**vars(PAPER), "per_positive": True, "balance": 1.0})
    found = detection_loss(LOGITS, DELTAS, ANCHORS, targets, (1.0, 1.0), loss)
    single = [1.5 * focal(0.5, True), 0.75 * focal(2.0, True), 0.75 * focal(-2.0, True)]
    background = focal(-1.0, False) + focal(0.0, False)
    assert found["classification"].item() == pytest.approx((sum(single) + background) / 3, rel=1e-5)
    deltas = DELTAS.flatten(0, 1)[targets.positive]
    chosen = ANCHORS[targets.positive % 3]
    terms = (deltas - encode(targets.boxes, chosen, (1.0, 1.0))).flatten().tolist()
    sums = [sum(smooth_l1(x) for x in terms[4 * i : 4 * i + 4]) for i in range(3)]
    expected = (1.5 * sums[0] + 0.75 * sums[1] + 0.75 * sums[2]) / 3
    assert found["boxes"].item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_half_precision_outputs_are_summed_in_single(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, generator=generator).bfloat16()
    deltas = torch.randn(2, 3, 4, generator=generator).bfloat16()
    half, single = (
        detection_loss(*outputs, ANCHORS, TARGETS, (0.1, 0.2), Loss())["loss"]
        for outputs in ((logits, deltas), (logits.float(), deltas.float()))
    )
    assert half.dtype == torch.float32
    assert half == single


@pytest.mark.parametrize(
    "change", [{"assigner": "nearest"}, {"box_loss": "l2"}, {"balance": 2.0}, {"right": 0.0}]
)
def test_unknown_losses_are_refused(change):
    with pytest.raises(ValueError, match=" must be "):
        Loss(**change)


def test_a_face_that_is_not_sure_is_taught_and_counts_as_its_score():
    """The first of the two faces is sure, the second to a quarter."""
    score = torch.tensor([1.0, 0.25])
    targets = TARGETS._replace(score=score)
    loss = Loss(alpha=1.0, box_weight=1.0, quality=False)
    found = detection_loss(LOGITS, DELTAS, ANCHORS, targets, (1.0, 1.0), loss)
    labels = torch.tensor([[0, 1.0, 0], [0.25, 0, 0]])
    terms = focal_loss(LOGITS, labels, 2.0, 1.0) * ~TARGETS.ignored
    assert found["classification"].item() == pytest.approx(terms.sum().item() / 1.25, rel=1e-5)
    boxes = decode(DELTAS.flatten(0, 1)[[1, 3]], ANCHORS[[1, 0]], (1.0, 1.0))
    expected = (diou_loss(boxes, TARGETS.boxes) * score).sum().item() / 1.25
    assert found["boxes"].item() == pytest.approx(expected, rel=1e-5)


def test_the_quality_of_a_face_that_is_not_sure_is_scaled():
    targets = Targets(
        torch.tensor([0]),
        torch.tensor([[0.0, 0, 10, 8]]),
        torch.tensor([0]),
        torch.tensor([0.5]),
        torch.tensor([[False]]),
    )
    logits = torch.tensor([[0.3]])
    found = detection_loss(logits, torch.zeros(1, 1, 4), ANCHORS[:1], targets, (1.0, 1.0), Loss())
    expected = focal_loss(logits, torch.tensor([[0.5 * 0.8]]), 2.0, 1.0)
    assert found["classification"].item() == pytest.approx(expected.item(), rel=1e-5)
