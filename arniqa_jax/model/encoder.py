"""A frozen encoder: the module, its variables and what identifies them."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.model import simclr


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What evaluation and scoring need of a model.

    Attributes:
      module: the module.
      variables: its `params` and `batch_stats`.
      name: what to call it in tables, for example `best (step 1200)`.
      patch_size: side in pixels of the crops it was trained on.
    """

    module: simclr.SimCLR
    variables: dict[str, Any]
    name: str
    patch_size: int = 224

    @property
    def feature_dim(self) -> int:
        """Width of the features of one scale."""
        return self.module.feature_dim

    def apply(self, variables: dict[str, Any], images_BHWC: jax.Array) -> jax.Array:
        """Pure: uint8 images to features, (B, feature_dim) float32, rows of length 1.

        The variables are an argument, and not taken from `self`, so that a compiled
        caller holds no copy of them.
        """
        images = images_BHWC.astype(jnp.float32) / 255
        features, _ = self.module.apply(variables, images, train=False)
        return features

    def fingerprint(self) -> str:
        """SHA-256 over the architecture and every bit of the encoder's variables."""
        digest = hashlib.sha256(f"{self.module.arch} {self.module.dtype}".encode())
        for collection in ("params", "batch_stats"):
            encoder = self.variables[collection]["encoder"]
            for path, leaf in jax.tree_util.tree_leaves_with_path(encoder):
                digest.update(jax.tree_util.keystr(path).encode())
                digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()
