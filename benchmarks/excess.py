"""How much too large a model draws the boxes of small faces, by the AP that taking it off gives.

    python benchmarks/excess.py --data DIR [--model M]

Prints the official WIDER FACE AP at IoU 0.5, photos of their own size, for several values of
`ModelSpec.excess`: of all validation photos, and of either half of them (by a sum over their
names), so that what one half would choose can be seen on the other.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from rich.console import Console
from rich.table import Table

from faceresnet import boxes
from faceresnet.cli.evaluate import open_detector
from faceresnet.engine import read_spec
from faceresnet.evaluation import evaluate
from faceresnet.protocols import predict
from faceresnet.train.export import rewrite
from faceresnet.weights import locate
from faceresnet.widerface import read_split

EXCESSES = (0.0, 0.5, 1.0, 1.5)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", default="faceresnet-n")
    arguments = parser.parse_args()

    photos = read_split(arguments.data, "val")
    halves = [[p for p in photos if crc32(p.name.encode()) % 2 == half] for half in (0, 1)]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "untouched.onnx"
        shipped = locate(arguments.model)
        rewrite(shipped, replace(read_spec(shipped), excess=0.0), file)
        found = predict(open_detector(str(file), "original"), photos, protocol="original")
    table = Table("excess, px", "all", *sorted({p.event for p in photos}), "halves", box=None)
    for excess in EXCESSES:
        tighter = {name: (boxes.tighten(of, excess), *rest) for name, (of, *rest) in found.items()}
        whole, *parts = (
            evaluate({p.name: tighter[p.name] for p in some}, some, protocol="original")
            for some in (photos, *halves)
        )
        events = [f"{whole.events[event].ap:.4f}" for event in sorted(whole.events)]
        ap = " ".join(f"{part.ap:.4f}" for part in parts)
        table.add_row(f"{excess:g}", f"{whole.ap:.4f}", *events, ap)
    Console().print(table)


if __name__ == "__main__":
    main()
