"""Dense face detection: find the faces in a photo, from tiny to frame-filling.

    from faceresnet import FaceDetector

    faces = FaceDetector()("photo.jpg")

Importing this package loads nothing heavy: its two classes are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from faceresnet.errors import (
    DataError,
    DownloadError,
    EngineError,
    FaceResNetError,
    ImageError,
    MissingExtraError,
    ModelError,
    TrainingError,
    VideoError,
)

if TYPE_CHECKING:
    from faceresnet.detections import Detections
    from faceresnet.detector import FaceDetector

__version__ = "0.1.0"

#: Names whose modules load something heavy, and these modules.
_LAZY = {"Detections": "detections", "FaceDetector": "detector"}

__all__ = [
    "DataError",
    "Detections",
    "DownloadError",
    "EngineError",
    "FaceDetector",
    "FaceResNetError",
    "ImageError",
    "MissingExtraError",
    "ModelError",
    "TrainingError",
    "VideoError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'faceresnet' has no attribute '{name}'")
    value = getattr(import_module(f"faceresnet.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
