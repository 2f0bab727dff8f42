"""NT-Xent (Chen et al., "SimCLR", 2020) and two measures of an embedding.

Everything is float32. Rows `a[i]` and `b[i]` are a positive pair. Every other row of
either view is a negative. Shapes: N pairs, D dimensions, M = 2N rows, and R rows per
device.

The similarity matrix (M, M) is never stored as a whole. Each device computes the
similarities of its own R rows to all rows, one block at a time, and recomputes them for
the gradient. So memory grows with the number of rows per device. Devices exchange only
one all-gather of the embeddings, two numbers per row for the gradient, and a few sums.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

# On TPU and GPU the default precision of a float32 product is lower. At temperature 0.1
# the error in the logits would be ten times that of the product.
_PRECISION = jax.lax.Precision.HIGHEST
# Maximum size of a block of similarities; a few arrays have this size.
BLOCK_BYTES = 32 * 2**20


class Contrast(NamedTuple):
    """The loss and the measures of a batch of embeddings, float32 scalars.

    Only the loss has a gradient.

    Attributes:
      loss: NT-Xent, see `nt_xent`.
      alignment: mean squared distance of the pairs, 0..4 (Wang and Isola, 2020).
      uniformity: log of the mean of exp(-2 `|z_i - z_j|`^2) over i != j (Wang and
        Isola, with t = 2); lower is more uniform, from -8 (all opposite) to 0 (all
        equal).
    """

    loss: jax.Array
    alignment: jax.Array
    uniformity: jax.Array


def l2_normalize(x: jax.Array) -> jax.Array:
    """Return the rows of (..., D) scaled to length 1, in float32; zero rows stay."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    # 1e-24 is the square of PyTorch's 1e-12. The maximum is taken inside the root so
    # that the gradient is finite.
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def nt_xent(a_ND: jax.Array, b_ND: jax.Array, temperature: float = 0.1) -> jax.Array:
    """Return the NT-Xent loss of a batch of pairs.

    It is the mean over all rows i of -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)),
    where j is the positive of i and s is the cosine similarity of two rows.

    Args:
      a_ND: embeddings of view A, (N, D), of any length (they are normalised here).
      b_ND: embeddings of view B, (N, D).
      temperature: t, above 0.

    Returns:
      A float32 scalar. If all similarities are equal, it is log(2N - 1).

    >>> import jax.numpy as jnp
    >>> round(float(nt_xent(jnp.ones((4, 8)), jnp.ones((4, 8)))), 3)  # log(7)
    1.946
    """
    return contrast(a_ND, b_ND, temperature).loss


def contrast(
    a_ND: jax.Array,
    b_ND: jax.Array,
    temperature: float = 0.1,
    axis: str | None = None,
    scale_negatives: bool = True,
) -> Contrast:
    """Return NT-Xent together with the two measures of the embedding.

    Args:
      a_ND: embeddings of view A, (N, D), of any length.
      b_ND: embeddings of view B, (N, D).
      temperature: temperature of the loss.
      axis: inside `shard_map`, the mesh axis that the pairs are divided over. The
        inputs are then the pairs of this device, and the outputs are those of all
        pairs.
      scale_negatives: whether the other scale of a pair is a negative, as in the paper.
        If not, rows 2i and 2i + 1 must be the two scales of a pair, and neither they
        nor their positives are negatives of each other.
    """
    a_ND, b_ND = l2_normalize(a_ND), l2_normalize(b_ND)
    z_RD = jnp.concatenate([a_ND, b_ND])
    log_sums_R, potentials_R = _against_all(
        z_RD * temperature**-0.5, temperature, axis, scale_negatives
    )
    # s_ij = s_ji, so both rows of a pair have the same positive term.
    sums = jnp.stack(
        [
            log_sums_R.sum() - 2 * jnp.sum(a_ND * b_ND) / temperature,
            jnp.sum((a_ND - b_ND) ** 2),
            potentials_R.sum(),
        ]
    )
    loss, alignment, potential = sums if axis is None else jax.lax.psum(sums, axis)
    rows = len(z_RD) * (1 if axis is None else jax.lax.axis_size(axis))
    return Contrast(
        loss=loss / rows,
        alignment=jax.lax.stop_gradient(2 * alignment / rows),
        uniformity=jnp.log(jax.lax.stop_gradient(potential) / (rows * (rows - 1))),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _against_all(y_RD, temperature, axis, scale_negatives):
    """Return, for each row of this device, two sums over the M - 1 other rows.

    The other rows include those of all other devices.

    Args:
      y_RD: rows of length t^-1/2, whose products are the logits l_ik = s_ik / t.
      temperature: t.
      axis, scale_negatives: see `contrast`. Without `scale_negatives`, the first sum
        has two terms less.

    Returns:
      Two arrays (R,): log(sum_k exp(l_ik)), and sum_k exp(4 s_ik - 4), which is sum_k
      exp(-2 |z_i - z_k|^2) because |z_i - z_k|^2 = 2 - 2 s_ik. The second has no
      gradient.
    """
    return _forward(y_RD, temperature, axis, scale_negatives)[0]


def _forward(y_RD, temperature, axis, scale_negatives):
    y_MD = _gather(y_RD, axis)

    def row(y_D, own_index):
        logits_M = jnp.dot(y_MD, y_D, precision=_PRECISION)
        contrasted_M = _contrasted(len(y_MD), own_index, len(y_RD), scale_negatives)
        log_sum = jax.nn.logsumexp(logits_M, where=contrasted_M)
        other_M = jnp.arange(len(y_MD)) != own_index
        potentials_M = jnp.exp(4 * temperature * logits_M - 4)
        return log_sum, jnp.sum(potentials_M, where=other_M)

    sums = _by_blocks(row, (y_RD, _row_indices(y_RD, axis)), len(y_MD))
    return sums, (y_RD, y_MD, sums[0])


def _backward(axis, scale_negatives, saved, gradients):
    """Return the gradient of the rows of this device.

    Row i enters its own sum and, because l_ik = l_ki, the sum of every row that is
    contrasted with it. Let p_ik = exp(l_ik - log_sum_i), the softmax, and g the
    gradient of the log sums. Then dy_i = sum_k (g_i p_ik + g_k p_ki) y_k. For rows of
    other devices, p_ki needs only their log sum, so no gradient of an embedding has to
    be communicated.
    """
    y_RD, y_MD, log_sums_R = saved
    g_R, _ = gradients
    log_sums_M, g_M = _gather(jnp.stack([log_sums_R, g_R], axis=1), axis).T

    def row(y_D, own_index, log_sum, g):
        logits_M = jnp.dot(y_MD, y_D, precision=_PRECISION)
        own_M, others_M = jnp.exp(logits_M - log_sum), jnp.exp(logits_M - log_sums_M)
        contrasted_M = _contrasted(len(y_MD), own_index, len(y_RD), scale_negatives)
        weights_M = jnp.where(contrasted_M, g * own_M + g_M * others_M, 0)
        return jnp.dot(weights_M, y_MD, precision=_PRECISION)

    rows = (y_RD, _row_indices(y_RD, axis), log_sums_R, g_R)
    return _by_blocks(row, rows, len(y_MD)), None


_against_all.defvjp(_forward, _backward)


def _contrasted(
    count: int, own_index: jax.Array, rows_per_device: int, scale_negatives: bool
) -> jax.Array:
    """Return which of `count` rows the row `own_index` is contrasted with, bool (M,).

    These are its positive and its negatives. The rows of a device are those of view A,
    then those of view B, in the order of the pairs.
    """
    indices = jnp.arange(count)
    contrasted = indices != own_index
    if not scale_negatives:
        place = own_index % rows_per_device
        positive = own_index - place + (place + rows_per_device // 2) % rows_per_device
        # Even and odd rows are the two scales.
        contrasted &= (indices != own_index ^ 1) & (indices != positive ^ 1)
    return contrasted


def _gather(x: jax.Array, axis: str | None) -> jax.Array:
    """Return the rows of all devices, in the order of the devices."""
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def _row_indices(z_RD: jax.Array, axis: str | None) -> jax.Array:
    """Return the indices of this device's rows among the rows of all devices."""
    first = 0 if axis is None else jax.lax.axis_index(axis) * len(z_RD)
    return first + jnp.arange(len(z_RD))


def _by_blocks(row: Callable, rows: tuple[jax.Array, ...], columns: int):
    """Return `row` mapped over the rows, in blocks of at most `BLOCK_BYTES`."""
    block = max(1, BLOCK_BYTES // (4 * columns))
    if block >= len(rows[0]):
        return jax.vmap(row)(*rows)
    return jax.lax.map(lambda one: row(*one), rows, batch_size=block)
