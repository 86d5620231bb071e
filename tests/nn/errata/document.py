"""`docs/errata.md`, from what the errata measure."""

from __future__ import annotations

from collections.abc import Sequence

from . import convolution, fully_connected, losses, normalisation, pooling
from .erratum import Erratum, written
from .slips import SLIPS

_MODULES = (fully_connected, convolution, pooling, normalisation, losses)

_HEAD = """\
# Errata of the paper, with evidence

The paper is N. Zozoulenko, *Dense Face Detection with Convolutional Neural Networks* (2018). Its
derivations are sound in their idea, but some of the printed equations do not survive the check that
its own section 2 names: comparison with the numerical derivative. Here each is evaluated exactly as
it is printed, and as it must be.

The errors are relative, max|a − n| / max(|a|, |n|), in float64, against the numerical derivative
(equation 13, by four-point central differences) or against the operation the text describes, as
`faceresnet.nn` and PyTorch compute it; below 1e-10 stands only rounding. Upper indices of layers
are left out where they are right.

This file is written by `python -m tests.nn.errata > docs/errata.md`, from the formulas in
`tests/nn/errata/`; a test computes it anew and compares.
"""

_OPEN = """\
Left open: section 3.5 counts 24 parameters in figure 3. How many that network has depends on the
figure, and on whether a bias belongs to a layer or to a neuron (see 1, 3, 18 above).
"""


def document() -> str:
    """The whole of `docs/errata.md`."""
    parts = [
        _HEAD,
        "## Equations that are wrong\n",
        _table(_all("WRONG")),
        "## Right on paper, not in floating point\n",
        _table(_all("NOT_IN_FLOATING_POINT")),
        "## Words and numbers that a measurement contradicts, and conventions that matter\n",
        _table(_all("WORDS")),
        "## Slips of the pen\n",
        "They mislead, but there is nothing to compute.\n",
        "| Where | Printed | Meant |\n| --- | --- | --- |\n"
        + "".join(f"| {' | '.join(slip)} |\n" for slip in SLIPS),
        _OPEN,
        "## Suspected, and right\n",
        "As printed:\n",
        "| Equation | Error |\n| --- | --- |\n"
        + "".join(
            f"| {equation} | {written(measure())} |\n"
            for module in _MODULES
            for equation, measure in getattr(module, "RIGHT", [])
        ),
    ]
    return "\n".join(parts)


def errata() -> list[Erratum]:
    """Every erratum that is measured."""
    return [*_all("WRONG"), *_all("NOT_IN_FLOATING_POINT"), *_all("WORDS")]


def _all(kind: str) -> list[Erratum]:
    return [one for module in _MODULES for one in getattr(module, kind, [])]


def _table(errata: Sequence[Erratum]) -> str:
    rows = [
        "| Equation | As printed | As it must be | Error as printed | Error corrected | Why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in errata:
        printed, right = (written(error) for error in one.measure())
        cells = (one.equation, one.printed, one.right, printed, right, one.why)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"
