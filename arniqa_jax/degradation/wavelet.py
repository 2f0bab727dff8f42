"""The reversible 5/3 wavelet transform of JPEG 2000 (ITU-T T.800, annex F), on int32.

Arrays are named by their axes: m = planes, H and W of a plane, R rows, b bands side by
side, C columns of a band. The bands of a level are stored side by side for speed:
XLA:CPU materialises a concatenation along a long last axis once. Most other values it
recomputes in each of their consumers, here at ten times the cost. `side_by_side` is the
function that concatenates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SMALL = 32  # bands with sides up to this share a sheet


class Sheet(NamedTuple):
    """Bands side by side, each zero-padded to the same R x C."""

    values_mRbC: jax.Array
    sizes: list[tuple[int, int]]  # of each band without its padding
    norms: list[float]  # of each band's synthesis functions


def span(x, start, stop, axis, stride=1):
    """Return x[start:stop:stride] along `axis`."""
    return jax.lax.slice_in_dim(x, start, stop, stride, axis)


def pad_end(x, length, axis):
    """Return x padded with zeros at the end of `axis`, up to `length`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths)


def side_by_side(bands):
    """Return one array with all the bands of arrays (m, R, b, C), materialised.

    The docstring of the module says why.
    """
    flat = [band.reshape(*band.shape[:2], -1) for band in bands]
    m, rows, _, columns = bands[0].shape
    return jnp.concatenate(flat, 2).reshape(m, rows, -1, columns)


def _neighbours(x, is_odd, axis, n):
    """Return x[i-1] + x[i] for i < n, with the symmetric extension of T.800, annex F.

    This is for the odd samples x on both sides of each even one. For the even samples
    on both sides of each odd one, it is x[i] + x[i+1]. The samples at the ends are
    repeated where they are needed.
    """
    k = x.shape[axis]
    first = [span(x, 0, 1, axis)] if is_odd else []
    last = [span(x, k - 1, k, axis)] * (n + 1 - len(first) - k)
    x = jnp.concatenate([*first, x, *last], axis)
    return span(x, 0, n, axis) + span(x, 1, n + 1, axis)


def _split(x, axis):
    """Return (low, high), one level of the 5/3 analysis.

    `high` is zero-padded to the length of `low`.
    """
    n = x.shape[axis]
    even, odd = span(x, 0, n, axis, 2), span(x, 1, n, axis, 2)
    high = odd - (_neighbours(even, False, axis, n // 2) >> 1)
    low = even + ((_neighbours(high, True, axis, (n + 1) // 2) + 2) >> 2)
    return low, pad_end(high, (n + 1) // 2, axis)


def _merge(low, high, axis, n):
    """Return the n samples of which `_split` returns `low` and `high`."""
    high = span(high, 0, n // 2, axis)
    even = low - ((_neighbours(high, True, axis, (n + 1) // 2) + 2) >> 2)
    odd = high + (_neighbours(even, False, axis, n // 2) >> 1)
    both = jnp.stack([even, pad_end(odd, (n + 1) // 2, axis)], axis + 1)
    shape = list(low.shape)
    shape[axis] *= 2
    return span(both.reshape(shape), 0, n, axis)


def _level_sizes(height, width, levels):
    """Return (H, W) before each level, and after the last level."""
    return [(-(-height // 2**i), -(-width // 2**i)) for i in range(levels + 1)]


def _is_small(rows, columns):
    return max(rows, columns) <= _SMALL


def levels_of(height, width):
    """Return the number of decompositions."""
    return min(7, min(height, width).bit_length() - 1)


def synthesis_norms(levels):
    """Return the L2 norms (low, high) of each level's 1-D synthesis functions.

    An error of 1 in a coefficient of a band is an error of (product of its two norms)^2
    in the image. The function of a level is its filter, stretched by the low filter of
    the finer levels.
    """
    smooth = np.array([1, 2, 1]) / 2
    low, high = smooth, np.array([-1, -2, 6, -2, -1]) / 8
    norms = []
    for _ in range(levels):
        norms.append((np.linalg.norm(low), np.linalg.norm(high)))
        low, high = (np.convolve(np.kron(f, [1, 0])[:-1], smooth) for f in (low, high))
    return norms


def analyse(x_mHW: jax.Array, levels: int) -> list[Sheet]:
    """Return the transform: one sheet per level of large bands, and one of all others.

    The bands of a level are HL (horizontally high, vertically low), LH and HH. Levels
    go from fine to coarse. The last band of the last sheet is the remaining low band.
    """
    norms = synthesis_norms(levels)
    sizes = _level_sizes(*x_mHW.shape[1:], levels)
    sheets, small = [], []
    for (height, width), (n_low, n_high) in zip(sizes[:-1], norms, strict=True):
        low, high = _split(jnp.stack(_split(x_mHW, 1), 1), 3)
        bands = [low[:, 0], high[:, 0], low[:, 1], high[:, 1]]
        bands = side_by_side([band[:, :, None] for band in bands])
        x_mHW = bands[:, :, 0]
        rows, columns = x_mHW.shape[1:]
        sheet = Sheet(
            bands[:, :, 1:],
            [(rows, width // 2), (height // 2, columns), (height // 2, width // 2)],
            [n_low * n_high, n_low * n_high, n_high**2],
        )
        (small if _is_small(rows, columns) else sheets).append(sheet)
    small.append(Sheet(x_mHW[:, :, None], [sizes[-1]], [norms[-1][0] ** 2]))
    rows, columns = (max(s.values_mRbC.shape[axis] for s in small) for axis in (1, 3))
    values = [pad_end(pad_end(s.values_mRbC, rows, 1), columns, 3) for s in small]
    sizes = [size for sheet in small for size in sheet.sizes]
    norms = [norm for sheet in small for norm in sheet.norms]
    return [*sheets, Sheet(side_by_side(values), sizes, norms)]


def synthesise(
    values: list[jax.Array], height: int, width: int, levels: int
) -> jax.Array:
    """Return the inverse, (m, H, W), from the values of the sheets."""
    sizes = _level_sizes(height, width, levels)
    *large, small = values
    rows, columns = sizes[-1]
    x_mHW = small[:, :rows, -1, :columns]
    for level in reversed(range(levels)):
        rows, columns = sizes[level + 1]
        if level < len(large):
            bands = large[level]
        else:
            first = 3 * (level - len(large))
            bands = small[:, :rows, first : first + 3, :columns]
        low = jnp.stack([x_mHW, bands[:, :, 1]], 1)
        high = jnp.stack([bands[:, :, 0], bands[:, :, 2]], 1)
        both = _merge(low, high, 3, sizes[level][1])
        x_mHW = _merge(both[:, 0], both[:, 1], 1, sizes[level][0])
    return x_mHW
