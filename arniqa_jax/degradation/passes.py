"""Estimates of the length and gain of JPEG 2000's coding passes, and where to cut.

OpenJPEG's arithmetic coder is serial. Here the length of a pass is estimated from
counts over its block (`coefficients.digits`). As in OpenJPEG, all blocks of an image
are cut at one slope (gain per bit), the least that keeps within the budget.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation.coefficients import PLANES

NOTHING = 4 * 15 + 2  # the cut (see `cuts`) of a block that is not coded at all
_HEADER = 17.0  # approximate bits of a block in the packet headers
# log2 of the range of slopes. Above the greatest slope from nothing, no block takes a
# pass. At 2^34 below it, even the last plane is worth its bits.
_RANGE = 34
_STEPS = 16  # bisections of this range


def rates_and_gains(counts, number, weight):
    """Return the bits up to each pass, and the squared error that they remove.

    The three passes of a plane are "propagation", which codes the significance of the
    neighbours of significant coefficients, "refinement", which refines the significant
    ones, and "cleanup", which codes the rest.

    Bits: if k of n coefficients become significant, the first and last pass cost about
    log2(n choose k), plus some bits per new coefficient for its sign and for the effect
    on its neighbours. A refinement costs about one bit. The coder learns as it goes,
    which costs a logarithm of the length so far. It can be cut at whole bytes. The
    constants are rounded from a least-squares fit to 11,912 lengths of cut blocks that
    OpenJPEG 2.5.4 wrote for 27 crops. The standard deviation of the sum over an image
    is 3 %.

    Gain: a coefficient u <= |x| < 2u decoded as 1.5 u gains x^2 - (|x| - 1.5 u)^2 = 3 u
    |x| - 2.25 u^2. The mean of |x| is that of an exponential density whose tails at u
    and 2u have the ratio of the counts. A refinement halves an interval of width 2u and
    gains u^2 / 4 (1/2 at the last plane, where integers become exact).

    Args:
      counts: (plane, 5, ...), as returned by `digits`.
      number: (...), the number of coefficients of each block.
      weight: (...), the squared error in the image for an error of 1 in a coefficient.

    Returns:
      Bits and gains, float32 (3 PLANES, ...) each, cumulative in the order of coding.
    """

    def above(x):  # the same count one plane up
        return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])

    def choose(n, k):  # log2 of the binomial, by Stirling's formula
        def power(x):
            return x * jnp.log2(jnp.maximum(x, 1))

        return jnp.maximum(power(n) - power(k) - power(n - k), 0)

    now, near, alone, first, lines = (counts[:, kind] for kind in range(5))
    before, near = above(now), above(near)
    spread = now - before - alone
    cheap = 1.5 * lines / jnp.maximum(spread + alone, 1)
    bits = [
        0.7 * choose(near - before, spread) + (2.6 - cheap) * spread,
        0.95 * before,
        0.95 * choose(number[None] - near, first) + 3 * first + (1.8 - cheap) * alone,
    ]
    u = np.exp2(np.arange(PLANES, dtype=np.float32)).reshape(-1, *[1] * number.ndim)
    ratio = jnp.maximum((now + 0.5) / (before + 0.5), 1.1)
    mean = u + (u - 1) * (1 / jnp.log(ratio) - 1 / (ratio - 1))
    new = jnp.where(u == 1, 1, 3 * u * mean - 2.25 * u * u)
    gains = [new * spread, np.maximum(u * u / 4, 0.5) * before, new * alone]

    def accumulate(passes):
        passes = jnp.stack(passes, 1)[::-1].reshape(3 * PLANES, *number.shape)
        return jnp.cumsum(passes, 0)

    bits = accumulate(bits)
    bits = 8 * jnp.floor((bits + 6.4 * jnp.log2(1 + bits / 8)) / 8)
    return bits, accumulate(gains) * weight[None]


def cuts(rates, gains, budget):
    """Return where to cut each block so that an image stays within its budget.

    A block continues to a later pass if that pass gains at least `slope` per bit,
    counted from the last pass taken. 16 bisections find the least slope that the budget
    allows.

    Args:
      rates, gains: (passes, n, blocks), the results of `rates_and_gains`.
      budget: (n,), in bits.

    Returns:
      (n, blocks) int32, 4 x lowest plane + last pass in that plane (0, 1, 2).
    """

    def cut_at(slope):
        slope = jnp.broadcast_to(slope[:, None], rates.shape[1:])
        rate = gain = jnp.zeros_like(rates[0])
        cut = jnp.full(rate.shape, NOTHING, jnp.int32)
        for i in range(len(rates)):
            take = gains[i] - gain > slope * (rates[i] - rate)
            rate = jnp.where(take, rates[i], rate)
            gain = jnp.where(take, gains[i], gain)
            cut = jnp.where(take, 4 * (PLANES - 1 - i // 3) + i % 3, cut)
        return cut, (rate + jnp.where(rate > 0, _HEADER, 0.0)).sum(-1)

    def bisect(_, state):
        low, high, cut = state
        middle = (low + high) / 2
        new, bits = cut_at(jnp.exp2(middle))
        fits = bits <= budget
        cut = jnp.where(fits[:, None], new, cut)
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high), cut

    # `shard_map` checks that start values and result vary over the same devices, so the
    # start values are computed from the data.
    high = _highest(rates, gains)
    state = high - _RANGE, high, cut_at(jnp.exp2(high + 1))[0]
    return jax.lax.fori_loop(0, _STEPS, bisect, state)[2]


def _highest(rates, gains):
    """Return log2 of the greatest slope from nothing, (n,)."""
    return jnp.log2((gains / jnp.maximum(rates, 1)).max((0, 2)) + 1)


def cuts_in_two_steps(rates, gains, budget):
    """Return the result of `cuts`, computed in a few large operations.

    On a TPU a small operation takes as long as its launch. The last pass taken at a
    slope is the first one that maximises gain - slope * rate. Its rate falls as the
    slope rises. So the number of slopes that exceed the budget gives the least slope
    that fits. Two steps of 2^8 equal parts replace 16 bisections, up to rounding.
    """
    spent = jnp.where(rates > 0, rates + _HEADER, 0.0)

    def at_best(slopes, of_pass, of_nothing):
        """Return `of_pass` (passes, n or 1, 1, blocks or 1) at the last pass taken."""
        value = gains[:, :, None] - slopes[None, :, :, None] * rates[:, :, None]
        of_pass = jnp.broadcast_to(of_pass, value.shape)

        def first_best(one, other):
            better = (one[0] > other[0]) | ((one[0] == other[0]) & (one[2] <= other[2]))
            return tuple(
                jnp.where(better, *pair) for pair in zip(one, other, strict=True)
            )

        order = jax.lax.broadcasted_iota(jnp.int32, value.shape, 0)
        best, chosen, _ = jax.lax.reduce(
            (value, of_pass, order), (0.0, 0.0, len(value)), first_best, (0,)
        )
        # The best value is used here, because XLA may round a value without a use to
        # bfloat16.
        return jnp.where(best > 0, chosen, of_nothing)

    parts = 2 ** (_STEPS // 2)
    low = _highest(rates, gains)[:, None] - _RANGE
    width = _RANGE
    for _ in range(2):
        width /= parts
        slopes = jnp.exp2(low + width * np.arange(1, parts, dtype=np.float32)[None])
        exceeds = at_best(slopes, spent[:, :, None], 0.0).sum(-1) > budget[:, None]
        low += width * exceeds.sum(-1, keepdims=True)
    cuts = np.array([4 * p + i for p in reversed(range(PLANES)) for i in range(3)])
    cuts = cuts.astype(np.float32).reshape(-1, 1, 1, 1)
    return at_best(jnp.exp2(low + width), cuts, NOTHING)[:, 0].astype(jnp.int32)


def budget(height, width, levels, value):
    """Return the bits that the blocks of an image may take at a compression ratio."""
    # OpenJPEG subtracts 216 bytes for the main header and slack (at 7 decompositions),
    # but leaves at least 30 bytes. It spends one byte on each packet, and there is a
    # packet per channel and resolution.
    left = 3 * height * width / jnp.asarray(value, jnp.float32) - 195 - 3 * levels
    return 8 * (jnp.maximum(left, 30) - 3 * (levels + 1))
