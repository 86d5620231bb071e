"""Getting WIDER FACE itself: the archives of its authors, verified, left as they are.

`widerface.read_split` reads them without unpacking. Only the evaluation tools are opened: their
``.mat`` files go to ``ground_truth/``, where `difficulties.find_difficulties` looks.

The photos are for non-commercial research (the authors' page and CC BY-NC-ND 4.0 on their Hugging
Face repository); their rights belong to their owners.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from faceresnet.atomic import replacing
from faceresnet.difficulties import NAMES
from faceresnet.download import (
    DEFAULT_TIMEOUT_S,
    FileProgress,
    PublishedFile,
    fetch_published,
)
from faceresnet.errors import DownloadError
from faceresnet.widerface import SPLITS

HUGGING_FACE = "https://huggingface.co/datasets/CUHK-CSE/wider_face/resolve/main/data"
AUTHORS = "http://shuoyang1213.me/WIDERFACE/support"
PADDLE = "https://dataset.bj.bcebos.com/wider_face"


# Sizes and checksums of the photos and boxes are those that both TensorFlow Datasets (from the
# authors' Google Drive and web site, 2019) and Hugging Face Datasets (from the repository above,
# 2022) recorded. The evaluation tools are on the authors' site alone, over http; their checksum was
# recorded by two independent projects. They come last, so that the photos do not wait for them.
ARCHIVES = {
    "boxes": PublishedFile(
        "wider_face_split.zip",
        3_591_642,
        "c7561e4f5e7a118c249e0a5c5c902b0de90bbf120d7da9fa28d99041f68a8a5c",
        (
            f"{HUGGING_FACE}/wider_face_split.zip",
            f"{AUTHORS}/bbx_annotation/wider_face_split.zip",
        ),
    ),
    "val": PublishedFile(
        "WIDER_val.zip",
        362_752_168,
        "f9efbd09f28c5d2d884be8c0eaef3967158c866a593fc36ab0413e4b2a58a17a",
        (f"{HUGGING_FACE}/WIDER_val.zip", f"{PADDLE}/WIDER_val.zip"),
    ),
    "train": PublishedFile(
        "WIDER_train.zip",
        1_465_602_149,
        "e23b76129c825cafae8be944f65310b2e1ba1c76885afe732f179c41e5ed6d59",
        (f"{HUGGING_FACE}/WIDER_train.zip", f"{PADDLE}/WIDER_train.zip"),
    ),
    "tools": PublishedFile(
        "eval_tools.zip",
        8_447_003,
        "1cf49c8243fa8a1632efe7f6aa09fd7a3994ac838c9008bdbc9dd1d547bb234a",
        (f"{AUTHORS}/eval_script/eval_tools.zip",),
    ),
}


def download_widerface(
    out: str | os.PathLike[str],
    *,
    splits: Collection[str] = SPLITS,
    progress: FileProgress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> list[Path]:
    """Download WIDER FACE: 1.8 GB, or 0.4 GB for "val" alone; files already there are kept.

    Args:
        out: the folder, made if missing; then the root of the data set for `read_split`.
        splits: whose photos to get.
        progress: called as each file grows.
        timeout_s: longest silence of a server, in seconds.

    Returns:
        The archives, each of which has its published checksum.

    Raises:
        DownloadError: a file could not be had, or is not the published one.
        ValueError: no such split, or a timeout that `fetch` refuses.
    """
    splits = {splits} if isinstance(splits, str) else set(splits)
    if not splits or not splits <= set(SPLITS):
        raise ValueError(f"splits must be some of {', '.join(SPLITS)}, got {sorted(splits)}")
    out = Path(out)
    wanted = {"boxes", *splits} | ({"tools"} if "val" in splits else set())
    parts = [part for part in ARCHIVES if part in wanted]
    paths = [
        fetch_published(ARCHIVES[part], out, progress=progress, timeout_s=timeout_s)
        for part in parts
    ]
    if "tools" in parts:
        _unpack_ground_truth(paths[parts.index("tools")], out / "ground_truth")
    return paths


def _unpack_ground_truth(tools: Path, folder: Path) -> None:
    """Copy the four .mat files out of the evaluation tools, whole or not at all."""
    wanted = {f"wider_{name}_val.mat" for name in ("face", *NAMES)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(tools) as archive:
            for member in archive.namelist():
                path = PurePosixPath(member)
                if path.name in wanted and path.parent.name == "ground_truth":
                    with replacing(folder / path.name) as partial:
                        partial.write_bytes(archive.read(member))
    except (OSError, zipfile.BadZipFile) as error:
        raise DownloadError(f"cannot unpack {tools} to {folder}: {error}") from error
    if missing := sorted(wanted - set(os.listdir(folder))):
        raise DownloadError(f"{tools} does not hold {', '.join(missing)}.")
