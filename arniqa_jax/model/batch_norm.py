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
        shape = (self.groups, rows_of_view // self.groups, self.views, *x.shape[1:])
        apart = (0, 2)  # groups and views
        # An axis of length 1 would leave XLA a choice between two layouts, and it would
        # copy the result of each 1x1 convolution from one into the other.
        axes = [a for a, size in enumerate(shape) if size > 1 or a not in apart]
        within = tuple(i for i, a in enumerate(axes[:-1]) if a not in apart)
        parts = x.reshape([shape[a] for a in axes])
        normalized, mean, var = _normalize(parts, scale, bias, within, self.epsilon)
        if not self.is_initializing():
            count = x.size // (self.groups * self.views * channels)
            mean_GVC, var_GVC = lax.stop_gradient(
                [v.reshape(self.groups, self.views, channels) for v in (mean, var)]
            )
            means_VC, vars_VC = mean_GVC.mean(0), var_GVC.mean(0)
            vars_VC *= count / max(count - 1, 1)
            old = self.momentum
            for mean_C, var_C in zip(means_VC, vars_VC, strict=True):
                running_mean.value = old * running_mean.value + (1 - old) * mean_C
                running_var.value = old * running_var.value + (1 - old) * var_C
        return normalized.reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(
    x: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
    within: tuple[int, ...],
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises in float32.

    Args:
      x: (..., C).
      scale_C: factors after the normalisation.
      bias_C: added at the end.
      within: the axes whose values are normalised together.
      epsilon: added to the variance.

    Returns:
      The result, of the shape of x; means and biased variances, of the shape of x
      without the axes of `within`, which take no part in the gradient.
    """
    return _normalize_forward(x, scale_C, bias_C, within, epsilon)[0]


def _normalize_forward(x, scale_C, bias_C, within, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(within)
    # One pass over x instead of two: var = E[x^2] - E[x]^2.
    var = jnp.maximum((wide * wide).mean(within) - mean**2, 0)
    deviation = lax.rsqrt(var + epsilon)
    factor = _as_row(scale_C, mean) * deviation
    shift = _as_row(bias_C, mean) - mean * factor
    y = wide * _over(factor, x, within) + _over(shift, x, within)
    return (y, mean, var), (x, scale_C, mean, deviation)


def _normalize_backward(within, epsilon, residuals, cotangents):
    # With n values to a channel, r = (var + epsilon)^-1/2, h = (x - mean) r and
    # y = scale h + bias:
    #   dbias = sum dy,  dscale = sum dy h = r (sum dy x - mean sum dy),
    #   dx = scale r (dy - dbias / n - h dscale / n),
    # of which all but two sums over the array and one pass at the end is per channel.
    del epsilon
    x, scale_C, mean, deviation = residuals
    dy = cotangents[0]
    count = x.size // mean.size
    wide = x.astype(jnp.float32)
    dbias = dy.sum(within)
    dscale = deviation * ((dy * wide).sum(within) - mean * dbias)
    factor = _as_row(scale_C, mean) * deviation
    slope = -factor * deviation * dscale / count
    shift = -factor * dbias / count - slope * mean
    dx = dy * _over(factor, x, within) + wide * _over(slope, x, within)
    dx += _over(shift, x, within)
    others = tuple(range(mean.ndim - 1))
    return dx.astype(x.dtype), dscale.sum(others), dbias.sum(others)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _as_row(vector_C: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a vector over channels the rank of `like`, for explicit broadcasting."""
    return vector_C.reshape((1,) * (like.ndim - 1) + (-1,))


def _over(values: jax.Array, like: jax.Array, within: tuple[int, ...]) -> jax.Array:
    """Gives values without the axes of `within` the rank of `like`."""
    sizes = enumerate(like.shape)
    return values.reshape([1 if axis in within else size for axis, size in sizes])


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
