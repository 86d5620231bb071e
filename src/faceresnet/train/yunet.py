"""YuNet (Wu et al. 2023, libfacedetection.train, Apache-2.0), run as its makers mean it to be.

Its .onnx file, with dynamic height and width, is the user's to give. Training asks it what it sees
(`teacher`), and the benchmarks measure it: nothing slow of ours stands around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from faceresnet.detections import Detections
from faceresnet.engine import open_session
from faceresnet.errors import ModelError

STRIDES = (8, 16, 32)
NMS_IOU = 0.45
#: Class, objectness, box and landmarks of each stride.
OUTPUTS = 4 * len(STRIDES)


class YuNet:
    """The network in ONNX Runtime.

    Args:
        path: of its .onnx file.
        threads: for each run; all cores without.
        threshold: least score to report.

    Raises:
        ModelError: the file is missing, or is not YuNet's with dynamic height and width.
    """

    THRESHOLD = 0.6  # its makers' own

    def __init__(
        self, path: str | Path, threads: int | None = None, threshold: float = THRESHOLD
    ) -> None:
        self._threshold = threshold
        self._session = open_session(path, threads=threads, whose="YuNet")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        dynamic = [isinstance(side, str) for side in inputs[0].shape[2:]] == [True, True]
        if len(inputs) != 1 or len(outputs) != OUTPUTS or not dynamic:
            raise ModelError(
                f"{path} is not YuNet with dynamic height and width: expected one image as input "
                f"and {OUTPUTS} outputs, class, objectness, box and landmarks of three strides"
            )
        self._input = inputs[0].name

    def prepare(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "1 3 Y X"]:
        """RGB uint8 → float32 BGR, padded to multiples of 32 px."""
        import cv2

        height, width = image.shape[:2]
        bottom, right = -height % STRIDES[-1], -width % STRIDES[-1]
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        blob = np.empty((1, 3, *image.shape[:2]), dtype=np.float32)
        for channel, plane in enumerate(cv2.split(image)):  # 0.2 ms; cv2.dnn.blobFromImage: 4
            blob[0, 2 - channel] = plane
        return blob

    def infer(self, blob: Float32[np.ndarray, "N 3 Y X"]) -> list[np.ndarray]:
        """Run the network: three outputs each of class, objectness, box and landmarks."""
        return self._session.run(None, {self._input: blob})

    def finish(
        self, outputs: list[np.ndarray], size: tuple[int, int]
    ) -> Float32[np.ndarray, "M 5"]:
        """Threshold, decode what is left of each stride, suppress; rows of ``x y w h score``.

        Args:
            outputs: of one image.
            size: (height, width) px of what was looked at.
        """
        import cv2

        found = []
        for i, stride in enumerate(STRIDES):
            square = outputs[i].ravel().clip(0, 1) * outputs[3 + i].ravel().clip(0, 1)
            index = np.flatnonzero(square >= self._threshold**2)
            row, column = np.divmod(index, size[1] // stride)
            box = outputs[6 + i].reshape(-1, 4)[index]
            centre = (np.stack([column, row], axis=1) + box[:, :2]) * stride
            sides = np.exp(box[:, 2:]) * stride
            score = np.sqrt(square[index])[:, None]
            found.append(np.concatenate([centre - sides / 2, sides, score], axis=1))
        faces = np.concatenate(found).astype(np.float32)
        opencv: Any = cv2.dnn  # its types know lists only
        kept = opencv.NMSBoxes(faces[:, :4], faces[:, 4], self._threshold, NMS_IOU)
        return faces[np.asarray(kept, dtype=int).reshape(-1)]

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Detections:
        """Faces of an RGB image."""
        blob = self.prepare(image)
        faces = self.finish(self.infer(blob), (blob.shape[2], blob.shape[3]))
        corners = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1)
        return Detections(corners, faces[:, 4], (image.shape[0], image.shape[1]))
