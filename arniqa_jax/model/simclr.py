"""The model for pre-training: input normalisation, encoder, projector, two views.

Images are float32 NHWC in [0, 1]. Features and embeddings are float32 with rows of
length 1. Source: Agnolucci et al., "ARNIQA", WACV 2024.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from arniqa_jax import errors
from arniqa_jax.model import losses, resnet

# Mean and standard deviation of ImageNet, for RGB in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class SimCLR(nn.Module):
    """ResNet encoder and two-layer projector.

    Attributes:
      arch: a name of `resnet.ARCHITECTURES`.
      embedding_dim: number of outputs of the projector.
      normalize_features: whether features are scaled to length 1 before the projector,
        as in the paper.
      projector_norm: 'none', or 'batch' for BatchNorm after the first layer.
      dtype: dtype of the computation, 'float32' or 'bfloat16'. Parameters, statistics,
        features and embeddings are float32.
      batch_norm_groups: see `resnet.BatchNorm.groups`.
      rematerialize: see `resnet.ResNet.rematerialize`.
      precision: precision of float32 convolutions and products on an accelerator.
        'default' is the fastest: one pass in bfloat16 on a TPU, TF32 on a GPU.
        'highest' computes in float32. A CPU always computes in float32, and bfloat16
        has only one precision.
    """

    arch: str = "resnet50"
    embedding_dim: int = 128
    normalize_features: bool = True
    projector_norm: str = "none"
    dtype: str = "float32"
    batch_norm_groups: int = 1
    rematerialize: bool = False
    precision: str = "default"

    def __post_init__(self):
        for field, value, known in (
            ("arch", self.arch, sorted(resnet.ARCHITECTURES)),
            ("projector_norm", self.projector_norm, ["none", "batch"]),
            ("dtype", self.dtype, ["float32", "bfloat16"]),
            ("precision", self.precision, ["default", "high", "highest"]),
        ):
            if value not in known:
                raise errors.UsageError(
                    f"model.{field}={value!r}: expected one of {', '.join(known)}"
                )
        super().__post_init__()

    @property
    def feature_dim(self) -> int:
        """Width of the features of one scale."""
        return resnet.ARCHITECTURES[self.arch].feature_dim

    @nn.compact
    def __call__(
        self, images_NHWC: jax.Array, *, train: bool, views: int = 1
    ) -> tuple[jax.Array, jax.Array]:
        """Return features (N, feature_dim) and embeddings (N, embedding_dim).

        Args:
          images_NHWC: in [0, 1].
          train: whether to normalise by the statistics of the batch.
          views: see `resnet.BatchNorm.views`.
        """
        dtype = jnp.dtype(self.dtype)
        mean, std = (jnp.float32(v).reshape(1, 1, 1, 3) for v in (MEAN, STD))
        x = ((images_NHWC - mean) / std).astype(dtype)
        pooled = resnet.ResNet(
            resnet.ARCHITECTURES[self.arch],
            dtype=dtype,
            batch_norm_groups=self.batch_norm_groups,
            rematerialize=self.rematerialize,
            views=views,
            precision=self.precision,
            name="encoder",
        )(x, train=train)
        features = losses.l2_normalize(pooled)

        z = Linear(self.feature_dim, dtype, self.precision, name="projector_0")(
            features if self.normalize_features else pooled
        )
        if self.projector_norm == "batch":
            z = resnet.BatchNorm(
                groups=self.batch_norm_groups,
                views=views,
                dtype=dtype,
                name="projector_norm",
            )(z, train=train)
        z = Linear(self.embedding_dim, dtype, self.precision, name="projector_2")(
            nn.relu(z)
        )
        return features, losses.l2_normalize(z)


def embed_views(
    model: SimCLR, params, batch_stats, view_a: jax.Array, view_b: jax.Array
) -> tuple[jax.Array, jax.Array, dict]:
    """Return the embeddings of both views in training mode, and the new statistics.

    Each view is normalised by its own batch statistics. Both views go through the
    layers together, with their rows interleaved. Two separate passes would compute the
    same values, but XLA would sum the gradient of each kernel over the devices twice,
    and compile every layer twice.

    Args:
      model: the module.
      params: its parameters.
      batch_stats: running statistics; updated with view A, then with view B.
      view_a: (M, H, W, 3) in [0, 1].
      view_b: (M, H, W, 3) in [0, 1].

    Returns:
      Embeddings of A and of B, (M, embedding_dim), and the new running statistics.
    """
    views = jnp.stack([view_a, view_b], axis=1)
    (_, z), updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        views.reshape(-1, *view_a.shape[1:]),
        train=True,
        views=2,
        mutable=["batch_stats"],
    )
    a, b = jnp.unstack(z.reshape(-1, 2, z.shape[-1]), axis=1)
    return a, b, updated["batch_stats"]


class Linear(nn.Module):
    """A dense layer with PyTorch's initial values: U(-k, k), k = fan_in^-1/2."""

    width: int
    dtype: jnp.dtype
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        limit = x.shape[-1] ** -0.5

        def init(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -limit, limit)

        kernel = self.param("kernel", init, (x.shape[-1], self.width))
        bias = self.param("bias", init, (self.width,))
        x, kernel, bias = (v.astype(self.dtype) for v in (x, kernel, bias))
        x = jnp.dot(x, kernel, precision=self.precision)
        return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))
