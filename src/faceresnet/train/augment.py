"""Training images: photos cropped, scaled, tiled into crowds and disturbed.

Faces in photos are mostly large; a detector must also find tiny ones, crowds of them, and faces
that fill the frame. So the scale of a crop is drawn for a face in it (data-anchored sampling, Li et
al. 2019), and some images are grids of several photos scaled down, crowds of tiny faces.

Everything is a function of photos and a random generator, on whatever device the photos lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from faceresnet.images import PADDING
from faceresnet.train.photos import PhotoSet
from faceresnet.train.targets import Faces

#: Red, green and blue in luminance (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """How training images are made.

    Attributes:
        sizes: px, side of the square images; each batch draws one.
        grids: probability of a 1×1, 2×2, 3×3 … grid of photos.
        face_px: range of the side to which the anchored face is scaled, log-uniform.
        fill: probability that it is scaled to fill at least half the image's side instead.
        native: probability that a photo alone keeps its own size: tiny faces as cameras and
            annotators see them differ from large ones scaled down.
        max_scale: largest enlargement of a photo.
        stretch: largest relative change of the aspect ratio.
        min_face: px; smaller faces are ignored.
        min_visible: share of a cut face that must be left to teach it; less is ignored.
        flip: probability of a horizontal flip.
        colour: strength of brightness, contrast, saturation and colour cast; 0.3 is ± 30 %.
        grey: probability of a grey image.
        blur: probability of lost detail (scaled down and up again).
        noise: probability of sensor noise.
        jpeg: probability of JPEG artefacts (where photos lie in main memory).
        event_weights: how often photos of an event are drawn, relative to others (1).
        label_styles: how the boxes of an event are redrawn (`photos.restyle`).
    """

    sizes: tuple[int, ...] = (256,)
    grids: tuple[float, ...] = (0.55, 0.3, 0.15)
    face_px: tuple[float, ...] = (6.0, 600.0)
    fill: float = 0.2
    native: float = 0.0
    max_scale: float = 6.0
    stretch: float = 0.15
    min_face: float = 5.0
    min_visible: float = 0.45
    flip: float = 0.5
    colour: float = 0.3
    grey: float = 0.1
    blur: float = 0.15
    noise: float = 0.15
    jpeg: float = 0.25
    event_weights: tuple[tuple[str, float], ...] = ()
    label_styles: tuple[tuple[str, tuple[float, float, float, float]], ...] = ()

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive, got {self.sizes}")
        if not self.grids or min(self.grids) < 0 or not sum(self.grids):
            raise ValueError(f"grids must be probabilities, one above 0, got {self.grids}")
        if len(self.face_px) != 2 or not 0 < self.face_px[0] <= self.face_px[1]:
            raise ValueError(f"face_px must be two sizes, the smaller first, got {self.face_px}")
        if self.max_scale <= 0 or self.stretch < 0:
            raise ValueError("max_scale must be positive and stretch not negative")
        for name in (
            "fill",
            "native",
            "min_visible",
            "flip",
            "colour",
            "grey",
            "blur",
            "noise",
            "jpeg",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")


def make_batch(
    photos: PhotoSet, augmentation: Augmentation, batch: int, seed: tuple[int, ...]
) -> tuple[Tensor, Faces]:
    """The training batch that belongs to a seed: always the same for the same seed.

    Args:
        photos: where the images come from.
        augmentation: how they are disturbed.
        batch: images of the first size; other sizes get as many as hold the same pixels.
        seed: any integers, such as run seed, rank and iteration.

    Returns:
        images (N, S, S, 3) uint8 and their faces, on the photos' device.
    """
    rng = np.random.default_rng(seed)
    size = int(rng.choice(augmentation.sizes))
    count = max(1, round(batch * (augmentation.sizes[0] / size) ** 2))
    images, boxes, owner, ignore = [], [], [], []
    for index in range(count):
        image, its_boxes, ignored = make_image(photos, augmentation, size, rng)
        images.append(image)
        boxes.append(its_boxes)
        ignore.append(ignored)
        owner.append(np.full(len(its_boxes), index))
    device = photos.device
    stacked = disturb(torch.stack(images), augmentation, rng)
    faces = Faces(
        torch.from_numpy(np.concatenate(boxes)).to(device),
        torch.from_numpy(np.concatenate(owner)).to(device),
        torch.from_numpy(np.concatenate(ignore)).to(device),
    )
    return stacked, faces


def make_image(
    photos: PhotoSet, augmentation: Augmentation, size: int, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """One image of `size`² px: a crop of a photo, or a grid of several.

    Returns:
        image (S, S, 3) uint8, faces (G, 4) float32 px, and which of them to ignore (G,).
    """
    share = np.asarray(augmentation.grids) / sum(augmentation.grids)
    grid = int(rng.choice(len(share), p=share)) + 1
    if grid > 1:  # a larger image holds more photos, not larger ones
        grid = max(1, round(grid * size / augmentation.sizes[0]))
    canvas = torch.full((size, size, 3), PADDING, dtype=torch.uint8, device=photos.device)
    edges = [round(size * i / grid) for i in range(grid + 1)]
    boxes, ignore = [np.zeros((0, 4), np.float32)], [np.zeros(0, bool)]
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            index = photos.draw(rng)
            cell = canvas[top:bottom, left:right]
            faces, ignored = paste(cell, photos, index, augmentation, grid, rng)
            boxes.append(faces + np.array([left, top, left, top], np.float32))
            ignore.append(ignored)
    return canvas, np.concatenate(boxes), np.concatenate(ignore)


def paste(
    cell: Tensor,
    photos: PhotoSet,
    index: int,
    augmentation: Augmentation,
    grid: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random crop of a photo into `cell` (h, w, 3), in place.

    Returns:
        the faces in the cell (G, 4) px, and which of them to ignore (G,).
    """
    photo = photos[index]
    faces, ignore = photos.faces[index], photos.ignore[index]
    photo_size = np.array([photo.shape[1], photo.shape[0]])
    cell_size = np.array([cell.shape[1], cell.shape[0]])
    taught = np.flatnonzero(~ignore)
    anchor = faces[rng.choice(taught)] if len(taught) else None
    scale = draw_scale(photo_size, cell_size, anchor, augmentation, grid, rng)
    window = cell_size / scale
    focus = photo_size * rng.random(2)
    if anchor is not None:
        focus = anchor[:2] + (anchor[2:] - anchor[:2]) * rng.random(2)
    corner = focus - window * rng.uniform(0.1, 0.9, 2)
    # A window larger than the photo holds all of it, at a random place.
    corner = corner.clip(np.minimum(0, photo_size - window), np.maximum(0, photo_size - window))

    low = np.floor(corner.clip(0)).astype(int)
    high = np.ceil((corner + window).clip(None, photo_size)).astype(int).clip(low + 1)
    start = np.round((-corner).clip(0) * scale).astype(int).clip(0, cell_size - 1)
    extent = np.round((high - low) * scale).astype(int).clip(1, cell_size - start)
    crop = resize(photo[low[1] : high[1], low[0] : high[0]], (int(extent[1]), int(extent[0])))
    scale = extent / (high - low)
    moved = (faces - np.tile(low, 2)) * np.tile(scale, 2)
    if rng.random() < augmentation.flip:
        crop = crop.flip(1)
        moved = np.stack(
            [extent[0] - moved[:, 2], moved[:, 1], extent[0] - moved[:, 0], moved[:, 3]], 1
        )
    cell[start[1] : start[1] + extent[1], start[0] : start[0] + extent[0]] = crop

    clipped = moved.clip(0, np.tile(extent, 2))
    area = (clipped[:, 2:] - clipped[:, :2]).prod(1)
    whole = (moved[:, 2:] - moved[:, :2]).prod(1).clip(1e-6)
    seen = area > 1
    ignored = ignore | (area < augmentation.min_visible * whole)
    ignored |= np.sqrt(area) < augmentation.min_face
    boxes = (clipped + np.tile(start, 2))[seen].astype(np.float32)
    return boxes, ignored[seen]


def draw_scale(
    photo_size: np.ndarray,
    cell_size: np.ndarray,
    anchor: np.ndarray | None,
    augmentation: Augmentation,
    grid: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Cell pixels for each photo pixel, (2,) for x and y.

    In a grid the photo about fills its cell; alone, the anchored face gets a size drawn from
    `Augmentation.face_px`, but never so small that much of the image stays empty, or fills the
    frame.
    """
    ratios = cell_size / photo_size
    inside, cover = float(ratios.min()), float(ratios.max())
    if grid > 1:
        scale = exp(rng.uniform(log(inside), log(1.5 * cover)))
    elif augmentation.native and rng.random() < augmentation.native:
        scale = 1.0
    elif anchor is not None:
        side = sqrt(max(float((anchor[2:] - anchor[:2]).prod()), 1.0))
        low, high = augmentation.face_px
        frame = 1.1 * float(cell_size.min())
        high = max(low, min(high, frame))
        if rng.random() < augmentation.fill:
            low, high = frame / 2, frame
        wanted = exp(rng.uniform(log(low), log(high))) / side
        scale = min(max(wanted, sqrt(inside * cover)), augmentation.max_scale)
    else:
        scale = exp(rng.uniform(log(inside), log(max(1.0, 1.5 * cover))))
    stretch = rng.uniform(-augmentation.stretch, augmentation.stretch)
    return np.array([scale * exp(stretch / 2), scale * exp(-stretch / 2)])


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, 3) uint8 scaled to `size` (height, width), antialiased when it shrinks."""
    planes = image.permute(2, 0, 1)[None]
    if image.device.type == "cpu":
        scaled = F.interpolate(planes, size, mode="bilinear", antialias=True)
    else:  # uint8 is interpolated on the CPU only
        scaled = F.interpolate(planes.float(), size, mode="bilinear", antialias=True)
        scaled = scaled.round_().clamp_(0, 255).to(torch.uint8)
    return scaled[0].permute(1, 2, 0)


def disturb(images: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Change colours and lose detail, image by image.

    Args:
        images: (N, S, S, 3) uint8.
        augmentation: how much.
        rng: decides.

    Returns:
        the same shape and type.
    """
    n = len(images)
    for i in np.flatnonzero(rng.random(n) < augmentation.blur):
        side = images.shape[1]
        small = round(side / rng.uniform(1.2, 2.5))
        images[i] = resize(resize(images[i], (small, small)), (side, side))
    images = recolour(images, *colour_transforms(n, augmentation, rng))
    generator = torch.Generator(images.device)
    for i in np.flatnonzero(rng.random(n) < augmentation.noise):
        generator.manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(images[i].shape, generator=generator, device=images.device)
        noisy = images[i] + noise * rng.uniform(2, 14)
        images[i] = noisy.round_().clamp_(0, 255).to(torch.uint8)
    if images.device.type == "cpu":
        for i in np.flatnonzero(rng.random(n) < augmentation.jpeg):
            images[i] = jpeg(images[i], int(rng.integers(25, 85)))
    return images


def recolour(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """(N, S, S, 3) uint8, each pixel multiplied by its image's matrix, plus its offset."""
    if images.device.type == "cpu":  # several times as fast as a batched product of 3×3
        import cv2

        for i, (image, m, b) in enumerate(zip(images, matrix, offset, strict=True)):
            affine = np.concatenate([m.numpy().T, b.numpy()[:, None]], axis=1)
            images[i] = torch.from_numpy(cv2.transform(image.numpy(), affine))
        return images
    flat = images.flatten(1, 2).float()
    flat = torch.baddbmm(offset.to(flat)[:, None], flat, matrix.to(flat))
    return flat.round_().clamp_(0, 255).to(torch.uint8).view_as(images)


def colour_transforms(
    n: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random affine maps of RGB in [0, 255]: y = x · matrix + offset.

    Returns:
        matrix (n, 3, 3) and offset (n, 3), float32.
    """
    strength = augmentation.colour
    contrast = rng.uniform(1 - strength, 1 + strength, n)
    saturation = rng.uniform(1 - 1.5 * strength, 1 + 1.5 * strength, n)
    saturation[rng.random(n) < augmentation.grey] = 0
    cast = rng.uniform(1 - strength / 4, 1 + strength / 4, (n, 3))
    brightness = rng.uniform(-strength, strength, n) * 127
    grey = np.tile(np.array(LUMA)[:, None], (1, 3))
    matrix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    matrix = matrix * contrast[:, None, None] * cast[:, None, :]
    offset = 127 - 127 * matrix.sum(1) + brightness[:, None]
    return torch.from_numpy(matrix).float(), torch.from_numpy(offset).float()


def jpeg(image: Tensor, quality: int) -> Tensor:
    """(S, S, 3) uint8 after a JPEG of that quality."""
    import cv2

    done, data = cv2.imencode(".jpg", image.numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR))
