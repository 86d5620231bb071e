"""Small networks, recipes and data sets that train in seconds on one core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from faceresnet import images
from faceresnet.anchors import Level
from faceresnet.train.augment import Augmentation
from faceresnet.train.losses import Loss
from faceresnet.train.model import FaceResNet, Network
from faceresnet.train.recipes import Recipe, Schedule
from faceresnet.train.targets import Faces
from faceresnet.widerface import Photo, read_split

#: Augmentation that only cuts photos out.
PLAIN = Augmentation(
    sizes=(96,),
    grids=(1.0,),
    face_px=(16.0, 64.0),
    fill=0.0,
    stretch=0.0,
    flip=0.0,
    colour=0.0,
    grey=0.0,
    blur=0.0,
    noise=0.0,
    jpeg=0.0,
)


def options(settings: Mapping[str, object]) -> list[str]:
    """What sets these numbers of a recipe on the command line."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def small_network(**changes: object) -> Network:
    """A network for faces from 12 to 100 px.

    Its widths are multiples of 16: with 8, 12 or 24 channels oneDNN (torch 2.13, AVX-512) writes
    beyond its memory in the backward pass.
    """
    network = Network(
        levels=(Level(8, (16.0,)), Level(16, (32.0,)), Level(32, (64.0,))),
        block="basic",
        depths=(1, 1, 1, 1),
        planes=(16, 16, 16, 32),
        stem=16,
        stem_kernel=3,
        max_pool=False,
        pyramid=16,
        head_block="conv",
        head_blocks=1,
    )
    return replace(network, **changes)


def learn(model: FaceResNet, images: Tensor, rate: float) -> None:
    """Three steps towards logits of 0 and deltas of 1."""
    optimiser = torch.optim.SGD(model.parameters(), rate)
    for _ in range(3):
        logits, deltas = model(images)
        optimiser.zero_grad()
        (logits.square().mean() + (deltas - 1).square().mean()).backward()
        optimiser.step()


def make_faces(rows: Sequence) -> Faces:
    """Faces from (box, image, ignore) rows, all of them sure."""
    return Faces(
        torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([image for _, image, _ in rows], dtype=torch.int64),
        torch.tensor([ignore for _, _, ignore in rows], dtype=torch.bool),
        torch.ones(len(rows)),
    )


def small_recipe(
    *,
    network: Network | None = None,
    augmentation: Augmentation = PLAIN,
    loss: Loss | None = None,
    **schedule: object,
) -> Recipe:
    numbers: dict = {
        "iterations": 6,
        "batch": 2,
        "rate": 5e-3,
        "warmup": 0,
        "average": 0.9,
        "epoch": 2,
        "validate_every": 1,
        "bf16": False,
    }
    return Recipe(
        "small",
        network or small_network(),
        loss or Loss(),
        augmentation,
        Schedule(**numbers | schedule),
    )


@cache
def lfw_faces() -> np.ndarray:
    """(100, 25, 25) uint8 grey faces, bundled with scikit-image."""
    from skimage.data import lfw_subset

    faces = lfw_subset()[:100]
    return (faces * 255).round().astype(np.uint8)


def face_photo(seed: int, size: tuple[int, int] = (128, 128), faces: int = 2):
    """A textured photo with real faces pasted in: (H, W, 3) uint8 and faces (G, 4)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    photo = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)
    boxes = []
    for number in range(faces):
        side = int(rng.integers(20, 48))
        # One face in each column of the photo, so that none covers another.
        column = size[1] // faces
        x = number * column + int(rng.integers(0, max(1, column - side)))
        y = int(rng.integers(0, size[0] - side))
        face = cv2.resize(lfw_faces()[(seed * 7 + number) % 100], (side, side))
        photo[y : y + side, x : x + side] = face[:, :, None]
        boxes.append((x, y, x + side, y + side))
    return photo, np.array(boxes, np.float32).reshape(-1, 4)


def write_split(root: Path, split: str, photos: Sequence, event: str = "event") -> list[Photo]:
    """Write (photo, faces) or (photo, faces, ignore) as a split of a data set, and read it."""
    lines = []
    for number, (photo, faces, *ignore) in enumerate(photos):
        name = f"{event}/{number}.png"
        images.write(photo, root / f"WIDER_{split}" / "images" / name)
        lines += [name, str(len(faces))]
        flags = ignore[0] if ignore else np.zeros(len(faces), bool)
        for (x1, y1, x2, y2), ignored in zip(np.asarray(faces).tolist(), flags, strict=True):
            lines.append(f"{x1} {y1} {x2 - x1} {y2 - y1} 0 0 0 {int(ignored)} 0 0")
    labels = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("\n".join(lines) + "\n")
    return read_split(root, split)


def write_faces(root: Path, train: int = 4, val: int = 2) -> Path:
    """A data set of pasted faces; `val` may be 0."""
    write_split(root, "train", [face_photo(seed) for seed in range(train)])
    if val:
        write_split(root, "val", [face_photo(seed) for seed in range(val)])
    return root
