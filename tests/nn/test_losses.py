import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceresnet.nn import (
    cross_entropy,
    mean_squared_error,
    one_hot,
    softmax,
    softmax_cross_entropy,
)

from .compare import NUMERICAL, PYTORCH, difference_to_torch, examples, largest_error, seeds

rows, columns = st.integers(1, 4), st.integers(1, 6)


def _probabilities(rng, r, c):
    return softmax(0.3 * rng.standard_normal((r, c)))[0]


@examples
@given(rows, columns, seeds)
def test_mean_squared_error(r, n, seed):
    torch = pytest.importorskip("torch")
    normal = np.random.default_rng(seed).standard_normal
    inputs, y = {"y_hat": normal((r, n))}, normal((r, n))
    ours = lambda y_hat: mean_squared_error(y_hat, y)  # noqa: E731
    assert largest_error(ours, inputs) < NUMERICAL
    theirs = lambda y_hat: torch.nn.functional.mse_loss(y_hat, torch.tensor(y))  # noqa: E731
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH


@examples
@given(rows, columns, seeds)
def test_cross_entropy(r, c, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    inputs, y = {"y_hat": _probabilities(rng, r, c)}, _probabilities(rng, r, c)
    ours = lambda y_hat: cross_entropy(y_hat, y)  # noqa: E731
    assert largest_error(ours, inputs) < NUMERICAL
    theirs = lambda y_hat: -(torch.tensor(y) * y_hat.log()).sum() / r  # noqa: E731
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH


@examples
@given(rows, columns, st.booleans(), seeds)
def test_softmax_cross_entropy(r, c, labelled, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    inputs = {"x": rng.standard_normal((r, c))}
    y = rng.integers(c, size=r) if labelled else _probabilities(rng, r, c)
    ours = lambda x: softmax_cross_entropy(x, y)  # noqa: E731
    assert largest_error(ours, inputs) < NUMERICAL
    theirs = lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(y))  # noqa: E731
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH


@examples
@given(rows, columns, seeds)
def test_the_fused_loss_is_its_two_parts(r, c, seed):
    rng = np.random.default_rng(seed)
    # A truth whose rows do not sum to 1 tells Σy − y from 1 − y.
    x, y = rng.standard_normal((r, c)), rng.random((r, c))
    probabilities, through_softmax = softmax(x)
    parts, backward = cross_entropy(probabilities, y)
    fused, fused_backward = softmax_cross_entropy(x, y)
    assert fused == pytest.approx(parts, rel=1e-12)
    assert fused_backward(0.5) == pytest.approx(through_softmax(backward(0.5)), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_fused_loss_is_finite_where_its_parts_are_not(dtype):
    x = np.array([[2000, -2000], [-2000, 2000]], dtype=dtype)
    loss, backward = softmax_cross_entropy(x, np.array([1, 1]))
    assert loss == 2000
    assert backward().tolist() == [[0.5, -0.5], [0, 0]]


@pytest.mark.parametrize("label", [0, 1])
def test_the_fused_loss_is_finite_for_logits_farther_apart_than_any_number(label):
    largest = np.finfo(np.float32).max
    x = np.array([[largest, -largest]], np.float32)
    loss, backward = softmax_cross_entropy(x, np.array([label]))
    assert loss == (0, largest)[label]
    assert backward().tolist() == [[label, -label]]


def test_a_class_without_probability_counts_nothing():
    y_hat, y = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])
    loss, backward = cross_entropy(y_hat, y)
    assert loss == 0
    assert backward().tolist() == [[-1, 0]]
    loss, backward = cross_entropy(y_hat, y[:, ::-1])
    assert loss == np.inf
    assert backward().tolist() == [[0, -np.inf]]


@pytest.mark.parametrize(("smallest", "dtype"), [(1e-320, np.float64), (1e-40, np.float32)])
def test_a_probability_whose_inverse_is_no_number_has_an_infinite_derivative(smallest, dtype):
    loss, backward = cross_entropy(np.array([[1, smallest]], dtype), np.array([[0, 1]], dtype))
    assert np.isfinite(loss)
    assert backward().tolist() == [[0, -np.inf]]


@pytest.mark.parametrize("loss", [mean_squared_error, cross_entropy, softmax_cross_entropy])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_keep_precision_and_take_an_empty_batch(loss, dtype):
    y = np.full((2, 3), 1 / 3, dtype)
    value, backward = loss(y, y)
    assert value.dtype == dtype
    assert backward(0.5).dtype == dtype
    empty = np.zeros((0, 3), dtype)
    value, backward = loss(empty, empty)
    assert value == 0
    assert value.dtype == dtype
    assert backward().shape == (0, 3)
    with pytest.raises(ValueError, match=r"y: axis 0 \(R\) must have length 2, got 1"):
        loss(y, y[:1])


def test_one_hot():
    assert one_hot(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(np.array([1]), 2, np.float64).dtype == np.float64
    assert one_hot(np.zeros(0, np.int64), 3).shape == (0, 3)
    with pytest.raises(ValueError, match=r"labels must lie in 0 … 2, got 0 … 3"):
        one_hot(np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="labels must be integers"):
        one_hot(np.zeros(3), 3)
