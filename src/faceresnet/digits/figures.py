"""Figure 13: accuracy and losses over the iterations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceresnet.atomic import replacing
from faceresnet.digits.training import read_config, read_metrics

#: One for each run, told apart by the colour-blind too (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_figure(runs: Sequence[Path], target: Path) -> None:
    """Draw the accuracy (a) and the losses (b) of some runs as one PNG.

    As in the paper, accuracy is that on the test set where the run tracked it, else on the
    validation digits; so is the loss beside the training loss. Training losses are means since the
    measurement before.

    Args:
        runs: run folders.
        target: the PNG to write, whole or not at all.

    Raises:
        TrainingError: a folder holds no measured run.
        ValueError: no run, or another suffix than .png.
    """
    if not runs:
        raise ValueError("a figure needs at least one run")
    if target.suffix.lower() != ".png":
        raise ValueError(f"the figure must end in .png, got {target}")
    measured = [(name, read_metrics(run)) for name, run in zip(_names(runs), runs, strict=True)]

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (name, lines) in enumerate(measured):
        _draw_run(left, right, name, lines, COLOURS[number % len(COLOURS)])
    left.set(title="(a)", xlabel="iterations", ylabel="accuracy, %")
    right.set(title="(b)", xlabel="iterations", ylabel="loss", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with replacing(target) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _draw_run(
    left: Any, right: Any, name: str, lines: Sequence[dict[str, float]], colour: str
) -> None:
    tested = all(line.keys() >= {"test_loss", "test_accuracy"} for line in lines)
    shown = "test" if tested else "validation"
    at = [line["iteration"] for line in lines]
    accuracy = [100 * line[f"{shown}_accuracy"] for line in lines]
    # One measurement alone would make a line of no length.
    marker = "o" if len(lines) == 1 else ""
    left.plot(
        at, accuracy, color=colour, marker=marker, label=f"{name}, {shown}: {accuracy[-1]:.2f} %"
    )
    for what, style in (("training", "--"), (shown, "-")):
        # An exact 0 has no place on a logarithmic axis.
        losses = [max(line[f"{what}_loss"], 1e-6) for line in lines]
        right.plot(at, losses, style, color=colour, marker=marker, label=f"{name}, {what}")


def _names(runs: Sequence[Path]) -> list[str]:
    """What each run is called: its network, and its folder where that says no more than others'."""
    nets = [read_config(run).net.upper() for run in runs]
    return [
        net if nets.count(net) == 1 else f"{net} ({run.resolve().name})"
        for net, run in zip(nets, runs, strict=True)
    ]
