"""The layers of the ResNets in plain JAX, for TPU and GPU.

The compilers for TPU and GPU fuse these forms well, so little here is written for
speed. The forms for XLA:CPU are in `cpu_kernels`. Images are NHWC, kernels HWIO.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def convolve(
    x_NHWC: jax.Array,
    kernel_HWIO: jax.Array,
    stride: int,
    precision: str = "default",
) -> jax.Array:
    """Return the convolution with a square kernel of odd size K, padded by K // 2."""
    return lax.conv_general_dilated(
        x_NHWC,
        kernel_HWIO,
        (stride, stride),
        [(kernel_HWIO.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def max_pool(x_NHWC: jax.Array) -> jax.Array:
    """Return the maxima of 3x3 windows with stride 2 and padding 1."""
    return nn.max_pool(x_NHWC, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def normalize(
    x: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
    within: tuple[int, ...],
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return x normalised in float32 by its own statistics, and the statistics.

    Args:
      x: (..., C).
      scale_C: factors applied after the normalisation.
      bias_C: added at the end.
      within: the axes whose values share a mean and variance.
      epsilon: added to the variance.

    Returns:
      The result, float32 of the shape of x, then means and biased variances, both of
      the shape of x without the axes of `within`.
    """
    wide = x.astype(jnp.float32)
    mean = wide.mean(within)
    # var = E[x^2] - E[x]^2 needs one pass over x instead of two.
    var = jnp.maximum((wide * wide).mean(within) - mean**2, 0)
    factor = _as_row(scale_C, mean) * lax.rsqrt(var + epsilon)
    shift = _as_row(bias_C, mean) - mean * factor
    factor, shift = (jnp.expand_dims(v, within) for v in (factor, shift))
    return wide * factor + shift, mean, var


def _as_row(vector_C: jax.Array, like: jax.Array) -> jax.Array:
    """Return a vector over channels with the rank of `like`."""
    return vector_C.reshape((1,) * (like.ndim - 1) + (-1,))
