"""The convolutions of `cnn` with their batch normalisations and ReLUs, in groups of images.

Every group goes through `nn.winograd` on whichever thread is free; they meet only where batch
normalisation needs all of them. Its affine map is folded into the convolution that follows: with

    a = γ / σ,    s = β − μ a,    conv(a x + s; w, b) = conv(x; w', b')
    w' = a w,     b'_c' = b_c' + Σ_cji w_c'cji s_c

no normalised image is ever made. There is no padding, so every output has all kernel's taps and the
second line is exact. Backward, from dw' and db of the folded convolution:

    da_c = Σ_c'ji dw'_c'cji w_c'cji      ds_c = Σ_c'ji db_c' w_c'cji
    dw   = a dw' + db s                  dγ = (da − μ ds) / σ,   dβ = ds
    dμ   = −a ds                         dσ² = −γ (da − μ ds) / 2 σ³

and as μ and σ² depend on x themselves, dx = conv'ᵀ dy + dμ / n + dσ² 2 (x − μ) / n: a factor and a
constant for every channel (eq. 37–53 in another order).

The first convolution has one channel and nothing for Winograd to save on: its windows are laid out
as rows, with a 1 beside each for the bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from faceresnet.digits.nets import Net
from faceresnet.digits.threads import Team
from faceresnet.nn import BatchNorm, winograd
from faceresnet.nn.functional import Statistics
from faceresnet.nn.optim import Parameters
from faceresnet.nn.shapes import Array

#: Images that go through the network together: 50 make four groups.
GROUP = 13
#: BatchNorm, Convolution and ReLU: what a convolution takes of `nets.sequential`.
LAYERS = 3

#: Count, mean and sum of squared differences from it, of every channel.
Moments = tuple[int, Array, Array]


@dataclass
class Fold:
    """A batch normalisation folded into the convolution behind it.

    Attributes:
        statistics: μ and σ².
        a: (C,) factors.
        s: (C,) constants.
        inverse: 1 / σ.
        w: w'.
        b: b'.
        kernel: w' at Winograd's points; None for the first.
    """

    statistics: Statistics
    a: Array
    s: Array
    inverse: Array
    w: Array
    b: Array
    kernel: winograd.Kernel | None


@dataclass
class Group:
    """Some images of a batch and what the layers made of them, all (H, W, R, C).

    Attributes:
        part: which of the batch.
        geometries: of each convolution.
        rows: (26, H·W·R) windows of the images, and ones.
        x: outputs of each convolution after its ReLU.
        d: their delta-errors.
        v: what each of Winograd's convolutions keeps for its backward pass.
    """

    part: slice
    geometries: list[winograd.Geometry]
    rows: Array
    x: list[Array] = field(default_factory=list)
    d: list[Array] = field(default_factory=list)
    v: list[Array] = field(default_factory=list)


class Convolutions:
    """The convolutions of a network, for as long as its weights live.

    Raises:
        ValueError: their kernels are not 5×5.
    """

    def __init__(self, net: Net, weights: dict[str, Array], team: Team) -> None:
        if net.kernel != winograd.KERNEL:
            raise ValueError(
                f"kernels must have a side of {winograd.KERNEL} px, as Winograd's are written, "
                f"got {net.kernel}"
            )
        self._net, self._weights, self._team = net, weights, team
        self._count = len(net.convolutions)
        self._groups: dict[int, list[Group]] = {}
        self._folds: list[Fold] = []
        self._batch = 0

    def forward(self, images: Array) -> tuple[Array, dict[int, Statistics]]:
        """In training: the last outputs, and the batch's statistics at each normalisation.

        Args:
            images: (R, 1, 28, 28).

        Returns:
            (R, C·H·W) in the order of `nn.flatten`, and statistics by the layers' indices.
        """
        self._batch = len(images)
        groups = self._groups_of(self._batch)
        statistics = _statistics(images)
        self._folds = []
        for layer in range(self._count):
            fold = self._fold(layer, statistics)
            self._folds.append(fold)
            last = layer == self._count - 1

            def one(
                group: Group, layer: int = layer, fold: Fold = fold, last: bool = last
            ) -> Moments | None:
                if layer == 0:
                    _lay_out(images[group.part], group)
                x = self._convolve(group, layer, fold)
                return None if last else self._moments(x)

            moments = self._team.each(one, groups)
            if not last:
                statistics = _together([one for one in moments if one])
        y = np.concatenate([_flat(group.x[-1]) for group in groups])
        return y, {LAYERS * n: fold.statistics for n, fold in enumerate(self._folds)}

    def backward(self, dy: Array) -> Parameters:
        """Gradients of all parameters, from the delta-error of what `forward` gave."""
        groups = self._groups_of(self._batch)
        gradients: Parameters = {}
        change: tuple[Array, Array] | None = None
        for layer in reversed(range(self._count)):

            def one(
                group: Group, layer: int = layer, change: tuple[Array, Array] | None = change
            ) -> tuple[Array, Array]:
                if change is None:
                    _unflat(dy[group.part], group.d[layer])
                self._through_relu(group, layer, change)
                return self._deconvolve(group, layer)

            parts = self._team.each(one, groups)
            dw, db = (sum(arrays[1:], start=arrays[0]) for arrays in zip(*parts, strict=True))
            dw = winograd.kernel_gradient(dw) if layer else dw.T.reshape(self._folds[0].w.shape)
            its, change = self._unfold(layer, dw, db)
            gradients |= its
        return gradients

    def predict(self, images: Array, average: dict[int, Statistics]) -> Array:
        """At run time: the last outputs, by the moving averages."""
        folds = [self._fold(n, average[LAYERS * n]) for n in range(self._count)]
        groups = self._groups_of(len(images))

        def one(group: Group) -> Array:
            _lay_out(images[group.part], group)
            for layer, fold in enumerate(folds):
                x = self._convolve(group, layer, fold)
            return _flat(x)

        return np.concatenate(self._team.each(one, groups))

    def _convolve(self, group: Group, layer: int, fold: Fold) -> Array:
        """One layer with its ReLU; returns its output, which lies in the group."""
        y = group.x[layer]
        if fold.kernel is None:
            matrix = np.concatenate([fold.w.reshape(len(fold.w), -1).T, fold.b[None]])
            height, row = y.shape[0], y.shape[1] * y.shape[2]
            rows = group.rows.reshape(-1, height, row).transpose(1, 2, 0)
            np.matmul(rows, matrix, out=y.reshape(height, row, y.shape[3]))
        else:
            geometry, x, v = group.geometries[layer], group.x[layer - 1], group.v[layer]
            winograd.forward(geometry, x, fold.kernel, fold.b, y, v, self._team.work)
        flat = y.reshape(y.shape[0] * y.shape[1], -1)
        # Beside a row of zeros NumPy's loop is twice as fast as beside the number 0.
        np.maximum(flat, np.zeros(flat.shape[1], y.dtype), out=flat)
        return y

    def _deconvolve(self, group: Group, layer: int) -> tuple[Array, Array]:
        """Backward through one convolution: its gradients, not yet added over the groups."""
        kernel, d = self._folds[layer].kernel, group.d[layer]
        if kernel is not None:
            geometry, v, dx = group.geometries[layer], group.v[layer], group.d[layer - 1]
            return winograd.backward(geometry, d, v, kernel, dx, self._team.work)
        height, row, c = d.shape[0], d.shape[1] * d.shape[2], d.shape[3]
        rows = group.rows.reshape(-1, height, row).transpose(1, 0, 2)
        both = np.matmul(rows, d.reshape(height, row, c)).sum(axis=0)
        return both[:-1], both[-1]

    def _through_relu(self, group: Group, layer: int, change: tuple[Array, Array] | None) -> None:
        """Finish the delta-error of a layer's output in place, and take it before the ReLU."""
        x, d = group.x[layer], group.d[layer]
        flat_x, flat_d = (one.reshape(x.shape[0] * x.shape[1], -1) for one in (x, d))
        if change is not None:
            factor, constant = (np.tile(one, x.shape[2]) for one in change)
            (scratch,) = self._team.work.arrays(x.dtype, flat_x.shape)
            np.multiply(flat_x, factor, out=scratch)
            scratch += constant
            flat_d += scratch
        flat_d *= flat_x > 0

    def _moments(self, x: Array) -> Moments:
        """Count, mean and sum of squared differences from it, of every channel of a group."""
        rows = x.reshape(x.shape[0] * x.shape[1], -1)
        count = rows.size // x.shape[3]
        mean = rows.sum(axis=0).reshape(x.shape[2:]).sum(axis=0) / x.dtype.type(count)
        (scratch,) = self._team.work.arrays(x.dtype, rows.shape)
        np.subtract(rows, np.tile(mean, x.shape[2]), out=scratch)
        np.square(scratch, out=scratch)
        return count, mean, scratch.sum(axis=0).reshape(x.shape[2:]).sum(axis=0)

    def _fold(self, layer: int, statistics: Statistics) -> Fold:
        norm, convolution = LAYERS * layer, LAYERS * layer + 1
        gamma, beta = self._weights[f"{norm}.gamma"], self._weights[f"{norm}.beta"]
        w, b = self._weights[f"{convolution}.w"], self._weights[f"{convolution}.b"]
        epsilon = w.dtype.type(BatchNorm(1).epsilon)
        inverse = 1 / np.sqrt(statistics.variance + epsilon)
        a = gamma * inverse
        s = beta - statistics.mean * a
        folded = w * a[:, None, None]
        kernel = winograd.transform_kernel(folded) if layer else None
        return Fold(statistics, a, s, inverse, folded, b + w.sum(axis=(2, 3)) @ s, kernel)

    def _unfold(self, layer: int, dw: Array, db: Array) -> tuple[Parameters, tuple[Array, Array]]:
        """Gradients of a layer's own parameters, and what dx is still to be changed by.

        Returns:
            The gradients, and the factor and the constant of x, for every channel.
        """
        fold, norm, convolution = self._folds[layer], LAYERS * layer, LAYERS * layer + 1
        w, gamma = self._weights[f"{convolution}.w"], self._weights[f"{norm}.gamma"]
        mean, inverse = fold.statistics.mean, fold.inverse
        da = (dw * w).sum(axis=(0, 2, 3))
        ds = db @ w.sum(axis=(2, 3))
        dgamma = (da - mean * ds) * inverse
        gradients = {
            f"{norm}.gamma": dgamma,
            f"{norm}.beta": ds,
            f"{convolution}.w": fold.a[:, None, None] * dw + np.outer(db, fold.s)[..., None, None],
            f"{convolution}.b": db,
        }
        side = _side(layer)
        n = w.dtype.type(self._batch * side * side)
        factor = -gamma * dgamma * inverse * inverse / n  # 2 dσ² / n
        return gradients, (factor, -fold.a * ds / n - factor * mean)

    def _groups_of(self, images: int) -> list[Group]:
        """Memory for batches of this size."""
        if images not in self._groups:
            dtype = self._weights["1.w"].dtype
            count = -(-images // GROUP)
            count += count % 2 if images > 1 else 0  # an even share for two threads
            cuts = [one * images // count for one in range(count + 1)]
            self._groups[images] = [
                self._group(slice(start, stop), dtype) for start, stop in pairwise(cuts)
            ]
        return self._groups[images]

    def _group(self, part: slice, dtype: np.dtype) -> Group:
        r = part.stop - part.start
        channels = (1, *self._net.convolutions)
        group = Group(part, [], np.ones((winograd.KERNEL**2 + 1, _side(1) ** 2 * r), dtype))
        for layer, (c, c_out) in enumerate(pairwise(channels)):
            tiles = _side(layer + 1) // winograd.STEP
            group.geometries.append(winograd.Geometry((tiles, tiles), r, c, c_out))
            shape = (_side(layer + 1), _side(layer + 1), r, c_out)
            group.x.append(np.empty(shape, dtype))
            group.d.append(np.empty(shape, dtype))
            group.v.append(np.empty(group.geometries[-1].points_shape if layer else 0, dtype))
        return group


def _side(layer: int) -> int:
    """Side of the images that go into a convolution, px."""
    return 28 - layer * (winograd.KERNEL - 1)


def _statistics(images: Array) -> Statistics:
    """Of the images themselves, (R, 1, 28, 28)."""
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
    variance = images.var(axis=(0, 2, 3), dtype=np.float64)
    return Statistics(mean.astype(images.dtype), variance.astype(images.dtype))


def _together(moments: list[Moments]) -> Statistics:
    """Statistics of all groups from those of each (Chan, Golub and LeVeque 1983)."""
    counts, means, squares = zip(*moments, strict=True)
    share = np.array(counts, np.float64) / sum(counts)
    parts = np.array(means, np.float64)
    mean = share @ parts
    variance = np.sum(squares, axis=0, dtype=np.float64) / sum(counts)
    variance += share @ np.square(parts - mean)
    return Statistics(mean.astype(means[0].dtype), variance.astype(means[0].dtype))


def _lay_out(images: Array, group: Group) -> None:
    """Windows of the images as the columns of `Group.rows`; its last row stays 1."""
    pixels = np.ascontiguousarray(images[:, 0].transpose(1, 2, 0))  # (28, 28, R)
    side, k = _side(1), winograd.KERNEL
    rows = group.rows.reshape(-1, side, side, pixels.shape[2])
    for j in range(k):
        for i in range(k):
            rows[j * k + i] = pixels[j : j + side, i : i + side]


def _flat(x: Array) -> Array:
    """(H, W, R, C) as (R, C·H·W)."""
    return x.transpose(2, 3, 0, 1).reshape(x.shape[2], -1)


def _unflat(flat: Array, x: Array) -> None:
    """The inverse of `_flat`, into x."""
    h, w, r, c = x.shape
    x[...] = flat.reshape(r, c, h, w).transpose(2, 3, 0, 1)
