"""A network in training as a detector, for measuring it."""

from __future__ import annotations

import numpy as np
import torch

from faceresnet import images
from faceresnet.anchors import make_anchors
from faceresnet.detections import Detections
from faceresnet.detector import postprocess
from faceresnet.protocols import EVALUATION_THRESHOLD
from faceresnet.spec import ModelSpec
from faceresnet.train.model import FaceResNet


class TorchDetector:
    """A network in training as a detector: letterbox, forward, and the shared `postprocess`."""

    def __init__(self, model: FaceResNet, spec: ModelSpec) -> None:
        self.model, self.spec = model, spec

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Detections:
        """Detect in (H, W, 3) uint8 RGB, down to the lowest score an evaluation needs."""
        padded = images.letterbox(image, self.spec.size_multiple)
        device = next(self.model.parameters()).device
        # Not model(...): what is compiled for the training images' size would be so again for each.
        logits, deltas = self.model.forward(torch.tensor(padded, device=device)[None])
        anchors = make_anchors(self.spec.levels, (padded.shape[0], padded.shape[1]))
        size = (image.shape[0], image.shape[1])
        boxes, scores = postprocess(
            logits[0].float().cpu().numpy(),
            deltas[0].float().cpu().numpy(),
            anchors,
            self.spec,
            EVALUATION_THRESHOLD,
            size,
        )
        return Detections(boxes, scores, size)
