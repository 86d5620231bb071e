"""Convolution and max pooling: the operations that slide a window over an image.

`im2row` lays every window out as a row of one matrix, so that a convolution is one matrix product;
`row2im` is its transpose and puts rows back, adding where windows overlap. The paper leaves both to
its reader (section 4.2); here they are the definition, in four lines each. `fast_convolution` does
the same sums in another order.

The conventions are those of `functional`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from faceresnet.nn.functional import Backward, Backward3
from faceresnet.nn.shapes import Array, Pair, check, check_delta, output_size, pair

_IMAGE = {"R": None, "C": None, "H": None, "W": None}


def im2row(
    x: Float[np.ndarray, "R C H W"], kernel: Pair, stride: Pair = 1, padding: Pair = 0
) -> Float[np.ndarray, "rows columns"]:
    """Every window of an image as a row: a convolution is then ``im2row(x) @ w.T``.

    Args:
        x: (R, C, H, W).
        kernel: (K_h, K_w) of the window.
        stride: step from one window to the next.
        padding: zeros put around the image.

    Returns:
        (R·H_out·W_out, C·K_h·K_w): rows in the order of the output's r, h', w', columns in the
        order of the kernel's c, j, i.
    """
    check("x", x, x, _IMAGE)
    kernel, stride = pair("kernel", kernel, 1), pair("stride", stride, 1)
    padding = pair("padding", padding, 0)
    h_out, w_out = output_size((x.shape[2], x.shape[3]), kernel, stride, padding)
    windows = sliding_window_view(_pad(x, padding), kernel, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1]]  # (R, C, H_out, W_out, K_h, K_w)
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(
        x.shape[0] * h_out * w_out, x.shape[1] * kernel[0] * kernel[1]
    )


def row2im(
    rows: Float[np.ndarray, "rows columns"],
    shape: tuple[int, int, int, int],
    kernel: Pair,
    stride: Pair = 1,
    padding: Pair = 0,
) -> Float[np.ndarray, "R C H W"]:
    """Rows put back where `im2row` took them from, added where windows overlap.

    It is the transpose of `im2row`, not its inverse: Σ im2row(x) · rows = Σ x · row2im(rows).

    Args:
        rows: (R·H_out·W_out, C·K_h·K_w).
        shape: (R, C, H, W) of the image.
        kernel: as given to `im2row`.
        stride: as given to `im2row`.
        padding: as given to `im2row`; what falls on the padding is dropped.

    Returns:
        (R, C, H, W).
    """
    kernel, stride = pair("kernel", kernel, 1), pair("stride", stride, 1)
    padding = pair("padding", padding, 0)
    r, c, h, w = shape
    h_out, w_out = output_size((h, w), kernel, stride, padding)
    expected = {"rows R·H_out·W_out": r * h_out * w_out, "columns": c * kernel[0] * kernel[1]}
    if rows.shape != tuple(expected.values()):
        raise ValueError(f"rows must have shape {tuple(expected.values())}, got {rows.shape}")
    windows = rows.reshape(r, h_out, w_out, c, *kernel).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((r, c, h + 2 * padding[0], w + 2 * padding[1]), dtype=rows.dtype)
    for j in range(kernel[0]):
        for i in range(kernel[1]):
            rows_j = slice(j, j + stride[0] * (h_out - 1) + 1, stride[0])
            columns_i = slice(i, i + stride[1] * (w_out - 1) + 1, stride[1])
            padded[:, :, rows_j, columns_i] += windows[:, :, j, i]
    return padded[:, :, padding[0] : padding[0] + h, padding[1] : padding[1] + w]


def conv2d(
    x: Float[np.ndarray, "R C H W"],
    w: Float[np.ndarray, "C_out C K_h K_w"],
    b: Float[np.ndarray, "C_out"] | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
) -> tuple[Float[np.ndarray, "R C_out H_out W_out"], Backward3]:
    """Convolution of an image with C_out kernels, as one matrix product (eq. 20–24).

    As everywhere in neural networks the kernel is not turned round: it is a cross-correlation.

    Args:
        x: (R, C, H, W) activations.
        w: (C_out, C, K_h, K_w) kernels.
        b: (C_out,) biases; None is none, which the paper's eq. 24 has.
        stride: step of the kernel, (height, width) or one number for both.
        padding: zeros put around the image, (height, width) or one number for both.

    Returns:
        y (R, C_out, H_out, W_out), and backward(dy) → dx, dw, db; db is the derivative at b = 0
        where there was none.
    """
    size, stride, padding = check_convolution(x, w, b, stride, padding)
    c_out, kernel = w.shape[0], (w.shape[2], w.shape[3])
    rows = im2row(x, kernel, stride, padding)  # (R·H_out·W_out, C·K_h·K_w)
    matrix = w.reshape(c_out, rows.shape[1])
    # eq. 24, corrected: y_rc'h'w' = Σ_cji x_rc(sh'+j)(sw'+i) w_c'cji, j and i counted from 0
    product = rows @ matrix.T
    if b is not None:
        product += b
    y: Array = product.reshape(x.shape[0], *size, c_out).transpose(0, 3, 1, 2)

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        check_delta(dy, y)
        delta = dy.transpose(0, 2, 3, 1).reshape(rows.shape[0], c_out)
        # eq. 25–27: dx_rchw = Σ_c'h'w' dy_rc'h'w' w_c'c(h−sh')(w−sw')
        dx = row2im(delta @ matrix, x.shape, kernel, stride, padding)
        # eq. 28, corrected: dw_c'cji = Σ_rh'w' dy_rc'h'w' x_rc(sh'+j)(sw'+i)
        dw: Array = (delta.T @ rows).reshape(w.shape)
        db: Array = delta.sum(axis=0)
        return dx, dw, db

    return y, backward


def max_pool2d(
    x: Float[np.ndarray, "R C H W"], kernel: Pair, stride: Pair | None = None
) -> tuple[Float[np.ndarray, "R C H_out W_out"], Backward]:
    """Largest value of every window (eq. 31–34).

    Args:
        x: (R, C, H, W).
        kernel: (height, width) of the window, or one number for both.
        stride: step of the window; None is the kernel's size, so that windows do not overlap.

    Returns:
        y (R, C, H_out, W_out), and backward(dy) → dx. A delta-error goes to the largest value of
        its window, of equal ones to the first in reading order; a value that is the largest of
        several windows gets the sum of theirs.
    """
    check("x", x, x, _IMAGE)
    kernel = pair("kernel", kernel, 1)
    stride = kernel if stride is None else pair("stride", stride, 1)
    h_out, w_out = output_size((x.shape[2], x.shape[3]), kernel, stride, (0, 0))
    windows = sliding_window_view(x, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    flat = windows.reshape(*x.shape[:2], h_out, w_out, kernel[0] * kernel[1])
    largest = flat.argmax(axis=-1)  # the first of equal ones
    y: Array = np.take_along_axis(flat, largest[..., None], axis=-1)[..., 0]

    def backward(dy: Array) -> Array:
        check_delta(dy, y)
        dx = np.zeros(x.shape, dtype=x.dtype)
        for at in range(kernel[0] * kernel[1]):
            j, i = divmod(at, kernel[1])
            rows = slice(j, j + stride[0] * (h_out - 1) + 1, stride[0])
            columns = slice(i, i + stride[1] * (w_out - 1) + 1, stride[1])
            dx[:, :, rows, columns] += dy * (largest == at)  # eq. 35–36, summed where they meet
        return dx

    return y, backward


def check_convolution(
    x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(H_out, W_out), stride and padding of a convolution, once its arguments are found right.

    Raises:
        ValueError: says which axis, what was expected and what came.
    """
    check("x", x, x, _IMAGE)
    check("w", w, x, {"C_out": None, "C": x.shape[1], "K_h": None, "K_w": None})
    if b is not None:
        check("b", b, x, {"C_out": w.shape[0]})
    stride, padding = pair("stride", stride, 1), pair("padding", padding, 0)
    kernel = (w.shape[2], w.shape[3])
    return output_size((x.shape[2], x.shape[3]), kernel, stride, padding), stride, padding


def _pad(x: Array, padding: tuple[int, int]) -> Array:
    """Copy of x with zeros around it, or x itself where there is no padding."""
    if padding == (0, 0):
        return x
    h, w = padding
    return np.pad(x, ((0, 0), (0, 0), (h, h), (w, w)))
