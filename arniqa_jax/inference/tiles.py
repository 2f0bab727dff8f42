"""Features of images that are too large for one pass, computed exactly in tiles.

The features of an image are the mean or the standard deviation of the encoder's last
map over all positions, so they follow from sums over parts of the map. A position of
the map depends on a window of the image: the receptive field. A tile contributes the
positions whose window it holds, and those at a border of the image, where padding is
the same with and without tiles. Sums go in another order than in one pass; nothing
else differs.

Shapes: H and W sides of the image, h and w of a tile, B tiles in a batch, D features.
"""

import collections
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.distributed import sharding

# Pixels from one position of the last map to the next.
_STRIDE = 32
# Side of a tile. ResNet-50 needs about 500 bytes for each of its pixels.
SIDE = 2048


class Span(NamedTuple):
    """A tile along one axis.

    Attributes:
      start: first pixel, a multiple of the stride of the map.
      size: number of pixels.
      first, stop: positions of the tile's map that the tile contributes.
    """

    start: int
    size: int
    first: int
    stop: int


def needed(height: int, width: int) -> bool:
    """Return whether an image of this size is computed in tiles."""
    return height * width > SIDE * SIDE


def spans(side: int, radius: int) -> list[Span]:
    """Cut an axis into tiles of at most `SIDE` pixels; each position is in one of them.

    Args:
      side: pixels of the image along the axis.
      radius: how far a position of the map looks to each side, in pixels.
    """
    margin = -(-radius // _STRIDE) * _STRIDE
    positions = -(-side // _STRIDE)
    found, done = [], 0
    while done < positions:
        # The last tile moves back, so that all but the last have one size.
        latest = -(-max(0, side - SIDE) // _STRIDE) * _STRIDE
        start = min(max(0, done * _STRIDE - margin), latest)
        size = min(SIDE, side - start)
        is_last = start + size == side
        stop = positions if is_last else (start + size - margin) // _STRIDE
        first = start // _STRIDE
        found.append(Span(start, size, done - first, stop - first))
        done = stop
    return found


def embed(
    encoder: Any, weights: Any, image_HW3: np.ndarray, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Return the features (D,) of an image, as `encoder.embed` would.

    Args:
      encoder: an `extractor.Encoder` without variables.
      weights: its folded weights, on all devices of the mesh.
      image_HW3: uint8.
      mesh: each of its devices takes one tile at a time.
    """
    radius = encoder.receptive_radius(weights)
    rows, columns = (spans(side, radius) for side in image_HW3.shape[:2])
    by_size = collections.defaultdict(list)
    for row, column in itertools.product(rows, columns):
        by_size[row.size, column.size].append((row, column))
    total_2D = np.zeros((2, encoder.feature_dim), np.float64)
    place = sharding.over_batch(mesh)
    for (height, width), tiles in by_size.items():
        for i in range(0, len(tiles), mesh.size):
            pixels = np.zeros((mesh.size, height, width, 3), np.uint8)
            row_masks = np.zeros((mesh.size, -(-height // _STRIDE)), np.float32)
            column_masks = np.zeros((mesh.size, -(-width // _STRIDE)), np.float32)
            for k, (row, column) in enumerate(tiles[i : i + mesh.size]):
                part = image_HW3[row.start :, column.start :][:height, :width]
                pixels[k] = part
                row_masks[k, row.first : row.stop] = 1
                column_masks[k, column.first : column.stop] = 1
            inputs = jax.device_put((pixels, row_masks, column_masks), place)
            total_2D += np.asarray(_sums(encoder, weights, *inputs)).sum(0)
    positions = math.prod(-(-side // _STRIDE) for side in image_HW3.shape[:2])
    pooled_D, mean_square_D = total_2D / positions
    if encoder.pooling == "std":
        pooled_D = np.sqrt(np.maximum(mean_square_D - pooled_D**2, 1e-12))
    length = np.sqrt(np.maximum(np.sum(pooled_D**2), 1e-24))
    return (pooled_D / length).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _sums(
    encoder: Any,
    weights: Any,
    tiles_BHW3: jax.Array,
    row_masks: jax.Array,
    column_masks: jax.Array,
) -> jax.Array:
    """Return sums (B, 2, D) of maps and of their squares over the masks' positions."""
    maps = encoder.feature_map(weights, tiles_BHW3.astype(jnp.float32) / 255)
    return jnp.einsum(
        "sbhwd,bh,bw->bsd",
        jnp.stack([maps, maps**2]),
        row_masks,
        column_masks,
        precision=jax.lax.Precision.HIGHEST,
    )
