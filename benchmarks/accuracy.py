"""Average precision beside other detectors, on the same photos by the same protocol.

    python benchmarks/accuracy.py --data DIR [--model M ...] [--yunet FILE.onnx] [--peers]
                                  [--protocol NAME] [--turned]

Prints the official WIDER FACE AP at IoU 0.5 and, in brackets, PASCAL VOC's, for all faces of the
validation photos and for each event.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from peers import Detect, add_arguments, open_peers
from rich.console import Console
from rich.table import Table

from faceresnet.cli.evaluate import open_detector
from faceresnet.evaluation import evaluate
from faceresnet.protocols import EVALUATION_THRESHOLD, PROTOCOLS, predict
from faceresnet.widerface import read_split


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", action="append", help="name or .onnx file; may be given again")
    add_arguments(parser)
    parser.add_argument("--protocol", default="original", choices=list(PROTOCOLS))
    parser.add_argument("--turned", action="store_true", help="all four positions, our models")
    arguments = parser.parse_args()

    detectors: dict[str, Detect] = {}
    for name in arguments.model or ["faceresnet-n"]:
        detector = open_detector(name, arguments.protocol)
        detectors[name] = replace(detector, turned=True) if arguments.turned else detector
    detectors |= open_peers(arguments, EVALUATION_THRESHOLD)
    photos = read_split(arguments.data, "val")
    table = Table("detector", "set", "photos", "faces", "AP (plain AP)", box=None)
    for name, detect in detectors.items():
        found = predict(detect, photos, protocol=arguments.protocol)
        report = evaluate(found, photos, protocol=arguments.protocol)
        for curve in [*report.curves.values(), *report.events.values()]:
            ap = f"{curve.ap:.4f} ({curve.plain_ap:.4f})"
            table.add_row(name, curve.name, str(curve.photos), str(curve.faces), ap)
    print(f"{arguments.protocol}: {PROTOCOLS[arguments.protocol]}")
    Console().print(table)


if __name__ == "__main__":
    main()
