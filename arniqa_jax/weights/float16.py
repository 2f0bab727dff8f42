"""Encoders whose kernels are stored as float16, which halves the size of their file.

Only the kernels of convolutions and linear layers are rounded. The parameters and
statistics of BatchNorm are small arrays, whose values may lie outside of the range of
float16; they stay float32. Readers return float32 in any case.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder

_LARGEST = np.finfo(np.float16).max


def round_kernels(encoder: Encoder) -> Encoder:
    """Return the encoder with kernels of float32 values that float16 can represent.

    Raises:
      CheckpointError: a kernel has a value that is too large for float16.
    """

    def rounded(value):
        value = np.asarray(value)
        if value.ndim < 2:
            return value
        if np.abs(value).max() > _LARGEST:
            raise errors.CheckpointError(
                f"{encoder.name} has the weight {np.abs(value).max():g}, and float16 "
                f"ends at {_LARGEST:g}: store it as float32"
            )
        return value.astype(np.float16).astype(np.float32)

    return dataclasses.replace(
        encoder, variables=jax.tree.map(rounded, encoder.variables)
    )


def store_kernels(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors by name, with those of two or more axes as float16."""
    return {
        name: value.astype(np.float16) if value.ndim > 1 else value
        for name, value in tensors.items()
    }
