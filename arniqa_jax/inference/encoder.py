"""A frozen encoder: the module, its variables and its fingerprint."""

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.inference import folded_encoder
from arniqa_jax.model import simclr


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder as evaluation and scoring use it.

    Attributes:
      module: the module.
      variables: its `params` and `batch_stats`; the projector may be missing.
      name: its name in tables, for example `best (step 1200)`.
      patch_size: side in pixels of the crops that it was trained on.
      imagenet_input: whether the encoder expects images normalised by ImageNet's
        statistics, as our encoders do, or images in [0, 1], as some imported encoders
        do.
      precision: precision of float32 convolutions on an accelerator. `highest` computes
        in float32, as a CPU does; `default` is faster, see `simclr.SimCLR`. `bfloat16`
        computes in bfloat16 on every platform, whatever the module's dtype is.
      pooling: how the positions of the last map become features, `mean` or `std`; an
        `Extractor` sets it, see `preprocessing.pooling`.
    """

    module: simclr.SimCLR
    variables: dict[str, Any]
    name: str
    patch_size: int = 224
    imagenet_input: bool = True
    precision: str = "highest"
    pooling: str = "mean"

    @property
    def feature_dim(self) -> int:
        """Width of the features of one scale."""
        return self.module.feature_dim

    def apply(self, variables: dict[str, Any], images_BHWC: jax.Array) -> jax.Array:
        """Return features of uint8 images, (B, feature_dim) float32.

        Rows have length 1. The function is pure. The variables are an argument and are
        not taken from `self`, so that a compiled caller does not contain a copy.
        """
        return self.embed(self.fold(variables), images_BHWC.astype(jnp.float32) / 255)

    def fold(self, variables: dict[str, Any]) -> folded_encoder.Weights:
        """Return the weights for `embed`, for callers that keep them; pure.

        The kernels have the dtype of the computation, so that no call converts them.
        """
        weights = folded_encoder.fold(
            variables["params"]["encoder"], variables["batch_stats"]["encoder"]
        )
        return folded_encoder.cast_kernels(weights, self._options()["dtype"])

    def embed(
        self, weights: folded_encoder.Weights, images_BHWC: jax.Array
    ) -> jax.Array:
        """Return features of float images in [0, 1], as `apply` does; pure."""
        return folded_encoder.embed(
            weights, images_BHWC, pooling=self.pooling, **self._options()
        )

    def feature_map(
        self, weights: folded_encoder.Weights, images_BHWC: jax.Array
    ) -> jax.Array:
        """Return the map that `embed` pools and normalises; pure."""
        return folded_encoder.feature_map(weights, images_BHWC, **self._options())

    def receptive_radius(self, weights: folded_encoder.Weights) -> int:
        """Return how many pixels beyond its own a position of the map depends on."""
        return folded_encoder.receptive_radius(weights)

    def _options(self) -> dict[str, Any]:
        narrow = self.precision == "bfloat16"
        return {
            "imagenet_input": self.imagenet_input,
            "dtype": "bfloat16" if narrow else self.module.dtype,
            "precision": "default" if narrow else self.precision,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the architecture and every bit of the encoder's variables."""
        described = f"{self.module.arch} {self.module.dtype}"
        described += "" if self.imagenet_input else " without normalisation"
        digest = hashlib.sha256(described.encode())
        for collection in ("params", "batch_stats"):
            encoder = self.variables[collection]["encoder"]
            for path, leaf in jax.tree_util.tree_leaves_with_path(encoder):
                digest.update(jax.tree_util.keystr(path).encode())
                digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()
