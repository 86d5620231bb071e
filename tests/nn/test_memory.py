import numpy as np
import pytest

from faceresnet.nn.memory import LINE, Workspace, on_a_line


def test_what_a_workspace_gives_does_not_overlap() -> None:
    work = Workspace()
    small, large = work.arrays(np.dtype(np.float32), (3, 5), (100,))
    small[...], large[...] = 1, 2
    assert (small == 1).all()
    assert (large == 2).all()
    (again,) = work.arrays(np.dtype(np.float64), (4,))
    assert np.shares_memory(again, small)


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 16)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_copy_begins_with_a_cache_line(shape, dtype) -> None:
    array = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    copies = [on_a_line(array) for _ in range(8)]
    for copy in copies:
        assert copy.size == 0 or copy.ctypes.data % LINE == 0
        assert copy.dtype == dtype
        assert not np.shares_memory(copy, array)
        np.testing.assert_array_equal(copy, array)
    work = Workspace()
    for size in (1, 100, 1000):
        assert all(one.ctypes.data % LINE == 0 for one in work.arrays(array.dtype, (size,), (3,)))
