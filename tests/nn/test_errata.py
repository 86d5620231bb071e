from pathlib import Path

import pytest

from .errata import convolution, fully_connected, losses, normalisation, pooling
from .errata.document import document, errata
from .errata.erratum import written

MODULES = (fully_connected, convolution, pooling, normalisation, losses)
WRONG = [one for module in MODULES for one in module.WRONG]
RIGHT = [one for module in MODULES for one in getattr(module, "RIGHT", [])]


@pytest.mark.parametrize("erratum", WRONG, ids=lambda one: f"{one.equation}: {one.printed}")
def test_the_printed_equation_is_wrong_and_the_corrected_one_right(erratum):
    printed, right = erratum.measure()
    if isinstance(right, str):
        assert printed != right
    else:
        assert right < 1e-10
        assert isinstance(printed, str) or printed > 0.05


@pytest.mark.parametrize(("equation", "measure"), RIGHT, ids=[equation for equation, _ in RIGHT])
def test_what_is_called_right_is_right(equation, measure):
    assert measure() < 1e-10


def test_the_document_says_what_is_measured():
    path = Path(__file__).parents[2] / "docs" / "errata.md"
    assert path.read_text(encoding="utf-8") == document(), (
        "write it anew: python -m tests.nn.errata > docs/errata.md"
    )


def test_every_erratum_is_in_the_document():
    text = document()
    assert len(errata()) > len(WRONG)
    assert all(one.why.replace("|", "\\|") in text for one in errata())


def test_errors_are_written_alike_on_every_machine():
    assert [written(one) for one in (0.857, 1e-13, 9e-11, 3.2e-9, 0.0, "NaN")] == [
        "0.86",
        "< 1e-10",
        "< 1e-10",
        "3.2e-09",
        "< 1e-10",
        "NaN",
    ]
