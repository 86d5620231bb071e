import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from faceresnet.nn import conv2d, fast_conv2d, im2row, max_pool2d, row2im
from faceresnet.nn.shapes import output_size

from .compare import (
    NUMERICAL,
    PYTORCH,
    apart,
    both,
    difference,
    difference_to_torch,
    examples,
    largest_error,
    pairs,
    seeds,
)

sizes = st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 8)] * 2)  # R C H W
kernels, strides, paddings = pairs(1, 4), pairs(1, 3), pairs(0, 2)


def _fits(shape, kernel, padding=0):
    room = [n + 2 * p for n, p in zip(shape[2:], both(padding), strict=True)]
    return all(k <= n for k, n in zip(both(kernel), room, strict=True))


@examples
@given(sizes, st.integers(1, 4), kernels, strides, paddings, st.booleans(), seeds)
@pytest.mark.parametrize("convolve", [conv2d, fast_conv2d])
def test_convolution(convolve, shape, c_out, kernel, stride, padding, biased, seed):
    torch = pytest.importorskip("torch")
    assume(_fits(shape, kernel, padding))
    normal = np.random.default_rng(seed).standard_normal
    inputs = {"x": normal(shape), "w": normal((c_out, shape[1], *both(kernel)))}
    inputs["b"] = normal(c_out) if biased else np.zeros(c_out)

    def ours(x, w, b):
        return convolve(x, w, b, stride, padding)

    assert largest_error(ours, inputs) < NUMERICAL
    theirs = lambda x, w, b: torch.nn.functional.conv2d(x, w, b, stride, padding)  # noqa: E731
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH

    if not biased:
        without, backward = convolve(inputs["x"], inputs["w"], stride=stride, padding=padding)
        y, expected = ours(*inputs.values())
        assert np.array_equal(without, y)
        assert np.array_equal(backward(y)[2], expected(y)[2])


def test_convolution_by_hand():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    w = np.array([[[[1.0, 0.0], [0.0, -2.0]]]])
    y, _ = conv2d(x, w, np.array([100.0]), stride=2)
    assert y.tolist() == [[[[100 + 0 - 10, 100 + 2 - 14], [100 + 8 - 26, 100 + 10 - 30]]]]


@examples
@given(sizes, kernels, strides, paddings, seeds)
def test_row2im_is_the_transpose_of_im2row(shape, kernel, stride, padding, seed):
    assume(_fits(shape, kernel, padding))
    normal = np.random.default_rng(seed).standard_normal
    x = normal(shape)
    rows = im2row(x, kernel, stride, padding)
    other = normal(rows.shape)
    back = row2im(other, shape, kernel, stride, padding)
    assert np.vdot(rows, other) == pytest.approx(np.vdot(x, back), abs=1e-9)


@examples
@given(sizes, kernels, strides, paddings, seeds)
def test_im2row_is_unfold(shape, kernel, stride, padding, seed):
    torch = pytest.importorskip("torch")
    assume(_fits(shape, kernel, padding))
    x = np.random.default_rng(seed).standard_normal(shape)
    columns = torch.nn.functional.unfold(
        torch.tensor(x), both(kernel), padding=both(padding), stride=both(stride)
    )
    rows = columns.numpy().transpose(0, 2, 1).reshape(-1, columns.shape[1])
    assert np.array_equal(im2row(x, kernel, stride, padding), rows)


@examples
@given(sizes, kernels, st.none() | strides, seeds)
def test_max_pool2d(shape, kernel, stride, seed):
    torch = pytest.importorskip("torch")
    assume(_fits(shape, kernel))
    inputs = {"x": apart(np.random.default_rng(seed), shape)}
    ours = lambda x: max_pool2d(x, kernel, stride)  # noqa: E731
    assert largest_error(ours, inputs) < NUMERICAL
    theirs = lambda x: torch.nn.functional.max_pool2d(x, kernel, stride)  # noqa: E731
    assert difference_to_torch(ours, theirs, inputs) < PYTORCH


def test_overlapping_windows_sum_their_delta_errors():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 5
    y, backward = max_pool2d(x, 2, 1)
    assert y.tolist() == [[[[5, 5], [5, 5]]]]
    dx = backward(np.array([[[[1.0, 2], [3, 4]]]]))
    assert dx.tolist() == [[[[0, 0, 0], [0, 10, 0], [0, 0, 0]]]]


def test_of_equal_values_the_first_gets_the_delta_error():
    _, backward = max_pool2d(np.ones((1, 1, 2, 2)), 2)
    assert backward(np.ones((1, 1, 1, 1))).tolist() == [[[[1, 0], [0, 0]]]]


def test_a_nan_is_not_lost_in_pooling():
    x = np.zeros((1, 1, 2, 2))
    x[0, 0, 1, 0] = np.nan
    assert np.isnan(max_pool2d(x, 2)[0]).all()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        ((7, 7), (3, 3), (1, 1), (0, 0), (5, 5)),  # figure 9, whose caption says 4×4
        ((28, 28), (5, 5), (1, 1), (0, 0), (24, 24)),
        ((8, 9), (3, 2), (2, 3), (1, 0), (4, 3)),
    ],
)
def test_output_size(size, kernel, stride, padding, expected):
    assert output_size(size, kernel, stride, padding) == expected


@pytest.mark.parametrize("convolve", [conv2d, fast_conv2d])
@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((2, 3, 5, 5), (4, 2, 3, 3), (4,)), {}, r"w: axis 1 \(C\) must have length 3, got 2"),
        (((2, 3, 5, 5), (4, 3, 3, 3), (3,)), {}, r"b: axis 0 \(C_out\) must have length 4, got 3"),
        (((2, 3, 5), (4, 3, 3, 3), (4,)), {}, r"x must have 4 axes \(R, C, H, W\), got 3"),
        (((2, 3, 5, 2), (4, 3, 3, 3), (4,)), {}, r"x: axis 3 \(W\) must have length 3 or more"),
        (((2, 3, 5, 5), (4, 3, 3, 3), (4,)), {"stride": 0}, "stride must be at least 1"),
        (((2, 3, 5, 5), (4, 3, 3, 3), (4,)), {"padding": (0, -1)}, "padding must be at least 0"),
        (((2, 3, 5, 5), (4, 3, 3, 3), (4,)), {"stride": (1, 2, 3)}, "stride must be an int or a"),
        (((2, 3, 5, 5), (4, 3, 3, 3), (4,)), {"stride": 1.5}, "stride must be an int or a pair"),
    ],
)
def test_wrong_convolutions_say_what_is_wrong(convolve, shapes, options, message):
    with pytest.raises(ValueError, match=message):
        convolve(*(np.zeros(shape) for shape in shapes), **options)


def test_wrong_rows_and_windows_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"rows must have shape \(18, 12\), got \(18, 11\)"):
        row2im(np.zeros((18, 11)), (2, 3, 4, 4), 2)
    with pytest.raises(ValueError, match=r"x: axis 2 \(H\) must have length 5 or more"):
        max_pool2d(np.zeros((1, 1, 4, 5)), 5)
    with pytest.raises(ValueError, match=r"dy: axis 2 must have length 3 as y has, got 4"):
        conv2d(np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 2, 2)))[1](np.zeros((1, 1, 4, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fast_convolution_is_the_convolution(dtype):
    """At the size of the digits' network, where float32 sums 800 products."""
    normal = np.random.default_rng(0).standard_normal
    x, w, b, dy = (
        normal(shape).astype(dtype)
        for shape in [(3, 32, 12, 12), (32, 32, 5, 5), 32, (3, 32, 8, 8)]
    )
    y, backward = conv2d(x, w, b)
    fast, fast_backward = fast_conv2d(x, w, b)
    tolerance = 100 * np.finfo(dtype).eps
    assert difference(fast, y) < tolerance
    for one, expected in zip(fast_backward(dy), backward(dy), strict=True):
        assert one.dtype == dtype
        assert difference(one, expected) < tolerance
