from __future__ import annotations

from typer.testing import CliRunner

from faceresnet.cli import app
from faceresnet.nn import operations


def test_gradcheck_prints_every_operation() -> None:
    result = CliRunner().invoke(app, ["nn", "gradcheck", "--seed", "3"])
    assert result.exit_code == 0
    for case in operations.cases():
        assert case.name in result.stdout
        for name in case.inputs:
            assert name in result.stdout
    assert "50 derivatives, 0 with an error of 1e-07 or more" in result.stdout


def test_gradcheck_fails_when_a_derivative_is_wrong(monkeypatch) -> None:
    right = operations.cases()[2]
    assert right.name == "relu"

    def wrong(x):
        y, backward = right.operation(x)
        return y, lambda dy: backward(dy) * 1.001

    def nan(x):
        y, backward = right.operation(x)
        return y, lambda dy: backward(dy) * float("nan")

    cases = [right, *(operations.Case(f.__name__, "5", f, right.inputs) for f in (wrong, nan))]
    monkeypatch.setattr(operations, "cases", lambda seed: cases)
    result = CliRunner().invoke(app, ["nn", "gradcheck"])
    assert result.exit_code == 1
    assert "3 derivatives, 2 with an error of 1e-07 or more" in result.stdout
    assert "1.0e-03" in result.stdout
