"""Training images: photos cropped, scaled, tiled into crowds and disturbed.

Faces in photos are mostly large; a detector must also find tiny ones, crowds of them, and faces
that fill the frame. So the scale of a crop is drawn for a face in it (data-anchored sampling, of
PyramidBox, Tang et al. 2018), and some images are grids of several photos scaled down, crowds of
tiny faces.

Everything is a function of photos and a random generator, on whatever device the photos lie.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from faceresnet.images import PADDING
from faceresnet.train.empty import make_empty
from faceresnet.train.photos import PhotoSet
from faceresnet.train.targets import Faces

#: Degrees; images turn by up to this angle.
MAX_TURN = 30.0
#: Share of a face that may be covered from one of its four sides.
COVERED = (0.2, 0.5)
#: Times by which a blurred photo is scaled down at most, and px that its face keeps at least.
LOST, KEPT = 4.0, 5.0
#: Qualities of the JPEGs that images go through, the last left out.
JPEG_QUALITY = (25, 85)
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
        shortfall: px by which listed boxes are narrower and lower than their faces, taken as half
            from either side: 1 for lists, as WIDER FACE's, that count from the first pixel to the
            last. A scaled photo's boxes fall short by as much, so that tiny faces are learnt as
            such a list would show them. 0 where boxes are exact.
        min_face: px; smaller faces are ignored.
        min_visible: share of a cut face that must be left to teach it; less is ignored.
        flip: probability of a horizontal flip.
        turn: probability that an image is rotated, by up to `MAX_TURN` to either side.
        cover: probability that a face is partly covered, as by a hand, a hat or a neighbour.
        distract: probability that letters, discs and rings, which are no faces, are drawn in.
        empty: probability that an image shows no face at all (`empty.make_empty`).
        colour: strength of the changes of colour: contrast by up to ± it, saturation by 1.5 times
            as much, each channel by a quarter of it, brightness by 127 (of 255) times it.
        grey: probability of a grey image.
        light: probability of harsh light: dusk, glare, the coloured lamps of a stage.
        blur: probability that a photo has lost detail: scaled down by up to `LOST` and up again,
            half the time through a JPEG, but so that its anchored face keeps `KEPT` px.
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
    shortfall: float = 0.0
    min_face: float = 5.0
    min_visible: float = 0.45
    flip: float = 0.5
    turn: float = 0.0
    cover: float = 0.0
    distract: float = 0.0
    empty: float = 0.0
    colour: float = 0.3
    grey: float = 0.1
    light: float = 0.0
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
        if self.max_scale <= 0 or min(self.stretch, self.shortfall, self.min_face) < 0:
            raise ValueError(
                "max_scale must be positive; stretch, shortfall and min_face not negative"
            )
        unbounded = ("max_scale", "stretch", "shortfall", "min_face")
        for name in (f.name for f in fields(self) if isinstance(f.default, float)):
            if name not in unbounded and not 0 <= getattr(self, name) <= 1:
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
        torch.ones(sum(map(len, boxes)), device=device),
    )
    return stacked, faces


def make_image(
    photos: PhotoSet, augmentation: Augmentation, size: int, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """One image of `size`² px: a crop of a photo, a grid of several, or one without a face.

    Returns:
        image (S, S, 3) uint8, faces (G, 4) float32 px, and which of them to ignore (G,).
    """
    boxes, ignore = [np.zeros((0, 4), np.float32)], [np.zeros(0, bool)]
    if augmentation.empty and rng.random() < augmentation.empty:
        return make_empty(photos, size, rng), boxes[0], ignore[0]
    share = np.asarray(augmentation.grids) / sum(augmentation.grids)
    grid = int(rng.choice(len(share), p=share)) + 1
    if grid > 1:  # a larger image holds more photos, not larger ones
        grid = max(1, round(grid * size / augmentation.sizes[0]))
    canvas = torch.full((size, size, 3), PADDING, dtype=torch.uint8, device=photos.device)
    edges = [round(size * i / grid) for i in range(grid + 1)]
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            index = photos.draw(rng)
            cell = canvas[top:bottom, left:right]
            faces, ignored = paste(cell, photos, index, augmentation, grid, rng)
            boxes.append(faces + np.array([left, top, left, top], np.float32))
            ignore.append(ignored)
    faces, ignored = np.concatenate(boxes), np.concatenate(ignore)
    if augmentation.distract and rng.random() < augmentation.distract:
        distract(canvas, faces, rng)
    if augmentation.cover:
        cover(canvas, faces, faces[~ignored], augmentation, rng)
    if augmentation.turn and rng.random() < augmentation.turn:
        angle = np.radians(rng.uniform(-MAX_TURN, MAX_TURN))
        canvas, faces = turn(canvas, faces, angle)
        faces, ignored = cut(faces, ignored, np.array([size, size]), augmentation)
    return canvas, faces, ignored


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
    crop = photo[low[1] : high[1], low[0] : high[0]]
    scale = extent / (high - low)
    if rng.random() < augmentation.blur:
        most = LOST
        if anchor is not None:
            most = min(most, sqrt(float(((anchor[2:] - anchor[:2]) * scale).prod())) / KEPT)
        crop = lose_detail(crop, extent, most, augmentation, rng)
    crop = resize(crop, (int(extent[1]), int(extent[0])))
    moved = scale_boxes(faces - np.tile(low, 2), scale, augmentation.shortfall)
    if rng.random() < augmentation.flip:
        crop = crop.flip(1)
        moved = np.stack(
            [extent[0] - moved[:, 2], moved[:, 1], extent[0] - moved[:, 0], moved[:, 3]], 1
        )
    cell[start[1] : start[1] + extent[1], start[0] : start[0] + extent[0]] = crop

    boxes, ignored = cut(moved, ignore, extent, augmentation)
    return boxes + np.tile(start, 2).astype(np.float32), ignored


def lose_detail(
    crop: Tensor,
    extent: np.ndarray,
    most: float,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Tensor:
    """A crop (h, w, 3) uint8 of fewer pixels than the `extent` (width, height) it will have.

    Args:
        crop: of a photo.
        extent: px.
        most: times by which it shrinks at most.
        augmentation: how often it goes through a JPEG.
        rng: decides.
    """
    if most <= 1:
        return crop
    width, height = np.round(extent / exp(rng.uniform(0, log(most)))).astype(int).clip(1)
    small = resize(crop, (int(height), int(width)))
    if augmentation.jpeg and small.device.type == "cpu" and rng.random() < 0.5:
        small = jpeg(small, int(rng.integers(*JPEG_QUALITY)))
    return small


def scale_boxes(faces: np.ndarray, scale: np.ndarray, shortfall: float) -> np.ndarray:
    """Boxes (G, 4) of a photo in a copy of it scaled by (x, y), as short of their faces as before.

    No side loses more than half.
    """
    scaled = faces * np.tile(scale, 2)
    inward = np.minimum((1 - scale) * shortfall / 2, (scaled[:, 2:] - scaled[:, :2]) / 4)
    return np.concatenate([scaled[:, :2] + inward, scaled[:, 2:] - inward], axis=1)


def cut(
    faces: np.ndarray, ignore: np.ndarray, size: np.ndarray, augmentation: Augmentation
) -> tuple[np.ndarray, np.ndarray]:
    """What is left of faces (G, 4) in an image of `size` (width, height), and which to ignore."""
    clipped = faces.clip(0, np.tile(size, 2))
    area = (clipped[:, 2:] - clipped[:, :2]).prod(1)
    whole = (faces[:, 2:] - faces[:, :2]).prod(1).clip(1e-6)
    seen = area > 1
    ignored = ignore | (area < augmentation.min_visible * whole)
    ignored |= np.sqrt(area) < augmentation.min_face
    return clipped[seen].astype(np.float32), ignored[seen]


def cover(
    image: Tensor,
    boxes: np.ndarray,
    faces: np.ndarray,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> None:
    """Cover some faces from one side, in place, as others' heads, hats and hands do.

    What covers them is a piece of the same image that holds no face, or else one colour of it.

    Args:
        image: (S, S, 3) uint8.
        boxes: (G, 4) px, every face in it.
        faces: (F, 4) px, those that may be covered.
        augmentation: how often.
        rng: decides.
    """
    for face in faces[rng.random(len(faces)) < augmentation.cover]:
        part = face.copy()
        side = int(rng.integers(4))  # left, top, right or bottom
        length = face[side % 2 + 2] - face[side % 2]
        share = rng.uniform(*COVERED)
        inner = (side + 2) % 4
        part[inner] = face[side] + (share if side < 2 else -share) * length
        part[side] += (-0.15 if side < 2 else 0.15) * length
        x1, y1, x2, y2 = np.round(part).astype(int).clip(0, image.shape[0])
        if x2 <= x1 or y2 <= y1:
            continue
        left, top = rng.integers(
            0, [image.shape[1] - (x2 - x1) + 1, image.shape[0] - (y2 - y1) + 1]
        )
        right, bottom = left + x2 - x1, top + y2 - y1
        free = (boxes[:, 0] >= right) | (boxes[:, 2] <= left)
        free |= (boxes[:, 1] >= bottom) | (boxes[:, 3] <= top)
        piece = image[top:bottom, left:right] if free.all() else image[top, left]
        image[y1:y2, x1:x2] = piece.clone()


def distract(image: Tensor, faces: np.ndarray, rng: np.random.Generator) -> None:
    """Draw letters, discs and rings where no face is, in place: round or dark on light, no faces.

    Args:
        image: (S, S, 3) uint8.
        faces: (G, 4) px, none of which is touched.
        rng: decides.
    """
    import cv2

    side = image.shape[0]
    for _ in range(int(rng.integers(1, 7))):
        height = int(exp(rng.uniform(log(8), log(side / 3))))
        word = "".join(chr(c) for c in rng.integers(48, 123, rng.integers(0, 6)))
        width = min(side, round(height * max(1.0, 0.7 * len(word))))
        left, top = rng.integers(0, [side - width + 1, side - height + 1])
        apart = (faces[:, 0] >= left + width) | (faces[:, 2] <= left)
        apart |= (faces[:, 1] >= top + height) | (faces[:, 3] <= top)
        if not apart.all():
            continue
        place = image[top : top + height, left : left + width]
        piece = place.cpu().numpy().copy()
        back, front = rng.integers(0, 256, (2, 3)).tolist()
        centre, radii = (width // 2, height // 2), (max(1, width // 2 - 1), max(1, height // 2 - 1))
        if rng.random() < 0.6:
            line = -1 if rng.random() < 0.6 else max(1, height // 8)
            cv2.ellipse(piece, centre, radii, 0, 0, 360, back, line, cv2.LINE_AA)
        elif rng.random() < 0.5:
            piece[:] = back
        thickness = max(1, round(height * rng.uniform(0.03, 0.15)))
        cv2.putText(
            piece,
            word,
            (round(0.1 * height), round(0.8 * height)),
            int(rng.integers(0, 8)),
            height / 40,
            front,
            thickness,
            cv2.LINE_AA,
        )
        place.copy_(torch.from_numpy(piece))


def turn(image: Tensor, faces: np.ndarray, angle: float) -> tuple[Tensor, np.ndarray]:
    """Rotate an image about its centre.

    Args:
        image: (S, S, 3) uint8.
        faces: (G, 4) px; taken for ellipses, which fit faces, for the new boxes around them.
        angle: radians, clockwise.

    Returns:
        image and faces, some of which may lie outside it.
    """
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    back = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]], device=image.device)
    planes = image.permute(2, 0, 1)[None].float() - PADDING
    grid = F.affine_grid(back, list(planes.shape), align_corners=False)
    turned = F.grid_sample(planes, grid, align_corners=False)[0].permute(1, 2, 0) + PADDING
    middle = image.shape[0] / 2
    centre = (faces[:, :2] + faces[:, 2:]) / 2 - middle
    half = (faces[:, 2:] - faces[:, :2]) / 2
    centre = centre @ np.array([[cos, sin], [-sin, cos]]) + middle
    half = np.sqrt(half**2 @ np.array([[cos**2, sin**2], [sin**2, cos**2]]))
    moved = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return turned.round_().clamp_(0, 255).to(torch.uint8), moved


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
    if augmentation.light:
        for i in np.flatnonzero(rng.random(n) < augmentation.light):
            images[i] = relight(images[i], rng)
    images = recolour(images, *colour_transforms(n, augmentation, rng))
    generator = torch.Generator(images.device)
    for i in np.flatnonzero(rng.random(n) < augmentation.noise):
        generator.manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(images[i].shape, generator=generator, device=images.device)
        noisy = images[i] + noise * rng.uniform(2, 14)
        images[i] = noisy.round_().clamp_(0, 255).to(torch.uint8)
    if images.device.type == "cpu":
        for i in np.flatnonzero(rng.random(n) < augmentation.jpeg):
            images[i] = jpeg(images[i], int(rng.integers(*JPEG_QUALITY)))
    return images


def relight(image: Tensor, rng: np.random.Generator) -> Tensor:
    """(S, S, 3) uint8 under another light: a gamma, and half the time a colour."""
    gamma = exp(rng.uniform(-1, 1))
    gains = rng.uniform(0.2, 1, 3) if rng.random() < 0.5 else np.ones(3)
    steps = np.linspace(0, 1, 256)[:, None] ** gamma * gains / gains.max()
    table = torch.from_numpy((255 * steps).round().astype(np.uint8)).to(image.device)
    return torch.stack([table[:, c][image[..., c].int()] for c in range(3)], dim=-1)


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
