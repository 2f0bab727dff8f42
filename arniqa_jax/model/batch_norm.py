"""Batch normalisation: the layer and its running statistics."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arniqa_jax import errors
from arniqa_jax.model import cpu_kernels, plain


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch computes it.

    linen's `BatchNorm` keeps the biased running variance and has only one group. This
    layer keeps the unbiased running variance. It can split the batch into `groups` of
    consecutive rows and normalise each group by its own statistics. The running
    statistics are then updated with the mean over the groups.

    Attributes:
      groups: number of groups; 1 means the statistics of the whole (global) batch.
      views: number of batches whose rows are interleaved (a, b, a, b ...). Each is
        normalised by its own statistics. The running statistics are updated once per
        view, in order, as if the views were separate batches.
      momentum: weight of the old running statistics (PyTorch's 0.1 is 0.9 here).
      epsilon: added to the variance.
      dtype: dtype of the result; statistics are always computed in float32.
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
                f"model.batch_norm_groups={self.groups} must divide the number of rows "
                f"of a view, {x.shape[0] / self.views:g}"
            )
        shape = (self.groups, rows_of_view // self.groups, self.views, *x.shape[1:])
        split_axes = (0, 2)  # groups and views
        # Axes of length 1 are dropped. With them, XLA could choose between two layouts,
        # and it would copy the result of each 1x1 convolution from one layout to the
        # other.
        axes = [a for a, size in enumerate(shape) if size > 1 or a not in split_axes]
        within = tuple(i for i, a in enumerate(axes[:-1]) if a not in split_axes)
        parts = x.reshape([shape[a] for a in axes])
        normalized, mean, var = lax.platform_dependent(
            parts,
            scale,
            bias,
            # A function with custom_vjp takes positional arguments only.
            cpu=lambda *arrays: cpu_kernels.normalize(*arrays, within, self.epsilon),
            default=functools.partial(
                plain.normalize, within=within, epsilon=self.epsilon
            ),
        )
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


def _as_row(vector_C: jax.Array, like: jax.Array) -> jax.Array:
    """Return a vector over channels with the rank of `like`, for broadcasting."""
    return vector_C.reshape((1,) * (like.ndim - 1) + (-1,))
