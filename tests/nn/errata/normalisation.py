"""Sections 4.8 and 4.9: equations 37–53."""

from __future__ import annotations

import numpy as np

from faceresnet.nn import batch_norm, numerical_derivative, relative_error

from .erratum import Erratum, Measured
from .numbers import irregular

R, C, H, W = 3, 2, 2, 4
RHW, AXES = R * H * W, (0, 2, 3)
X = 2 + 0.25 * irregular((R, C, H, W), 1)  # a deviation of 1 would hide a wrong exponent
GAMMA, BETA, DELTA = irregular(C, 2), irregular(C, 3), irregular((R, C, H, W), 4)
MU, VARIANCE = X.mean(axis=AXES), X.var(axis=AXES)
CENTRED = X - MU[:, None, None]


def _wide(a: np.ndarray) -> np.ndarray:
    return a[None, :, None, None]


def _forward(x: np.ndarray, gamma: np.ndarray = GAMMA, beta: np.ndarray = BETA) -> np.ndarray:
    """Equations 37–40 as printed, without ε."""
    mean, variance = x.mean(axis=AXES), x.var(axis=AXES)
    return _wide(gamma) * (x - _wide(mean)) * _wide(variance) ** -0.5 + _wide(beta)


def kronecker() -> tuple[Measured, Measured]:
    a = np.array([1.0, 2.0, 4.0])
    identity = np.eye(3)
    printed = np.array([[(a[i] * identity[i]).sum() for _ in a] for i in range(3)])  # [i, j]
    right = np.array([(a * identity[:, j]).sum() for j in range(3)])
    claimed = np.broadcast_to(a, (3, 3))  # a_j, whatever i
    return relative_error(printed, claimed), relative_error(right, a)


def variance_in_50() -> Measured:
    """∂σ²_c'/∂X_rchw = 2 / RHW (X_rc'hw − μ_c') I_c'c, for the first channel c'."""
    derivative = numerical_derivative(lambda x: x.var(axis=AXES)[0:1], X, np.ones(1))
    return relative_error(2 / RHW * CENTRED * np.array([1.0, 0.0])[:, None, None], derivative)


def _eq51(exponent: float) -> np.ndarray:
    bracket = (
        RHW * DELTA
        - _wide(DELTA.sum(axis=AXES))
        - CENTRED * _wide(VARIANCE**exponent) * _wide((DELTA * CENTRED).sum(axis=AXES))
    )
    return _wide(GAMMA * VARIANCE**-0.5) / RHW * bracket


def exponent_in_51() -> tuple[Measured, Measured]:
    by_x = numerical_derivative(_forward, X, DELTA)
    return relative_error(_eq51(-1.5), by_x), relative_error(_eq51(-1), by_x)


def third_line_of_51() -> Measured:
    scale = _wide(GAMMA)
    dx = (
        DELTA * scale * _wide(VARIANCE**-0.5)
        - _wide(DELTA.sum(axis=AXES)) * scale * _wide(VARIANCE**-0.5) / RHW
        - _wide((DELTA * CENTRED).sum(axis=AXES)) * scale * CENTRED * _wide(VARIANCE**-1.5) / RHW
    )
    return relative_error(dx, numerical_derivative(_forward, X, DELTA))


def parameters_in_52_53() -> Measured:
    x_hat = CENTRED * _wide(VARIANCE**-0.5)
    by_gamma = numerical_derivative(lambda gamma: _forward(X, gamma=gamma), GAMMA, DELTA)
    by_beta = numerical_derivative(lambda beta: _forward(X, beta=beta), BETA, DELTA)
    return max(
        relative_error((DELTA * x_hat).sum(axis=AXES), by_gamma),
        relative_error(DELTA.sum(axis=AXES), by_beta),
    )


def constant_channel() -> tuple[Measured, Measured]:
    x = np.full((2, 1, 2, 2), 7.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        printed = _forward(x, np.ones(1), np.zeros(1))
    right, _, _ = batch_norm(x, np.ones(1), np.zeros(1))
    return "NaN" if np.isnan(printed).all() else "finite", float(np.abs(right).max())


def divided_by_the_variance() -> tuple[Measured, Measured]:
    by_variance = (CENTRED / _wide(VARIANCE)).var(axis=AXES)
    by_deviation = (CENTRED / _wide(VARIANCE**0.5)).var(axis=AXES)
    one = np.ones(C)
    return relative_error(by_variance, one), relative_error(by_deviation, one)


def batch_of_one() -> tuple[Measured, Measured]:
    x = irregular((1, 2, 8, 8), 5)
    y, _, _ = batch_norm(x, np.ones(2), np.zeros(2), epsilon=0)
    return "R = 2", f"R = 1: mean 0, variance {y.var(axis=AXES).mean():.3g}"


def biased_variance() -> tuple[Measured, Measured]:
    """Mean of the batch's variance over many batches of 2 from N(0, 1), in which it should be 1."""
    batches = np.random.default_rng(10).standard_normal((100_000, 2))
    printed = batches.var(axis=1).mean()
    return f"σ² = {printed:.1f}", f"σ² = {2 * printed:.1f}"


WRONG = [
    Erratum(
        "45",
        "`Σ_j a_i I_ij = a_j`",
        "`Σ_i a_i I_ij = a_j`",
        "j is summed over and cannot stay: the left side is a_i. Measured with a = (1, 2, 4).",
        kronecker,
    ),
    Erratum(
        "51, last line",
        "`(σ²)^(−3/2)` inside the bracket",
        "`(σ²)^(−1)`",
        "(σ²)^(−1/2) of the −3/2 already stands before the bracket. The line above is right. "
        "Measured with σ ≈ 0.3; with σ = 1 it does not show.",
        exponent_in_51,
    ),
]

NOT_IN_FLOATING_POINT = [
    Erratum(
        "39",
        "`(X − μ)(σ²)^(−1/2)`",
        "`(X − μ)(σ² + ε)^(−1/2)`",
        "0 · ∞ where a feature map is constant, as the border pixels of the digits are.",
        constant_channel,
    ),
]

WORDS = [
    Erratum(
        "section 4.8",
        "“dividing the feature map with the variance”",
        "with the standard deviation, as 39 does",
        "Measured: how far the variance of the result is from the 1 that is promised.",
        divided_by_the_variance,
    ),
    Erratum(
        "section 5.2",
        "a batch size of 2 is “the bare minimum for batch normalization to function”",
        "1 is enough where HW > 1",
        "By 37 and 38 the mean is over RHW numbers. Measured: R = 1, 8×8 pixels.",
        batch_of_one,
    ),
    Erratum(
        "38, 42",
        "the batch's variance, divided by RHW, averaged for run time",
        "for run time, divided by RHW − 1",
        "The one that normalises is right as it is, but it underestimates the population's; "
        "[2], which section 4.8 follows, corrects that for run time. Here we stay with the "
        "paper: with RHW in the thousands it is nothing. Measured: the mean over batches of 2 "
        "from N(0, 1).",
        biased_variance,
    ),
]

RIGHT = [
    ("50", variance_in_50),
    ("51, last line but one", third_line_of_51),
    ("52, 53", parameters_in_52_53),
]
