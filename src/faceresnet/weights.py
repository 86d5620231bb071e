"""Where a model file is: shipped in the package, on this disk, or a verified download away."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from faceresnet.download import fetch, file_sha256
from faceresnet.errors import DownloadError, ModelError

#: The model used when none is named.
DEFAULT_MODEL = "faceresnet-n"
#: Files that come with the package.
SHIPPED = Path(__file__).parent / "models"
#: Environment variable: where published models are downloaded from.
URL_VARIABLE = "FACERESNET_WEIGHTS_URL"
#: Environment variable: where downloaded models are kept; by default ~/.cache/faceresnet.
CACHE_VARIABLE = "FACERESNET_CACHE"


@dataclass(frozen=True)
class Published:
    """A model too large to ship.

    Attributes:
        file: its name below the base URL.
        sha256: of its content, hexadecimal.
    """

    file: str
    sha256: str


#: Models that are downloaded when first used, by name.
PUBLISHED: dict[str, Published] = {}


def shipped() -> dict[str, Path]:
    """Models in the package: name → file."""
    return dict(sorted((path.stem, path) for path in SHIPPED.glob("*.onnx")))


def own_file(model: str | os.PathLike[str]) -> Path | None:
    """The user's file that a model's name means; None for a shipped model."""
    return None if os.fspath(model) in shipped() else Path(model)


def locate(model: str | os.PathLike[str] = DEFAULT_MODEL) -> Path:
    """Find the file of a model: a shipped or published name, or a path.

    Raises:
        ModelError: it is neither.
        DownloadError: a published model could not be downloaded.
    """
    name = os.fspath(model)
    known = shipped()
    if name in known:
        return known[name]
    path = Path(name)
    if os.path.isfile(path):  # is_file() raises for a name that is too long for a file
        return path
    if name in PUBLISHED:
        return _published(name)
    if path.suffix == ".onnx" or os.sep in name:
        raise ModelError(f"there is no model file {name}")
    names = ", ".join([*known, *PUBLISHED]) or "none"
    raise ModelError(f"no model is called '{name}'; known are: {names}; or give a path to a .onnx")


def _published(name: str) -> Path:
    """Find a published model in the cache, or download it."""
    model = PUBLISHED[name]
    path = cache_folder() / model.file
    base = os.environ.get(URL_VARIABLE)
    if not base:
        if path.is_file() and file_sha256(path) == model.sha256:
            return path
        raise DownloadError(
            f"the model '{name}' is not shipped: set {URL_VARIABLE} to the address of the folder "
            f"that holds {model.file}, or download the file yourself and give its path"
        )
    return fetch([f"{base.rstrip('/')}/{model.file}"], path, model.sha256)


def cache_folder() -> Path:
    """Where downloaded models are kept."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceresnet"
