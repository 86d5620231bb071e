"""Dense face detection: find the faces in a photo, from tiny to frame-filling.

    from faceresnet import FaceDetector

    faces = FaceDetector()("photo.jpg")

Importing this package loads nothing heavy; the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from faceresnet.detections import Detections
    from faceresnet.detector import FaceDetector
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

_HOMES = {
    "FaceDetector": "detector",
    "Detections": "detections",
    "FaceResNetError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "EngineError": "errors",
    "DataError": "errors",
    "DownloadError": "errors",
    "TrainingError": "errors",
    "VideoError": "errors",
    "MissingExtraError": "errors",
}

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
    if name not in _HOMES:
        raise AttributeError(f"module 'faceresnet' has no attribute '{name}'")
    value = getattr(import_module(f"faceresnet.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
