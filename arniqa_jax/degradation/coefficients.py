"""What JPEG 2000 codes and decodes of each coefficient, given its neighbours.

Arrays are (m, R, b, C) as in `jpeg2000.py`. Zeros outside of a band count as its
neighbours.
"""

import jax
import jax.numpy as jnp

from arniqa_jax.degradation.wavelet import span

BLOCK = 64  # side of a code-block
PLANES = 8  # told apart; the rare larger magnitudes count as of the highest plane


def shifted(x_mRbC, down, right):
    """x moved by one step or none within its band, zeros coming in."""
    rows, columns = x_mRbC.shape[1], x_mRbC.shape[3]
    x = jnp.pad(x_mRbC, ((0, 0), (1, 1), (0, 0), (1, 1)))
    x = span(x, 1 - down, 1 - down + rows, 1)
    return span(x, 1 - right, 1 - right + columns, 3)


def around(x_mRbC):
    """Each value or-ed with its 8 neighbours: the length is that of the longest."""
    across = shifted(x_mRbC, 0, 1) | x_mRbC | shifted(x_mRbC, 0, -1)
    return shifted(across, 1, 0) | across | shifted(across, -1, 0)


def visited(x_mRbC):
    """The neighbours that a scan of columns meets first, or-ed."""
    left = shifted(x_mRbC, 0, 1)
    left = shifted(left, 1, 0) | left | shifted(left, -1, 0)
    return left | shifted(x_mRbC, 1, 0)


def bit_length(x):
    """Bits of a magnitude below 2^24, at most PLANES: the exponent of its float."""
    exponent = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) >> 23
    return jnp.clip(exponent - 126, 0, PLANES)


def continues(x_mRbC, down, right):
    """1 where a neighbour along this axis is of the same sign and as long, else 0."""
    one, other = shifted(x_mRbC, down, right), shifted(x_mRbC, -down, -right)
    same = jnp.where(x_mRbC > 0, jnp.maximum(one, other), -jnp.minimum(one, other))
    same = bit_length(jnp.maximum(same, 0)) >= bit_length(jnp.abs(x_mRbC))
    return same.astype(jnp.int32)


def digits(length, longest, visited, is_line, inside):
    """Return for each coefficient what it adds to the five counts, in each plane.

    The counts are how many coefficients, for each plane p, ...

    ... (0) are significant once p is coded, |x| >= 2^p; (1) have such a one among
    themselves and their neighbours; (2) become significant at p without a neighbour
    significant before; (3) do so as the first of a cluster in the order of the scan;
    (4) become significant at p and continue a line, the sign of which is then cheap.

    Args:
      length: bit length of a coefficient; longest: of it and those around it;
        visited: of the neighbours that are scanned before it.
      is_line: whether it continues a line.
      inside: whether it is a coefficient, and not padding.
    Returns: five int32 arrays, the digit of 4 bits of plane p at 4 p.
    """

    def up_to(n):
        """1 in each of the n lowest digits."""
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
    """Return the decoder's coefficients, for the cut of each (see `passes.cuts`).

    All bits below the last plane u that a coefficient was coded in are unknown: it is
    decoded as its multiple of u plus u / 2 (exact for u = 1), or 0. In the last plane
    of a block, a missing refinement leaves u twice as large for what was significant
    before, a missing cleanup for what had no significant neighbour.
    """
    plane = jax.lax.shift_left(jnp.ones_like(cut), cut >> 2)
    last = cut & 3
    magnitude = jnp.abs(x)
    unrefined = (last == 0) & (magnitude >= 2 * plane)
    uncleaned = (last < 2) & (around(magnitude) < 2 * plane)
    u = jnp.where(unrefined | uncleaned, 2 * plane, plane)
    known = magnitude & -u
    return jnp.sign(x) * jnp.where(known > 0, known + (u >> 1), 0)
