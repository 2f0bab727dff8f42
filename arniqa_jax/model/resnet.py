"""ResNet-18, -34 and -50 in the topology and with the names of torchvision (v1.5).

torchvision's `layer1.0.conv1.weight` is `params['layer1_0']['conv1']['kernel']` here,
so that weights map by name. Images are NHWC. Parameters and batch statistics are
float32; `dtype` is the dtype of the computation.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from arniqa_jax.model.batch_norm import BatchNorm
from arniqa_jax.model.convolution import Conv, max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection, as in ResNet-18 and -34."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        if x.shape != y.shape:
            x = self.conv(self.width, 1, self.stride, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x, train=train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with a residual connection, as in ResNet-50.

    As in v1.5, the 3x3 convolution has the stride.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
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
    """Type of block, number of blocks per stage, channels of the first stage."""

    block: type[BasicBlock] | type[Bottleneck]
    stages: tuple[int, int, int, int]
    width: int

    @property
    def feature_dim(self) -> int:
        """Number of features after global average pooling."""
        return self.width * 2 ** (len(self.stages) - 1) * self.block.expansion


ARCHITECTURES = {
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3), 64),
    "small": Architecture(BasicBlock, (1, 1, 1, 1), 32),  # 1.2 M parameters
    "tiny": Architecture(BasicBlock, (1, 1, 1, 1), 8),  # for tests
}


class ResNet(nn.Module):
    """The encoder: a ResNet without its classifier.

    Attributes:
      architecture: a row of `ARCHITECTURES`.
      dtype: dtype of the computation.
      batch_norm_groups: see `BatchNorm.groups`.
      rematerialize: whether the backward pass recomputes the activations inside each
        block instead of storing them.
      views: see `BatchNorm.views`.
      precision: precision of float32 products on an accelerator, see `simclr.SimCLR`.
    """

    architecture: Architecture
    dtype: Any = jnp.float32
    batch_norm_groups: int = 1
    rematerialize: bool = False
    views: int = 1
    precision: str = "default"

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, *, train: bool) -> jax.Array:
        """Return the pooled features, (N, feature_dim) float32, not normalised."""
        block, stages, width = self.architecture
        conv = functools.partial(Conv, dtype=self.dtype, precision=self.precision)
        norm = functools.partial(
            BatchNorm,
            groups=self.batch_norm_groups,
            views=self.views,
            dtype=self.dtype,
        )
        if self.rematerialize:
            block = nn.remat(block, static_argnums=(2,))  # `train`; 0 is `self`
        x = conv(width, 7, 2, name="conv1")(x_NHWC)
        x = nn.relu(norm(name="bn1")(x, train=train))
        x = max_pool(x)
        for stage, blocks in enumerate(stages):
            for index in range(blocks):
                x = block(
                    width=width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
        return x.astype(jnp.float32).mean((1, 2))
