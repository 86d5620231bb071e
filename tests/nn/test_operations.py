"""What holds for every operation alike."""

import numpy as np
import pytest

from faceresnet.nn.operations import cases

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_derivatives_are_right(case):
    assert max(one.error for one in case.check()) < 1e-7


def test_every_public_operation_has_a_case():
    from faceresnet import nn

    names = {case.name.partition(",")[0].partition(" ")[0] for case in CASES}
    not_differentiated = {
        "gradcheck",
        "he_normal",
        "im2row",
        "moving_average",
        "numerical_derivative",
        "one_hot",
        "relative_error",
        "row2im",
        "training_step",
    }
    assert names == {name for name in nn.__all__ if name.islower()} - not_differentiated


def _run(case, dtype=np.float64, change=lambda array: array, batch=None):
    """Output and derivatives, with the inputs converted, changed, or cut to a batch."""
    arrays = [change(np.array(one, dtype=dtype)) for one in case.inputs.values()]
    if batch is not None:
        arrays[0] = arrays[0][:batch]
    y, backward, *_ = case.operation(*arrays)
    dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dtype)
    derivatives = backward(change(dy) if dy.ndim else 1.0)
    return arrays, y, derivatives if isinstance(derivatives, tuple) else (derivatives,)


_BOUND = {"mean_squared_error", "cross_entropy", "softmax_cross_entropy", "batch_norm_at_run_time"}
#: Cases whose only arrays are their inputs; the others hold a float64 ground truth.
FREE = [case for case in CASES if case.name.partition(",")[0] not in _BOUND]


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
def test_precision_is_kept(case):
    for dtype in (np.float32, np.float64):
        _, y, derivatives = _run(case, dtype)
        assert y.dtype == dtype
        assert {one.dtype for one in derivatives} == {np.dtype(dtype)}
    _, single, single_derivatives = _run(case, np.float32)
    for one, expected in zip((single, *single_derivatives), (y, *derivatives), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inputs_are_not_written_to(case):
    def frozen(array):
        array.setflags(write=False)
        return array

    _run(case, change=frozen)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_arrays_need_not_be_contiguous(case):
    def scattered(array):
        """The same numbers, backwards and with gaps in memory."""
        wide = np.zeros([2 * n for n in array.shape])
        view = wide[(slice(None, None, -2),) * array.ndim]
        view[...] = array
        assert view.size == 1 or not view.flags.c_contiguous
        return view

    _, y, derivatives = _run(case)
    _, same, same_derivatives = _run(case, change=scattered)
    for one, expected in zip((same, *same_derivatives), (y, *derivatives), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
def test_an_empty_batch_has_no_output_and_no_gradient(case):
    arrays, y, derivatives = _run(case, batch=0)
    assert len(y) == 0
    for derivative, array in zip(derivatives, arrays, strict=True):
        assert derivative.shape == array.shape
        assert not derivative.any()


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
def test_shapes_are_as_the_signatures_say(case):
    beartype = pytest.importorskip("beartype").beartype
    from jaxtyping import jaxtyped

    operation = case.operation
    function = getattr(operation, "func", operation)
    checked = jaxtyped(typechecker=beartype)(function)
    options = getattr(operation, "keywords", {})
    y, _, *_ = checked(*case.inputs.values(), **options)
    assert y.size
