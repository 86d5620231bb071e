import numpy as np
import pytest

from faceresnet.nn import conv2d, fully_connected, gradcheck, numerical_derivative, tanh
from faceresnet.nn.gradcheck import relative_error

RNG = np.random.default_rng(0)


def _wrong(operation, factor):
    """The operation with its last derivative wrong by a factor."""

    def wrong(*arrays):
        y, backward = operation(*arrays)

        def wrong_backward(dy):
            derivatives = backward(dy)
            if not isinstance(derivatives, tuple):
                return derivatives * factor
            return (*derivatives[:-1], derivatives[-1] * factor)

        return y, wrong_backward

    return wrong


@pytest.mark.parametrize(("elements", "method"), [(256, "elements"), (0, "directions")])
def test_a_wrong_derivative_is_found_and_measured(elements, method):
    inputs = {"x": RNG.standard_normal((3, 4)), "w": RNG.standard_normal((4, 2)), "b": np.ones(2)}
    right = gradcheck(fully_connected, inputs, elements=elements)
    assert [one.name for one in right] == ["x", "w", "b"]
    assert {one.method for one in right} == {method}
    assert all(one.error < 1e-10 for one in right)
    x, w, b = gradcheck(_wrong(fully_connected, 1.01), inputs, elements=elements)
    assert max(x.error, w.error) < 1e-10
    assert b.error > 1e-3
    if method == "elements":
        assert b.error == pytest.approx(0.01 / 1.01, rel=1e-6)


def test_directions_see_one_wrong_element():
    x, w = RNG.standard_normal((2, 2, 9, 9)), RNG.standard_normal((2, 2, 3, 3))

    def wrong(x, w):
        y, backward = conv2d(x, w)

        def wrong_backward(dy):
            dx, dw, _ = backward(dy)
            dx = dx.copy()
            dx[1, 1, 8, 8] += 1
            return dx, dw

        return y, wrong_backward

    errors = gradcheck(wrong, {"x": x, "w": w})
    assert [one.method for one in errors] == ["directions", "elements"]
    assert errors[0].error > 1e-4
    assert errors[1].error < 1e-10


def test_a_zero_derivative_is_not_taken_for_a_right_one():
    errors = gradcheck(_wrong(tanh, 0), {"x": RNG.standard_normal((2, 2))})
    assert errors[0].error == 1


@pytest.mark.parametrize("elements", [256, 0])
def test_a_nan_is_not_taken_for_a_right_derivative(elements):
    errors = gradcheck(_wrong(tanh, np.nan), {"x": RNG.standard_normal((2, 2))}, elements=elements)
    assert np.isnan(errors[0].error)


def test_a_nan_along_a_later_direction_is_not_taken_for_a_right_derivative():
    calls = 0

    def operation(x):
        nonlocal calls
        calls += 1
        # Once for the value and four times for each direction: the third is NaN.
        return x + (np.nan if calls > 10 else 0), lambda dy: dy

    (error,) = gradcheck(operation, {"x": np.ones(3)}, elements=0)
    assert np.isnan(error.error)


def test_a_backward_pass_of_the_wrong_form_is_refused():
    with pytest.raises(ValueError, match="one derivative for each of x, w, got 1"):
        gradcheck(lambda x, w: (x, lambda dy: dy), {"x": np.ones(2), "w": np.ones(2)})
    with pytest.raises(ValueError, match=r"arrays by name, as \{'x': x\}, got list"):
        gradcheck(tanh, [np.ones(2)])
    with pytest.raises(ValueError, match=r"by x must have its shape \(2,\), got \(1,\)"):
        gradcheck(lambda x: (x, lambda dy: dy[:1]), {"x": np.ones(2)})


def test_inputs_are_checked_in_float64_and_left_alone():
    x = np.ones((2, 2), np.float32)
    assert gradcheck(tanh, {"x": x})[0].error < 1e-10
    assert np.array_equal(x, np.ones((2, 2), np.float32))


def test_relative_error():
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.zeros(0), np.zeros(0)) == 0
    assert relative_error(np.array([1e-13]), np.array([0.0])) == pytest.approx(1e-7)


def test_numerical_derivative():
    x = np.array([0.3, -0.7])
    derivative = numerical_derivative(np.sin, x, np.array([2.0, 3.0]))
    assert derivative == pytest.approx(np.cos(x) * [2, 3], abs=1e-12)
