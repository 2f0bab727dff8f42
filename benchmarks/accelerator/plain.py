"""The baseline: a ResNet-50 in the simplest Flax code, and its contrastive loss.

It uses `nn.Conv`, `nn.BatchNorm` and `nn.max_pool` in the usual way, with the two views
in two passes. A whole step is compared with its gradient, without any degradation.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from arniqa_jax.model import losses, simclr

_BLOCKS = (3, 4, 6, 3)


class _Bottleneck(nn.Module):
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=False, dtype=self.dtype
        )
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = conv(self.width, (3, 3), strides, padding=[(1, 1), (1, 1)])(y)
        y = norm()(conv(4 * self.width, (1, 1))(nn.relu(norm()(y))))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class PlainSimCLR(nn.Module):
    """ResNet-50 and a projector, from images in [0, 1] to embeddings of length 1."""

    dtype: jnp.dtype
    embedding_dim: int = 128

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """Return embeddings (N, embedding_dim), float32, in training mode."""
        mean, std = (
            jnp.array(value).reshape(1, 1, 1, 3) for value in (simclr.MEAN, simclr.STD)
        )
        x = ((images_NHWC - mean) / std).astype(self.dtype)
        conv = nn.Conv(
            64,
            (7, 7),
            (2, 2),
            padding=[(3, 3), (3, 3)],
            use_bias=False,
            dtype=self.dtype,
        )
        norm = nn.BatchNorm(use_running_average=False, dtype=self.dtype)
        x = nn.relu(norm(conv(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(_BLOCKS):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = _Bottleneck(64 * 2**stage, stride, self.dtype)(x)
        features = losses.l2_normalize(x.mean((1, 2)).astype(jnp.float32))
        hidden = nn.relu(nn.Dense(2048, dtype=self.dtype)(features))
        z = nn.Dense(self.embedding_dim, dtype=self.dtype)(hidden)
        return losses.l2_normalize(z.astype(jnp.float32))


def loss(model: PlainSimCLR, params, batch_stats, view_a, view_b, temperature):
    """Return the loss of two views (N, H, W, 3) and the new statistics."""
    embeddings = []
    for view in (view_a, view_b):
        z, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            view,
            mutable=["batch_stats"],
        )
        batch_stats = updated["batch_stats"]
        embeddings.append(z)
    return losses.nt_xent(*embeddings, temperature=temperature), batch_stats
