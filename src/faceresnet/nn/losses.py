"""What the networks minimise, each loss with its derivative beside it.

``loss, backward = mean_squared_error(y_hat, y)``: the closure takes the derivative of what is
minimised by this loss, 1 unless it is a part of something larger, and returns the delta-error of
the prediction. The ground truth has none. An empty batch has loss 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped

from faceresnet.nn.functional import softmax
from faceresnet.nn.shapes import Array, Scalar, check

LossBackward = Callable[..., Array]


def mean_squared_error(
    y_hat: Float[np.ndarray, "R N"], y: Float[np.ndarray, "R N"]
) -> tuple[Scalar, LossBackward]:
    """Mean of the squared differences over the batch and the neurons (eq. 8).

    Args:
        y_hat: (R, N) prediction.
        y: (R, N) ground truth.

    Returns:
        The loss, and backward(dloss=1) → dy_hat.
    """
    check("y_hat", y_hat, y_hat, {"R": None, "N": None})
    check("y", y, y_hat, {"R": y_hat.shape[0], "N": y_hat.shape[1]})
    difference = y_hat - y
    n = y_hat.dtype.type(max(1, difference.size))
    loss: Scalar = np.square(difference).sum() / n

    def backward(dloss: float = 1.0) -> Array:
        return y_hat.dtype.type(2 * dloss) / n * difference  # eq. 16

    return loss, backward


def cross_entropy(
    y_hat: Float[np.ndarray, "R C"], y: Float[np.ndarray, "R C"]
) -> tuple[Scalar, LossBackward]:
    """Cross entropy of two probability distributions, mean over the batch (eq. 56).

    The paper sums over the batch; the mean keeps the learning rate independent of R, as eq. 8 does.
    A class that has no probability in the ground truth counts nothing: 0 · log 0 = 0.

    Args:
        y_hat: (R, C) predicted probabilities.
        y: (R, C) true probabilities.

    Returns:
        The loss, and backward(dloss=1) → dy_hat.
    """
    check("y_hat", y_hat, y_hat, {"R": None, "C": None})
    check("y", y, y_hat, {"R": y_hat.shape[0], "C": y_hat.shape[1]})
    r = y_hat.dtype.type(max(1, y_hat.shape[0]))
    with np.errstate(divide="ignore"):
        log = np.log(y_hat, out=np.zeros_like(y_hat), where=y > 0)
    loss: Scalar = -(y * log).sum() / r

    def backward(dloss: float = 1.0) -> Array:
        with np.errstate(divide="ignore", over="ignore"):
            ratio = np.divide(y, y_hat, out=np.zeros_like(y_hat), where=y > 0)
        return ratio * (y_hat.dtype.type(-dloss) / r)  # eq. 57, over R

    return loss, backward


def softmax_cross_entropy(
    x: Float[np.ndarray, "R C"], y: Float[np.ndarray, "R C"] | Int[np.ndarray, "R"]
) -> tuple[Scalar, LossBackward]:
    """Cross entropy of softmax(x), both in one (eq. 54, 56), mean over the batch.

    log softmax(x)_c = x_c − max x − log Σ exp(x − max x) is finite for every finite x, and the two
    derivatives, eq. 55 and 57, shrink to softmax(x) · Σy − y.

    Args:
        x: (R, C) logits.
        y: (R, C) true probabilities, or (R,) the number of the true class, from 0.

    Returns:
        The loss, and backward(dloss=1) → dx.
    """
    check("x", x, x, {"R": None, "C": None})
    truth = one_hot(y, x.shape[1], x.dtype) if y.dtype.kind in "iu" else y
    check("y", truth, x, {"R": x.shape[0], "C": x.shape[1]})
    r = x.dtype.type(max(1, x.shape[0]))
    with np.errstate(over="ignore"):  # of logits farther apart than the largest number
        below = np.maximum(x - x.max(axis=1, keepdims=True), -np.finfo(x.dtype).max)
    log = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    loss: Scalar = -(truth * log).sum() / r

    def backward(dloss: float = 1.0) -> Array:
        total = truth.sum(axis=1, keepdims=True)
        return (softmax(below)[0] * total - truth) * (x.dtype.type(dloss) / r)

    return loss, backward


def one_hot(
    labels: Int[np.ndarray, "R"], classes: int, dtype: np.dtype[np.floating] | type = np.float32
) -> Shaped[np.ndarray, "R C"]:
    """Numbers of classes as certain probabilities: row r is 1 at labels[r] and 0 elsewhere.

    Raises:
        ValueError: when a label is not one of 0 … classes − 1.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape (R,), got {labels.dtype} of shape {labels.shape}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels must lie in 0 … {classes - 1}, got {labels.min()} … {labels.max()}"
        )
    hot = np.zeros((len(labels), classes), dtype=dtype)
    hot[np.arange(len(labels)), labels] = 1
    return hot
