"""Section 3: equations 1–18."""

from __future__ import annotations

import numpy as np

from faceresnet.nn import mean_squared_error, numerical_derivative, relative_error

from .erratum import Erratum, Measured
from .numbers import irregular

R, N = 5, 4  # as many neurons after as before, or half of the printed indices run out of range
X, W, B, DELTA = irregular((R, N), 1), irregular((N, N), 2), irregular(N, 3), irregular((R, N), 4)
Z = X @ W + B
SLOPE = 1 - np.tanh(Z) ** 2  # f'(Z) of the layer that is measured, f = tanh


def _forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w + b)


def _by_x() -> np.ndarray:
    return numerical_derivative(lambda x: _forward(x, W, B), X, DELTA)


def shape_of_w() -> tuple[Measured, Measured]:
    declared = W.T  # W_ji connects neuron i with neuron j of the next layer
    printed = np.einsum("ri,ij->rj", X, declared)
    right = np.einsum("ri,ji->rj", X, declared)
    strengths = np.array([[sum(x[i] * W[i, j] for i in range(N)) for j in range(N)] for x in X])
    return relative_error(printed, strengths), relative_error(right, strengths)


def bias() -> tuple[Measured, Measured]:
    b = 0.3  # one bias for the whole layer, as declared
    slope = 1 - np.tanh(X @ W + b) ** 2
    by_scalar = numerical_derivative(lambda b: _forward(X, W, b), np.array([b]), DELTA)
    printed = np.einsum("ri,ri->i", DELTA, slope)  # one number for each neuron
    by_vector = numerical_derivative(lambda b: _forward(X, W, b), B, DELTA)
    right = np.einsum("rj,rj->j", DELTA, SLOPE)
    return relative_error(printed, np.repeat(by_scalar, N)), relative_error(right, by_vector)


def slope_in_15() -> tuple[Measured, Measured]:
    printed = np.einsum("rj,ri,ij->ri", DELTA, SLOPE, W)
    right = np.einsum("rj,rj,ij->ri", DELTA, SLOPE, W)
    return relative_error(printed, _by_x()), relative_error(right, _by_x())


def weight_in_15() -> tuple[Measured, Measured]:
    printed = np.einsum("rj,rj,ji->ri", DELTA, SLOPE, W)
    right = np.einsum("rj,rj,ij->ri", DELTA, SLOPE, W)
    return relative_error(printed, _by_x()), relative_error(right, _by_x())


def weight_in_17() -> tuple[Measured, Measured]:
    by_w = numerical_derivative(lambda w: _forward(X, w, B), W, DELTA)
    last_line = np.einsum("ri,ri,rj->ji", DELTA, SLOPE, X)  # ∂L/∂W_ji of the left side
    # ∂Z_ri/∂W_ij = ∂(Σ_a X_ra W_ai)/∂W_ij, which is X_ri where j = i and 0 elsewhere
    first_line = np.einsum("ri,ri,ri,ij->ji", DELTA, SLOPE, X, np.eye(N))
    return relative_error(first_line, by_w), relative_error(last_line, by_w)


def loss_in_16() -> Measured:
    y = DELTA
    derivative = numerical_derivative(
        lambda y_hat: np.asarray(mean_squared_error(y_hat, y)[0]), X, np.array(1.0)
    )
    return relative_error(2 / (R * N) * (X - y), derivative)


def tanh_of_a_large_number() -> tuple[Measured, Measured]:
    x = 1000.0
    with np.errstate(over="ignore", invalid="ignore"):
        printed = (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))
    return "NaN" if np.isnan(printed) else float(abs(printed - 1)), float(abs(np.tanh(x) - 1))


WRONG = [
    Erratum(
        "1, 3",
        "`W ∈ R^(N(l+1) × N(l))`, `W_ji` connects `X_ri` with `X_rj`, and `Z_rj = b + Σ_i X_ri "
        "W_ij`",
        "`W ∈ R^(N(l) × N(l+1))`, `W_ij` connects `X_ri` with `X_rj`",
        "Equations 1 and 3 use the transpose of the W that the text declares. Measured: Z of a "
        "square layer; in any other the product has no shape.",
        shape_of_w,
    ),
    Erratum(
        "1, 3, 18",
        "`b ∈ R`, `∂L/∂b = Σ_r δ_ri f'(Z_ri)`",
        "`b ∈ R^N(l+1)`, `Z_rj = b_j + …`, `∂L/∂b_j = Σ_r δ_rj f'(Z_rj)`",
        "One bias for a whole layer would need Σ_i as well; the left side has no i, the right "
        "side has, and its first line has `b_ij`. Measured: each number of 18 against the "
        "derivative by the one b.",
        bias,
    ),
    Erratum(
        "15",
        "`Σ_j δ_rj f'(Z_ri) W`",
        "`Σ_j δ_rj f'(Z_rj) W`",
        "The slope belongs to the neuron j of the next layer. Measured with the right index of W.",
        slope_in_15,
    ),
    Erratum(
        "15",
        "`Σ_j δ_rj f'(Z) W_ji`",
        "`Σ_j δ_rj f'(Z) W_ij`",
        "Right for the W of the text, wrong for that of equation 1. Measured with the right "
        "index of Z.",
        weight_in_15,
    ),
    Erratum(
        "17, first line",
        "`∂L/∂W_ji = Σ_r … ∂Z_ri/∂W_ij`",
        "`∂L/∂W_ji = Σ_r … ∂Z_ri/∂W_ji`",
        "Z_ri depends on W_ij where i = j only. The last line is right for the W of equation 1.",
        weight_in_17,
    ),
]

NOT_IN_FLOATING_POINT = [
    Erratum(
        "7",
        "`(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)`",
        "the same, by `np.tanh`",
        "∞ / ∞ from |x| = 710 on. Measured at x = 1000.",
        tanh_of_a_large_number,
    ),
]

RIGHT = [("16", loss_in_16), ("17, last line", lambda: weight_in_17()[1])]
