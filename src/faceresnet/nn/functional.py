"""The operations of the paper that look at no neighbourhood, each with its derivative beside it.

Every operation returns its output and a closure, ``y, backward = relu(x)``. The closure takes the
delta-error of the output, ``dy = ∂L/∂y``, and returns the delta-error of each array that went in,
in their order (Zozoulenko 2018, eq. 14). It holds what it needs itself, so an operation used twice
is right both times, and inference drops it: ``y, _ = relu(x)``.

float32 in gives float32 out, float64 gives float64, and what goes in is never written to. R, the
batch, may be 0. A wrong shape or precision raises ``ValueError``.

The equations are those of the paper; where the printed one is wrong, `docs/errata.md` says what
stands here instead, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from faceresnet.nn.shapes import Array, check, check_delta

Backward = Callable[[Array], Array]
Backward3 = Callable[[Array], tuple[Array, Array, Array]]


def fully_connected(
    x: Float[np.ndarray, "R N"], w: Float[np.ndarray, "N N_out"], b: Float[np.ndarray, "N_out"]
) -> tuple[Float[np.ndarray, "R N_out"], Backward3]:
    """Every neuron connected to every neuron of the next layer (eq. 1, 3).

    Args:
        x: (R, N) activations.
        w: (N, N_out) weights; w[i, j] connects neuron i with neuron j of the next layer.
        b: (N_out,) biases, one for each neuron of the next layer.

    Returns:
        y (R, N_out), and backward(dy) → dx, dw, db.
    """
    check("x", x, x, {"R": None, "N": None})
    check("w", w, x, {"N": x.shape[1], "N_out": None})
    check("b", b, x, {"N_out": w.shape[1]})
    y: Array = x @ w + b  # z_rj = b_j + Σ_i x_ri w_ij

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        check_delta(dy, y)
        dx: Array = dy @ w.T  # eq. 15: Σ_j dy_rj w_ij
        dw: Array = x.T @ dy  # eq. 17: Σ_r x_ri dy_rj
        db: Array = dy.sum(axis=0)  # eq. 18: Σ_r dy_rj
        return dx, dw, db

    return y, backward


def relu(x: Float[np.ndarray, "..."]) -> tuple[Float[np.ndarray, "..."], Backward]:
    """Rectified linear unit, max(0, x), element by element (eq. 5, 29).

    At exactly 0, where there is no derivative, it is taken as 0; PyTorch does the same.

    Returns:
        y of the shape of x, and backward(dy) → dx.
    """
    _check_any("x", x)
    y: Array = np.maximum(x, x.dtype.type(0))

    def backward(dy: Array) -> Array:
        check_delta(dy, y)
        return dy * (x > 0)  # eq. 30: f'(x) = 1 if x > 0 else 0

    return y, backward


def sigmoid(x: Float[np.ndarray, "..."]) -> tuple[Float[np.ndarray, "..."], Backward]:
    """Logistic function 1 / (1 + e⁻ˣ), element by element (eq. 6, 29).

    Only e^−|x| is ever computed, which cannot overflow.

    Returns:
        y of the shape of x, and backward(dy) → dx.
    """
    _check_any("x", x)
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, e) / (1 + e)

    def backward(dy: Array) -> Array:
        check_delta(dy, y)
        # eq. 30: f' = σ(x) σ(−x). As y (1 − y) it would lose every digit where y is almost 1.
        return dy * (e / (1 + e) ** 2)

    return y, backward


def tanh(x: Float[np.ndarray, "..."]) -> tuple[Float[np.ndarray, "..."], Backward]:
    """Hyperbolic tangent, element by element (eq. 7, 29).

    Returns:
        y of the shape of x, and backward(dy) → dx.
    """
    _check_any("x", x)
    y: Array = np.tanh(x)

    def backward(dy: Array) -> Array:
        check_delta(dy, y)
        # eq. 30: f' = 1 − tanh² x = 4 e^−2|x| / (1 + e^−2|x|)², which stays exact where y ≈ ±1.
        e = np.exp(-2 * np.abs(x))
        return dy * (4 * e / (1 + e) ** 2)

    return y, backward


def softmax(x: Float[np.ndarray, "R C"]) -> tuple[Float[np.ndarray, "R C"], Backward]:
    """Each row turned into probabilities that sum to 1 (eq. 54).

    The largest of a row is subtracted first, which changes nothing but keeps e^x finite.

    Returns:
        y (R, C), and backward(dy) → dx.
    """
    check("x", x, x, {"R": None, "C": None})
    with np.errstate(over="ignore"):  # of logits farther apart than the largest number
        e = np.exp(x - x.max(axis=1, keepdims=True))
    y: Array = e / e.sum(axis=1, keepdims=True)

    def backward(dy: Array) -> Array:
        check_delta(dy, y)
        # eq. 55, corrected: Σ_c' dy_rc' y_rc' (I_c'c − y_rc) = y_rc (dy_rc − Σ_c' dy_rc' y_rc')
        return y * (dy - (dy * y).sum(axis=1, keepdims=True))

    return y, backward


def flatten(x: Float[np.ndarray, "R C H W"]) -> tuple[Float[np.ndarray, "R CHW"], Backward]:
    """Each example as one vector, as section 4 puts an image into a fully connected layer.

    Returns:
        y (R, C·H·W), and backward(dy) → dx.
    """
    check("x", x, x, {"R": None, "C": None, "H": None, "W": None})
    y: Array = x.reshape(x.shape[0], int(np.prod(x.shape[1:])))

    def backward(dy: Array) -> Array:
        check_delta(dy, y)
        return dy.reshape(x.shape)

    return y, backward


class Statistics(NamedTuple):
    """Mean and variance of every channel; the variance is that of eq. 38, divided by RHW.

    Attributes:
        mean: (C,).
        variance: (C,).
    """

    mean: Array
    variance: Array


def batch_norm(
    x: Float[np.ndarray, "R C *HW"],
    gamma: Float[np.ndarray, "C"],
    beta: Float[np.ndarray, "C"],
    epsilon: float = 1e-5,
) -> tuple[Float[np.ndarray, "R C *HW"], Backward3, Statistics]:
    """Batch normalisation in training: by the statistics of this very batch (eq. 37–40).

    Args:
        x: (R, C, H, W), normalised over R, H and W, or (R, C), normalised over R.
        gamma: (C,) scale.
        beta: (C,) shift.
        epsilon: added to the variance, so that a channel that is constant has a finite output.

    Returns:
        y of the shape of x, backward(dy) → dx, dgamma, dbeta, and the statistics of the batch, for
        `moving_average`. An empty batch has mean 0 and variance 0.
    """
    axes, shape = _channels(x, gamma, beta)
    n = max(1, x.size // x.shape[1])  # RHW
    mean: Array = x.sum(axis=axes) / x.dtype.type(n)
    centred = x - mean.reshape(shape)
    variance: Array = np.square(centred).sum(axis=axes) / x.dtype.type(n)
    scale = (1 / np.sqrt(variance + x.dtype.type(epsilon))).reshape(shape)
    x_hat = centred * scale  # eq. 39, with ε
    y: Array = gamma.reshape(shape) * x_hat + beta.reshape(shape)  # eq. 40

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        check_delta(dy, y)
        dgamma: Array = (dy * x_hat).sum(axis=axes)  # eq. 52
        dbeta: Array = dy.sum(axis=axes)  # eq. 53
        # eq. 51, corrected: the bracket's power is (σ²)^−1, and both halves of it are in x_hat:
        # γ σ⁻¹ (dy − Σdy / RHW − x̂ Σ(dy x̂) / RHW)
        through = (dbeta.reshape(shape) + x_hat * dgamma.reshape(shape)) / x.dtype.type(n)
        dx: Array = gamma.reshape(shape) * scale * (dy - through)
        return dx, dgamma, dbeta

    return y, backward, Statistics(mean, variance)


def batch_norm_at_run_time(
    x: Float[np.ndarray, "R C *HW"],
    gamma: Float[np.ndarray, "C"],
    beta: Float[np.ndarray, "C"],
    statistics: Statistics,
    epsilon: float = 1e-5,
) -> tuple[Float[np.ndarray, "R C *HW"], Backward3]:
    """Batch normalisation by statistics known before: an affine map of each channel (eq. 39–40).

    Args:
        x: (R, C, H, W) or (R, C).
        gamma: (C,) scale.
        beta: (C,) shift.
        statistics: mean and variance of each channel, which count as constants.
        epsilon: as in training.

    Returns:
        y of the shape of x, and backward(dy) → dx, dgamma, dbeta.
    """
    axes, shape = _channels(x, gamma, beta)
    check("mean", statistics.mean, x, {"C": x.shape[1]})
    check("variance", statistics.variance, x, {"C": x.shape[1]})
    scale = (1 / np.sqrt(statistics.variance + x.dtype.type(epsilon))).reshape(shape)
    x_hat = (x - statistics.mean.reshape(shape)) * scale
    y: Array = gamma.reshape(shape) * x_hat + beta.reshape(shape)

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        check_delta(dy, y)
        dx: Array = gamma.reshape(shape) * scale * dy
        dgamma: Array = (dy * x_hat).sum(axis=axes)
        dbeta: Array = dy.sum(axis=axes)
        return dx, dgamma, dbeta

    return y, backward


def moving_average(average: Statistics, batch: Statistics, weight: float) -> Statistics:
    """Exponentially weighted moving average of the statistics (eq. 41–42).

    Args:
        average: the average so far.
        batch: the statistics of the batch that came now.
        weight: λ, the weight of the new value.

    Returns:
        λ · batch + (1 − λ) · average.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie between 0 and 1, got {weight}")
    new = average.mean.dtype.type(weight)
    return Statistics(
        new * batch.mean + (1 - new) * average.mean,
        new * batch.variance + (1 - new) * average.variance,
    )


def _check_any(name: str, array: Array) -> None:
    """Refuse an array that is not float32 or float64; any shape will do."""
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64, got {array.dtype}")


def _channels(x: Array, gamma: Array, beta: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes that are summed over, and the shape that puts (C,) beside x."""
    if x.ndim not in (2, 4):
        raise ValueError(f"x must have axes (R, C) or (R, C, H, W), got shape {x.shape}")
    check("x", x, x, dict.fromkeys("RCHW"[: x.ndim]))
    check("gamma", gamma, x, {"C": x.shape[1]})
    check("beta", beta, x, {"C": x.shape[1]})
    if x.ndim == 2:
        return (0,), (1, -1)
    return (0, 2, 3), (1, -1, 1, 1)
