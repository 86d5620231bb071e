"""Sections 4.6 and 4.7: equations 31–36."""

from __future__ import annotations

import numpy as np

from faceresnet.nn import max_pool2d, numerical_derivative, relative_error

from .erratum import Erratum, Measured
from .numbers import irregular

H, K = 6, 2
X = 0.1 * irregular(H * H, 1).argsort().reshape(1, 1, H, H)  # no two values close to each other


def _delta(s: int) -> np.ndarray:
    n = (H - K) // s + 1
    return irregular((1, 1, n, n), 2)


def _by_x(s: int) -> np.ndarray:
    return numerical_derivative(lambda x: max_pool2d(x, K, s)[0], X, _delta(s))


def _largest(h: int, w: int, s: int) -> tuple[int, int]:
    """Where the largest pixel of a window is."""
    window = X[0, 0, s * h : s * h + K, s * w : s * w + K]
    j, i = np.unravel_index(window.argmax(), window.shape)
    return s * h + int(j), s * w + int(i)


def output_width() -> tuple[Measured, Measured]:
    y = max_pool2d(np.zeros((1, 1, 5, 5)), 2)[0]
    return f"{(5 - 2) / 2 + 1:g} columns", f"{y.shape[3]} columns"


def first_pixel() -> tuple[Measured, Measured]:
    expected = max_pool2d(X, K, K)[0]
    outcome = []
    for first in (K - 1, 0):  # h's + j with h' from 1 is pixel h's + j − 1 of those counted from 0
        y = np.zeros_like(expected)
        for h, w in np.ndindex(*y.shape[2:]):
            top, left = K * h + first, K * w + first
            y[0, 0, h, w] = X[0, 0, top : top + K, left : left + K].max()
        outcome.append(relative_error(y, expected))
    return outcome[0], outcome[1]


def sum_in_35() -> tuple[Measured, Measured]:
    delta, printed, right = _delta(1), np.zeros(X.shape), np.zeros(X.shape)
    for h, w in np.ndindex(*delta.shape[2:]):
        at = _largest(h, w, 1)
        printed[0, 0, *at] = delta[0, 0, h, w]  # one h', w' for each pixel: here the last
        right[0, 0, *at] += delta[0, 0, h, w]
    return relative_error(printed, _by_x(1)), relative_error(right, _by_x(1))


def condition_in_36() -> tuple[Measured, Measured]:
    delta, printed, right = _delta(K), np.zeros(X.shape), np.zeros(X.shape)
    for h, w in np.ndindex(*delta.shape[2:]):
        for j, i in np.ndindex(K, K):
            printed[0, 0, K * h + j, K * w + i] = delta[0, 0, h, w]
        right[0, 0, *_largest(h, w, K)] = delta[0, 0, h, w]
    return relative_error(printed, _by_x(K)), relative_error(right, _by_x(K))


def equal_values() -> tuple[Measured, Measured]:
    """Along (1, 1, 1, 1) the maximum of four equal values does have a derivative: 1."""
    window, h = np.full((1, 1, K, K), 0.5), 1e-3
    along = (max_pool2d(window + h, K)[0] - max_pool2d(window - h, K)[0]).item() / (2 * h)
    printed = float((window == window.max()).sum())
    right = float(max_pool2d(window, K)[1](np.ones((1, 1, 1, 1))).sum())
    return (
        relative_error(np.array(printed), np.array(along)),
        relative_error(np.array(right), np.array(along)),
    )


WRONG = [
    Erratum(
        "31, 32",
        "`W' = (W − k) / s + 1`",
        "`W' = ⌊(W − k) / s⌋ + 1`",
        "As 20 and 21. Measured: W = 5, k = 2, s = 2.",
        output_width,
    ),
    Erratum(
        "34",
        "`X_(h's+j)(w's+i)`, `0 ≤ j < k`",
        "`X_((h'−1)s+j)((w'−1)s+i)`, `1 ≤ j ≤ k`; right if all is counted from 0",
        "j and i are counted from 0, h' and w' by section 3.1 from 1: the first s − 1 rows and "
        "columns are never looked at. Measured at k = s = 2, cutting windows off at the border.",
        first_pixel,
    ),
    Erratum(
        "35, 36",
        "`δ_rchw = δ_rc'h'w' ∂max/∂X_rchw`",
        "`δ_rchw = Σ_h' Σ_w' δ_rch'w' ∂max/∂X_rchw`",
        "Where windows overlap; the text below says it, the formulas do not. Measured at k = 2, "
        "s = 1, taking the last window of each pixel.",
        sum_in_35,
    ),
    Erratum(
        "36",
        "`δ_rch'w'` if `h = h's + j`, `w = w's + i`",
        "… where (j, i) is the place of the largest value in the window h', w'",
        "Every pixel of the window is some h's + j. Measured at k = s = 2.",
        condition_in_36,
    ),
    Erratum(
        "36, text",
        "1 if and only if `X_(h's+j)(w's+i) = X_hw`",
        "1 for one of the equal values, 0 for the others (or parts that sum to 1)",
        "Four equal values would all get the whole delta-error. Measured: the derivative along "
        "(1, 1, 1, 1), which exists and is 1.",
        equal_values,
    ),
]
