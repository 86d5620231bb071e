from __future__ import annotations

import numpy as np
import pytest
import torch

from faceresnet.errors import DataError, ImageError
from faceresnet.train.augment import Augmentation, make_batch
from faceresnet.train.photos import PhotoSet, restyle
from train.samples import face_photo, write_split


@pytest.fixture
def photos(tmp_path):
    return write_split(tmp_path, "train", [face_photo(seed, (90, 140)) for seed in range(3)])


def test_decoded_and_encoded_photos_have_the_same_pixels(photos):
    decoded, encoded = (PhotoSet(photos, keep=keep) for keep in ("decoded", "encoded"))
    assert len(decoded) == len(encoded) == 3
    for i in range(3):
        assert decoded[i].dtype == torch.uint8
        assert torch.equal(decoded[i], encoded[i])
        assert np.array_equal(decoded[i], face_photo(i, (90, 140))[0])
        assert np.array_equal(decoded.faces[i], photos[i].faces)
    batches = [
        make_batch(photo_set, Augmentation(sizes=(64,)), 3, (1,))
        for photo_set in (decoded, encoded)
    ]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1].boxes, batches[1][1].boxes)


def test_faces_are_clipped_to_the_photo_and_those_beyond_ignored(tmp_path):
    photo = np.zeros((50, 60, 3), np.uint8)
    faces = np.array([(-5, 10, 20, 30), (70, 10, 90, 30), (1, 1, 9, 9)], np.float32)
    flags = np.array([False, False, True])
    photo_set = PhotoSet(write_split(tmp_path, "train", [(photo, faces, flags)]))
    assert photo_set.faces[0].tolist() == [[0, 10, 20, 30], [60, 10, 60, 30], [1, 1, 9, 9]]
    assert photo_set.ignore[0].tolist() == [False, True, True]


@pytest.mark.parametrize("keep", ["decoded", "encoded"])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_photo_is_named(tmp_path, photos, keep, content):
    file = tmp_path / "WIDER_train/images/event/1.png"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(ImageError, match=r"the photo event/1\.png in .* is broken"):
        PhotoSet(photos, keep=keep)


def test_a_missing_photo_is_named(tmp_path, photos):
    (tmp_path / "WIDER_train/images/event/2.png").unlink()
    with pytest.raises(DataError, match=r"the photo event/2\.png is listed but cannot be read"):
        PhotoSet(photos)


def test_no_photos_are_refused():
    with pytest.raises(DataError, match="no photos to train on"):
        PhotoSet([])


def test_unknown_ways_to_keep_photos_are_refused(photos):
    with pytest.raises(ValueError, match="decoded or encoded"):
        PhotoSet(photos, keep="compressed")


@pytest.mark.parametrize("weights", [[("event", 0.0)], [("event", -1.0)]])
def test_weights_that_leave_nothing_to_draw_are_refused(photos, weights):
    with pytest.raises(ValueError, match="event weights must not be negative"):
        PhotoSet(photos, event_weights=weights)


def test_progress_sees_every_photo(photos):
    seen = []

    def progress(items):
        for item in items:
            seen.append(item.shape)
            yield item

    PhotoSet(photos, progress=progress)
    assert seen == [(90, 140, 3)] * 3


def test_boxes_of_an_event_are_redrawn(tmp_path):
    black = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([(10, 20, 30, 60), (0, 0, 10, 10)], np.float32)
    (photo,) = write_split(tmp_path, "train", [(black, boxes, np.array([False, True]))])
    styles = [("other", (9.0, 9.0, 9.0, 9.0)), ("event", (0.1, -0.25, 0.5, 2.0))]
    redrawn = restyle(photo, styles)
    # 20 × 40 px around (20, 40): moved by 2 and −10, then half as wide and twice as high.
    assert redrawn.faces.tolist() == [[17, -10, 27, 70], [3.5, -7.5, 8.5, 12.5]]
    assert redrawn.faces.dtype == np.float32
    assert redrawn.ignore.tolist() == [False, True]
    assert redrawn.name == photo.name
    assert photo.faces.tolist() == boxes.tolist()
    assert restyle(photo, styles[:1]) is photo
