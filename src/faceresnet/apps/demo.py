"""A picture to try the detector on, made of what scikit-image brings: no download, no own photo."""

from __future__ import annotations

from typing import Any

import numpy as np

from faceresnet import images
from faceresnet.errors import needs

#: Faces of the crowd in a row and in a column; scikit-image brings 100.
ROWS = COLUMNS = 10
#: Side of the square that each of them is enlarged to, px, and the distance between them.
SIDE, PITCH = 40, 52


def make_crowd() -> tuple[images.Image, int]:
    """Put the astronaut beside a crowd of small faces from Labelled Faces in the Wild.

    Returns:
        the picture and how many faces are in it.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    with needs("faceresnet demo", "demo"):
        from skimage import data
    pictures: Any = data  # its functions have no types
    astronaut = pictures.astronaut()
    faces = pictures.lfw_subset()[: ROWS * COLUMNS]  # the other half is no faces
    crowd = images.grey((astronaut.shape[0], COLUMNS * PITCH))
    for number, face in enumerate(faces):
        grey = np.rint(face * 255).astype(np.uint8)
        enlarged = images.resize(np.repeat(grey[:, :, None], 3, axis=2), (SIDE, SIDE))
        row, column = divmod(number, COLUMNS)
        y = row * (astronaut.shape[0] // ROWS) + (astronaut.shape[0] // ROWS - SIDE) // 2
        x = column * PITCH + (PITCH - SIDE) // 2
        crowd[y : y + SIDE, x : x + SIDE] = enlarged
    return np.concatenate([astronaut, crowd], axis=1), 1 + len(faces)
