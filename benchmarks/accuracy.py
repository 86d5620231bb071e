"""Average precision beside YuNet, on the same photos by the same protocol.

    python benchmarks/accuracy.py --data DIR [--model M ...] [--yunet FILE.onnx] [--protocol NAME]

Prints the official WIDER FACE AP at IoU 0.5 and, in brackets, PASCAL VOC's, for all faces of the
validation photos and for each event.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detect import YuNet
from rich.console import Console
from rich.table import Table

from faceresnet import Detections
from faceresnet.cli.evaluate import open_detector
from faceresnet.evaluation import EVALUATION_THRESHOLD, PROTOCOLS, evaluate, predict
from faceresnet.widerface import read_split


def as_detections(faces: np.ndarray, image: np.ndarray) -> Detections:
    """YuNet's (M, 5) ``x y w h score`` as this package's detections."""
    corners = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1)
    return Detections(corners, faces[:, 4], (image.shape[0], image.shape[1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", action="append", help="name or .onnx file; may be given again")
    parser.add_argument("--yunet", help="YuNet's .onnx file, not ours to ship")
    parser.add_argument("--protocol", default="original", choices=list(PROTOCOLS))
    arguments = parser.parse_args()

    detectors: dict[str, Callable[[np.ndarray], Detections]] = {}
    for name in arguments.model or ["faceresnet-n"]:
        detectors[name] = open_detector(name, arguments.protocol)
    if arguments.yunet:
        yunet = YuNet(arguments.yunet, None, EVALUATION_THRESHOLD)
        detectors["YuNet"] = lambda image: as_detections(yunet(image), image)
    photos = read_split(arguments.data, "val")
    table = Table("detector", "set", "photos", "faces", "AP (plain AP)", box=None)
    for name, detector in detectors.items():
        found = predict(detector, photos, protocol=arguments.protocol)
        report = evaluate(found, photos, protocol=arguments.protocol)
        for curve in [*report.curves.values(), *report.events.values()]:
            ap = f"{curve.ap:.4f} ({curve.plain_ap:.4f})"
            table.add_row(name, curve.name, str(curve.photos), str(curve.faces), ap)
    print(f"{arguments.protocol}: {PROTOCOLS[arguments.protocol]}")
    Console().print(table)


if __name__ == "__main__":
    main()
