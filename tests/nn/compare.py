"""What the tests of `faceresnet.nn` share: arrays to draw, and two judges of an operation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from faceresnet.nn import gradcheck
from faceresnet.nn.shapes import Array

examples = settings(max_examples=50, deadline=None, derandomize="CI" in os.environ)

#: Largest relative error against the numerical derivative.
NUMERICAL = 1e-7
#: Largest difference to PyTorch, in units of the largest number compared, at least 1.
PYTORCH = 1e-10

seeds = st.integers(0, 2**32 - 1)


@st.composite
def pairs(draw: st.DrawFn, low: int, high: int) -> int | tuple[int, int]:
    """One number for both axes, or one for each."""
    one = st.integers(low, high)
    return draw(one | st.tuples(one, one))


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def apart(rng: np.random.Generator, shape: tuple[int, ...], gap: float = 0.05) -> Array:
    """Numbers around 0 in random order, none closer to another, or to 0, than half a gap."""
    n = int(np.prod(shape))
    return (rng.permutation(n).reshape(shape) - n // 2 + 0.5) * gap


def largest_error(operation: Callable[..., Any], inputs: Mapping[str, Array]) -> float:
    """Worst relative error of all derivatives of the operation."""
    return max(one.error for one in gradcheck(operation, inputs))


def difference(a: Array, b: Array) -> float:
    """Largest difference, in units of the largest number of b, at least 1."""
    assert a.shape == b.shape
    if a.size == 0:
        return 0.0
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


def difference_to_torch(
    ours: Callable[..., Any], theirs: Callable[..., Any], inputs: Mapping[str, Array]
) -> float:
    """Largest difference to PyTorch, forward or backward, in float64."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(one, requires_grad=True) for one in inputs.values()]
    y, backward, *_ = ours(*inputs.values())
    expected = theirs(*tensors)
    dy = np.random.default_rng(0).standard_normal(np.shape(y))
    derivatives = backward(dy if np.ndim(y) else float(dy))
    if not isinstance(derivatives, tuple):
        derivatives = (derivatives,)
    expected.backward(torch.tensor(dy))
    worst = difference(np.asarray(y), expected.detach().numpy())
    for derivative, tensor in zip(derivatives, tensors, strict=True):
        worst = max(worst, difference(derivative, tensor.grad.numpy()))
    return worst
