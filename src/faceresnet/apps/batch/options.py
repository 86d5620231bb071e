"""The settings of a batch that decide its rows, and what its workers need to know of them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from faceresnet import images
from faceresnet.detector import check_max_side, check_threshold
from faceresnet.download import file_sha256
from faceresnet.engine import ENGINES, read_spec
from faceresnet.errors import ModelError, reason
from faceresnet.weights import DEFAULT_MODEL, locate

#: Layouts of the parts.
FORMATS = ("parquet", "jsonl")
#: Photos that go through a graphics card together, unless the caller says how many.
GPU_BATCH = 16


@dataclass(frozen=True)
class BatchOptions:
    """What decides the rows of a batch; a job that goes on must be given the same.

    Attributes:
        format: of the parts, ``parquet`` or ``jsonl``.
        shard_size: photos in a part; by default 16 to 1,000, a 64th of the photos.
        column: of a Parquet source: paths, addresses or the bytes of photos. May be left out where
            only one column can be meant.
        model: name, or path to an .onnx file.
        threshold: least score to report, 0..1; by default the model's own.
        max_side: larger photos are reduced to this longer side, px.
        tile: as `FaceDetector`'s.
        pyramid: as `FaceDetector`'s.
        crowds: as `FaceDetector`'s.
        runtime: the inference engine, ``openvino`` or ``onnxruntime``.
        device: where it runs: cpu, gpu, cuda, …
        batch_size: photos that are detected together; by default 1 on the CPU, where more are no
            faster, else `GPU_BATCH`.
        max_pixels: photos of more pixels become rows with an error; None takes any.
    """

    format: str = "parquet"
    shard_size: int | None = None
    column: str | None = None
    model: str | os.PathLike[str] = DEFAULT_MODEL
    threshold: float | None = None
    max_side: int | None = None
    tile: bool | int | str = "auto"
    pyramid: bool = True
    crowds: bool = True
    runtime: str = "openvino"
    device: str = "cpu"
    batch_size: int | None = None
    max_pixels: int | None = images.MAX_PIXELS

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got '{self.format}'")
        if self.runtime not in ENGINES:
            raise ValueError(f"runtime must be one of {', '.join(ENGINES)}, got '{self.runtime}'")
        check_threshold(self.threshold)
        check_max_side(self.max_side)
        for name in ("shard_size", "batch_size", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def on_cpu(self) -> bool:
        """Whether the model runs on the CPU."""
        return self.device.lower() == "cpu"

    @property
    def together(self) -> int:
        """Photos that are detected together."""
        return self.batch_size or (1 if self.on_cpu else GPU_BATCH)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values; `model` is a text."""
        return {**asdict(self), "model": os.fspath(self.model)}


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know; small, and may travel to another machine.

    Attributes:
        options: what is asked for.
        model_name: what the rows call the model.
        folder: that relative paths start from.
        model_file: content of the .onnx file, or None where `options.model` can be opened.
    """

    options: BatchOptions
    model_name: str
    folder: str
    model_file: bytes | None = None


def model_identity(model: str | os.PathLike[str]) -> tuple[str, str]:
    """What rows call a model, ``name@`` and 12 digits of its SHA-256; and the whole SHA-256.

    Raises:
        ModelError: there is no such model, or its file is broken.
    """
    path = locate(model)
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {reason(error)}") from error
    return f"{read_spec(path).name}@{sha256[:12]}", sha256
