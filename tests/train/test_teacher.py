"""What a teacher says of the images that the network in training is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import blob_image, blob_spec, make_blob_model
from faceresnet.anchors import Level
from faceresnet.detections import Detections
from faceresnet.errors import ModelError
from faceresnet.pyramid import ALONE
from faceresnet.train import batches, runs, training
from faceresnet.train import teacher as module
from faceresnet.train.loop import train
from faceresnet.train.teacher import FAINTEST, SMALL, Distillation, Teacher
from faceresnet.widerface import read_split
from train.samples import make_faces, small_recipe, write_split

FACE = (10.0, 10.0, 30.0, 30.0)
OTHER = (60.0, 60.0, 80.0, 80.0)
THIRD = (60.0, 10.0, 80.0, 30.0)


def array(*boxes):
    return np.array(boxes, np.float32).reshape(-1, 4)


def judge(labelled, ignore, found, sure, **numbers):
    return Distillation(("any",), **numbers).judge(
        array(*labelled), np.array(ignore, bool), array(*found), np.array(sure, np.float32)
    )


# --- what counts how much ---


def test_a_face_of_the_labels_counts_in_part_as_the_teacher_says():
    near = (12.0, 10.0, 32.0, 30.0)  # IoU .82; the best of the two counts
    scores, new, _ = judge([FACE, OTHER], [False, False], [FACE, near], [0.3, 0.8], trust=0.25)
    assert scores.tolist() == pytest.approx([0.75 + 0.25 * 0.8, 0.75])
    assert scores.dtype == np.float32
    assert len(new) == 0


def test_a_box_beside_the_face_has_not_seen_it():
    beside = (20.0, 10.0, 40.0, 30.0)  # IoU 1/3
    scores, new, sure = judge([FACE], [False], [beside], [0.9])
    assert scores.tolist() == [0.5]
    assert new.tolist() == [list(beside)]
    assert sure.tolist() == pytest.approx([0.45])


def test_what_only_the_teacher_sees_counts_in_part_and_in_full_where_labels_say_nothing():
    head = (55.0, 5.0, 85.0, 35.0)
    scores, new, sure = judge(
        [FACE, head], [False, True], [OTHER, THIRD], [0.6, 0.7], trust=0.4, least=0.5
    )
    assert scores.tolist() == pytest.approx([0.6, 1.0])  # an ignored box's counts for nothing
    assert new.tolist() == [list(OTHER), list(THIRD)]
    assert sure.tolist() == pytest.approx([0.4 * 0.6, 0.7])


def test_faint_detections_are_no_new_faces():
    _, new, sure = judge([], [], [FACE, OTHER], [0.49, 0.51], least=0.5)
    assert new.tolist() == [list(OTHER)]
    assert sure.tolist() == pytest.approx([0.255])


def test_an_image_without_anything():
    scores, new, sure = judge([], [], [], [])
    assert (scores.shape, new.shape, sure.shape) == ((0,), (0, 4), (0,))
    scores, new, _ = judge([FACE], [False], [], [])
    assert scores.tolist() == [0.5]
    assert len(new) == 0


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"trust": 0.0}, "trust must be above 0"),
        ({"trust": 1.1}, "trust must be above 0"),
        ({"least": FAINTEST / 2}, "least must lie in"),
        ({"least": 1.5}, "least must lie in"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers, says):
    with pytest.raises(ValueError, match=says):
        Distillation(("any",), **numbers)


# --- a model that takes red squares for faces ---

SIZE = (96, 96)
#: Squares: centre and side.
NEAR, FAR = (28, 28, 18), (68, 68, 18)


def batch(*squares, size=SIZE):
    """An image for each list of squares."""
    return torch.from_numpy(np.stack([blob_image(size, *its_squares) for its_squares in squares]))


@pytest.fixture
def teacher(blob_model):
    return Teacher(Distillation((str(blob_model),)))


def test_the_teacher_looks_at_every_image(teacher):
    images = batch([NEAR], [], [FAR, (28, 68, 18)])
    hidden = (40.0, 10.0, 60.0, 30.0)
    labelled = [((19, 19, 37, 37), 0, False), (hidden, 1, False), ((59, 59, 77, 77), 2, False)]
    faces = teacher(images, make_faces(labelled))
    seen, missed, other, new = faces.score.tolist()
    assert missed == 0.5
    assert min(seen, other) > 0.75
    assert 0.25 < new <= 0.5
    assert faces.image.tolist() == [0, 1, 2, 2]
    assert faces.image.dtype == torch.int64
    assert faces.ignore.tolist() == [False] * 4
    assert faces.boxes[:3].tolist() == [list(map(float, box)) for box, _, _ in labelled]
    assert faces.boxes[3].tolist() == [19, 59, 37, 77]


def test_images_without_faces_are_no_trouble(teacher):
    nothing = teacher(batch([], []), make_faces([]))
    assert [len(column) for column in nothing] == [0] * 4
    assert nothing.boxes.shape == (0, 4)


def test_the_teacher_is_opened_once_for_each_shape_and_says_the_same_again(teacher, monkeypatch):
    opened = []
    original = module.open_engine
    monkeypatch.setattr(
        module, "open_engine", lambda *args, **kw: opened.append(args) or original(*args, **kw)
    )
    small, large = batch([NEAR]), batch([NEAR], size=(128, 128))
    first = [teacher(images, make_faces([])) for images in (small, large)]
    again = [teacher(images, make_faces([])) for images in (large, small)]
    assert len(opened) == 2
    for one, other in zip(first, reversed(again), strict=True):
        assert len(one.boxes) == 1
        assert all(map(torch.equal, one, other))


def test_with_full_trust_labels_have_no_part(blob_model):
    teacher = Teacher(Distillation((str(blob_model),), trust=1, least=0.1))
    labelled = [
        ((0, 0, 60, 60), 0, True),
        ((19, 19, 36, 37), 0, False),
        ((50, 5, 60, 15), 1, False),
    ]
    faces = teacher(batch([NEAR], []), make_faces(labelled))
    assert faces.boxes.tolist() == [[19, 19, 37, 37]]
    assert faces.image.tolist() == [0]
    assert faces.ignore.tolist() == [False]
    assert 0.5 < faces.score.item() < 1


def test_what_both_teachers_see_has_the_mean_and_what_one_sees_counts_in_part(blob_model, tmp_path):
    levels = (Level(8, (18.0,)),)
    narrow = make_blob_model(tmp_path / "narrow.onnx", replace(blob_spec(), levels=levels))
    images = batch([NEAR, (68, 68, 28)])

    def sees(*files):
        names = tuple(map(str, files))
        return Teacher(Distillation(names, trust=1, least=FAINTEST))(images, make_faces([]))

    first, second = sees(blob_model), sees(narrow)
    assert first.boxes.tolist() == [[19, 19, 37, 37], [54, 54, 82, 82]]
    assert second.boxes.tolist() == [[19, 19, 37, 37]]
    mean, alone = (first.score[0] + second.score[0]).item() / 2, first.score[1].item() * ALONE
    for both in (sees(blob_model, narrow), sees(narrow, blob_model)):
        assert both.boxes.tolist() == first.boxes.tolist()
        assert both.score.tolist() == pytest.approx([mean, alone], abs=1e-5)


# --- with YuNet ---


class Seer:
    """In the place of YuNet: sees what it is told, and remembers at what it looked."""

    def __init__(self, *faces):
        self.faces, self.looked = faces, []

    def __call__(self, image):
        self.looked.append(image)
        boxes, scores = zip(*self.faces, strict=True) if self.faces else ((), ())
        return Detections(array(*boxes), np.array(scores, np.float32), image.shape[:2])


@pytest.fixture
def two(blob_model, monkeypatch):
    """A teacher together with what `Seer` sees, enlarged twice, in images of one large square."""

    def make(*faces, **numbers):
        seer = Seer(*faces)
        monkeypatch.setattr(module, "YuNet", lambda *arguments: seer)
        numbers = {"trust": 1.0, "least": 0.05, **numbers}
        return Teacher(Distillation((str(blob_model),), yunet="any", **numbers)), seer

    return make


def test_yunet_sees_the_images_enlarged(two):
    teacher, seer = two()
    images = batch([NEAR], [FAR])
    teacher(images, make_faces([]))
    assert [image.shape for image in seer.looked] == [(192, 192, 3)] * 2
    for image, enlarged in zip(images.numpy(), seer.looked, strict=True):
        means = enlarged.reshape(96, 2, 96, 2, 3).mean((1, 3))
        assert np.abs(means - image).mean() < 2


def test_a_face_that_both_see_has_scores_and_boxes_of_which_yunet_says_the_larger_part(two):
    alone, _ = two()
    only = alone(batch([NEAR]), make_faces([]))
    together, _ = two(((38, 38, 78, 74), 0.5))
    both = together(batch([NEAR]), make_faces([]))
    mine = only.score.item() / ALONE
    assert both.score.item() == pytest.approx(0.35 * mine + 0.65 * 0.5, abs=1e-4)
    share = 0.65 * 0.5 / (0.35 * mine + 0.65 * 0.5)
    assert both.boxes[0].tolist() == pytest.approx([19, 19, 37 + 2 * share, 37], abs=1e-3)


def test_what_only_yunet_sees_counts_in_part_and_only_if_it_is_small(two):
    large = (0, 0, 2 * SMALL, 2 * SMALL)
    teacher, _ = two(((100, 100, 120, 124), 0.8), (large, 0.9))
    faces = teacher(batch([]), make_faces([]))
    assert faces.boxes.tolist() == [[50, 50, 60, 62]]
    assert faces.score.tolist() == pytest.approx([0.8 * ALONE])


def test_an_ear_that_yunet_sees_on_a_large_face_is_none(two, monkeypatch):
    size = (256, 256)
    whole = (20.0, 10.0, 230.0, 240.0)
    seen = (array(whole), np.array([0.9], np.float32))
    monkeypatch.setattr(module, "postprocess", lambda *arguments: seen)
    teacher, _ = two(((60, 200, 120, 280), 0.9))
    faces = teacher(batch([], size=size), make_faces([]))
    assert faces.boxes.tolist() == [list(whole)]


def test_yunet_speaks_only_together_with_a_teacher():
    with pytest.raises(ValueError, match="yunet speaks together with a teacher: name one"):
        Distillation(yunet="yunet.onnx")


def test_a_teacher_that_is_no_model_is_refused_before_anything_is_made(data, tmp_path):
    recipe = replace(small_recipe(), distillation=Distillation(("nobody",)))
    with pytest.raises(ModelError, match="no model is called 'nobody'"):
        train(recipe, read_split(data, "train"), [], tmp_path / "run")
    file = tmp_path / "notes.onnx"
    file.write_text("no model")
    recipe = replace(recipe, distillation=Distillation((str(file),)))
    with pytest.raises(ModelError, match=r"notes\.onnx"):
        train(recipe, read_split(data, "train"), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- in training ---


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Photos with two red squares, of which one is labelled."""
    root = tmp_path_factory.mktemp("squares")
    photo = blob_image((128, 128), (28, 28, 28), (84, 84, 28))
    for split in ("train", "val"):
        write_split(root, split, [(photo, array((14, 14, 42, 42)))] * 3)
    return root


def taught(blob_model, **numbers):
    numbers = {"decay": "constant", **numbers}
    return replace(
        small_recipe(**numbers), distillation=Distillation((str(blob_model),), least=0.1)
    )


def run(recipe, data, folder, **options):
    photos = {split: read_split(data, split) for split in ("train", "val")}
    train(recipe, photos["train"], photos["val"], folder, accelerator="cpu", **options)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_network_is_taught_what_the_teacher_sees(squares, blob_model, tmp_path, monkeypatch):
    scores = []
    original = training.detection_loss

    def detection_loss(logits, deltas, anchors, targets, *rest):
        scores.append(targets.score)
        return original(logits, deltas, anchors, targets, *rest)

    monkeypatch.setattr(training, "detection_loss", detection_loss)
    run(taught(blob_model), squares, tmp_path / "run", workers=0)
    assert any(((score > 0) & (score <= 0.5)).any() for score in scores)
    assert any(((score > 0.5) & (score < 1)).any() for score in scores)
    kept = runs.read_recipe(tmp_path / "run").distillation
    assert kept == Distillation((str(blob_model),), least=0.1)


def test_a_run_with_a_teacher_goes_on_and_makes_its_batches_itself(
    squares, blob_model, tmp_path, monkeypatch
):
    """In a fork the engine would lack its threads."""
    recipe = taught(blob_model, iterations=4)
    alone = run(recipe, squares, tmp_path / "alone", workers=0)
    processes = []
    original = batches.DataLoader

    def loader(*args, num_workers, **options):
        processes.append(num_workers)
        return original(*args, num_workers=num_workers, **options)

    monkeypatch.setattr(batches, "DataLoader", loader)
    run(replace(recipe, schedule=replace(recipe.schedule, iterations=2)), squares, tmp_path / "a")
    rest = run(recipe, squares, tmp_path / "a", resume=True, workers=2)
    assert set(processes) == {0}
    assert [line["iteration"] for line in rest] == [2, 4]
    assert rest[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=1e-4)
