"""Coding and decoding of single JPEG 2000 coefficients, given their neighbours.

Arrays are (m, R, b, C) as in `jpeg2000.py`. Neighbours outside a band are 0.
"""

import jax
import jax.numpy as jnp

from arniqa_jax.degradation.wavelet import span

BLOCK = 64  # side of a code-block
PLANES = 8  # bit-planes; a larger magnitude, which is rare, counts as in the highest


def shifted(x_mRbC, down, right):
    """Return x moved by `down` rows and `right` columns (each -1, 0 or 1).

    Zeros move in from outside the band.
    """
    rows, columns = x_mRbC.shape[1], x_mRbC.shape[3]
    x = jnp.pad(x_mRbC, ((0, 0), (1, 1), (0, 0), (1, 1)))
    x = span(x, 1 - down, 1 - down + rows, 1)
    return span(x, 1 - right, 1 - right + columns, 3)


def around(x_mRbC):
    """Return the bitwise or of each value and its 8 neighbours.

    The bit length of the result is the largest bit length among them.
    """
    across = shifted(x_mRbC, 0, 1) | x_mRbC | shifted(x_mRbC, 0, -1)
    return shifted(across, 1, 0) | across | shifted(across, -1, 0)


def visited(x_mRbC):
    """Return the bitwise or of the neighbours that a scan by columns visits before."""
    left = shifted(x_mRbC, 0, 1)
    left = shifted(left, 1, 0) | left | shifted(left, -1, 0)
    return left | shifted(x_mRbC, 1, 0)


def bit_length(x):
    """Return the number of bits of a magnitude below 2^24, at most PLANES.

    It is the exponent of the magnitude as a float.
    """
    exponent = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) >> 23
    return jnp.clip(exponent - 126, 0, PLANES)


def continues(x_mRbC, down, right):
    """Return 1 where a value continues a line, else 0.

    A value continues a line if a neighbour along the axis (down, right) has the same
    sign and at least its bit length.
    """
    one, other = shifted(x_mRbC, down, right), shifted(x_mRbC, -down, -right)
    same = jnp.where(x_mRbC > 0, jnp.maximum(one, other), -jnp.minimum(one, other))
    same = bit_length(jnp.maximum(same, 0)) >= bit_length(jnp.abs(x_mRbC))
    return same.astype(jnp.int32)


def digits(length, longest, visited, is_line, inside):
    """Return what each coefficient adds to the five counts of its block, in each plane.

    A coefficient is significant in plane p if |x| >= 2^p. The counts are, for each
    plane p, the number of coefficients that

      (0) are significant;
      (1) are significant or have a significant neighbour;
      (2) become significant at p, without a neighbour that was significant before;
      (3) do so and are the first of their cluster in the order of the scan;
      (4) become significant at p and continue a line, so that the sign costs little.

    Args:
      length: bit length of each coefficient.
      longest: the largest bit length among the coefficient and its neighbours.
      visited: the largest bit length of the neighbours that are scanned before it.
      is_line: whether the coefficient continues a line.
      inside: True for a coefficient, False for padding.

    Returns:
      Five int32 arrays. Each has a digit of 4 bits per plane; plane p is at bit 4 p.
    """

    def up_to(n):
        """Return 1 in each of the n lowest digits."""
        shift = 4 * (PLANES - jnp.maximum(n, 1))
        ones = jax.lax.shift_right_logical(jnp.full_like(n, 0x11111111), shift)
        return jnp.where(n > 0, ones, 0)

    digit = jax.lax.shift_left(jnp.ones_like(length), 4 * (jnp.maximum(length, 1) - 1))
    digit = jnp.where(length > 0, digit, 0)
    alone = jnp.where(length == longest, digit, 0)
    first = jnp.where(visited < length, alone, 0)
    near = jnp.where(inside, up_to(longest), 0)
    return [up_to(length), near, alone, first, jnp.where(is_line, digit, 0)]


def decode(x, cut):
    """Return the decoder's coefficients, given where each block is cut.

    All bits below u, the last plane in which a coefficient is coded, are unknown. The
    coefficient is decoded as its multiple of u plus u / 2 (exact for u = 1), or as 0. A
    block may be cut within its last plane. Then u is twice as large for the
    coefficients whose pass is missing: after a missing refinement pass, those that were
    significant before; after a missing cleanup pass, those without a significant
    neighbour.

    Args:
      x: int32 coefficients.
      cut: where the block of each coefficient is cut, as returned by `passes.cuts`.
    """
    plane = jax.lax.shift_left(jnp.ones_like(cut), cut >> 2)
    last = cut & 3
    magnitude = jnp.abs(x)
    unrefined = (last == 0) & (magnitude >= 2 * plane)
    uncleaned = (last < 2) & (around(magnitude) < 2 * plane)
    u = jnp.where(unrefined | uncleaned, 2 * plane, plane)
    known = magnitude & -u
    return jnp.sign(x) * jnp.where(known > 0, known + (u >> 1), 0)
