import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceresnet.nn import (
    Statistics,
    batch_norm,
    batch_norm_at_run_time,
    flatten,
    fully_connected,
    moving_average,
    relu,
    sigmoid,
    softmax,
    tanh,
)

from .compare import (
    NUMERICAL,
    PYTORCH,
    apart,
    difference_to_torch,
    examples,
    largest_error,
    seeds,
)


@examples
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), seeds)
def test_fully_connected(r, n, n_out, seed):
    torch = pytest.importorskip("torch")
    normal = np.random.default_rng(seed).standard_normal
    inputs = {"x": normal((r, n)), "w": normal((n, n_out)), "b": normal(n_out)}
    assert largest_error(fully_connected, inputs) < NUMERICAL
    theirs = lambda x, w, b: torch.nn.functional.linear(x, w.T, b)  # noqa: E731
    assert difference_to_torch(fully_connected, theirs, inputs) < PYTORCH


@examples
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), seeds)
@pytest.mark.parametrize("operation", [relu, sigmoid, tanh])
def test_activations(operation, shape, seed):
    torch = pytest.importorskip("torch")
    inputs = {"x": apart(np.random.default_rng(seed), tuple(shape))}
    assert largest_error(operation, inputs) < NUMERICAL
    assert difference_to_torch(operation, getattr(torch, operation.__name__), inputs) < PYTORCH


def test_relu_has_derivative_zero_at_zero():
    _, backward = relu(np.array([-1.0, -0.0, 0.0, 1.0]))
    assert backward(np.full(4, 3.0)).tolist() == [0, 0, 0, 3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_are_exact_at_the_ends(dtype):
    x = np.array([-1e4, -700, -50, 50, 700, 1e4], dtype=dtype)
    y, backward = sigmoid(x)
    assert y[0] == 0
    assert y[-1] == 1
    assert np.isfinite(backward(np.ones_like(x))).all()
    y, backward = tanh(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1]
    assert np.isfinite(backward(np.ones_like(x))).all()


def test_derivatives_keep_their_digits_where_the_output_is_flat():
    """σ(1 − σ) and 1 − tanh² would be 0 here."""
    x = np.array([40.0])
    assert sigmoid(x)[1](np.ones(1)) == pytest.approx(np.exp(-40), rel=1e-12, abs=0)
    assert tanh(x)[1](np.ones(1)) == pytest.approx(4 * np.exp(-80), rel=1e-12, abs=0)


@examples
@given(st.integers(1, 4), st.integers(1, 6), seeds)
def test_softmax(r, c, seed):
    torch = pytest.importorskip("torch")
    inputs = {"x": np.random.default_rng(seed).standard_normal((r, c))}
    assert largest_error(softmax, inputs) < NUMERICAL
    assert difference_to_torch(softmax, lambda x: torch.softmax(x, 1), inputs) < PYTORCH


def test_softmax_of_huge_numbers_is_finite():
    y, backward = softmax(np.array([[1e30, 0, -1e30], [-1e30, -1e30, -1e30]]))
    assert y.tolist() == [[1, 0, 0], [1 / 3] * 3]
    assert np.isfinite(backward(np.ones((2, 3)))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_numbers_farther_apart_than_any_number_is_exact(dtype):
    largest = np.finfo(dtype).max
    y, backward = softmax(np.array([[largest, -largest]]))
    assert y.tolist() == [[1, 0]]
    assert backward(np.ones_like(y)).tolist() == [[0, 0]]


def test_flatten():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    y, backward = flatten(x)
    assert np.array_equal(y, x.reshape(2, 60))
    assert np.array_equal(backward(y), x)
    assert largest_error(flatten, {"x": x}) < NUMERICAL


@examples
@given(
    st.integers(2, 4),
    st.integers(1, 4),
    st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.floats(1e-5, 0.1),
    seeds,
)
def test_batch_norm(r, c, size, epsilon, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    shape = (r + 1, c, *(size or ()))
    inputs = {
        "x": apart(rng, shape, 1.0),
        "gamma": rng.standard_normal(c),
        "beta": rng.standard_normal(c),
    }
    ours = lambda x, gamma, beta: batch_norm(x, gamma, beta, epsilon)  # noqa: E731
    assert largest_error(ours, inputs) < NUMERICAL
    mean, variance = torch.zeros(c).double(), torch.ones(c).double()
    theirs = lambda x, gamma, beta: torch.nn.functional.batch_norm(  # noqa: E731
        x, mean, variance, gamma, beta, training=True, momentum=0.3, eps=epsilon
    )
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH

    n = inputs["x"].size // c
    _, _, batch = ours(*inputs.values())
    average = moving_average(Statistics(np.zeros(c), np.ones(c)), batch, 0.3)
    assert average.mean == pytest.approx(mean.numpy(), abs=1e-12)
    # PyTorch averages the variance that is divided by n − 1, the paper the one divided by n.
    unbiased = average.variance + 0.3 * batch.variance / (n - 1)
    assert unbiased == pytest.approx(variance.numpy(), rel=1e-12)


@examples
@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), seeds)
def test_batch_norm_at_run_time(r, c, spatial, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    shape = (r, c, 2, 3) if spatial else (r, c)
    inputs = {"x": rng.standard_normal(shape), "gamma": rng.random(c), "beta": rng.random(c)}
    known = Statistics(rng.standard_normal(c), rng.random(c))
    ours = lambda x, gamma, beta: batch_norm_at_run_time(x, gamma, beta, known, 1e-3)  # noqa: E731
    assert largest_error(ours, inputs) < NUMERICAL
    theirs = lambda x, gamma, beta: torch.nn.functional.batch_norm(  # noqa: E731
        x, torch.tensor(known.mean), torch.tensor(known.variance), gamma, beta, eps=1e-3
    )
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH


def test_batch_norm_of_a_constant_channel_is_its_shift():
    y, backward, statistics = batch_norm(np.full((4, 1), 7.0), np.full(1, 2.0), np.full(1, 3.0))
    assert y.tolist() == [[3]] * 4
    assert statistics == Statistics(7, 0)
    assert np.isfinite(backward(np.arange(4.0)[:, None])[0]).all()


def test_the_variance_is_raised_by_a_hundred_thousandth():
    x, one, zero = np.array([[-0.01], [0.01]]), np.ones(1), np.zeros(1)
    expected = pytest.approx(x / np.sqrt(1.1e-4))
    y, _, statistics = batch_norm(x, one, zero)
    assert y == expected
    assert batch_norm_at_run_time(x, one, zero, statistics)[0] == expected


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_moving_average_weighs_the_new_value(weight):
    old, new = Statistics(np.zeros(2), np.ones(2)), Statistics(np.full(2, 4.0), np.full(2, 9.0))
    average = moving_average(old, new, weight)
    assert average.mean == pytest.approx(4 * weight)
    assert average.variance == pytest.approx(1 + 8 * weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_run_time_and_averages_keep_precision_and_take_an_empty_batch(dtype):
    one = np.ones(3, dtype)
    known = Statistics(one, one)
    average = moving_average(known, known, 0.1)
    assert {average.mean.dtype, average.variance.dtype} == {np.dtype(dtype)}
    for r in (0, 2):
        x = np.zeros((r, 3, 4, 5), dtype)
        y, backward = batch_norm_at_run_time(x, one, one, average)
        assert y.shape == x.shape
        assert {one.dtype for one in (y, *backward(y))} == {np.dtype(dtype)}


def test_moving_average_refuses_a_weight_that_is_none():
    one = Statistics(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match=r"weight must lie between 0 and 1, got 1\.5"):
        moving_average(one, one, 1.5)


def test_an_operation_used_twice_is_right_both_times():
    """The weights of two layers are the same array: its gradient is the sum of both."""
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(shape) for name, shape in [("x", (3, 4)), ("w", (4, 4))]}
    b = np.zeros(4)

    def twice(x, w):
        hidden, backward1 = fully_connected(x, w, b)
        y, backward2 = fully_connected(hidden, w, b)

        def backward(dy):
            dhidden, dw2, _ = backward2(dy)
            dx, dw1, _ = backward1(dhidden)
            return dx, dw1 + dw2

        return y, backward

    assert largest_error(twice, inputs) < NUMERICAL


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: fully_connected(f(2, 3), f(4, 5), f(5)), r"w: axis 0 \(N\) .* 3, got 4"),
        (lambda f: fully_connected(f(2, 3), f(3, 5), f(4)), r"b: axis 0 \(N_out\) .* 5, got 4"),
        (lambda f: fully_connected(f(3), f(3, 5), f(5)), r"x must have 2 axes \(R, N\), got 1"),
        (lambda f: fully_connected(f(2, 0), f(0, 5), f(5)), r"x: axis 1 \(N\) must not be empty"),
        (
            lambda f: fully_connected(f(2, 3), f(3, 5).astype(np.float32), f(5)),
            "w must be float64 as the other arrays are, got float32",
        ),
        (lambda f: relu(np.arange(3)), "x must be float32 or float64, got int64"),
        (lambda f: relu(f(2, 3))[1](f(2, 4)), "dy: axis 1 must have length 3 as y has, got 4"),
        (lambda f: relu(f(2, 3))[1](f(3)), r"dy must have the shape of y, \(2, 3\), got \(3,\)"),
        (lambda f: relu(f(2))[1](np.zeros(2, np.float32)), "dy must be float64 as y is"),
        (lambda f: softmax(f(2, 3, 4)), r"x must have 2 axes \(R, C\), got 3"),
        (lambda f: flatten(f(2, 3)), r"x must have 4 axes \(R, C, H, W\), got 2"),
        (lambda f: batch_norm(f(2, 3, 4), f(3), f(3)), r"x must have axes \(R, C\) or"),
        (lambda f: batch_norm(f(2, 3), f(4), f(3)), r"gamma: axis 0 \(C\) .* 3, got 4"),
        (lambda f: batch_norm(f(2, 3), f(3), f(2)), r"beta: axis 0 \(C\) .* 3, got 2"),
        (
            lambda f: batch_norm_at_run_time(f(2, 3), f(3), f(3), Statistics(f(3), f(4))),
            r"variance: axis 0 \(C\) .* 3, got 4",
        ),
    ],
)
def test_wrong_arrays_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda *shape: np.zeros(shape))
