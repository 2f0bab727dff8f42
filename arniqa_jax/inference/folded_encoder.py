"""The encoder for inference: BatchNorm folded into the convolutions.

With fixed statistics, BatchNorm after a convolution is a factor and a shift per
channel. The factor is multiplied into the kernel, and the shift becomes a bias. The
result is a tree `{convolution: {kernel, bias}}`, nested by blocks as in `resnet`. The
encoder is a pure function of this tree and the images, differentiable in both. The tree
determines the topology.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from arniqa_jax.model import convolution, cpu_kernels, losses, resnet, simclr

Weights = dict[str, Any]

# From this number of pixels on, an image is enough work for an iteration of a loop.
_LARGE = 128 * 128


def fold(params: dict[str, Any], batch_stats: dict[str, Any]) -> Weights:
    """Return the folded weights of a `resnet.ResNet`, float32.

    Args:
      params: its parameters.
      batch_stats: its running statistics.
    """
    weights = {}
    for name, value in params.items():
        if name.startswith("layer"):
            weights[name] = fold(value, batch_stats[name])
        elif "kernel" in value:
            norm = (
                "downsample_1" if name == "downsample_0" else name.replace("conv", "bn")
            )
            statistics = batch_stats[norm]
            factor = params[norm]["scale"] * jax.lax.rsqrt(
                statistics["var"] + resnet.BatchNorm.epsilon
            )
            weights[name] = {
                "kernel": value["kernel"] * factor.reshape(1, 1, 1, -1),
                "bias": params[norm]["bias"] - statistics["mean"] * factor,
            }
    return weights


def cast_kernels(weights: Weights, dtype: str) -> Weights:
    """Return the weights with kernels of a dtype; biases stay float32."""
    return {
        name: value.astype(dtype)
        if name == "kernel"
        else cast_kernels(value, dtype)
        if isinstance(value, dict)
        else value
        for name, value in weights.items()
    }


def embed(
    weights: Weights,
    images_NHWC: jax.Array,
    *,
    imagenet_input: bool = True,
    dtype: str = "float32",
    precision: str = "highest",
    pooling: str = "mean",
) -> jax.Array:
    """Return the features of images.

    Args:
      weights: the result of `fold` or `cast_kernels`.
      images_NHWC: float in [0, 1].
      imagenet_input: whether to subtract ImageNet's mean and divide by its standard
        deviation first; False for encoders that were trained on images in [0, 1].
      dtype: dtype of the computation.
      precision: precision of float32 convolutions on an accelerator. 'highest' computes
        in float32, so that scores agree with those of a CPU; 'default' is faster, see
        `simclr.SimCLR`.
      pooling: statistic of the last map over its positions, 'mean' or 'std'.

    Returns:
      float32 (N, feature_dim), rows of length 1.
    """
    maps = feature_map(
        weights,
        images_NHWC,
        imagenet_input=imagenet_input,
        dtype=dtype,
        precision=precision,
    )
    pooled = maps.mean((1, 2))
    if pooling == "std":
        variance = jnp.mean((maps - pooled[:, None, None]) ** 2, (1, 2))
        # The maximum keeps the gradient finite for a constant map.
        pooled = jnp.sqrt(jnp.maximum(variance, 1e-12))
    return losses.l2_normalize(pooled)


def feature_map(
    weights: Weights,
    images_NHWC: jax.Array,
    *,
    imagenet_input: bool,
    dtype: str,
    precision: str,
) -> jax.Array:
    """Return the last map, float32 (N, H / 32, W / 32, feature_dim); see `embed`.

    Both sides are rounded up.
    """
    x = images_NHWC
    if imagenet_input:
        mean, std = (
            jnp.float32(v).reshape(1, 1, 1, 3) for v in (simclr.MEAN, simclr.STD)
        )
        x = (x - mean) / std
    x = x.astype(dtype)
    wide = functools.partial(_wide, precision=precision)
    count, height, width, _ = x.shape
    if count != 1 and height * width >= _LARGE:
        one_by_one = functools.partial(cpu_kernels.one_by_one, wide)
        x = jax.lax.platform_dependent(x, weights, cpu=one_by_one, default=wide)
    else:
        x = wide(x, weights)
    return _stages(x, weights, "34", precision).astype(jnp.float32)


def receptive_radius(weights: Weights) -> int:
    """Return how many pixels beyond its own a position of `feature_map` depends on.

    A convolution of width 3 looks one position to each side, which is as many pixels as
    its input has from one position to the next.
    """
    radius = 3 + 2  # the stem of width 7, and max-pooling of a map with stride 2
    for name, block in weights.items():
        if name.startswith("layer"):
            stage, index = map(int, name.removeprefix("layer").split("_"))
            wide = [c for c in block.values() if c["kernel"].shape[0] == 3]
            stride = 4 * 2 ** (stage - 1)
            radius += stride * len(wide)
            if stage > 1 and index == 0:
                radius -= stride // 2  # the first one reads the map of the stage before
    return radius


def _wide(x: jax.Array, weights: Weights, precision: str) -> jax.Array:
    """Return the output of the layers with large maps: stem, stages 1 and 2."""
    x = jax.nn.relu(_conv(x, weights["conv1"], 2, precision))
    return _stages(convolution.max_pool(x), weights, "12", precision)


def blocks(weights: Weights) -> Iterator[tuple[str, int]]:
    """Yield the name and the stride of each residual block, in order."""
    for name in sorted(weights):
        if name.startswith("layer"):
            yield name, 2 if name.endswith("_0") and name != "layer1_0" else 1


def _stages(x: jax.Array, weights: Weights, stages: str, precision: str) -> jax.Array:
    for name, stride in blocks(weights):
        if name[len("layer")] in stages:
            x = _block(x, weights[name], stride, precision)
    return x


def _block(x: jax.Array, weights: Weights, stride: int, precision: str) -> jax.Array:
    conv = functools.partial(_conv, precision=precision)
    if "conv3" in weights:
        y = jax.nn.relu(conv(x, weights["conv1"], 1))
        y = jax.nn.relu(conv(y, weights["conv2"], stride))
        y = conv(y, weights["conv3"], 1)
    else:
        y = jax.nn.relu(conv(x, weights["conv1"], stride))
        y = conv(y, weights["conv2"], 1)
    if "downsample_0" in weights:
        x = conv(x, weights["downsample_0"], stride)
    return jax.nn.relu(x + y)


def _conv(x: jax.Array, weights: Weights, stride: int, precision: str) -> jax.Array:
    kernel = weights["kernel"].astype(x.dtype)
    y = convolution.convolve(x, kernel, stride, precision=precision)
    return (y + weights["bias"].reshape(1, 1, 1, -1)).astype(x.dtype)
