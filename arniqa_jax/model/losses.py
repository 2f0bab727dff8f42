"""NT-Xent (Chen et al., "SimCLR", 2020) and two measures of an embedding.

Everything is float32. Rows `a[i]` and `b[i]` are a positive pair; every other row of
either view is a negative. Shapes: N pairs, D dimensions, M = 2N rows.
"""

import jax
import jax.numpy as jnp

# On TPU and GPU the default precision of a float32 product is lower; at temperature 0.1
# its error would be ten times as large in the logits.
_PRECISION = jax.lax.Precision.HIGHEST


def l2_normalize(x: jax.Array) -> jax.Array:
    """Scales the rows of (..., D) to length 1 in float32; a zero row stays zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    # The square of PyTorch's 1e-12; inside the root, so that the gradient is finite.
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def nt_xent(a_ND: jax.Array, b_ND: jax.Array, temperature: float = 0.1) -> jax.Array:
    """The mean over all rows of -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)).

    Args:
      a_ND: embeddings of view A, (N, D), of any length (they are normalised here).
      b_ND: embeddings of view B, (N, D).
      temperature: t, above 0.

    Returns:
      A float32 scalar. Chance, where all similarities are equal, is log(2N - 1).
    """
    a_ND, b_ND = l2_normalize(a_ND), l2_normalize(b_ND)
    z_MD = jnp.concatenate([a_ND, b_ND])
    logits_MM = jnp.matmul(z_MD, z_MD.T, precision=_PRECISION) / temperature
    itself = jnp.eye(len(z_MD), dtype=bool)
    logits_MM = jnp.where(itself, -jnp.inf, logits_MM)
    # s_ij = s_ji, so both rows of a pair share their positive.
    positives_N = jnp.sum(a_ND * b_ND, axis=-1) / temperature
    return jax.nn.logsumexp(logits_MM, axis=-1).mean() - positives_N.mean()


def alignment(a_ND: jax.Array, b_ND: jax.Array) -> jax.Array:
    """Mean squared distance of the pairs, 0..4 (Wang and Isola, 2020)."""
    return jnp.sum((l2_normalize(a_ND) - l2_normalize(b_ND)) ** 2, axis=-1).mean()


def uniformity(z_MD: jax.Array) -> jax.Array:
    """Log of the mean of exp(-2 |z_i - z_j|^2) over i != j; lower is more uniform.

    Wang and Isola, 2020, with t = 2; between -8 (all opposite) and 0 (all equal).
    """
    z_MD = l2_normalize(z_MD)
    rows = len(z_MD)
    # |z_i - z_j|^2 = 2 - 2 s_ij for rows of length 1.
    potential_MM = jnp.exp(
        4 * jnp.matmul(z_MD, z_MD.T, precision=_PRECISION) - 4,
    )
    off_diagonal = jnp.sum(potential_MM) - jnp.trace(potential_MM)
    return jnp.log(off_diagonal / (rows * (rows - 1)))
