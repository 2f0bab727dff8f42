"""The reversible 5/3 wavelet transform of JPEG 2000 (ITU-T T.800, annex F), on int32.

Arrays are named by their axes: m = planes, H and W of a plane, R rows, b bands side by
side, C columns of a band. The bands of a level are kept side by side because XLA:CPU
stores a concatenation along a long last axis once, while it recomputes most other
values in each of their users, here at ten times the cost; `side_by_side` is that place.
"""

import jax
import jax.numpy as jnp
import numpy as np


def span(x, start, stop, axis, stride=1):
    """x[start:stop:stride] along `axis`."""
    return jax.lax.slice_in_dim(x, start, stop, stride, axis)


def pad_end(x, length, axis):
    """Zeros after the end of `axis`, up to `length`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths)


def side_by_side(bands):
    """Arrays (m, R, b, C) -> one with all their bands, stored; see the module."""
    flat = [band.reshape(*band.shape[:2], -1) for band in bands]
    m, rows, _, columns = bands[0].shape
    return jnp.concatenate(flat, 2).reshape(m, rows, -1, columns)


def _lift(x, other, axis, n):
    """x[i-1] + x[i] for i < n, with the symmetric extension of T.800, annex F.

    `other` says that x holds odd samples (the sum starts with x[0] twice) and not even
    ones (it starts at x[0] + x[1]); both repeat the last sample where it is needed.
    """
    k = x.shape[axis]
    first = [span(x, 0, 1, axis)] if other else []
    last = [span(x, k - 1, k, axis)] * (n + 1 - len(first) - k)
    x = jnp.concatenate([*first, x, *last], axis)
    return span(x, 0, n, axis) + span(x, 1, n + 1, axis)


def _split(x, axis):
    """One level of the 5/3 analysis: (low, high), high zero-padded to low's length."""
    n = x.shape[axis]
    even, odd = span(x, 0, n, axis, 2), span(x, 1, n, axis, 2)
    high = odd - (_lift(even, False, axis, n // 2) >> 1)
    low = even + ((_lift(high, True, axis, (n + 1) // 2) + 2) >> 2)
    return low, pad_end(high, (n + 1) // 2, axis)


def _merge(low, high, axis, n):
    """The inverse of `_split`, for n samples."""
    high = span(high, 0, n // 2, axis)
    even = low - ((_lift(high, True, axis, (n + 1) // 2) + 2) >> 2)
    odd = high + (_lift(even, False, axis, n // 2) >> 1)
    both = jnp.stack([even, pad_end(odd, (n + 1) // 2, axis)], axis + 1)
    shape = list(low.shape)
    shape[axis] *= 2
    return span(both.reshape(shape), 0, n, axis)


def analyse(x_mHW, levels):
    """The last low band (m, R, C), and the details (m, R, 3, C) from fine to coarse.

    The bands of a level are HL (high across, low down), LH, HH.
    """
    details = []
    for _ in range(levels):
        low, high = _split(jnp.stack(_split(x_mHW, 1), 1), 3)
        bands = [low[:, 0], high[:, 0], low[:, 1], high[:, 1]]
        bands = side_by_side([band[:, :, None] for band in bands])
        details.append(bands[:, :, 1:])
        x_mHW = bands[:, :, 0]
    return x_mHW, details


def synthesise(x_mHW, details, sizes):
    """The inverse of `analyse`; `sizes` are (H, W) before each level."""
    for bands, (height, width) in zip(reversed(details), reversed(sizes), strict=True):
        low = jnp.stack([x_mHW, bands[:, :, 1]], 1)
        high = jnp.stack([bands[:, :, 0], bands[:, :, 2]], 1)
        rows = _merge(low, high, 3, width)
        x_mHW = _merge(rows[:, 0], rows[:, 1], 1, height)
    return x_mHW


def synthesis_norms(levels):
    """L2 norms of the one-dimensional synthesis functions: (low, high) per level.

    An error of 1 in a coefficient of a band is an error of (product of its two norms)^2
    in the image: the filters of one level, stretched by the low filter of those below.
    """
    smooth = np.array([1, 2, 1]) / 2
    low, high = smooth, np.array([-1, -2, 6, -2, -1]) / 8
    norms = []
    for _ in range(levels):
        norms.append((np.linalg.norm(low), np.linalg.norm(high)))
        low, high = (np.convolve(np.kron(f, [1, 0])[:-1], smooth) for f in (low, high))
    return norms
