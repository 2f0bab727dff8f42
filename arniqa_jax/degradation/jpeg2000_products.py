"""JPEG 2000 in the form for a TPU: few large operations, all bands in one plane.

The values are those of `jpeg2000.py`, except for rounding: the floating-point sums that
estimate the length of a pass have another order. The planes of all images are stacked
vertically into one array (rows of all planes, columns), because a TPU moves an array of
two large axes fastest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation import passes
from arniqa_jax.degradation.coefficients import (
    BLOCK,
    PLANES,
    around,
    bit_length,
    continues,
    decode,
    digits,
    visited,
)
from arniqa_jax.degradation.wavelet import levels_of, synthesis_norms
from arniqa_jax.degradation.wavelet_products import analyse, layout, synthesise


class _Blocks(NamedTuple):
    """The code-blocks of a plane.

    Attributes:
      rows, columns: (blocks, length of an axis), 1 where a block has coefficients.
      is_across: (blocks,), whether lines are horizontal, which holds for the bands that
        are horizontally low and vertically high.
      weight: (blocks,), the squared error in the image for an error of 1 in a
        coefficient.
    """

    rows: np.ndarray
    columns: np.ndarray
    is_across: np.ndarray
    weight: np.ndarray


def _blocks(height, width, levels):
    axes = layout(height, width, levels)
    norms = synthesis_norms(levels)

    def spans(axis, level, is_high):
        start = axis.start[level] if is_high else 0
        stop = start + (axis.high if is_high else axis.low)[level]
        places = np.arange(axis.end[1])
        return [
            (places >= first) & (places < min(first + BLOCK, stop))
            for first in range(start, stop, BLOCK)
        ]

    bands = [
        (level, down, across)
        for level in range(1, levels + 1)
        for down, across in ((0, 1), (1, 0), (1, 1))
    ]
    blocks = [
        (
            rows,
            columns,
            down > across,
            (norms[level - 1][down] * norms[level - 1][across]) ** 2,
        )
        for level, down, across in [*bands, (levels, 0, 0)]
        for rows in spans(axes[0], level, down)
        for columns in spans(axes[1], level, across)
    ]
    return _Blocks(*(np.array(part) for part in zip(*blocks, strict=True)))


def _counts(x_RC, blocks, m):
    """Return the counts of `digits` for each block: float32 (plane, 5, m, blocks)."""
    row_of, column_of = blocks.rows.T.astype(int), blocks.columns.astype(int)
    inside, is_across = (
        jnp.asarray(np.tile(row_of @ (some[:, None] * column_of) > 0, (m, 1)))
        for some in (np.ones_like(blocks.is_across), blocks.is_across)
    )
    x = x_RC[None, :, None]
    magnitude = jnp.abs(x)
    lengths = [
        bit_length(part)[0, :, 0]
        for part in (magnitude, around(magnitude), visited(magnitude))
    ]
    lines = jnp.where(is_across, *(continues(x, *d)[0, :, 0] for d in ((0, 1), (1, 0))))
    kinds = digits(*lengths, lines == 1, inside)
    # Bands start at multiples of 8 rows, so 8 adjacent rows of a column are in one
    # block.
    n = jnp.stack([kind.reshape(-1, 8, kind.shape[1]).sum(1) for kind in kinds])
    shifts = 4 * jax.lax.broadcasted_iota(jnp.int32, (PLANES, 1, 1, 1), 0)
    n = (n[None] >> shifts & 15).astype(jnp.bfloat16)
    n = jnp.einsum(
        "pkrc,bc->pkrb",
        n,
        column_of.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    n = n.reshape(PLANES, len(kinds), m, -1, n.shape[-1])
    rows = row_of[::8].astype(np.float32)
    return (n * rows[None, None, None]).sum(3)


def _spread(cuts, blocks):
    """Return the cuts (m, blocks) at every coefficient, as (rows, columns)."""
    rows = cuts[:, None] * blocks.rows.T.astype(np.int32)[None]
    product = jnp.einsum(
        "rb,bc->rc",
        rows.reshape(-1, rows.shape[-1]).astype(jnp.bfloat16),
        blocks.columns.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    return product.astype(jnp.int32)


def by_products(planes, value):
    """Return the planes (n, 3, H, W), int32, after encoding and decoding."""
    n, _, height, width = planes.shape
    m, levels = 3 * n, levels_of(height, width)
    x_mRC = analyse(planes.reshape(m, height, width), levels)
    x_RC = x_mRC.reshape(-1, x_mRC.shape[2])
    blocks = _blocks(height, width, levels)

    def per_image(x):
        return np.tile(x.astype(np.float32), (n, 3))

    counts = _counts(x_RC, blocks, m).reshape(PLANES, 5, n, -1)
    number = per_image(blocks.rows.sum(1) * blocks.columns.sum(1))
    rates, gains = passes.rates_and_gains(counts, number, per_image(blocks.weight))
    budget = jnp.broadcast_to(passes.budget(height, width, levels, value), (n,))
    cuts = passes.cuts_in_two_steps(rates, gains, budget).reshape(m, -1)
    decoded = decode(x_RC[None, :, None], _spread(cuts, blocks)[None, :, None])
    planes = synthesise(decoded.reshape(x_mRC.shape), height, width, levels)
    return planes.reshape(n, 3, height, width)
