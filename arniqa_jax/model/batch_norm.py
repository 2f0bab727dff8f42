"""Batch normalisation and ReLU, with gradients that keep and read little.

Of a convolution with BatchNorm and ReLU, the backward pass reads two arrays of the size
of the result: what the convolution gave, and what ReLU gave, which the next convolution
needs anyway. Left to itself, differentiation keeps `x - mean` and `x^2` besides.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arniqa_jax import errors


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch computes it.

    linen's own keeps the biased running variance and knows only one group. Here the
    running variance is the unbiased one, and the batch can be split into `groups` of
    consecutive rows, each normalised by its own statistics; the running statistics are
    updated with the mean over the groups.

    Attributes:
      groups: number of groups; 1 means the statistics of the whole (global) batch.
      views: number of batches that the rows belong to in turn (a, b, a, b ...), each
        normalised by its own statistics; the running statistics are updated with those
        of one after the other, as if they had come one after the other.
      momentum: weight of the old running statistics (PyTorch's 0.1 is 0.9 here).
      epsilon: added to the variance.
      dtype: of the result; statistics are always computed in float32.
    """

    groups: int = 1
    views: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        zeros, ones = jnp.zeros(channels), jnp.ones(channels)
        running_mean = self.variable("batch_stats", "mean", lambda: zeros)
        running_var = self.variable("batch_stats", "var", lambda: ones)

        if not train:
            multiplier = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * multiplier
            return (x * _as_row(multiplier, x) + _as_row(shift, x)).astype(self.dtype)

        rows_of_view, left = divmod(x.shape[0], self.views)
        if rows_of_view % self.groups or left:
            raise errors.UsageError(
                f"model.batch_norm_groups={self.groups} has to divide the rows of a "
                f"view, found {x.shape[0] / self.views:g}"
            )
        rows = rows_of_view // self.groups
        parts = x.reshape(self.groups, rows, self.views, *x.shape[1:])
        normalized, mean_GVC, var_GVC = _normalize(parts, scale, bias, self.epsilon)
        if not self.is_initializing():
            count = x.size // (self.groups * self.views * channels)
            means_VC, vars_VC = lax.stop_gradient((mean_GVC.mean(0), var_GVC.mean(0)))
            vars_VC *= count / max(count - 1, 1)
            old = self.momentum
            for mean_C, var_C in zip(means_VC, vars_VC, strict=True):
                running_mean.value = old * running_mean.value + (1 - old) * mean_C
                running_var.value = old * running_var.value + (1 - old) * var_C
        return normalized.reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(
    x: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each view in each group, in float32.

    Args:
      x: (G groups, rows, V views, ..., C).
      scale_C: factors after the normalisation.
      bias_C: added at the end.
      epsilon: added to the variance.

    Returns:
      The result, of the shape of x; means and biased variances (G, V, C), which
      take no part in the gradient.
    """
    return _normalize_forward(x, scale_C, bias_C, epsilon)[0]


def _normalize_forward(x, scale_C, bias_C, epsilon):
    within = (1, *range(3, x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean_GVC = wide.mean(within)
    # One pass over x instead of two: var = E[x^2] - E[x]^2.
    var_GVC = jnp.maximum((wide * wide).mean(within) - mean_GVC**2, 0)
    deviation_GVC = lax.rsqrt(var_GVC + epsilon)
    factor_GVC = _as_row(scale_C, mean_GVC) * deviation_GVC
    shift_GVC = _as_row(bias_C, mean_GVC) - mean_GVC * factor_GVC
    y = wide * _over(factor_GVC, x) + _over(shift_GVC, x)
    return (y, mean_GVC, var_GVC), (x, scale_C, mean_GVC, deviation_GVC)


def _normalize_backward(epsilon, residuals, cotangents):
    # With n values to a channel, r = (var + epsilon)^-1/2, h = (x - mean) r and
    # y = scale h + bias:
    #   dbias = sum dy,  dscale = sum dy h = r (sum dy x - mean sum dy),
    #   dx = scale r (dy - dbias / n - h dscale / n),
    # of which all but two sums over the array and one pass at the end is per channel.
    del epsilon
    x, scale_C, mean_GVC, deviation_GVC = residuals
    dy = cotangents[0]
    within = (1, *range(3, x.ndim - 1))
    count = x.size // mean_GVC.size
    wide = x.astype(jnp.float32)
    dbias_GVC = dy.sum(within)
    dscale_GVC = deviation_GVC * ((dy * wide).sum(within) - mean_GVC * dbias_GVC)
    factor_GVC = _as_row(scale_C, mean_GVC) * deviation_GVC
    slope_GVC = -factor_GVC * deviation_GVC * dscale_GVC / count
    shift_GVC = -factor_GVC * dbias_GVC / count - slope_GVC * mean_GVC
    dx = dy * _over(factor_GVC, x) + wide * _over(slope_GVC, x) + _over(shift_GVC, x)
    return dx.astype(x.dtype), dscale_GVC.sum((0, 1)), dbias_GVC.sum((0, 1))


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _as_row(vector_C: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a vector over channels the rank of `like`, for explicit broadcasting."""
    return vector_C.reshape((1,) * (like.ndim - 1) + (-1,))


def _over(values_GVC: jax.Array, like: jax.Array) -> jax.Array:
    """Gives values per group, view and channel the rank of `like`."""
    groups, views, channels = values_GVC.shape
    return values_GVC.reshape(groups, 1, views, *(1,) * (like.ndim - 4), channels)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); its gradient is masked by the result, so that x need not be kept."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, dy):
    return (jnp.where(y > 0, dy, 0),)


relu.defvjp(_relu_forward, _relu_backward)
