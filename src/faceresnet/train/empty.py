"""Training images without a face: pieces of photos, the same as tiles, and invented patterns.

A crop is taken around a face, so that a network which saw nothing else takes a leaf that fills the
frame, gravel or a grid of dots for faces: it never had to tell them apart.
"""

from __future__ import annotations

from math import ceil, exp, log

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from faceresnet import images
from faceresnet.train.photos import PhotoSet

#: Least side of what is cut out of a photo, px, and the largest of what is to be repeated.
PIECE, TILE = 24, 128
#: Least side of what is repeated, px: smaller is hard to tell from a crowd of tiny faces.
MOTIF = 20
#: Lists of photos with more faces leave some out: nothing is cut from these.
CROWD = 20
#: A piece without a face is looked for so often.
TRIES = 10
#: How often an image is a piece of a photo, tiles of one, an invented pattern.
KINDS = (0.5, 0.25, 0.25)
#: How often a piece's colours are swapped, and inverted.
SWAPPED, INVERTED = 0.2, 0.1

Image = UInt8[np.ndarray, "S S 3"]


def make_empty(photos: PhotoSet, size: int, rng: np.random.Generator) -> Tensor:
    """An image (S, S, 3) uint8 in which no face is listed, on the photos' device.

    Args:
        photos: from which pieces are cut, none of which touches a listed or ignored face.
        size: S, px.
        rng: decides.
    """
    kind = int(rng.choice(len(KINDS), p=KINDS))
    piece = None if kind == 2 else cut_piece(photos, TILE if kind == 1 else None, rng)
    if piece is None:
        image = pattern(size, rng)
    elif kind == 1:
        image = _repeat(piece, size, rng)
    else:
        image = images.resize(piece, (size, size))
    return torch.from_numpy(np.ascontiguousarray(image)).to(photos.device)


def cut_piece(
    photos: PhotoSet, most: int | None, rng: np.random.Generator
) -> UInt8[np.ndarray, "H H 3"] | None:
    """A square piece of a photo, of any size, that touches no face; None where none was found.

    Args:
        photos: to cut it from.
        most: px, its largest side; with None the photo's shorter one.
        rng: decides.
    """
    for _ in range(TRIES):
        index = photos.draw(rng)
        if len(photos.faces[index]) > CROWD:
            continue
        photo = photos[index]
        height, width = photo.shape[:2]
        longest = min(height, width, most or height)
        side = round(exp(rng.uniform(log(min(PIECE, longest)), log(longest))))
        left, top = rng.integers(0, [width - side + 1, height - side + 1])
        x1, y1, x2, y2 = photos.faces[index].T
        if ((x1 < left + side) & (x2 > left) & (y1 < top + side) & (y2 > top)).any():
            continue
        piece: np.ndarray = photo[top : top + side, left : left + side].cpu().numpy()
        if rng.random() < SWAPPED:
            piece = piece[..., rng.permutation(3)]
        return 255 - piece if rng.random() < INVERTED else piece
    return None


def pattern(size: int, rng: np.random.Generator) -> Image:
    """An invented image: clouds or gravel of noise, scattered shapes, or one motif repeated."""
    return (_clouds, _shapes, _motifs)[int(rng.integers(3))](size, rng)


def _clouds(size: int, rng: np.random.Generator) -> Image:
    """Noise of several scales between two colours, or cut into patches of them."""
    height = np.zeros((size, size), np.float32)
    roughness = rng.uniform(0.4, 1.1)
    scale, share = float(exp(rng.uniform(log(2), log(size)))), 1.0
    while scale >= 1:
        cells = ceil(size / scale)
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        height += share * images.resize(noise, (size, size))
        scale, share = scale / 2, share * roughness
    height = (height - height.mean()) / max(float(height.std()), 1e-6)
    mix = (1 + np.tanh(height * exp(rng.uniform(log(0.25), log(10))))) / 2
    first, second = rng.uniform(0, 255, (2, 3))
    image: np.ndarray = first + mix[..., None] * (second - first)
    return image.astype(np.uint8)


def _shapes(size: int, rng: np.random.Generator) -> Image:
    """Shapes and letters of all sizes, wherever they fall, on a gradient."""
    ends = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
    image = images.resize(ends, (size, size)).clip(0, 255).astype(np.uint8)
    largest = exp(rng.uniform(log(size / 16), log(size)))
    for _ in range(int(exp(rng.uniform(0, log(60))))):
        _draw(image, exp(rng.uniform(log(4), log(max(5, largest)))), rng)
    return image


def _motifs(size: int, rng: np.random.Generator) -> Image:
    """One motif of a few shapes, repeated."""
    side = int(exp(rng.uniform(log(MOTIF), log(max(MOTIF, size / 2)))))
    motif = np.empty((side, side, 3), np.uint8)
    motif[:] = rng.integers(0, 256, 3)
    for _ in range(int(rng.integers(1, 6))):
        _draw(motif, side * rng.uniform(0.1, 0.9), rng)
    return _repeat(motif, size, rng)


def _draw(image: UInt8[np.ndarray, "H W 3"], side: float, rng: np.random.Generator) -> None:
    """Draw a shape or a letter of about `side` px somewhere, in place."""
    import cv2

    colour = rng.integers(0, 256, 3).tolist()
    x, y = rng.integers(0, [image.shape[1], image.shape[0]]).tolist()
    half = max(1, round(side / 2))
    line = -1 if rng.random() < 0.6 else max(1, round(side * rng.uniform(0.03, 0.2)))
    kind = int(rng.integers(4))
    if kind == 0:
        axes = half, max(1, round(half * rng.uniform(0.5, 1)))
        cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, line, cv2.LINE_AA)
    elif kind == 1:
        cv2.rectangle(image, (x - half, y - half), (x + half, y + half), colour, line)
    elif kind == 2:
        corners = np.array([x, y]) + rng.uniform(-half, half, (int(rng.integers(3, 7)), 2))
        cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        letters = "".join(chr(c) for c in rng.integers(48, 123, rng.integers(1, 9)))
        font, thick = int(rng.integers(0, 8)), max(1, round(side / 10))
        cv2.putText(image, letters, (x - half, y), font, side / 40, colour, thick, cv2.LINE_AA)


def _repeat(piece: UInt8[np.ndarray, "H H 3"], size: int, rng: np.random.Generator) -> Image:
    """A piece again and again, mostly mirrored at every edge, so that it is symmetric as faces."""
    side = int(exp(rng.uniform(log(MOTIF), log(max(MOTIF, size)))))
    tile = images.resize(piece, (side, side))
    if rng.random() < 0.7:
        tile = np.concatenate([tile, tile[:, ::-1]], axis=1)
        if rng.random() < 0.5:
            tile = np.concatenate([tile, tile[::-1]])
    down, right = (int(rng.integers(length)) for length in tile.shape[:2])
    times = [ceil(size / length) for length in tile.shape[:2]]
    return np.tile(np.roll(tile, (down, right), (0, 1)), (*times, 1))[:size, :size]
