from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.anchors import Level, make_anchors

LEVELS = (Level(8, (10.0, 20.0), (1.0, 1.5)), Level(32, (64.0,), (2.0,)))


def slowly(levels, image_size):
    """One anchor after another: level, row, column, size, ratio."""
    boxes = []
    for level in levels:
        for row in range(ceil(image_size[0] / level.stride)):
            for column in range(ceil(image_size[1] / level.stride)):
                for size in level.sizes:
                    for ratio in level.ratios:
                        x, y = (column + 0.5) * level.stride, (row + 0.5) * level.stride
                        h, w = size * ratio**0.5, size / ratio**0.5
                        boxes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return np.array(boxes)


@given(
    pyramid=st.lists(
        st.tuples(
            st.sampled_from([4, 8, 16, 64]),
            st.lists(st.floats(1, 200), min_size=1, max_size=2),
            st.lists(st.floats(0.5, 2), min_size=1, max_size=2),
        ),
        min_size=1,
        max_size=3,
    ),
    image_size=st.tuples(st.integers(1, 100), st.integers(1, 100)),
)
@settings(deadline=None)
def test_anchors_are_listed_by_level_row_column_and_shape(pyramid, image_size):
    levels = tuple(Level(stride, tuple(sizes), tuple(ratios)) for stride, sizes, ratios in pyramid)
    anchors = make_anchors(levels, image_size)
    expected = slowly(levels, image_size)
    assert anchors.dtype == np.float32
    assert anchors.shape == expected.shape
    assert np.abs(anchors - expected).max() < 1e-2
    grids = [level.grid(image_size) for level in levels]
    counts = [
        rows * columns * level.anchors_per_cell
        for level, (rows, columns) in zip(levels, grids, strict=True)
    ]
    assert sum(counts) == len(anchors)


def test_shapes_have_the_area_of_their_size_and_are_taller_by_the_ratio():
    for (height, width), (size, ratio) in zip(
        LEVELS[0].shapes, [(10, 1), (10, 1.5), (20, 1), (20, 1.5)], strict=True
    ):
        assert height * width == pytest.approx(size**2)
        assert height / width == pytest.approx(ratio)
    assert LEVELS[0].anchors_per_cell == 4


def test_the_first_anchor_lies_around_the_middle_of_the_first_cell():
    assert make_anchors((Level(8, (16.0,)),), (8, 8)).tolist() == [[-4, -4, 12, 12]]


def test_anchors_are_shared_and_cannot_be_changed():
    anchors = make_anchors(LEVELS, (64, 64))
    assert make_anchors(LEVELS, (64, 64)) is anchors
    with pytest.raises(ValueError, match="read-only"):
        anchors[0, 0] = 1


def test_levels_are_values():
    assert Level(8, (10.0,)) == Level(8, (10.0,), (1.0,))
    with pytest.raises(FrozenInstanceError):
        Level(8, (10.0,)).stride = 4


@pytest.mark.parametrize("stride", [0, -8, 3, 12])
def test_strides_are_powers_of_two(stride):
    with pytest.raises(ValueError, match="power of two"):
        Level(stride, (10.0,))


@pytest.mark.parametrize(
    ("sizes", "ratios"), [((), (1.0,)), ((0.0,), (1.0,)), ((8.0,), ()), ((8.0,), (-1.0,))]
)
def test_sizes_and_ratios_are_positive(sizes, ratios):
    with pytest.raises(ValueError, match="positive sizes and ratios"):
        Level(8, sizes, ratios)
