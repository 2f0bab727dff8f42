"""ResNet-18, -34 and -50 in the topology and with the names of torchvision (v1.5).

`layer1.0.conv1.weight` there is `params['layer1_0']['conv1']['kernel']` here, so that
weights map by name. Images are NHWC; parameters and batch statistics are float32,
`dtype` is that of the computation.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from arniqa_jax import errors

# torchvision's: He et al. 2015, by the fan out.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch computes it.

    linen's own keeps the biased running variance and knows only one group. Here the
    running variance is the unbiased one, and the batch can be split into `groups` of
    consecutive rows, each normalised by its own statistics; the running statistics are
    updated with the mean over the groups.

    Attributes:
      groups: number of groups; 1 means the statistics of the whole (global) batch.
      momentum: weight of the old running statistics (PyTorch's 0.1 is 0.9 here).
      epsilon: added to the variance.
      dtype: of the result; statistics are always computed in float32.
    """

    groups: int = 1
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
            multiplier = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * multiplier
            return (x * _as_row(multiplier, x) + _as_row(shift, x)).astype(self.dtype)

        if x.shape[0] % self.groups:
            raise errors.UsageError(
                f"model.batch_norm_groups={self.groups} has to divide the rows of a "
                f"view, found {x.shape[0]}"
            )
        grouped = x.reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:])
        grouped = grouped.astype(jnp.float32)
        axes = tuple(range(1, grouped.ndim - 1))
        mean = grouped.mean(axes, keepdims=True)
        # One pass over x instead of two: var = E[x^2] - E[x]^2.
        var = jnp.maximum((grouped**2).mean(axes, keepdims=True) - mean**2, 0)
        if not self.is_initializing():
            count = grouped.size // (self.groups * channels)
            new_mean = mean.reshape(self.groups, channels).mean(0)
            new_var = var.reshape(self.groups, channels).mean(0)
            new_var *= count / max(count - 1, 1)
            old = self.momentum
            running_mean.value = old * running_mean.value + (1 - old) * new_mean
            running_var.value = old * running_var.value + (1 - old) * new_var
        multiplier = _as_row(scale, grouped) * jax.lax.rsqrt(var + self.epsilon)
        normalized = (grouped - mean) * multiplier + _as_row(bias, grouped)
        return normalized.reshape(x.shape).astype(self.dtype)


def _as_row(vector_C: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a vector over channels the rank of `like`, for explicit broadcasting."""
    return vector_C.reshape((1,) * (like.ndim - 1) + (-1,))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the block of ResNet-18 and -34."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        if x.shape != y.shape:
            x = self.conv(self.width, 1, self.stride, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x, train=train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride, v1.5) and 1x1: the block of ResNet-50."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.width, 1, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train))
        y = self.conv(self.width * self.expansion, 1, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train=train)
        if x.shape != y.shape:
            channels = self.width * self.expansion
            x = self.conv(channels, 1, self.stride, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x, train=train)
        return nn.relu(x + y)


class Architecture(NamedTuple):
    """Block type, blocks in each of the four stages, channels of the first stage."""

    block: type[BasicBlock] | type[Bottleneck]
    stages: tuple[int, int, int, int]
    width: int

    @property
    def feature_dim(self) -> int:
        """Number of features after the global average pool."""
        return self.width * 2 ** (len(self.stages) - 1) * self.block.expansion


ARCHITECTURES = {
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3), 64),
    "tiny": Architecture(BasicBlock, (1, 1, 1, 1), 8),  # for tests
}


class ResNet(nn.Module):
    """The encoder without its classifier.

    Attributes:
      architecture: a row of `ARCHITECTURES`.
      dtype: of the computation.
      batch_norm_groups: see `BatchNorm.groups`.
    """

    architecture: Architecture
    dtype: Any = jnp.float32
    batch_norm_groups: int = 1

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """Returns the pooled features, (N, feature_dim) float32, not normalised."""
        block, stages, width = self.architecture
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm, groups=self.batch_norm_groups, dtype=self.dtype
        )
        x = conv(width, 7, 2, name="conv1")(x_NHWC)
        x = nn.relu(norm(name="bn1")(x, train=train))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(stages):
            for index in range(blocks):
                x = block(
                    width=width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"layer{stage + 1}_{index}",
                )(x, train=train)
        return x.astype(jnp.float32).mean((1, 2))


def _conv(channels: int, size: int, stride: int, *, dtype, name: str) -> nn.Conv:
    """A square convolution with PyTorch's symmetric padding and without bias."""
    return nn.Conv(
        channels,
        (size, size),
        (stride, stride),
        padding=size // 2,
        use_bias=False,
        kernel_init=_he_normal,
        dtype=dtype,
        name=name,
    )
