"""Training images without a face."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from faceresnet.train import empty
from faceresnet.train.empty import CROWD, MOTIF, PIECE, TILE, cut_piece, make_empty, pattern
from faceresnet.train.photos import PhotoSet
from train.samples import write_split

#: A photo in which every face is white, and nothing else is.
SIZE = (90, 160)
FACES = ((20, 10, 60, 50), (110, 40, 150, 80))
IGNORED = (70, 5, 100, 25)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    photo = np.random.default_rng(0).integers(0, 200, (*SIZE, 3)).astype(np.uint8)
    for x1, y1, x2, y2 in (*FACES, IGNORED):
        photo[y1:y2, x1:x2] = 255
    boxes = np.array([*FACES, IGNORED], np.float32)
    folder = tmp_path_factory.mktemp("faces")
    return PhotoSet(write_split(folder, "train", [(photo, boxes, np.array([False, False, True]))]))


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(empty, "SWAPPED", 0)
    monkeypatch.setattr(empty, "INVERTED", 0)


@pytest.mark.usefixtures("plain")
def test_pieces_touch_no_face_nor_what_is_ignored(photos):
    photo = photos[0].numpy()
    sides = []
    for seed in range(100):
        piece = cut_piece(photos, None, np.random.default_rng(seed))
        if piece is None:
            continue
        sides.append(len(piece))
        assert piece.shape == (sides[-1], sides[-1], 3)
        assert piece.max() < 200
        views = np.lib.stride_tricks.sliding_window_view(photo, piece.shape)
        assert (views == piece).all((-3, -2, -1)).any()
    assert len(sides) > 40
    assert min(sides) < PIECE + 5
    assert len(set(sides)) > 8


def test_pieces_to_be_repeated_are_small(photos):
    large = PhotoSet.__new__(PhotoSet)
    large.__dict__.update(photos.__dict__)
    large._pixels = [torch.zeros(600, 700, 3, dtype=torch.uint8)]
    large.faces = [np.zeros((0, 4), np.float32)]
    pieces = [
        cut_piece(large, most, np.random.default_rng(s)) for most in (TILE, None) for s in range(60)
    ]
    sides = [len(piece) for piece in pieces]
    assert max(sides[:60]) <= TILE
    assert 400 < max(sides[60:]) <= 600


def test_a_photo_full_of_faces_has_no_piece_and_makes_an_image_all_the_same(tmp_path):
    everywhere = np.array([[0, 0, 160, 90]], np.float32)
    grey = np.full((*SIZE, 3), 99, np.uint8)
    photos = PhotoSet(write_split(tmp_path, "train", [(grey, everywhere)]))
    assert cut_piece(photos, None, np.random.default_rng(0)) is None
    for seed in range(12):
        image = make_empty(photos, 64, np.random.default_rng(seed))
        assert image.shape == (64, 64, 3)
        assert (image != 99).any()


def test_nothing_is_cut_from_a_crowd_whose_list_may_lack_faces(tmp_path):
    grey = np.full((*SIZE, 3), 99, np.uint8)
    for count in (CROWD, CROWD + 1):
        faces = np.array([[x, 0, x + 2, 2] for x in range(0, 4 * count, 4)], np.float32)
        photos = PhotoSet(write_split(tmp_path / str(count), "train", [(grey, faces)]))
        pieces = [cut_piece(photos, None, np.random.default_rng(seed)) for seed in range(20)]
        assert any(piece is not None for piece in pieces) == (count <= CROWD)


def test_colours_are_swapped_and_inverted_now_and_then(photos, monkeypatch):
    def cut(seed):
        return cut_piece(photos, None, np.random.default_rng(seed))

    monkeypatch.setattr(empty, "SWAPPED", 0)
    monkeypatch.setattr(empty, "INVERTED", 0)
    seed = next(seed for seed in range(50) if cut(seed) is not None)
    plain = cut(seed)
    monkeypatch.setattr(empty, "INVERTED", 1)
    assert np.array_equal(cut(seed), 255 - plain)
    monkeypatch.setattr(empty, "INVERTED", 0)
    monkeypatch.setattr(empty, "SWAPPED", 1)
    assert np.array_equal(np.sort(cut(seed)), np.sort(plain))


@pytest.mark.parametrize("size", [33, 96])
@pytest.mark.parametrize("make", [empty._clouds, empty._shapes, empty._motifs, pattern])
def test_patterns_are_images_and_differ(make, size):
    made = [make(size, np.random.default_rng(seed)) for seed in range(20)]
    for image in made:
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
    assert all((one != other).any() for one, other in pairwise(made))
    assert (np.std(made, axis=(1, 2)).max(1) > 1).sum() >= 17
    again = make(size, np.random.default_rng(0))
    assert np.array_equal(again, made[0])


def test_a_piece_is_repeated_mirrored_or_not():
    piece = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mirrored = repeated = 0
    for seed in range(40):
        image = empty._repeat(piece, 192, np.random.default_rng(seed))
        assert image.shape == (192, 192, 3)
        periods = [p for p in range(8, 129) if np.array_equal(image[:, p:], image[:, :-p])]
        assert not periods or periods[0] >= MOTIF
        repeated += bool(periods)
        mirrored += any(
            np.array_equal(image[:, x : x + 8], image[:, x - 8 : x][:, ::-1]) for x in range(8, 185)
        )
    assert 18 <= mirrored <= 36
    assert repeated >= 20
