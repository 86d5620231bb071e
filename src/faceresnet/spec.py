"""What a model file says about itself: the one place where a model is described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from faceresnet.anchors import Level
from faceresnet.errors import ModelError

#: Key of the ONNX metadata property that holds the specification as JSON.
METADATA_KEY = "faceresnet"
#: Raised when a file written by an older version can no longer be read.
FORMAT = 1


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to run a model; travels in the metadata of its .onnx file.

    The network takes ``images``, uint8 RGB (N, H, W, 3) with H and W multiples of `size_multiple`,
    and returns ``logits`` (N, R) and ``deltas`` (N, R, 4), R in the order of
    `anchors.make_anchors`. Normalisation is part of the network.

    Attributes:
        name: what `faceresnet models` calls it.
        levels: the anchor pyramid.
        delta_scales: divisors of centre offsets and log sizes (`boxes.decode`).
        size_multiple: px; the sides of the input are multiples of it.
        largest_face: px (√area); up to here one look finds faces well, larger ones are looked for
            at reduced scales. 0 stands for the largest anchor.
        excess: px by which the network draws the boxes of small faces too wide and too high
            (`boxes.tighten` takes it off).
        threshold: default score from which a detection is reported.
        nms_iou: overlap above which the weaker of two detections is dropped.
        precision: of the weights: fp32, fp16 or int8.
        recipe: the training recipe that made it.
        licence: what the training data allows.
        measured: AP by protocol and data set, as measured at export.
    """

    name: str
    levels: tuple[Level, ...]
    delta_scales: tuple[float, float] = (1.0, 1.0)
    size_multiple: int = 32
    largest_face: float = 0.0
    excess: float = 0.0
    threshold: float = 0.5
    nms_iou: float = 0.4
    precision: str = "fp32"
    recipe: str = ""
    licence: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("a model needs at least one level")
        if len(self.delta_scales) != 2 or not min(self.delta_scales) > 0:
            raise ValueError(f"delta_scales must be two positive numbers, got {self.delta_scales}")
        if self.size_multiple < 1:
            raise ValueError(f"size_multiple must be at least 1 px, got {self.size_multiple}")
        for name in ("threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("largest_face", "excess"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)} px")

    def to_metadata(self) -> dict[str, str]:
        """The specification as ONNX metadata properties."""
        return {METADATA_KEY: json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> ModelSpec:
        """The specification found in ONNX metadata properties.

        Raises:
            ModelError: `source` is not a faceresnet model, or a newer version wrote it.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise ModelError(
                f"{source} is not a faceresnet model: its metadata has no '{METADATA_KEY}' entry. "
                "Models are made by 'faceresnet export'."
            )
        try:
            values: dict[str, Any] = json.loads(text)
            written = values.pop("format")
            if written != FORMAT:
                raise ModelError(
                    f"{source} has model format {written}, this version reads {FORMAT}: "
                    "upgrade faceresnet."
                )
            known = {field.name for field in fields(cls)}
            if unknown := sorted(values.keys() - known):
                raise ModelError(
                    f"{source} has {', '.join(unknown)} in its specification, which this version "
                    "does not know: upgrade faceresnet."
                )
            values["levels"] = tuple(
                Level(level["stride"], tuple(level["sizes"]), tuple(level["ratios"]))
                for level in values["levels"]
            )
            values["delta_scales"] = tuple(values["delta_scales"])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{source} has a broken specification: {error}") from error
