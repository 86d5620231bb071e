from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faceresnet.anchors import Level, make_anchors
from faceresnet.boxes import iou
from faceresnet.train.targets import (
    Faces,
    assign_adaptively,
    assign_by_iou,
    near_ignored,
    pairwise_iou,
)
from train.samples import make_faces

SIZE = (96, 128)
LEVELS = (Level(8, (12.0, 20.0), (1.25,)), Level(16, (40.0, 70.0)), Level(32, (100.0, 160.0)))
ANCHORS = torch.tensor(make_anchors(LEVELS, SIZE))
R = len(ANCHORS)

face = st.builds(
    lambda x, y, w, h: (
        x * SIZE[1] - w / 2,
        y * SIZE[0] - h / 2,
        x * SIZE[1] + w / 2,
        y * SIZE[0] + h / 2,
    ),
    x=st.floats(1 / 128, 127 / 128, width=32),
    y=st.floats(1 / 128, 127 / 128, width=32),
    w=st.floats(1, 200, width=32),
    h=st.floats(1, 200, width=32),
)

#: Faces with their centres inside the image, some of them in the same place.
crowd = st.lists(st.tuples(face, st.integers(0, 2), st.booleans(), st.integers(1, 4)), max_size=8)


def expand(crowd_):
    return make_faces([(b, image, ig) for b, image, ig, copies in crowd_ for _ in range(copies)])


def taught(*boxes):
    return make_faces([(box, 0, False) for box in boxes])


def adaptive(faces, images=3):
    return assign_adaptively(ANCHORS, faces, images, LEVELS, SIZE)


@given(st.lists(face, min_size=1, max_size=6), st.lists(face, min_size=1, max_size=6))
@settings(deadline=None)
def test_pairwise_iou_is_the_iou_of_boxes(a, b):
    a, b = np.array(a, np.float32), np.array(b, np.float32)
    ours = pairwise_iou(torch.tensor(a)[:, None], torch.tensor(b)[None])
    assert np.allclose(ours.numpy(), iou(a, b), atol=1e-5)


def test_pairwise_iou_of_nothing_is_0():
    empty = torch.zeros(1, 4)
    assert pairwise_iou(empty, empty).tolist() == [0.0]


# --- the paper's assignment ---


def by_iou_slowly(faces, images, positive, negative, best_anchor):
    """(matched box or None, ignored) of each anchor of each image, one after another."""
    result = []
    for image in range(images):
        own = [
            g for g in range(len(faces.boxes)) if faces.image[g] == image and not faces.ignore[g]
        ]
        table = np.zeros((R, len(own)))
        for column, g in enumerate(own):
            table[:, column] = iou(ANCHORS.numpy(), faces.boxes[g : g + 1].numpy())[:, 0]
        for r in range(R):
            could = [
                column
                for column in range(len(own))
                if table[r, column] >= positive
                or (best_anchor and int(np.argmax(table[:, column])) == r)
            ]
            box = None
            if could:
                g = own[max(could, key=lambda column: table[r, column])]
                box = tuple(faces.boxes[g].tolist())
            result.append((box, box is None and max(table[r], default=0) >= negative))
    return result


@pytest.mark.parametrize("best_anchor", [False, True])
@pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.4), (0.35, 0.2), (0.7, 0.7)])
def test_assignment_by_iou_agrees_with_a_loop(best_anchor, positive, negative):
    rng = np.random.default_rng(5)
    rows = []
    for image in (0, 0, 0, 2, 2):  # faces that about fit an anchor
        x1, y1, x2, y2 = ANCHORS[rng.integers(R)].tolist()
        shift = rng.uniform(-0.04, 0.04, 3) * (x2 - x1)
        rows.append(((x1 + shift[0], y1 + shift[1], x2 + shift[2], y2), image, False))
        # One in the middle of it, whose best anchor is often the same.
        x, y, side = (x1 + x2) / 2, (y1 + y2) / 2, 0.4 * (x2 - x1)
        rows.append(((x - side, y - side, x + side, y + side), image, False))
    faces = make_faces(rows)
    targets = assign_by_iou(ANCHORS, faces, 3, positive, negative, best_anchor)
    expected = by_iou_slowly(faces, 3, positive, negative, best_anchor)
    assert targets.positive.tolist() == [i for i, (box, _) in enumerate(expected) if box]
    boxes = [box for box, _ in expected if box]
    assert [tuple(box) for box in targets.boxes.tolist()] == boxes
    assert targets.ignored.flatten().tolist() == [ignored for _, ignored in expected]
    assert len(boxes) >= 5
    assert any(i for _, i in expected) == (positive > negative)


def test_the_threshold_itself_is_positive():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    half = taught((0, 0, 10, 5))
    targets = assign_by_iou(anchors, half, 1, 0.5, 0.4)
    assert targets.positive.tolist() == [0, 1]
    targets = assign_by_iou(anchors, half, 1, 0.6, 0.5)
    assert targets.positive.tolist() == []
    assert targets.ignored.tolist() == [[True, True]]
    assert assign_by_iou(anchors, half, 1, 0.7, 0.6).ignored.tolist() == [[False, False]]


def test_the_best_anchor_serves_a_face_too_small_for_the_threshold():
    tiny = taught((50, 50, 53, 53))
    assert len(assign_by_iou(ANCHORS, tiny, 1).positive) == 0
    targets = assign_by_iou(ANCHORS, tiny, 1, best_anchor=True)
    assert len(targets.positive) == 1
    assert targets.boxes.tolist() == [[50, 50, 53, 53]]


@pytest.mark.parametrize("small", [(2, 2, 7, 7), (2, 5, 7, 10)])
@pytest.mark.parametrize("place", [0, 1])
def test_the_best_anchor_of_a_face_serves_another_that_it_overlaps_more(small, place):
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    large = (0, 0, 10, 8)  # best served by the second, well enough by the first
    faces = [large, large]
    faces[place] = small  # best served by one of them
    targets = assign_by_iou(anchors, taught(*faces), 1, best_anchor=True)
    assert targets.positive.tolist() == [0, 1]
    assert targets.face.tolist() == [1 - place] * 2


# --- adaptive assignment ---


@lru_cache
def candidates(box):
    """Indices of the anchors of the 3×3 cells around a box's centre on every level."""
    box = np.array(box, np.float32)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    found, start = [], 0
    for level in LEVELS:
        rows, columns = level.grid(SIZE)
        for row in range(rows):
            for column in range(columns):
                near = abs(row - y // level.stride) <= 1 and abs(column - x // level.stride) <= 1
                for a in range(level.anchors_per_cell):
                    if near:
                        found.append(start + (row * columns + column) * level.anchors_per_cell + a)
        start += rows * columns * level.anchors_per_cell
    return found


@given(crowd)
@settings(max_examples=150, deadline=None)
def test_no_taught_face_is_left_without_an_anchor(rows):
    faces = expand(rows)
    targets = adaptive(faces)
    served = {}
    for slot, box in zip(targets.positive.tolist(), targets.boxes.tolist(), strict=True):
        served.setdefault((slot // R, tuple(box)), []).append(slot % R)
    used = [set() for _ in range(3)]
    for slot in targets.positive.tolist():
        used[slot // R].add(slot % R)
    together = {}
    for box, image, ignore in zip(
        faces.boxes.tolist(), faces.image.tolist(), faces.ignore.tolist(), strict=True
    ):
        if not ignore:
            together[image, tuple(box)] = together.get((image, tuple(box)), 0) + 1
    for (image, box), copies in together.items():
        # As many anchors as there are faces in this very place, unless no candidate is free.
        enough = len(served.get((image, box), [])) >= copies
        assert enough or set(candidates(box)) <= used[image], (box, copies)


@given(crowd)
@settings(max_examples=100, deadline=None)
def test_an_anchor_serves_one_face_of_its_own_image(rows):
    faces = expand(rows)
    targets = adaptive(faces)
    positive = targets.positive.tolist()
    assert len(set(positive)) == len(positive)
    assert positive == sorted(positive)
    assert targets.boxes.shape == (len(positive), 4)
    taught_faces = {
        (image, tuple(box))
        for box, image, ignore in zip(
            faces.boxes.tolist(), faces.image.tolist(), faces.ignore.tolist(), strict=True
        )
        if not ignore
    }
    for slot, box in zip(positive, targets.boxes.tolist(), strict=True):
        assert (slot // R, tuple(box)) in taught_faces
        assert slot % R in candidates(tuple(box))
    assert not targets.ignored.flatten()[targets.positive].any()


@given(crowd)
@settings(max_examples=60, deadline=None)
def test_images_of_a_batch_do_not_see_each_other(rows):
    faces = expand(rows)
    together = adaptive(faces)
    for image in range(3):
        own = faces.image == image
        image_ = torch.zeros_like(faces.image[own])
        alone = adaptive(Faces(faces.boxes[own], image_, faces.ignore[own], faces.score[own]), 1)
        here = together.positive // R == image
        assert torch.equal(together.positive[here] % R, alone.positive)
        assert torch.equal(together.boxes[here], alone.boxes)
        assert torch.equal(together.ignored[image], alone.ignored[0])


@given(face)
@example((60.0, 35.5, 68.0, 36.5))  # an anchor's centre lies on its left border
@settings(max_examples=150, deadline=None)
def test_a_face_alone_gets_the_candidates_above_mean_plus_deviation(box):
    box = torch.tensor(box).tolist()
    near = candidates(tuple(box))
    anchors = ANCHORS.numpy()[near].astype(np.float64)
    overlap = iou(anchors, np.array([box]))[:, 0]
    threshold = overlap.mean() + overlap.std(ddof=1)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    within = np.minimum(centre - box[:2], box[2:] - centre).min(1)
    positive = set(adaptive(taught(box), 1).positive.tolist())
    clearly = 1e-4
    must = {near[i] for i in np.flatnonzero((overlap > threshold + clearly) & (within > clearly))}
    may = {near[i] for i in np.flatnonzero((overlap > threshold - clearly) & (within > -clearly))}
    best = {near[i] for i in np.flatnonzero(overlap > overlap.max() - clearly)}
    assert must <= positive <= may | best
    assert positive & best


@pytest.mark.parametrize(
    "box",
    [
        (63.0, 47.0, 66.0, 50.0),
        (-300.0, -300.0, 420.0, 400.0),
        (0.0, 0.0, 3.0, 3.0),
        (125.0, 93.0, 128.0, 96.0),
        (0.0, 0.0, 128.0, 96.0),
        (60.0, 0.0, 62.0, 96.0),
    ],
)
def test_faces_of_any_size_and_place_are_taught(box):
    targets = adaptive(taught(box), 1)
    assert len(targets.positive) >= 1
    assert targets.boxes.tolist() == [list(box)] * len(targets.positive)


@pytest.mark.parametrize("copies", [2, 3, 7, 20])
def test_every_one_of_several_faces_in_one_place_is_taught(copies):
    # The middle of the image has 3 · 9 · 2 candidates, so there is one for each.
    targets = adaptive(taught(*[(60.0, 44.0, 72.0, 56.0)] * copies), 1)
    assert len(targets.positive) >= copies


def test_the_best_anchor_of_a_face_is_not_a_neighbours_second():
    levels = (Level(16, (16.0,)),)
    anchors = torch.tensor(make_anchors(levels, (48, 48)))
    faces = taught((21, 20, 42, 28), (23, 24, 44, 38))
    overlap = pairwise_iou(faces.boxes[:, None], anchors)
    assert overlap.argmax(1).tolist() == [4, 5]
    assert overlap[0, 5] > overlap[1, 5], "the first bids more, but has a better one"
    targets = assign_adaptively(anchors, faces, 1, levels, (48, 48))
    assert targets.positive.tolist() == [4, 5]
    assert targets.face.tolist() == [0, 1]


def test_a_face_beyond_the_image_takes_no_anchor_of_another_place():
    assert len(adaptive(taught((1000.0, 1000.0, 1010.0, 1010.0)), 1).positive) == 0


@pytest.mark.parametrize("assign", [adaptive, lambda faces: assign_by_iou(ANCHORS, faces, 3)])
def test_a_batch_without_faces_is_all_background(assign):
    targets = assign(make_faces([]))
    assert targets.positive.shape == (0,)
    assert targets.boxes.shape == (0, 4)
    assert targets.ignored.shape == (3, R)
    assert not targets.ignored.any()


# --- ignored faces ---


@pytest.mark.parametrize(
    "assign", [adaptive, lambda faces: assign_by_iou(ANCHORS, faces, 3, best_anchor=True)]
)
def test_ignored_faces_are_neither_face_nor_background(assign):
    box = (40.0, 30.0, 80.0, 70.0)
    targets = assign(make_faces([(box, 1, True)]))
    assert len(targets.positive) == 0
    assert not targets.ignored[[0, 2]].any()
    within = [
        r
        for r, (x1, y1, x2, y2) in enumerate(ANCHORS.tolist())
        if x1 >= box[0] and y1 >= box[1] and x2 <= box[2] and y2 <= box[3]
    ]
    assert len(within) > 10
    assert targets.ignored[1, within].all()
    overlap = iou(ANCHORS.numpy(), np.array([box], np.float32))[:, 0]
    assert targets.ignored[1, overlap > 0.31].all()
    apart = overlap == 0
    assert apart.any()
    assert not targets.ignored[1, apart].any()


@pytest.mark.parametrize(
    "assign", [adaptive, lambda faces: assign_by_iou(ANCHORS, faces, 3, best_anchor=True)]
)
def test_a_face_inside_an_ignored_one_is_taught(assign):
    face_, crowd_ = (50.0, 40.0, 66.0, 56.0), (20.0, 10.0, 110.0, 90.0)
    targets = assign(make_faces([(crowd_, 0, True), (face_, 0, False)]))
    assert len(targets.positive) >= 1
    assert not targets.ignored.flatten()[targets.positive].any()
    assert targets.ignored[0].any()


@pytest.mark.parametrize(("left", "near"), [(24.0, True), (26.0, False)])
def test_an_anchor_half_of_which_lies_in_a_large_ignored_face_is_near_it(left, near):
    anchor = torch.tensor([[left, 0, left + 10, 10]])  # 0.6 or 0.4 of it, IoU below 0.1
    assert near_ignored(anchor, make_faces([((0, 0, 30, 30), 0, True)]), 1).tolist() == [[near]]


def test_near_ignored_measures_share_and_overlap():
    anchors = torch.tensor([[0.0, 0, 10, 10], [6, 0, 16, 10], [4, 0, 14, 10], [-20, -20, 30, 30]])
    mask = near_ignored(anchors, make_faces([((0, 0, 10, 10), 0, True)]), 1)
    # Whole, 0.4 of it (IoU 0.25), 0.6 of it (IoU 0.43), and a large one around (IoU 0.04).
    assert mask.tolist() == [[True, False, True, False]]
