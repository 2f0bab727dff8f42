"""The wavelet of `wavelet.py` as matrix products, with all bands in one plane.

This is the form for a TPU, which multiplies by a constant matrix faster than it takes
every second column. Only the order of the coefficients differs.

The low band of the last level lies in the corner of the plane. The three bands of each
level surround the coarser bands. At least one row or column of zeros separates two
bands, so a neighbour of a coefficient is in the same band or 0. The bands start at rows
that are multiples of 8.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation.products import across, down


class Axis:
    """The positions of the bands along one axis of the plane; index 0 is the image.

    Attributes:
      low: number of low samples after each level.
      start, high: first position and number of the high samples of each level.
      end: length of the plane of each level with all coarser levels.
    """

    def __init__(self, size, levels, align):
        self.low = [-(-size // 2**level) for level in range(levels + 1)]
        self.high = [0] + [size // 2 for size in self.low[:-1]]
        self.start, self.end = [0] * (levels + 1), [size] * (levels + 1)
        used = self.low[-1]
        for level in range(levels, 0, -1):
            self.start[level] = -(-(used + 1) // align) * align
            used = self.start[level] + self.high[level]
            self.end[level] = -(-(used + 1) // align) * align

    def matrices(self, level):
        """Return the 0/1 matrices of the lifting steps of a level.

        Returns:
          order: (n, places), from the samples of one line to their positions.
          even: (n, n), the two even neighbours of each odd sample.
          high: (places, places), the two high neighbours of each low sample.
        """
        n, low, high = self.low[level - 1], self.low[level], self.high[level]
        start, places = self.start[level], self.end[level]
        order, even = np.zeros((n, places), int), np.zeros((n, n), int)
        neighbours = np.zeros((places, places), int)
        order[np.arange(0, n, 2), np.arange(low)] = 1
        order[np.arange(1, n, 2), start + np.arange(high)] = 1
        for i in range(high):
            for j in (i, min(i + 1, low - 1)):
                even[2 * j, 2 * i + 1] += 1
        for i in range(low):
            for j in (max(i - 1, 0), min(i, high - 1)):
                neighbours[start + j, i] += 1
        return order, even, neighbours


def layout(height, width, levels):
    """Return the axes of the plane: (rows, columns)."""
    return Axis(height, levels, 8), Axis(width, levels, 1)


def _products(x, matrices, is_across):
    """Return the products with two matrices, computed as one product.

    The second matrix starts at a multiple of a register's size (8 rows, 128 columns).
    """
    first, second = matrices
    size = first.shape[1]
    align = 128 if is_across else 8
    extra = -size % align
    both = np.concatenate([np.pad(first, ((0, 0), (0, extra))), second], 1)
    if is_across:
        both = across(x, both)
        return both[..., :size], both[..., size + extra :]
    both = down(x, both.T)
    return both[:, :size], both[:, size + extra :]


def _one(x, matrix, is_across):
    return across(x, matrix) if is_across else down(x, matrix.T)


def _split(x, matrices, is_across):
    """Return (m, H, W) with the lines of one axis replaced by low and high samples."""
    order, even, neighbours = matrices
    placed, sums = _products(x, (order, even @ order), is_across)
    placed = placed - (sums >> 1)
    return placed + ((_one(placed, neighbours, is_across) + 2) >> 2)


def _merge(x, matrices, is_across):
    """Return the inverse of `_split`."""
    order, even, neighbours = matrices
    x = x - ((_one(x, neighbours, is_across) + 2) >> 2)
    samples, sums = _products(x, (order.T, order.T @ even), is_across)
    return samples + (sums >> 1)


def _corner(large, small):
    """Return `large` with its first rows and columns replaced by `small`."""
    rows, columns = small.shape[1:]
    missing = large.shape[1] - rows, large.shape[2] - columns
    small = jnp.pad(small, ((0, 0), (0, missing[0]), (0, missing[1])))
    is_small = (np.arange(large.shape[1]) < rows)[:, None]
    is_small = is_small & (np.arange(large.shape[2]) < columns)
    return jnp.where(is_small[None], small, large)


def analyse(x_mHW: jax.Array, levels: int) -> jax.Array:
    """Return the transform, one plane (m, rows, columns) with all bands."""
    rows, columns = layout(*x_mHW.shape[1:], levels)
    planes = []
    for level in range(1, levels + 1):
        x_mHW = _split(x_mHW, rows.matrices(level), is_across=False)
        planes.append(_split(x_mHW, columns.matrices(level), is_across=True))
        x_mHW = planes[-1][:, : rows.low[level], : columns.low[level]]
    plane = planes.pop()
    while planes:
        plane = jax.lax.dynamic_update_slice(planes.pop(), plane, (0, 0, 0))
    return plane


def synthesise(plane: jax.Array, height: int, width: int, levels: int) -> jax.Array:
    """Return the inverse of `analyse`, (m, height, width)."""
    rows, columns = layout(height, width, levels)
    x_mHW = None
    for level in range(levels, 0, -1):
        bands = plane[:, : rows.end[level], : columns.end[level]]
        bands = bands if x_mHW is None else _corner(bands, x_mHW)
        x_mHW = _merge(bands, columns.matrices(level), is_across=True)
        x_mHW = _merge(x_mHW, rows.matrices(level), is_across=False)
    return x_mHW
