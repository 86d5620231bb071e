"""The photos of a data set in memory, ready to be cropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from faceresnet import images
from faceresnet.errors import DataError
from faceresnet.processors import cores
from faceresnet.widerface import Photo


class PhotoSet:
    """Photos and their faces, by index.

    ``decoded`` keeps every photo as uint8 on a device, so that nothing but cropping is left to do
    in training; ``encoded`` keeps the files' bytes and decodes at each access, for sets that do not
    fit.

    Attributes:
        device: where the photos and everything made from them lie.
        faces: for each photo (G, 4) float32 px, within the photo.
        ignore: for each photo (G,) bool.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        *,
        device: str = "cpu",
        keep: str = "decoded",
        event_weights: Sequence[tuple[str, float]] = (),
        progress: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter,
    ) -> None:
        if keep not in ("decoded", "encoded"):
            raise ValueError(f"keep must be decoded or encoded, got {keep!r}")
        if not photos:
            raise DataError("the data set holds no photos to train on: check its split and events")
        self.device = torch.device(device)
        self._names = [photo.name for photo in photos]
        self._pixels: list[Tensor] = []
        self._bytes: list[bytes] = []
        self.faces: list[np.ndarray] = []
        self.ignore: list[np.ndarray] = []

        with ThreadPoolExecutor(cores()) as pool:
            for photo, pixels in zip(photos, progress(pool.map(_decode, photos)), strict=True):
                faces, ignore = photo.faces_within((pixels.shape[0], pixels.shape[1]))
                self.faces.append(faces)
                self.ignore.append(ignore)
                if keep == "decoded":
                    self._pixels.append(pixels.to(self.device))
                else:
                    self._bytes.append(photo.read_bytes())
        known = dict(event_weights)
        weights = np.array([known.get(photo.event, 1.0) for photo in photos])
        if weights.min() < 0 or weights.sum() <= 0:
            raise ValueError(
                f"event weights must not be negative, nor 0 for every photo, got {known}"
            )
        cumulative = np.cumsum(weights)
        self._cumulative = cumulative / cumulative[-1]

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> Tensor:
        """Photo `index` as (H, W, 3) uint8 RGB on the device."""
        if self._pixels:
            return self._pixels[index]
        return torch.tensor(images.read(self._bytes[index])).to(self.device)

    def draw(self, rng: np.random.Generator) -> int:
        """A random photo's index, by the events' weights."""
        return int(np.searchsorted(self._cumulative, rng.random(), side="right"))


def restyle(photo: Photo, styles: Sequence[tuple[str, tuple[float, float, float, float]]]) -> Photo:
    """Redraw a photo's boxes as another annotator would have drawn them.

    Data sets differ in what they call the box of a face: with the forehead or not, as wide as the
    ears or the eyes. Taught side by side, the network learns the mean of them, which for a face of
    a few pixels overlaps neither by half.

    Args:
        photo: whose faces are redrawn.
        styles: for an event ``(dx, dy, width, height)``: a box moves by dx of its width and dy of
            its height, then is scaled about its centre. Other events stay as they are.
    """
    style = dict(styles).get(photo.event)
    if style is None:
        return photo
    dx, dy, *scale = style
    size = photo.faces[:, 2:] - photo.faces[:, :2]
    centre = (photo.faces[:, :2] + photo.faces[:, 2:]) / 2 + size * np.array([dx, dy])
    half = size * np.array(scale) / 2
    faces = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return replace(photo, faces=faces)


def _decode(photo: Photo) -> Tensor:
    return torch.tensor(photo.read())
