"""Accuracy against time: what each setting of each detector buys.

    python benchmarks/pareto.py --data DIR [--model M ...] [--yunet FILE.onnx] [--peers]
                                [--plot FILE.png] [--size 640x480] [--runs N] [--photos N]

AP by the WIDER FACE protocol at IoU 0.5 over all faces of the validation photos, each detector
looking at them reduced or enlarged by several factors; time end to end for a picture of `--size`
reduced or enlarged by the same, all settings in turn, rested and warmed up as in detect.py. Marks
the settings that no other beats in both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from detect import machine, make_image, measure
from peers import Detect, add_arguments, open_peers
from rich.console import Console
from rich.table import Table

from faceresnet import Detections, FaceDetector, images
from faceresnet.cli.evaluate import open_detector
from faceresnet.evaluation import evaluate
from faceresnet.protocols import EVALUATION_THRESHOLD, predict
from faceresnet.widerface import read_split

FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)


def scaled(detect: Detect, factor: float) -> Detect:
    """A detector that sees photos enlarged or reduced by a factor, its own resizing included."""

    def detect_scaled(image: np.ndarray) -> Detections:
        height, width = image.shape[:2]
        size = max(16, round(height * factor)), max(16, round(width * factor))
        return detect(images.resize(image, size)).scaled_to((height, width))

    return detect_scaled if factor != 1 else detect


def front(points: list[tuple[float, float]]) -> list[bool]:
    """Which points (ms, AP) no other beats: as fast and better, or as good and faster."""
    return [
        not any(ms <= own_ms and ap >= own_ap and (ms, ap) != (own_ms, own_ap) for ms, ap in points)
        for own_ms, own_ap in points
    ]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="data set laid out as WIDER FACE")
    parser.add_argument("--model", action="append", help="name or .onnx file; may be given again")
    add_arguments(parser)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT px of the timed picture")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--photos", type=int, help="only so many validation photos")
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, and draw the plot if asked to."""
    options = parse()
    width, height = (int(side) for side in options.size.split("x"))
    photos = read_split(options.data, "val")
    count = min(options.photos or len(photos), len(photos))
    photos = [photos[int(i)] for i in np.linspace(0, len(photos) - 1, count)]
    # One look at the photo's scale each, so that a point is what the network does at that scale.
    searching: dict[str, Detect] = {}
    timed: dict[str, Detect] = {}
    for model in options.model or ["faceresnet-n"]:
        name = Path(model).stem
        searching[name] = open_detector(model, "original")
        timed[name] = FaceDetector(model, tile=False, pyramid=False, crowds=False)
    searching |= open_peers(options, EVALUATION_THRESHOLD)
    timed |= open_peers(options)

    picture = make_image((height, width))
    calls = {
        (name, factor): scaled(detect, factor)
        for name, detect in timed.items()
        for factor in FACTORS
    }
    ms = measure(
        {
            f"{name} {factor}": lambda d=detect: d(picture)
            for (name, factor), detect in calls.items()
        },
        options.runs,
    )
    table = Table("detector", "scale", "ms", "AP", "on the front", box=None)
    settings = list(calls)
    points = []
    for name, factor in settings:
        found = predict(scaled(searching[name], factor), photos, protocol="original")
        ap = evaluate(found, photos, protocol="original").ap
        points.append((ms[f"{name} {factor}"], ap))
    for (name, factor), (time_ms, ap), best in zip(settings, points, front(points), strict=True):
        table.add_row(name, f"{factor:g}", f"{time_ms:.1f}", f"{ap:.4f}", "yes" if best else "")
    print(machine())
    print(f"{len(photos)} photos, {width}×{height} px timed\n")
    Console().print(table)
    if options.plot:
        draw(settings, points, options.plot, f"ms for {width}×{height} px × scale")


def draw(
    settings: list[tuple[str, float]], points: list[tuple[float, float]], file: Path, label: str
) -> None:
    """One line for each detector, its points marked with their scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel=label, ylabel="AP, all faces")
    for name in dict.fromkeys(name for name, _ in settings):
        own = [(f, *p) for (n, f), p in zip(settings, points, strict=True) if n == name]
        axes.plot([ms for _, ms, _ in own], [ap for _, _, ap in own], marker="o", label=name)
        for factor, ms, ap in own:
            axes.annotate(f"{factor:g}", (ms, ap), xytext=(4, -10), textcoords="offset points")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([5, 10, 20, 50])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
