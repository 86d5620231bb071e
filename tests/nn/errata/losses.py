"""Sections 4.10 to 5.2: equations 54–61, and the numbers around them."""

from __future__ import annotations

import numpy as np

from faceresnet.nn import cross_entropy, numerical_derivative, relative_error, softmax

from .erratum import Erratum, Measured
from .numbers import irregular

R, C = 3, 4
X, DELTA = irregular((R, C), 1), irregular((R, C), 2)
Y = softmax(X)[0]
ALPHA, GAMMA = 3.0, 2.0
PREDICTED = np.array([0.1, 0.5, 0.9])


def _by_x() -> np.ndarray:
    return numerical_derivative(lambda x: softmax(x)[0], X, DELTA)


def _eq55_third(delta: str, of: np.ndarray) -> np.ndarray:
    """The third line of 55, with δ_rc or δ_rc' and the exponentials of either layer."""
    e = np.exp(of)
    total = e.sum(axis=1)
    jacobian = np.einsum("rk,kc->rkc", e, np.eye(C)) / total[:, None, None]
    jacobian -= np.einsum("rk,rc->rkc", e, e) / total[:, None, None] ** 2
    return np.einsum(f"{delta},rkc->rc", DELTA, jacobian)


def delta_in_55() -> tuple[Measured, Measured]:
    return (
        relative_error(_eq55_third("rc", X), _by_x()),
        relative_error(_eq55_third("rk", X), _by_x()),
    )


def layer_in_55() -> tuple[Measured, Measured]:
    return (
        relative_error(_eq55_third("rk", Y), _by_x()),
        relative_error(_eq55_third("rk", X), _by_x()),
    )


def last_line_of_55() -> tuple[Measured, Measured]:
    printed = DELTA * Y * (1 - Y.sum(axis=1, keepdims=True))
    right = Y * (DELTA - (DELTA * Y).sum(axis=1, keepdims=True))
    return relative_error(printed, _by_x()), relative_error(right, _by_x())


def cross_entropy_in_57() -> Measured:
    y, y_hat = softmax(DELTA)[0], softmax(0.3 * X)[0]  # far enough from 0 for the steps of 13
    derivative = numerical_derivative(lambda p: -(y * np.log(p)).sum(), y_hat, np.array(1.0), 1e-4)
    return relative_error(-y / y_hat, derivative)


def _focal(p: np.ndarray) -> np.ndarray:
    """Lin et al. 2017, equation 5, for the class that is there: p is its predicted probability."""
    return -ALPHA * (1 - p) ** GAMMA * np.log(p)


def focal_of_a_face() -> tuple[Measured, Measured]:
    """With p the ground truth, as ŷ is the prediction everywhere before: a face has p = 1."""
    p, p_hat = np.ones(3), PREDICTED
    printed = -ALPHA * (1 - p) ** GAMMA * p * np.log(p_hat)
    right = -ALPHA * (1 - p_hat) ** GAMMA * p * np.log(p_hat)
    return relative_error(printed, _focal(p_hat)), relative_error(right, _focal(p_hat))


def focal_with_names_of_61() -> tuple[Measured, Measured]:
    """With p̂ the ground truth, as the text before 61 has it: a face has p̂ = 1."""
    p, p_hat = PREDICTED, np.ones(3)
    printed = -ALPHA * (1 - p) ** GAMMA * p * np.log(p_hat)
    right = -ALPHA * (1 - p) ** GAMMA * p_hat * np.log(p)
    return relative_error(printed, _focal(p)), relative_error(right, _focal(p))


def focal_of_background() -> tuple[Measured, Measured]:
    """Loss of an anchor without a face: K = 2 classes, of which the second is there."""
    face = PREDICTED
    background = 1 - face
    one_term = -ALPHA * (1 - face) ** GAMMA * 0 * np.log(face)
    two_terms = one_term - ALPHA * (1 - background) ** GAMMA * 1 * np.log(background)
    return (
        relative_error(one_term, _focal(background)),
        relative_error(two_terms, _focal(background)),
    )


def smooth_l1() -> Measured:
    """Value and slope of both branches of 59 agree at |x| = 1; the slope is x within."""
    x = np.array([-0.9, -0.2, 0.4, 0.8])
    derivative = numerical_derivative(lambda x: 0.5 * x**2, x, np.ones(4))
    return max(
        relative_error(np.array(0.5 * 1.0**2), np.array(1.0 - 0.5)), relative_error(x, derivative)
    )


def no_positive_anchor() -> tuple[Measured, Measured]:
    regression = np.zeros(0)
    with np.errstate(invalid="ignore"):
        printed = np.divide(regression.sum(), len(regression))
    return "NaN" if np.isnan(printed) else 0.0, float(regression.sum() / max(1, len(regression)))


def softmax_of_large_numbers() -> tuple[Measured, Measured]:
    x = np.array([[1000.0, 1000.0]])
    with np.errstate(over="ignore", invalid="ignore"):
        printed = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    right = softmax(x)[0]
    return "NaN" if np.isnan(printed).all() else "finite", float(np.abs(right - 0.5).max())


def zero_times_log_zero() -> tuple[Measured, Measured]:
    y = np.array([[1.0, 0.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        printed = -(y * np.log(y)).sum()
    return "NaN" if np.isnan(printed) else float(printed), float(cross_entropy(y, y)[0])


def sum_in_56() -> tuple[Measured, Measured]:
    """How many times as large the gradient is when the same batch is given twice."""
    y = softmax(DELTA)[0]
    twice, once = np.concatenate([Y, Y]), Y
    printed = (-np.concatenate([y, y]) / twice).sum() / (-y / once).sum()
    right = (
        cross_entropy(twice, np.concatenate([y, y]))[1]().sum() / cross_entropy(once, y)[1]().sum()
    )
    return f"{printed:.1f} times", f"{right:.1f} times"


def largest_anchor() -> tuple[Measured, Measured]:
    sizes = 16 * 2 ** (np.arange(5 * 3) / 3)
    return "416 px", f"{sizes[-1]:.0f} px"


def caption_of_figure_15() -> tuple[Measured, Measured]:
    """Two 2×2 squares that share one pixel."""
    intersection, union = 1, 4 + 4 - 1
    return f"{union / intersection:.2f}", f"{intersection / union:.2f}"


WRONG = [
    Erratum(
        "55, line 3",
        "`Σ_c' δ_rc (…)`",
        "`Σ_c' δ_rc' (…)`",
        "The chain rule of line 2 has the delta-error of every c'; line 4 has the same slip. "
        "Measured with the exponentials of the right layer.",
        delta_in_55,
    ),
    Erratum(
        "55, line 3",
        "`exp(X^(l+1))`",
        "`exp(X^(l))`",
        "By 54 it is the layer before the softmax. Line 4 is right in this. Measured with δ_rc'.",
        layer_in_55,
    ),
    Erratum(
        "55, last line",
        "`δ_rc X_rc (1 − Σ_c' X_rc')`",
        "`X_rc (δ_rc − Σ_c' δ_rc' X_rc')`",
        "The probabilities of a row sum to 1, so that the printed delta-error is always 0: no "
        "network would learn.",
        last_line_of_55,
    ),
    Erratum(
        "60",
        "`−α (1 − p)^γ p log p̂`, p the truth",
        "`−α (1 − p̂)^γ p log p̂`",
        "The focus is on what is predicted badly. With p = 1 the printed loss is 0. Measured "
        "for faces predicted with 0.1, 0.5 and 0.9, against equation 5 of [29].",
        focal_of_a_face,
    ),
    Erratum(
        "60 with 61",
        "`−α (1 − p)^γ p log p̂`, p̂ the truth, as the text of 61 says",
        "`−α (1 − p)^γ p̂ log p`",
        "The target stands in the logarithm: 0 for a face, ∞ for background. Measured as above.",
        focal_with_names_of_61,
    ),
    Erratum(
        "60",
        "one term",
        "a sum over the K = 2 classes, or p̂ and 1 − p̂ for face and background",
        "With one term an anchor without a face has no loss at all. Measured for background "
        "predicted as a face with 0.1, 0.5 and 0.9, with α the same for both.",
        focal_of_background,
    ),
]

NOT_IN_FLOATING_POINT = [
    Erratum(
        "54",
        "`e^x / Σ e^x`",
        "`e^(x−max) / Σ e^(x−max)`",
        "∞ / ∞ from x = 710 on, from 89 in float32. Measured at x = (1000, 1000).",
        softmax_of_large_numbers,
    ),
    Erratum(
        "56, 57",
        "`y log ŷ`",
        "0 where y = 0; or softmax and cross entropy in one",
        "0 · log 0. Measured at ŷ = y = (1, 0).",
        zero_times_log_zero,
    ),
    Erratum(
        "61",
        "`1 / N_pos`",
        "`1 / max(1, N_pos)`",
        "0 / 0 in an image without faces.",
        no_positive_anchor,
    ),
]

WORDS = [
    Erratum(
        "56",
        "a sum over the mini-batch",
        "a mean, as in 8",
        "No error, and 57 fits it; but the learning rate then means something else for each "
        "batch size. We take the mean. Measured: the gradient when a batch is given twice over.",
        sum_in_56,
    ),
    Erratum(
        "section 5.2",
        "sizes 16² to 416², scaled by 2^(1/3)",
        "to 406²",
        "A = 6 with two ratios is three sizes a level, fifteen on five levels. Measured: 16 · "
        "2^(14/3).",
        largest_anchor,
    ),
    Erratum(
        "figure 15",
        "IoU is “the size of the union divided by the size of the intersection”",
        "intersection divided by union, as 58 has it",
        "Measured: two squares of 2×2 that share a corner of 1×1.",
        caption_of_figure_15,
    ),
]

RIGHT = [("57", cross_entropy_in_57), ("59", smooth_l1)]
