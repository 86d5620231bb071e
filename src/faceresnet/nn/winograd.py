"""The convolution of a 5×5 kernel by Winograd's F(4×4, 5×5): 6.25 times fewer multiplications.

**In one axis.** Four outputs y of a kernel g of five numbers need 8 inputs d and, written out, 20
products. But y can be read off the product of two polynomials, and a product of degree 7 is known
by its values at 8 points, each of which is one product (Toom and Cook; Lavin and Gray 2016):

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]

G (8, 5) and A (8, 4) evaluate polynomials at the points, B⁻ᵀ (8, 8) too; "at ∞" is the highest
coefficient. The points are 0, ±1, ±2, ±1/2 and ∞: the smallest numbers, and their powers, which are
powers of two, are exact.

**In two axes**, the same in each: y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. An image is cut into tiles of
8 × 8 px, 4 px apart, which each give 4 × 4 outputs: 64 products in place of 400. With C channels in
and C' out, the product at each of the 64 points is a matrix product over the channels.

**Backward** is the transpose of each step, from the last to the first:

    forward                                    backward
    v = Bᵀ x B        tiles of the image       dx = B dv Bᵀ, added where tiles overlap
    u = G w Gᵀ        the kernel               dw = Gᵀ du G
    m = v u           at each point            dv = dm uᵀ,  du = vᵀ dm
    y = Aᵀ m A        tiles of the output      dm = A dy Aᵀ

A bias is added to m at the point (1, 1), where A is a row of ones, so that it comes out everywhere;
its derivative is dm there, summed.

**Layout.** Images are (H, W, R·C): the pixels of all images at one place side by side, R of them,
their channels last. Then every step, in either axis, is a product of a small matrix with a matrix
whose rows are contiguous numbers, and NumPy's matmul passes them to BLAS where they lie, windows
that overlap included: nothing is gathered or transposed. Points and tiles are ordered so that the
rows of every product have one stride:

    v, m    (a, b, j, i, R, C)    a, b the point in H and W; i, j the tile in H and W

With about a dozen images of 32 channels the matrices have some 400 columns: OpenBLAS has kernels
for products as small as these that copy nothing first, and what is in between stays in the cache.
The caller runs several groups of images on threads of its own, as matmul releases Python's lock.

**Precision.** In float64 the result agrees with `spatial.conv2d` to about 1e-14 of the largest
number. In float32, with 32 channels, it is off by about 1e-5 of it, where the plain sum is off by
1e-6: the values at ±2 and ±1/2 are much larger than the result that is left when they are summed.
Training does not notice; `tests/nn/test_winograd.py` holds both bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from faceresnet.nn.fast_convolution import fast_conv2d
from faceresnet.nn.functional import Backward3
from faceresnet.nn.memory import Workspace
from faceresnet.nn.shapes import Array, Pair, check_delta
from faceresnet.nn.spatial import check_convolution

#: Side of the kernel, outputs of a tile, and inputs of it, px.
KERNEL, STEP, TILE = 5, 4, 8
#: Where polynomials are evaluated; None is ∞.
POINTS = (*(Fraction(sign * n, 2) for n in (2, 4, 1) for sign in (1, -1)), Fraction(0), None)
#: The point 1, at which a constant has its own value.
ONE = 0
#: Images that `winograd_conv2d` computes together.
GROUP = 8


class Matrices(NamedTuple):
    """The three matrices, of one precision.

    Attributes:
        a_t: Aᵀ (4, 8), from values at the points to outputs.
        a: A (8, 4).
        b_t: Bᵀ (8, 8), from inputs to values at the points.
        g: G ⊗ G (64, 25), from a kernel to its values at the points.
    """

    a_t: Array
    a: Array
    b_t: Array
    g: Array


@cache
def matrices(dtype: str) -> Matrices:
    """The matrices of F(4, 5), from exact fractions.

    Args:
        dtype: name of the precision, float32 or float64.
    """
    a, g, whole = (_evaluation(n) for n in (STEP, KERNEL, TILE))
    b_t = _inverse(whole)  # its transpose: Bᵀ = (V⁻¹)ᵀ
    a_array, g_array, b_array = (np.array(m, dtype=np.float64) for m in (a, g, b_t))
    both = np.kron(g_array, g_array)
    made = Matrices(
        *(np.ascontiguousarray(m, dtype) for m in (a_array.T, a_array, b_array.T, both))
    )
    for matrix in made:
        matrix.flags.writeable = False
    return made


@cache
def spread(tiles: int, dtype: str) -> Array:
    """B for all tiles of an axis at once, with the sums where they overlap.

    Returns:
        (4·tiles + 4, 8·tiles): from the values at the points, point after point and in each tile
        after tile, to the inputs.
    """
    b = matrices("float64").b_t.T
    whole = np.zeros((STEP * tiles + STEP, TILE, tiles))
    for tile in range(tiles):
        whole[STEP * tile : STEP * tile + TILE, :, tile] = b
    made = np.ascontiguousarray(whole.reshape(len(whole), TILE * tiles), dtype)
    made.flags.writeable = False
    return made


def _evaluation(coefficients: int) -> list[list[Fraction]]:
    """(8, coefficients) matrix that evaluates polynomials at the points."""
    rows = []
    for point in POINTS:
        if point is None:
            rows.append([Fraction(n == coefficients - 1) for n in range(coefficients)])
        else:
            rows.append([point**n for n in range(coefficients)])
    return rows


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Inverse of a square matrix, exactly (Gauss and Jordan)."""
    n = len(matrix)
    rows = [row + [Fraction(i == j) for j in range(n)] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


@dataclass(frozen=True)
class Kernel:
    """A kernel at the 64 points.

    Attributes:
        u: (64, C, C').
        u_t: (64, C', C).
    """

    u: Array
    u_t: Array


def transform_kernel(w: Float[np.ndarray, "C_out C 5 5"]) -> Kernel:
    """U = G w Gᵀ."""
    c_out, c = w.shape[:2]
    g = matrices(w.dtype.name).g
    u = (g @ w.transpose(2, 3, 1, 0).reshape(KERNEL**2, c * c_out)).reshape(TILE**2, c, c_out)
    return Kernel(u, np.ascontiguousarray(u.transpose(0, 2, 1)))


def kernel_gradient(du: Float[np.ndarray, "64 C C_out"]) -> Float[np.ndarray, "C_out C 5 5"]:
    """Gradient of the kernel: dw = Gᵀ du G."""
    _, c, c_out = du.shape
    g = matrices(du.dtype.name).g
    dw: Array = (g.T @ du.reshape(TILE**2, c * c_out)).reshape(KERNEL, KERNEL, c, c_out)
    return dw.transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution of one group of images.

    Attributes:
        tiles: (T_h, T_w); the images are 4 T + 4 px high and wide, the outputs 4 T.
        images: R.
        channels: C.
        channels_out: C'.
    """

    tiles: tuple[int, int]
    images: int
    channels: int
    channels_out: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return STEP * self.tiles[0] + STEP, STEP * self.tiles[1] + STEP

    @property
    def size_out(self) -> tuple[int, int]:
        """(H', W') of the outputs."""
        return STEP * self.tiles[0], STEP * self.tiles[1]

    @property
    def points_shape(self) -> tuple[int, int, int]:
        """Shape of v: (64, rows, C)."""
        return TILE**2, self.tiles[0] * self.tiles[1] * self.images, self.channels


def forward(
    geometry: Geometry, x: Array, kernel: Kernel, b: Array, y: Array, v: Array, work: Workspace
) -> None:
    """Convolution of a group of images.

    Args:
        geometry: sizes.
        x: (H, W, R, C).
        kernel: what it is convolved with.
        b: (C',) biases.
        y: (H', W', R, C'), written to.
        v: of `Geometry.points_shape`, written to: what `backward` wants to have back.
        work: memory for what is in between.
    """
    (t_h, t_w), r = geometry.tiles, geometry.images
    row, row_out = r * geometry.channels, r * geometry.channels_out
    (h, w), rows = geometry.size, geometry.points_shape[1]
    a_t, _, b_t, _ = matrices(x.dtype.name)
    t, m, half = work.arrays(
        x.dtype,
        (t_h, TILE, w * row),
        (TILE**2, rows, geometry.channels_out),
        (STEP, TILE, t_w, t_h * row_out),
    )
    # v = Bᵀ x B: down the columns of every tile, then along their rows
    np.matmul(b_t, _windows(x.reshape(h, w * row)), out=t)
    along = _windows(t.reshape(t_h * TILE, w, row), axis=1).reshape(t_h, TILE, t_w, TILE, row)
    points = v.reshape(TILE, TILE, t_w, t_h, row)
    np.matmul(b_t, along, out=points.transpose(3, 0, 2, 1, 4))
    np.matmul(v, kernel.u, out=m)
    m[ONE * TILE + ONE] += b
    # y = Aᵀ m A
    at_points = m.reshape(TILE, TILE, t_w, t_h * row_out)
    np.matmul(a_t, at_points.transpose(1, 2, 0, 3), out=half.transpose(1, 2, 0, 3))
    np.matmul(
        a_t,
        half.reshape(STEP, TILE, t_w, t_h, row_out).transpose(0, 2, 3, 1, 4),
        out=y.reshape(t_h, STEP, t_w, STEP, row_out).transpose(1, 2, 0, 3, 4),
    )


def backward(
    geometry: Geometry,
    dy: Array,
    v: Array,
    kernel: Kernel,
    dx: Array,
    work: Workspace,
) -> tuple[Array, Array]:
    """Derivatives of the convolution of a group of images.

    Args:
        geometry: sizes.
        dy: (H', W', R, C') delta-error of the output.
        v: what `forward` left.
        kernel: what was convolved with.
        dx: (H, W, R, C) delta-error of the input, written to.
        work: memory for what is in between.

    Returns:
        du (64, C, C'), for `kernel_gradient`, and db (C',).
    """
    (t_h, t_w), r = geometry.tiles, geometry.images
    row, row_out = r * geometry.channels, r * geometry.channels_out
    (h, w), w_out, rows = geometry.size, geometry.size_out[1], geometry.points_shape[1]
    a = matrices(dy.dtype.name).a
    half, dm, dv, columns = work.arrays(
        dy.dtype,
        (t_h, TILE, w_out * row_out),
        (TILE**2, rows, geometry.channels_out),
        geometry.points_shape,
        (TILE, t_h, w, row),
    )
    # dm = A dy Aᵀ
    np.matmul(a, dy.reshape(t_h, STEP, w_out * row_out), out=half)
    np.matmul(
        a,
        half.reshape(t_h, TILE, t_w, STEP, row_out),
        out=dm.reshape(TILE, TILE, t_w, t_h, row_out).transpose(3, 0, 2, 1, 4),
    )
    du: Array = np.matmul(v.transpose(0, 2, 1), dm)
    db: Array = dm[ONE * TILE + ONE].sum(axis=0)
    np.matmul(dm, kernel.u_t, out=dv)
    # dx = B dv Bᵀ
    np.matmul(
        spread(t_w, dy.dtype.name),
        dv.reshape(TILE, TILE * t_w, t_h, row).transpose(0, 2, 1, 3),
        out=columns,
    )
    np.matmul(
        spread(t_h, dy.dtype.name),
        columns.reshape(TILE * t_h, w, row).transpose(1, 0, 2),
        out=dx.reshape(h, w, row).transpose(1, 0, 2),
    )
    return du, db


def winograd_conv2d(
    x: Float[np.ndarray, "R C H W"],
    w: Float[np.ndarray, "C_out C K_h K_w"],
    b: Float[np.ndarray, "C_out"] | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
) -> tuple[Float[np.ndarray, "R C_out H_out W_out"], Backward3]:
    """Convolution of an image with C_out kernels (eq. 20–28), as `spatial.conv2d`.

    A kernel other than 5×5, or a stride other than 1, is left to `fast_conv2d`.
    """
    (h_out, w_out), stride, padding = check_convolution(x, w, b, stride, padding)
    if w.shape[2:] != (KERNEL, KERNEL) or stride != (1, 1):
        return fast_conv2d(x, w, b, stride, padding)
    r, c = x.shape[:2]
    c_out = w.shape[0]
    tiles = (-(-h_out // STEP), -(-w_out // STEP))
    kernel = transform_kernel(w)
    bias = np.zeros(c_out, x.dtype) if b is None else b
    work = Workspace()
    y = np.empty((r, c_out, h_out, w_out), x.dtype)
    kept: list[tuple[Geometry, slice, Array]] = []
    for part in _groups(r):
        geometry = Geometry(tiles, part.stop - part.start, c, c_out)
        image = _placed(x[part], geometry.size, padding)
        v = np.empty(geometry.points_shape, x.dtype)
        out = np.empty((*geometry.size_out, geometry.images, c_out), x.dtype)
        forward(geometry, image, kernel, bias, out, v, work)
        y[part] = out[:h_out, :w_out].transpose(2, 3, 0, 1)
        kept.append((geometry, part, v))

    def backward_all(dy: Array) -> tuple[Array, Array, Array]:
        check_delta(dy, y)
        dx = np.empty(x.shape, x.dtype)
        du = np.zeros((TILE**2, c, c_out), x.dtype)
        db = np.zeros(c_out, x.dtype)
        inside = tuple(slice(p, p + n) for p, n in zip(padding, x.shape[2:], strict=True))
        for geometry, part, v in kept:
            delta = _placed(dy[part], geometry.size_out, (0, 0))
            dimage = np.empty((*geometry.size, geometry.images, c), x.dtype)
            its_du, its_db = backward(geometry, delta, v, kernel, dimage, work)
            du += its_du
            db += its_db
            dx[part] = dimage[inside].transpose(2, 3, 0, 1)
        return dx, kernel_gradient(du), db

    return y, backward_all


def _windows(x: Array, axis: int = 0) -> Array:
    """Tiles of 8, 4 apart, along an axis, as (…, tiles, 8, …) in its place: a view."""
    windows = sliding_window_view(x, TILE, axis=axis)
    windows = windows[(slice(None),) * axis + (slice(None, None, STEP),)]
    return np.moveaxis(windows, -1, axis + 1)


def _groups(images: int) -> Iterator[slice]:
    """The batch in groups of about the same size."""
    count = -(-images // GROUP)
    for one in range(count):
        yield slice(one * images // count, (one + 1) * images // count)


def _placed(x: Array, size: tuple[int, int], padding: tuple[int, int]) -> Array:
    """(R, C, H, W) as (H, W, R, C) of a larger size, with zeros around it."""
    r, c, h, w = x.shape
    placed = np.zeros((*size, r, c), x.dtype)
    placed[padding[0] : padding[0] + h, padding[1] : padding[1] + w] = x.transpose(2, 3, 0, 1)
    return placed
