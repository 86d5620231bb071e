import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceresnet.nn import conv2d, gradcheck, winograd
from faceresnet.nn.winograd import winograd_conv2d

from .compare import NUMERICAL, examples, seeds

#: Largest difference to the plain convolution in float64, as a share of its largest number; and in
#: float32, with 32 channels, as the module says.
FLOAT64, FLOAT32 = 1e-9, 3e-5


def arrays(rng, dtype, r, c, h, w, c_out):
    x, kernel, b = (
        rng.normal(size=(r, c, h, w)),
        rng.normal(size=(c_out, c, 5, 5)),
        rng.normal(size=c_out),
    )
    return x.astype(dtype), kernel.astype(dtype), b.astype(dtype)


def errors(rng, dtype, x, w, b, padding):
    """Largest difference of output and derivatives, each as a share of its largest number."""
    y, backward = winograd_conv2d(x, w, b, 1, padding)
    plain, plain_backward = conv2d(*(a.astype(np.float64) for a in (x, w, b)), 1, padding)
    dy = rng.normal(size=y.shape).astype(dtype)
    ours = (y, *backward(dy))
    theirs = (plain, *plain_backward(dy.astype(np.float64)))
    assert all(a.dtype == dtype and a.shape == e.shape for a, e in zip(ours, theirs, strict=True))
    return [np.abs(a - e).max() / np.abs(e).max() for a, e in zip(ours, theirs, strict=True)]


@examples
@given(
    seed=seeds,
    r=st.integers(1, 11),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(5, 17), st.integers(5, 17)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_it_is_the_plain_convolution(seed, r, channels, size, padding) -> None:
    rng = np.random.default_rng(seed)
    x, w, b = arrays(rng, np.float64, r, channels[0], *size, channels[1])
    assert max(errors(rng, np.float64, x, w, b, padding)) < FLOAT64


@pytest.mark.parametrize("seed", range(3))
def test_in_float32_it_is_as_precise_as_it_says(seed) -> None:
    rng = np.random.default_rng(seed)
    x, w, b = arrays(rng, np.float32, 9, 32, 24, 24, 32)
    found = errors(rng, np.float32, x, w, b, 0)
    assert max(found) < FLOAT32
    assert max(found) > 1e-7  # measured at all


def test_its_derivatives_are_derivatives() -> None:
    x, w, b = arrays(np.random.default_rng(0), np.float64, 2, 2, 9, 6, 3)
    for error in gradcheck(winograd_conv2d, {"x": x, "w": w, "b": b}):
        assert error.error < NUMERICAL


def test_without_biases_they_are_zero() -> None:
    x, w, b = arrays(np.random.default_rng(0), np.float64, 2, 2, 9, 6, 3)
    without, _ = winograd_conv2d(x, w)
    np.testing.assert_allclose(without + b[:, None, None], winograd_conv2d(x, w, b)[0], atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((5, 3), 1), ((5, 5), 2)])
def test_what_it_is_not_made_for_it_leaves_to_im2row(kernel, stride, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 2, 9, 9)), rng.normal(size=(3, 2, *kernel))
    monkeypatch.setattr(winograd, "forward", None)
    y, _ = winograd_conv2d(x, w, stride=stride)
    np.testing.assert_allclose(y, conv2d(x, w, stride=stride)[0], atol=1e-12)


def test_an_empty_batch_works() -> None:
    x, w, b = arrays(np.random.default_rng(0), np.float32, 0, 2, 9, 6, 3)
    y, backward = winograd_conv2d(x, w, b)
    assert y.shape == (0, 3, 5, 2)
    dx, dw, db = backward(y)
    assert (dx.shape, dw.shape, db.shape) == (x.shape, w.shape, b.shape)
    assert not dw.any()


def test_nothing_that_goes_in_is_written_to() -> None:
    x, w, b = arrays(np.random.default_rng(0), np.float64, 2, 2, 9, 6, 3)
    x = np.asfortranarray(x)  # not contiguous, too
    before = [a.copy() for a in (x, w, b)]
    y, backward = winograd_conv2d(x, w, b)
    dy = np.ones_like(y)
    first = backward(dy)
    again = backward(dy)
    for a, copy in zip((x, w, b, dy), (*before, np.ones_like(y)), strict=True):
        np.testing.assert_array_equal(a, copy)
    for a, copy in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, copy)


def test_a_wrong_delta_error_is_refused() -> None:
    x, w, b = arrays(np.random.default_rng(0), np.float64, 2, 2, 9, 6, 3)
    _, backward = winograd_conv2d(x, w, b)
    with pytest.raises(ValueError, match="axis 2 must have length 5"):
        backward(np.zeros((2, 3, 4, 2)))


def test_one_tile_by_the_matrices_is_a_correlation() -> None:
    """y = Aᵀ [(G g) ⊙ (Bᵀ d)], in one axis, with the factors of G ⊗ G."""
    a_t, a, b_t, g = winograd.matrices("float64")
    np.testing.assert_array_equal(a, a_t.T)
    rng = np.random.default_rng(0)
    d, kernel = rng.normal(size=8), rng.normal(size=5)
    outer = np.kron(kernel, kernel)
    values = g @ outer  # (G g)_a (G g)_b
    tile = np.outer(b_t @ d, b_t @ d).ravel() * values
    y = np.kron(a_t, a_t) @ tile
    expected = np.correlate(d, kernel, "valid")
    np.testing.assert_allclose(y.reshape(4, 4), np.outer(expected, expected), rtol=1e-11)
