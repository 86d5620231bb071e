"""Sections 4.2 and 4.3: equations 20–28."""

from __future__ import annotations

import numpy as np

from faceresnet.nn import conv2d, numerical_derivative, relative_error

from .erratum import Erratum, Measured
from .numbers import irregular

# As many channels after as before, so that W of the next layer has the indices 25–27 ask for.
R, C, H, W, K = 2, 3, 7, 9, 3
X = irregular((R, C, H, W), 1)
KERNEL, KERNEL_AFTER = irregular((C, C, K, K), 2), irregular((C, C, K, K), 3)


def _delta(s: int) -> np.ndarray:
    return irregular((R, C, (H - K) // s + 1, (W - K) // s + 1), 4)


def _at(x: np.ndarray, h: int, w: int) -> np.ndarray | float:
    """All examples and channels of one pixel, counted from 0; nothing lies outside the image."""
    inside = 0 <= h < x.shape[2] and 0 <= w < x.shape[3]
    return x[:, :, h, w] if inside else 0.0


def _eq24(step: int, first: int, s: int) -> np.ndarray:
    """Σ_cji X_rc(step·h' + j + first)(…) W_c'cji, with h', w', j, i from 0."""
    y = np.zeros(_delta(s).shape)
    for h, w, j, i in np.ndindex(*y.shape[2:], K, K):
        pixel = _at(X, step * h + j + first, step * w + i + first)
        y[:, :, h, w] += pixel @ KERNEL[:, :, j, i].T if isinstance(pixel, np.ndarray) else 0
    return y


def _eq26(step: int, s: int, kernel: np.ndarray = KERNEL) -> np.ndarray:
    """Σ_c'h'w' δ_rc'h'w' W_c'c(h − step·h')(w − step·w'); beyond the kernel nothing is summed."""
    delta, dx = _delta(s), np.zeros(X.shape)
    for h, w, h_out, w_out in np.ndindex(H, W, *delta.shape[2:]):
        j, i = h - step * h_out, w - step * w_out
        if 0 <= j < K and 0 <= i < K:
            dx[:, :, h, w] += delta[:, :, h_out, w_out] @ kernel[:, :, j, i]
    return dx


def _eq28(step: int, s: int) -> np.ndarray:
    """Σ_rh'w' X_rc(step·h' + h)(step·w' + w) δ_rc'h'w' for every c', c, h, w."""
    delta, dw = _delta(s), np.zeros(KERNEL.shape)
    for j, i, h, w in np.ndindex(K, K, *delta.shape[2:]):
        dw[:, :, j, i] += delta[:, :, h, w].T @ X[:, :, step * h + j, step * w + i]
    return dw


def _by_x(s: int) -> np.ndarray:
    return numerical_derivative(lambda x: conv2d(x, KERNEL, stride=s)[0], X, _delta(s))


def _by_w(s: int) -> np.ndarray:
    return numerical_derivative(lambda w: conv2d(X, w, stride=s)[0], KERNEL, _delta(s))


def output_width() -> tuple[Measured, Measured]:
    width, kernel, s = 8, 3, 2
    windows = conv2d(np.zeros((1, 1, width, width)), np.zeros((1, 1, kernel, kernel)), stride=s)[0]
    assert windows.shape[3] == (width - kernel) // s + 1
    return f"{(width - kernel) / s + 1:g} columns", f"{windows.shape[3]} columns"


def first_pixel() -> tuple[Measured, Measured]:
    y = conv2d(X, KERNEL)[0]
    return relative_error(_eq24(1, 1, 1), y), relative_error(_eq24(1, 0, 1), y)


def stride_in_24() -> tuple[Measured, Measured]:
    y = conv2d(X, KERNEL, stride=2)[0]
    return relative_error(_eq24(1, 0, 2), y), relative_error(_eq24(2, 0, 2), y)


def layer_in_25() -> tuple[Measured, Measured]:
    return (
        relative_error(_eq26(1, 1, KERNEL_AFTER), _by_x(1)),
        relative_error(_eq26(1, 1), _by_x(1)),
    )


def stride_in_26() -> tuple[Measured, Measured]:
    return relative_error(_eq26(1, 2), _by_x(2)), relative_error(_eq26(2, 2), _by_x(2))


def _rot() -> np.ndarray:
    """Kernels turned by 180°, from C' to C."""
    return KERNEL[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)


def padding_in_27() -> tuple[Measured, Measured]:
    printed = conv2d(_delta(1), _rot())[0]  # * is that of equation 24
    right = conv2d(_delta(1), _rot(), padding=K - 1)[0]
    shapes = ["×".join(str(n) for n in one.shape[2:]) for one in (printed, X)]
    return f"{shapes[0]}, not {shapes[1]}", relative_error(right, _by_x(1))


def stride_in_27() -> tuple[Measured, Measured]:
    delta = _delta(2)
    far = np.zeros((R, C, H, W))  # large enough for the shape to come out right
    far[:, :, : delta.shape[2], : delta.shape[3]] = delta
    printed = conv2d(far, _rot(), padding=K - 1)[0][:, :, :H, :W]
    dilated = np.zeros((R, C, H - K + 1, W - K + 1))
    dilated[:, :, ::2, ::2] = delta
    right = conv2d(dilated, _rot(), padding=K - 1)[0]
    return relative_error(printed, _by_x(2)), relative_error(right, _by_x(2))


def sum_in_28() -> tuple[Measured, Measured]:
    right = _eq28(1, 1)
    printed = np.broadcast_to(right.sum(axis=0), right.shape)  # the same for every kernel c'
    return relative_error(printed, _by_w(1)), relative_error(right, _by_w(1))


def stride_in_28() -> tuple[Measured, Measured]:
    return relative_error(_eq28(1, 2), _by_w(2)), relative_error(_eq28(2, 2), _by_w(2))


def figure_9() -> tuple[Measured, Measured]:
    y = conv2d(np.zeros((1, 1, 7, 7)), np.zeros((1, 1, 3, 3)))[0]
    return "4×4", "×".join(str(n) for n in y.shape[2:])


WRONG = [
    Erratum(
        "20, 21",
        "`W' = (W − K + 2p) / s + 1`",
        "`W' = ⌊(W − K + 2p) / s⌋ + 1`",
        "No whole number where s does not divide. Measured: W = 8, K = 3, s = 2, p = 0.",
        output_width,
    ),
    Erratum(
        "22–24",
        "`h = s h'`, `X_(h'+j)(w'+i)`, all counted from 1",
        "`X_(s(h'−1)+j)(s(w'−1)+i)`; counted from 0, `X_(sh'+j)(sw'+i)`",
        "Section 3.1 counts from 1: then the first window begins at pixel 2 and the last one "
        "ends outside the image. Measured at s = 1, taking 0 outside.",
        first_pixel,
    ),
    Erratum(
        "24",
        "`X_(h'+j)(w'+i)`",
        "`X_(sh'+j)(sw'+i)`, counted from 0",
        "The stride of 22 and 23 is never put in; 25 to 28 inherit it. Measured at s = 2.",
        stride_in_24,
    ),
    Erratum(
        "25–27",
        "`W^(l+1)`",
        "`W^(l)`",
        "Layer l+1 is made with the kernels of layer l, as 24 says. Measured at s = 1, with "
        "other kernels in layer l+1.",
        layer_in_25,
    ),
    Erratum(
        "26",
        "`Σ δ_h'w' W_(h−h')(w−w')`",
        "`Σ δ_h'w' W_(h−sh')(w−sw')` over those h', w' for which the index lies in the kernel",
        "The stride again; and the sums run over h' for which the index is outside the kernel. "
        "Measured at s = 2, skipping those. At s = 1 it is right.",
        stride_in_26,
    ),
    Erratum(
        "27",
        "`δ_rchw = Σ_c' rot(W_c'chw) * δ_rc'`",
        "`δ_rc = Σ_c' rot(W_c'c) * (δ_rc' with K − 1 zeros on each side)`",
        "With the `*` of 24 the result is smaller than δ, not larger; and `W_c'chw` is one "
        "number, not a kernel. Measured at s = 1: the size that comes out.",
        padding_in_27,
    ),
    Erratum(
        "27",
        "`δ_rc'`",
        "`δ_rc'` with s − 1 zeros between its rows and columns",
        "Where the stride is not 1. Measured at s = 2, padded to the right size in both cases.",
        stride_in_27,
    ),
    Erratum(
        "28",
        "`∂L/∂W_c'chw = Σ_r Σ_c' Σ_h' Σ_w' …`",
        "`∂L/∂W_c'chw = Σ_r Σ_h' Σ_w' …`",
        "c' is given by the left side; summed over, all kernels would get the same gradient. "
        "Measured at s = 1. (The first line also has `W_rchw`, which does not exist.)",
        sum_in_28,
    ),
    Erratum(
        "28",
        "`X_rc(h'+h)(w'+w) δ_rc'h'w'`",
        "`X_rc(sh'+h)(sw'+w) δ_rc'h'w'`",
        "The stride again. Measured at s = 2, without the sum over c'.",
        stride_in_28,
    ),
]

WORDS = [
    Erratum(
        "figure 9",
        "7×7 with a kernel of 3×3 gives 4×4",
        "5×5, by equation 20",
        "Measured: the size that comes out.",
        figure_9,
    ),
]

RIGHT = [("26, at s = 1, counted from 0", lambda: layer_in_25()[1])]
