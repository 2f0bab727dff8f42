"""The TPU form of the copied patches: one kernel for all copies of an image.

As a loop in XLA, a copy of 16 x 16 pixels takes five kernel launches, and drawing its
position takes five more. There are up to 100 copies. Here one launch makes all copies.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Rows of a window. It starts at a multiple of 8 and contains the source and the target
# of a copy, which are at most 8 rows apart: 7 + 8 + 16, rounded up.
_WINDOW = 32
_SUBLANES, _LANES = 8, 128


def copy_patches(images_NHWC, sources, targets, count, *, size):
    """Return images after `count` copies of squares, one after another, in each image.

    Args:
      images_NHWC: float32 (N, H, W, 3).
      sources, targets: int32 (N, K, 2), the upper left corners of the squares; the
        target of a copy is at most 8 pixels from its source.
      count: int32, at most K.
      size: side of a square in pixels, at most 16.
    """
    number, height, width, _ = images_NHWC.shape
    # The padding contains the end of the last window, which starts at a multiple of 8.
    rows = -(-height // _SUBLANES) * _SUBLANES + _WINDOW
    columns = -(-width // _LANES) * _LANES
    planes = jnp.moveaxis(images_NHWC, -1, 1)
    planes = jnp.pad(planes, ((0, 0), (0, 0), (0, rows - height), (0, columns - width)))
    places = jnp.concatenate([sources, targets], -1).reshape(number, 1, -1)
    block = pl.BlockSpec((1, *planes.shape[1:]), lambda image: (image, 0, 0, 0))
    planes = pl.pallas_call(
        functools.partial(_kernel, size=size),
        grid=(number,),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec(
                (1, *places.shape[1:]),
                lambda image: (image, 0, 0),
                memory_space=pltpu.SMEM,
            ),
            block,
        ],
        out_specs=block,
        # The output must vary over the same axes of `shard_map` as the input.
        out_shape=jax.eval_shape(lambda planes: planes, planes),
    )(jnp.reshape(count, 1), places, planes)
    return jnp.moveaxis(planes[:, :, :height, :width], 1, -1)


def _kernel(count_ref, places_ref, planes_ref, out_ref, *, size):
    out_ref[...] = planes_ref[...]
    columns = out_ref.shape[-1]
    row = jax.lax.broadcasted_iota(jnp.int32, (_WINDOW, columns), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (_WINDOW, columns), 1)

    def copy(index, carry):
        source_y, source_x, y, x = (places_ref[0, 0, 4 * index + i] for i in range(4))
        start = jnp.minimum(source_y, y) & -_SUBLANES
        window = pl.ds(pl.multiple_of(start, _SUBLANES), _WINDOW)
        # `roll` does not take a negative shift.
        down = (y - source_y) & (_WINDOW - 1)
        right = jax.lax.rem(x - source_x + columns, columns)
        below, beside = row + start - y, column - x
        inside = (below >= 0) & (below < size) & (beside >= 0) & (beside < size)
        for plane in range(3):
            before = out_ref[0, plane, window, :]
            moved = pltpu.roll(pltpu.roll(before, down, 0), right, 1)
            out_ref[0, plane, window, :] = jnp.where(inside, moved, before)
        return carry

    jax.lax.fori_loop(0, count_ref[0], copy, 0)
