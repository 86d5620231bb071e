"""The easy, medium and hard faces of WIDER FACE, from the ``.mat`` files of its evaluation tools.

The authors sorted the faces of the validation photos by how many of them a simple detector finds.
The tools' folder ``ground_truth`` holds all boxes in ``wider_face_val.mat``, and in
``wider_easy_val.mat``, ``wider_medium_val.mat`` and ``wider_hard_val.mat`` the numbers of the faces
to look for, from 1 on; hard contains medium, and medium contains easy. 'faceresnet data widerface'
puts the folder beside the photos.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from faceresnet.errors import DataError, needs
from faceresnet.widerface import Layout, Photo

NAMES = ("easy", "medium", "hard")
#: Where the files are looked for below the folder given.
PLACES = ("", "ground_truth", "eval_tools/ground_truth")


@dataclass(frozen=True, eq=False)
class Difficulties:
    """The official ground truth.

    Attributes:
        photos: the validation photos with all listed faces; those not even hard are to be ignored.
        subsets: for "easy", "medium" and "hard", which faces of each photo to look for.
    """

    photos: tuple[Photo, ...]
    subsets: Mapping[str, Sequence[Bool[np.ndarray, "G"]]]


def find_difficulties(folder: str | os.PathLike[str]) -> Path | None:
    """Find the folder of the ``.mat`` files in or below `folder`; None where there is none."""
    candidates = (Path(folder) / place for place in PLACES)
    return next((place for place in candidates if (place / "wider_hard_val.mat").is_file()), None)


def read_difficulties(folder: str | os.PathLike[str], photos: Sequence[Photo] = ()) -> Difficulties:
    """Read the official ground truth.

    Args:
        folder: holds the four ``.mat`` files.
        photos: as `widerface.read_split` gives them; where one has the same name, the picture is
            read from its place.

    Raises:
        DataError: a file is missing or is not what it should be.
        MissingExtraError: SciPy is not installed.
    """
    folder = Path(folder)
    whole = _load(folder / "wider_face_val.mat", ("event_list", "file_list", "face_bbx_list"))
    picks = {name: _load(folder / f"wider_{name}_val.mat", ("gt_list",)) for name in NAMES}
    known = {photo.name.rpartition(".")[0]: photo for photo in photos}
    images = Layout(folder, "val").images
    found: list[Photo] = []
    subsets: dict[str, list[Bool[np.ndarray, "G"]]] = {name: [] for name in NAMES}
    try:
        for event_index, event_cell in enumerate(whole["event_list"].ravel()):
            event = str(event_cell.item())
            files = whole["file_list"].ravel()[event_index].ravel()
            boxes = whole["face_bbx_list"].ravel()[event_index].ravel()
            for index, file in enumerate(files):
                stem = f"{event}/{file.item()}"
                box = boxes[index].astype(np.float64).reshape(-1, 4)
                for name in NAMES:
                    numbers = picks[name]["gt_list"].ravel()[event_index].ravel()[index].ravel()
                    subsets[name].append(_mask(numbers, len(box)))
                faces = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
                photo = Photo(
                    f"{stem}.jpg", faces.astype(np.float32), ~subsets["hard"][-1],
                    images / f"{stem}.jpg",
                )  # fmt: skip
                if stem in known:
                    at = known[stem]
                    photo = replace(photo, name=at.name, path=at.path, member=at.member)
                found.append(photo)
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"the .mat files in {folder} are not WIDER FACE's evaluation ground truth: {error}"
        ) from error
    return Difficulties(tuple(found), subsets)


def _mask(numbers: np.ndarray, count: int) -> Bool[np.ndarray, "G"]:
    """Mark the faces numbered, from 1 on."""
    mask = np.zeros(count, dtype=bool)
    index = numbers.astype(np.int64) - 1
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise ValueError(f"face {wrong[0] + 1} of a photo that has {count}")
    mask[index] = True
    return mask


def _load(path: Path, variables: Sequence[str]) -> dict[str, np.ndarray]:
    with needs("reading WIDER FACE's .mat files", "evaluate"):
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    try:
        return {name: loadmat(path, variable_names=variables)[name] for name in variables}
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): expected a file of the evaluation tools that "
            "'faceresnet data widerface' downloads."
        ) from error
