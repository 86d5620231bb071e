from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import run_cli
from faceresnet import convert as convert_
from faceresnet import images
from faceresnet.convert import convert, describe
from faceresnet.errors import DataError, MissingExtraError
from faceresnet.widerface import read_split

pytest.importorskip("yaml", reason="pip install 'faceresnet[train]'")

SIZE = (80, 160)
FACE, OTHER, CROWD = (10, 10, 30, 34), (50, 10, 90, 60), (100, 8, 140, 48)


def photo(path, size=SIZE):
    images.write(np.full((*size, 3), 90, np.uint8), path)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def yolo_line(kind, box, size=SIZE):
    (x1, y1, x2, y2), (height, width) = box, size
    numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(kind), *(f"{number:.8f}" for number in numbers)]) + "\n"


@pytest.fixture
def yolo(tmp_path):
    """Photos of two splits, one nested, one empty, one without a label file."""
    root = tmp_path / "yolo"
    for name in ("one.png", "deep/two.JPG", "empty.png", "bare.png"):
        photo(root / "images/train" / name)
    photo(root / "images/val/one.png")
    labels = root / "labels/train"
    text(labels / "one.txt", yolo_line(1, FACE) + yolo_line(0, OTHER))
    text(labels / "deep/two.txt", yolo_line(1, OTHER))
    text(labels / "empty.txt", "")
    text(root / "labels/val/one.txt", yolo_line(1, FACE))
    text(root / "data.yaml", "train: images/train\nval: images/val\nnames: [dog, face]\n")
    return root


def coco_content(annotations, names=("face",), files=("one.png", "two.png")):
    return {
        "categories": [{"id": 7 + at, "name": name} for at, name in enumerate(names)],
        "images": [
            {"id": at, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for at, name in enumerate(files)
        ],
        "annotations": annotations,
    }


def annotation(image, box, category=7, **more):
    x1, y1, x2, y2 = box
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"id": 1, "image_id": image, "category_id": category, "bbox": bbox, **more}


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    photo(root / "one.png")
    photo(root / "two.png")
    outline = {"segmentation": [[100, 8, 140, 8, 140, 48]]}
    rows = [annotation(0, FACE), annotation(0, CROWD, iscrowd=1, **outline)]
    text(root / "labels.json", json.dumps(coco_content(rows)))
    return root / "labels.json"


def voc_xml(*named, size=SIZE):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in named
    )
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return f"<annotation>{sides}{objects}</annotation>"


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "voc"
    for name in ("one.png", "two.png", "bare.png"):
        photo(root / "JPEGImages" / name)
    photo(root / "SegmentationClass/one.png")
    text(root / "Annotations/one.xml", voc_xml(("Face", FACE), ("dog", OTHER)))
    text(root / "Annotations/two.xml", voc_xml())
    return root


def labels(out, split="train"):
    """Faces and whether they are ignored, by the photo's name."""
    read = read_split(out, split)
    assert all(one.read().shape == (*SIZE, 3) for one in read)
    return {
        one.name: [
            (tuple(np.round(box, 2).tolist()), bool(ignored))
            for box, ignored in zip(one.faces, one.ignore, strict=True)
        ]
        for one in read
    }


def run(capsys, *arguments):
    """Status, standard output and standard error of a command."""
    return run_cli(capsys, "data", "convert", *arguments)


# --- formats ---


def test_yolo_both_splits_into_one_folder(capsys, yolo, tmp_path):
    out = tmp_path / "deep/out"
    status, said, errors = run(capsys, yolo, "--out", out)
    assert status == 0, errors
    assert labels(out) == {
        "photos/one.png": [(FACE, False)],
        "photos/deep/two.JPG": [(OTHER, False)],
        "photos/empty.png": [],
        "photos/bare.png": [],
    }
    assert (out / "WIDER_train/images/photos").is_symlink()
    assert f"{out}, train: 4 photos, 2 faces, 0 ignored\n" in said
    assert f"Next: faceresnet train --init faceresnet-n --data {out} --out RUN" in said
    assert "--set augmentation.shortfall=0 --set excess=0" in said
    (line,) = errors.splitlines()
    assert "1 photo without a label file, taken to show no face" in line
    assert "1 annotation left out, of other classes" in line
    status, said, errors = run(capsys, yolo / "data.yaml", "--out", out, "--split", "val")
    assert (status, errors) == (0, "")
    assert labels(out, "val") == {"photos/one.png": [(FACE, False)]}


def test_val_alone_asks_for_train(capsys, yolo, tmp_path):
    status, said, _ = run(capsys, yolo, "--out", tmp_path / "out", "--split", "val")
    assert status == 0
    assert "Next: faceresnet data convert … --split train" in said


def test_coco_with_crowds_and_photos_without_faces(capsys, coco, tmp_path):
    out = tmp_path / "out"
    status, said, errors = run(capsys, coco, "--out", out, "--event", "mine")
    assert (status, errors) == (0, "")
    assert labels(out) == {"mine/one.png": [(FACE, False), (CROWD, True)], "mine/two.png": []}
    assert "2 photos, 1 face, 1 ignored" in said


def test_coco_photos_elsewhere_and_names_as_in_addresses(coco, tmp_path):
    place = coco.parent.rename(tmp_path / "moved")
    rows = [annotation(0, FACE), annotation(1, OTHER)]
    (place / "a b").mkdir()
    (place / "two.png").rename(place / "a b/two.png")
    content = coco_content(rows, files=("one.png", "a%20b\\two.png"))
    file = text(tmp_path / "elsewhere/list.json", json.dumps(content))
    convert(file, tmp_path / "out", photos=place)
    assert labels(tmp_path / "out") == {
        "photos/one.png": [(FACE, False)],
        "photos/a b/two.png": [(OTHER, False)],
    }


def test_two_categories_of_one_name_are_one(coco, tmp_path):
    rows = [annotation(0, FACE, 7), annotation(1, OTHER, 8)]
    text(coco, json.dumps(coco_content(rows, ("face", "face"))))
    assert [len(one.faces) for one in convert(coco, tmp_path / "out")[0]] == [1, 1]


@pytest.mark.parametrize("flat", [True, False])
def test_voc(voc, tmp_path, flat):
    if flat:  # all in one folder
        for path in [*voc.glob("JPEGImages/*"), *voc.glob("Annotations/*")]:
            path.rename(voc / path.name)
        (voc / "SegmentationClass/one.png").unlink()
        (voc / "JPEGImages").rmdir()
    photos, notes = convert(voc, tmp_path / "out")
    assert [len(one.faces) for one in photos] == [0, 1, 0]
    assert labels(tmp_path / "out")["photos/one.png"] == [(FACE, False)]
    assert "1 photo without a label file" in describe(notes)


def test_voc_takes_the_photos_of_its_split(voc, tmp_path):
    text(voc / "ImageSets/Main/train.txt", "one\n")
    text(voc / "ImageSets/Main/val.txt", "two\nbare  1\n")
    convert(voc, tmp_path / "out")
    convert(voc, tmp_path / "out", split="val")
    assert list(labels(tmp_path / "out")) == ["photos/one.png"]
    assert list(labels(tmp_path / "out", "val")) == ["photos/bare.png", "photos/two.png"]


# --- what labels may be like ---


@pytest.mark.parametrize("train", ["../images/train", "[images/train]", "list.txt"])
def test_where_data_yaml_says_the_photos_are(yolo, tmp_path, train):
    text(yolo / "list.txt", "./images/train/one.png\n")
    text(yolo / "data.yaml", f"path: /content/moved\ntrain: {train}\nnames: {{0: dog, 1: face}}\n")
    convert(yolo, tmp_path / "out")
    assert labels(tmp_path / "out")["photos/one.png"] == [(FACE, False)]


def test_keypoints_are_no_part_of_the_box(yolo, tmp_path):
    points = " 0.9 0.9 2" * 5
    text(yolo / "labels/train/one.txt", yolo_line(1, FACE).strip() + points + "\n")
    plain = (yolo / "data.yaml").read_text()
    text(yolo / "data.yaml", plain + "kpt_shape: [5, 3]\n")
    convert(yolo, tmp_path / "out")
    assert labels(tmp_path / "out")["photos/one.png"] == [(FACE, False)]
    text(yolo / "data.yaml", plain)
    _, notes = convert(yolo, tmp_path / "again")
    assert "1 photo with outlines" in describe(notes)


def test_photos_of_one_name_in_two_folders_are_two(yolo, tmp_path):
    photo(yolo / "images/train/deep/one.png")
    text(yolo / "labels/train/deep/one.txt", yolo_line(1, OTHER))
    convert(yolo, tmp_path / "out")
    found = labels(tmp_path / "out")
    assert found["photos/one.png"] == [(FACE, False)]
    assert found["photos/deep/one.png"] == [(OTHER, False)]


def test_a_photo_that_exif_turns_has_boxes_as_it_is_seen(yolo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = (SIZE[0], SIZE[1])
    Image.new("RGB", upright).save(yolo / "images/train/one.jpg", exif=exif)  # stored on its side
    (yolo / "images/train/one.png").unlink()
    convert(yolo, tmp_path / "out")
    assert labels(tmp_path / "out")["photos/one.jpg"] == [(FACE, False)]


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_boxes_of_a_photo_of_another_size_are_not_taken(coco, voc, tmp_path, format):
    place = coco.parent if format == "coco" else voc / "JPEGImages"
    photo(place / "one.png", (160, 80))
    photos, notes = convert(coco if format == "coco" else voc, tmp_path / "out")
    assert "photos/one.png" not in [one.name for one in photos]
    assert "1 photo left out, of another size" in describe(notes)


def test_a_broken_label_file_and_a_broken_photo_cost_one_photo_each(yolo, tmp_path):
    for number in range(5):
        photo(yolo / f"images/train/{number}.png")
        text(yolo / f"labels/train/{number}.txt", yolo_line(1, FACE))
    text(yolo / "labels/train/2.txt", "1 0.5 0.5\n")
    text(yolo / "labels/train/3.txt", "1 0.5 0.5 -0.1 0.1\n")
    text(yolo / "labels/train/4.txt", yolo_line(9, FACE))
    (yolo / "images/train/0.png").write_bytes(b"no image")
    text(yolo / "labels/train/alone.txt", "")
    text(yolo / "images/train/odd.heic", "")
    photos, notes = convert(yolo, tmp_path / "out")
    assert len(photos) == 5
    said = describe(notes)
    for words in (
        "3 photos left out, with unreadable labels",
        "1 photo left out, missing or unreadable",
        "1 label file without a photo",
        "1 file left out, not named as photos are",
    ):
        assert words in said
    broken = notes["photo", "left out, with unreadable labels"]
    assert all(str(yolo / "labels/train") in name for name in broken), broken


def test_boxes_beyond_the_photo_are_clipped_or_left_out_and_counted(coco, tmp_path):
    rows = [
        annotation(0, (-10, -10, 20, 20)),
        annotation(0, (150, 70, 160.3, 80)),
        annotation(0, (200, 10, 220, 30)),
        annotation(0, (30, 30, 20, 40)),
        annotation(1, (float("nan"), 0, 20, 20)),
        annotation(9, FACE),
    ]
    text(coco, json.dumps(coco_content(rows)))
    _, notes = convert(coco, tmp_path / "out")
    assert labels(tmp_path / "out") == {
        "photos/one.png": [((0, 0, 20, 20), False), ((150, 70, 160, 80), False)],
        "photos/two.png": [],
    }
    said = describe(notes)
    assert "1 annotation clipped to the photo" in said
    assert "3 annotations left out, outside the photo or without area" in said
    assert "1 annotation left out, of unlisted photos (9)" in said


def test_a_missing_photo_of_coco_is_counted(coco, tmp_path):
    (coco.parent / "two.png").unlink()
    photos, notes = convert(coco, tmp_path / "out")
    assert len(photos) == 1
    assert "1 photo left out, missing" in describe(notes)


# --- classes ---


@pytest.mark.parametrize(
    ("names", "classes", "kept"),
    [
        (("head",), (), [FACE]),
        (("Face", "dog"), (), [FACE]),
        (("face", "dog"), ("dog",), [OTHER]),
        (("cat", "dog"), ("cat", "dog"), [FACE, OTHER]),
    ],
)
def test_which_classes_are_faces(coco, tmp_path, names, classes, kept):
    rows = [annotation(0, FACE, 7), annotation(0, OTHER, 8)][: len(names)]
    text(coco, json.dumps(coco_content(rows, names)))
    photos, _ = convert(coco, tmp_path / "out", classes=classes)
    assert [tuple(box) for box in photos[0].faces.tolist()] == kept


# --- mistakes ---


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("none", [], "there is no"),
        ("coco", [], "holds no labels of a known format"),
        ("yolo", ["--format", "txt"], "must be one of yolo, coco, voc, got 'txt'"),
        ("yolo", ["--split", "test"], "split must be one of train, val"),
        ("yolo", ["--class", "cat"], "no class is called cat; there are: dog, face"),
        ("yolo", ["--event", "a/b"], "--event must be the name of a folder"),
        ("yolo", ["--images", "{tmp}"], "data.yaml names the photos"),
        ("coco/labels.json", ["--images", "{tmp}"], "no photo is left; 2 photos left out, missing"),
        ("voc", ["--images", "{tmp}/full"], "no .xml belongs to a photo; --images DIR"),
        ("voc", ["--format", "coco"], "cannot be read as COCO"),
        ("voc", ["--format", "yolo"], "cannot be read as YOLO's data.yaml"),
        ("yolo/data.yaml", ["--format", "voc"], "cannot list"),
        ("yolo", ["--out", "{tmp}/full"], "neither empty nor a data set"),
        ("yolo", ["--out", "{tmp}/full/notes"], "is no folder"),
        ("yolo", ["--out", "{tmp}/out.zip"], "'faceresnet data pack' makes shards"),
    ],
)
def test_mistakes_are_one_line(capsys, yolo, coco, voc, tmp_path, source, options, says):
    text(tmp_path / "full/notes", "")
    before = sorted(tmp_path.rglob("*"))
    given = [option.format(tmp=tmp_path) for option in options]
    out = [] if "--out" in given else ["--out", tmp_path / "out"]
    status, _, errors = run(capsys, tmp_path / source, *out, *given)
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert re.search(says, errors), errors
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "expected mapping|Expected mapping|cannot be read"),
        ("train: [", "cannot be read as YOLO's data.yaml"),
        ("train: images/train\n", "Expected 'names'"),
        ("names: [face]\n", "names no folder of photos for train"),
        ("train: images/none\nnames: [face]\n", "there is no .*images/none"),
        ("train: images\nnames: [a, b]\n", "which classes are faces.*there are: a, b"),
    ],
)
def test_broken_data_yaml(capsys, yolo, tmp_path, content, says):
    text(yolo / "data.yaml", content)
    with pytest.raises((DataError, ValueError), match=says):
        convert(yolo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_that_are_nowhere_are_no_background(yolo, tmp_path):
    (yolo / "labels").rename(yolo / "annotations")
    with pytest.raises(DataError, match=r"no photo has labels; expected .*labels/train/"):
        convert(yolo, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as COCO"),
        ("[]", "cannot be read as COCO"),
        ("{}", "KeyError, 'categories'"),
        (json.dumps(coco_content([annotation(0, FACE, 99)])), "KeyError, 99"),
        (json.dumps(coco_content([], files=("one.png", "one.png"))), "one.png is listed twice"),
        (json.dumps(coco_content([], ("face",), ())), "no photo is left; it lists none"),
    ],
)
def test_broken_coco(coco, tmp_path, content, says):
    text(coco, content)
    with pytest.raises(DataError, match=says):
        convert(coco, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_xml_costs_its_photo(voc, tmp_path):
    text(voc / "Annotations/two.xml", "<annotation><object></annotation>")
    _, notes = convert(voc, tmp_path / "out")
    (name,) = notes["photo", "left out, with unreadable labels"]
    assert str(voc / "Annotations/two.xml") in name


def test_label_files_that_may_be_of_two_photos_are_refused(voc, tmp_path):
    photo(voc / "JPEGImages/a/one.png")
    with pytest.raises(DataError, match=r"may be of .* or of another"):
        convert(voc, tmp_path / "out")


def test_a_split_is_not_written_over(capsys, yolo, tmp_path):
    convert(yolo, tmp_path / "out")
    before = labels(tmp_path / "out")
    with pytest.raises(DataError, match="holds a train split already: name another --out"):
        convert(yolo, tmp_path / "out")
    assert labels(tmp_path / "out") == before


def test_nothing_is_left_where_the_list_cannot_be_written(yolo, tmp_path, monkeypatch):
    convert(yolo, tmp_path / "out", split="val")

    def full(photos):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_, "format_labels", full)
    for out in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(DataError, match=r"cannot write the data set .*No space left"):
            convert(yolo, out)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out/WIDER_train").exists()
    assert labels(tmp_path / "out", "val")


def test_without_the_extra_it_says_what_to_install(yolo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"\.\[train\]"):
        convert(yolo, tmp_path / "out")


@pytest.mark.parametrize("place", ["yolo", "yolo/data.yaml", "coco/labels.json", "voc"])
def test_readers_of_data_sets_point_here(yolo, coco, voc, tmp_path, place):
    with pytest.raises(DataError, match=f"no train split.*faceresnet data convert .*{place} --out"):
        read_split(tmp_path / place, "train")


def test_other_folders_are_not_sent_here(tmp_path):
    with pytest.raises(DataError, match="faceresnet data widerface"):
        read_split(tmp_path, "train")


# --- to the end ---


def test_a_network_learns_from_it(capsys, tmp_path):
    pytest.importorskip("lightning", reason="pip install 'faceresnet[train]'")
    from train.samples import face_photo, options

    for number in range(2):
        pixels, faces = face_photo(number)
        images.write(pixels, tmp_path / f"set/images/{number}.png")
        lines = (yolo_line(0, box, pixels.shape[:2]) for box in faces.tolist())
        text(tmp_path / f"set/labels/{number}.txt", "".join(lines))
    text(tmp_path / "set/data.yaml", "train: images\nnames: [person]\n")
    photos, _ = convert(tmp_path / "set", tmp_path / "out")
    np.testing.assert_allclose(photos[1].faces, faces, atol=1e-3)
    small = {
        **{"schedule.iterations": 1, "schedule.epoch": 1, "schedule.batch": 2},
        **{"schedule.warmup": 0, "schedule.bf16": "false", "augmentation.sizes": 64},
        **{"augmentation.event_weights": "()", "augmentation.shortfall": 0, "excess": 0},
        **{"network.planes": "(16,16,16,32)", "network.inner": "()", "network.pyramid": 16},
        **{"network.depths": "(1,1,1,1)"},
    }
    where = ["--data", tmp_path / "out", "--out", tmp_path / "run"]
    machine = ["--workers", "0", "--accelerator", "cpu"]
    status, _, errors = run_cli(capsys, "train", *where, *options(small), *machine)
    assert status == 0, errors
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()
