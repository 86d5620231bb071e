"""The definition of the derivative (eq. 13), to hold every backward pass against.

The printed quotient (L(θ + h) − L(θ)) / h is wrong by about h; the symmetric one over four points,

    (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h,

is wrong by about h⁴, so that h = 0.0003 leaves some 12 right digits in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from faceresnet.nn.shapes import Array

#: Derivatives smaller than this are compared absolutely: below it stands rounding alone.
FLOOR = 1e-6
#: h of the formula above.
STEP = 3e-4
#: How many random directions a large array is checked in.
DIRECTIONS = 4


@dataclass(frozen=True)
class GradientError:
    """How far one derivative of an operation is from its definition.

    Attributes:
        name: of the array it is the derivative by.
        shape: of that array.
        method: ``elements`` or ``directions``.
        error: relative, as `gradcheck` defines it.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    error: float


def gradcheck(
    operation: Callable[..., tuple[Any, ...]],
    inputs: Mapping[str, Array],
    *,
    elements: int = 256,
    seed: int = 0,
) -> list[GradientError]:
    """Compare the backward pass of an operation with its derivative by definition (eq. 13).

    What is differentiated is L = Σ y · dy with a random dy, in float64 whatever the inputs are.

    - By elements, for arrays of up to `elements` of them: with a the derivatives of backward and n
      the numerical ones, the error is max|a − n| / max(max|a|, max|n|, `FLOOR`).
    - By directions, for larger ones: for `DIRECTIONS` random v with elements from N(0, 1), the
      error is |⟨a, v⟩ − n_v| / max(‖a‖, |n_v|, `FLOOR`), the largest of all v. It shows that
      something is wrong, not where, and a few wrong elements of a million change it little.

    The operation must be differentiable within 2 `STEP` of its inputs: no ReLU closer to 0, no two
    values of a max pooling window closer to each other.

    Args:
        operation: called with the arrays in their order; its result begins with y and backward,
            which takes dy and returns one derivative, or a tuple with one for each array.
        inputs: the arrays, by name.
        elements: how large an array may be to be checked element by element.
        seed: of dy and the directions.

    Returns:
        One error for each array, in their order.

    Raises:
        ValueError: when the inputs have no names, or backward returns another number of derivatives
            than there are inputs, or one whose shape is not that of its input.
    """
    if not isinstance(inputs, Mapping):
        raise ValueError(f"inputs are arrays by name, as {{'x': x}}, got {type(inputs).__name__}")
    rng = np.random.default_rng(seed)
    arrays = {name: np.array(one, dtype=np.float64) for name, one in inputs.items()}
    y, backward, *_ = operation(*arrays.values())
    dy = rng.standard_normal(np.shape(y))
    derivatives = backward(dy if np.ndim(y) else float(dy))
    if not isinstance(derivatives, tuple):
        derivatives = (derivatives,)
    if len(derivatives) != len(arrays):
        raise ValueError(
            f"backward must return one derivative for each of {', '.join(arrays)}, "
            f"got {len(derivatives)}"
        )

    errors = []
    for (name, array), derivative in zip(arrays.items(), derivatives, strict=True):
        if derivative.shape != array.shape:
            raise ValueError(
                f"the derivative by {name} must have its shape {array.shape}, "
                f"got {derivative.shape}"
            )
        along = partial(_directional, operation, arrays, name, dy=dy, h=STEP)
        if array.size <= elements:
            error = relative_error(derivative, _by_elements(along, array.shape))
            errors.append(GradientError(name, array.shape, "elements", error))
            continue
        off = []
        for _ in range(DIRECTIONS):
            v = rng.standard_normal(array.shape)
            n = along(v)
            a = float(np.vdot(derivative, v))
            scale = max(float(np.linalg.norm(derivative)), abs(n), FLOOR)
            off.append(abs(a - n) / scale)
        # NumPy's maximum of anything and NaN is NaN, Python's is not
        errors.append(GradientError(name, array.shape, "directions", float(np.max(off))))
    return errors


def relative_error(a: Array, n: Array) -> float:
    """max|a − n| / max(max|a|, max|n|, `FLOOR`): how far one array is from the other."""
    if a.size == 0:
        return 0.0
    scale = max(float(np.abs(a).max()), float(np.abs(n).max()), FLOOR)
    return float(np.abs(a - n).max()) / scale


def numerical_derivative(
    f: Callable[[Array], Array], x: Array, dy: Array, step: float = STEP
) -> Array:
    """∂(Σ f(x) · dy)/∂x by definition, element by element, in float64.

    Args:
        f: any function of one array.
        x: where.
        dy: delta-error of f(x), of its shape.
        step: h.
    """
    x = np.array(x, dtype=np.float64)
    along = partial(_directional, lambda one: (f(one),), {"x": x}, "x", dy=dy, h=step)
    return _by_elements(along, x.shape)


def _by_elements(along: Callable[[Array], float], shape: tuple[int, ...]) -> Array:
    """An array of the derivatives along each axis of the space of arrays of that shape."""
    derivative = np.zeros(shape)
    for at in np.ndindex(shape):
        v = np.zeros(shape)
        v[at] = 1
        derivative[at] = along(v)
    return derivative


def _directional(
    operation: Callable[..., tuple[Any, ...]],
    arrays: Mapping[str, Array],
    name: str,
    v: Array,
    dy: Array,
    h: float,
) -> float:
    """Differentiate Σ y · dy when one array moves along v.

    The outputs are subtracted before they are summed, which keeps the digits that the sums share.
    """

    def at(t: float) -> Array:
        moved = {one: array + t * v if one == name else array for one, array in arrays.items()}
        return np.asarray(operation(*moved.values())[0])

    difference = 8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))
    return float(np.vdot(difference, dy)) / (12 * h)
