"""Chains of distortions: draw one chain per sample, and apply them to a batch.

Each sample of a batch has its own chain. `vmap` of `lax.switch` would run all 24
distortions on every sample. Instead, each position of the chains is dispatched as in a
mixture of experts: the samples are sorted by distortion and cut into tiles. A tile
holds up to `tile` samples with the same distortion, and each tile goes through
`lax.switch` once. The level is data, so there are 24 branches and not 120. They are
compiled once, inside a loop over the positions and a loop over the tiles.

The tile size is a compromise. A tile that is not full runs its first sample several
times, so larger tiles waste more work. Each tile runs one branch, which is some tens of
kernel launches on a GPU, so smaller tiles leave more of a wide machine idle. Two
samples rarely share a distortion: of N samples, each position has about 0.6 N
distortions to apply, out of 24 kinds.

- CPU: 1 is best. At 64 samples a tile of 4 takes 2.5 times as long
  (benchmarks/degradation.py), because of the waste and because `vmap` turns slices into
  gathers.
- TPU: 1, because the crops of one sample fill a core. The number of instruction bundles
  per crop does not fall with the tile size.
- GPU: 4. On an H200, 64 samples take 21.9, 16.4, 16.2 and 20.0 ms with tiles of 1, 2, 4
  and 8 (benchmarks/on_gpu.sh).

The result for a sample depends on the sample and its key only. It does not depend on
the batch, the tile size or the number of devices, and nothing communicates inside
`shard_map`. One exception: each tile size is compiled separately, so the last bits may
differ between tile sizes. Where a distortion rounds down to 8 bits, this may move one
value in ten thousand by one step.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax import errors
from arniqa_jax.degradation.catalogue import CATALOGUE, NUM_LEVELS, check_images

_DISTORTIONS = tuple(CATALOGUE.values())
_GROUPS = tuple(dict.fromkeys(distortion.group for distortion in _DISTORTIONS))
_GROUP_SIZES = np.array(
    [sum(d.group == group for d in _DISTORTIONS) for group in _GROUPS]
)
_GROUP_STARTS = np.cumsum(_GROUP_SIZES) - _GROUP_SIZES
# Standard deviation of the level index, which has a normal density cut at 0.
_LEVEL_DEVIATION = 2.5
# Callers may pass the same keys to `draw_chains` and `apply_chains`. `draw_chains`
# folds in this number, and `apply_chains` the chain's positions 0, 1, ..., so their
# random streams are independent.
_DRAWING_STREAM = 2**31
_GPU_TILE = 4


class Chains(NamedTuple):
    """One chain per sample.

    Attributes:
      ops: int32 (N, max_distortions), row numbers of the catalogue in the order of
        application; -1 means no distortion.
      levels: int32 (N, max_distortions), level indices from 0.
    """

    ops: jax.Array
    levels: jax.Array


def draw_chains(
    keys,
    *,
    max_distortions: int = 4,
    num_levels: int = NUM_LEVELS,
    pristine_prob: float = 0.05,
) -> Chains:
    """Return one random chain for each of the keys (N,).

    With probability `pristine_prob` a chain is empty. Otherwise its length is uniform
    in 1..max_distortions, its groups are drawn without replacement, the distortion is
    uniform within each group, and level index i has probability proportional to
    exp(-i^2 / (2 * 2.5^2)).

    Raises:
      UsageError: if `max_distortions` is outside 1..7, `num_levels` outside 1..5, or
        `pristine_prob` outside [0, 1].
    """
    for name, value, low, high in (
        ("max_distortions", max_distortions, 1, len(_GROUPS)),
        ("num_levels", num_levels, 1, NUM_LEVELS),
        ("pristine_prob", pristine_prob, 0, 1),
    ):
        if not low <= value <= high:
            raise errors.UsageError(f"{name} must be in {low}..{high}, got {value}")

    return _draw(keys, pristine_prob, length=max_distortions, num_levels=num_levels)


@functools.partial(jax.jit, static_argnames=("length", "num_levels"))
def _draw(keys, pristine_prob, *, length, num_levels):
    sizes, starts = jnp.array(_GROUP_SIZES), jnp.array(_GROUP_STARTS)
    logits = -jnp.square(jnp.arange(num_levels) / _LEVEL_DEVIATION) / 2

    def draw(key):
        keys = jax.random.split(jax.random.fold_in(key, _DRAWING_STREAM), 5)
        pristine = jax.random.uniform(keys[0]) < pristine_prob
        last = jax.random.randint(keys[1], (), 0, length)
        groups = jax.random.permutation(keys[2], len(_GROUPS))[:length]
        within = jax.random.randint(keys[3], (length,), 0, sizes[groups])
        levels = jax.random.categorical(keys[4], logits, shape=(length,))
        used = (jnp.arange(length) <= last) & ~pristine
        ops = jnp.where(used, starts[groups] + within, -1)
        return Chains(ops.astype(jnp.int32), jnp.where(used, levels, 0))

    return jax.vmap(draw)(keys)


def apply_chains(keys, images, chains: Chains, *, tile: int = 0) -> jax.Array:
    """Return the crops after each sample's chain has been applied to all its crops.

    The crops of a sample share distortions and levels. Each crop draws its own angles,
    noise and positions.

    Args:
      keys: (N,) random keys, one per sample; may be the keys given to `draw_chains`.
      images: float32 (N, V, H, W, 3), the V crops of each sample, RGB in [0, 1], at
        least 48x48 pixels, so that every distortion can run.
      chains: the result of `draw_chains`.
      tile: how many samples with the same distortion run together; 0 chooses by the
        platform that the function is compiled for. It changes only the speed.

    Returns:
      Degraded crops of the shape of `images`, in [0, 1].

    Raises:
      UsageError: at trace time, if the arrays do not fit this description.
    """
    check_images(images, _DISTORTIONS)
    samples = len(keys)
    if images.ndim != 5 or len(images) != samples or chains.ops.shape[0] != samples:
        raise errors.UsageError(
            f"{samples} keys need images of shape ({samples}, crops, height, width, 3) "
            f"and as many chains, got {images.shape} and {chains.ops.shape}"
        )
    if tile < 0:
        raise errors.UsageError(f"tile must be 0 or more, got {tile}")

    def with_tile(tile, **options):
        return functools.partial(_apply, tile=min(tile, max(samples, 1)), **options)

    return jax.lax.platform_dependent(
        *(keys, images, chains),
        cuda=with_tile(tile or _GPU_TILE),
        tpu=with_tile(tile or 1, planar=True),
        default=with_tile(tile or 1),
    )


class _Tiles(NamedTuple):
    """One position of the chains, cut into tiles.

    Attributes:
      count: (), the number of tiles; later rows of the arrays are unused.
      ops: (T,), the distortion of each tile.
      rows: (T, tile), the samples of each tile; a short tile repeats its first sample.
    """

    count: jax.Array
    ops: jax.Array
    rows: jax.Array


def _plan(ops_N, tile: int) -> _Tiles:
    """Return the samples sorted by distortion, each distortion cut into tiles."""
    kinds = len(_DISTORTIONS)
    order = jnp.argsort(jnp.where(ops_N < 0, kinds, ops_N), stable=True)
    counts = jnp.bincount(jnp.where(ops_N < 0, kinds, ops_N), length=kinds + 1)[:kinds]
    first_row = jnp.cumsum(counts) - counts
    tiles = -(-counts // tile)
    last_tile = jnp.cumsum(tiles)
    max_tiles = min(len(ops_N), len(ops_N) // tile + kinds)
    index = jnp.arange(max_tiles)
    ops = jnp.minimum(jnp.searchsorted(last_tile, index, side="right"), kinds - 1)
    start = (index - (last_tile - tiles)[ops]) * tile
    within = start[:, None] + jnp.arange(tile)[None, :]
    within = jnp.where(within < counts[ops][:, None], within, start[:, None])
    rows = order[jnp.minimum(first_row[ops][:, None] + within, len(ops_N) - 1)]
    return _Tiles(last_tile[-1], ops, rows)


@functools.partial(jax.jit, static_argnames=("tile", "planar"))
def _apply(keys, images, chains, *, tile, planar=False):
    # A TPU stores the last axis in 128 lanes. With the channels last, the loop state
    # would fill 3 of them.
    if planar:
        images = jnp.moveaxis(images, -1, -3)

    def branch(distortion):
        def run(keys, images, levels):
            if planar:
                images = jnp.moveaxis(images, -3, -1)
            if tile > 1:
                out = jax.vmap(distortion)(keys, images, levels)
            else:
                # Without vmap, a branch keeps its slices. With vmap they become
                # gathers.
                out = distortion(keys[0], images[0], levels[0])[None]
            return jnp.moveaxis(out, -1, -3) if planar else out

        return run

    branches = [branch(distortion) for distortion in _DISTORTIONS]

    def take(rows, leaf):
        if tile == 1:  # A slice is faster than a gather with an array of rows.
            return jax.lax.dynamic_index_in_dim(leaf, rows[0], 0)
        return leaf[rows]

    def run_position(position, images):
        plan = jax.tree.map(lambda leaf: leaf[position], plans)
        levels = chains.levels[:, position]
        # Fold in all keys at once: on a TPU, one key takes as long as all of them.
        position_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)

        def run_tile(index, images):
            rows = plan.rows[index]
            arguments = [take(rows, leaf) for leaf in (position_keys, images, levels)]
            out = jax.lax.switch(plan.ops[index], branches, *arguments)
            # A repeated row writes the same values again.
            for place in range(tile):
                images = jax.lax.dynamic_update_index_in_dim(
                    images, out[place], rows[place], 0
                )
            return images

        return jax.lax.fori_loop(0, plan.count, run_tile, images)

    plans = jax.vmap(functools.partial(_plan, tile=tile), in_axes=1)(chains.ops)
    images = jax.lax.fori_loop(0, chains.ops.shape[1], run_position, images)
    return jnp.moveaxis(images, -3, -1) if planar else images


def describe(ops, levels) -> str:
    """Return one line for one chain, such as `jpeg 3, white_noise 1`; levels from 1.

    Args:
      ops: (max_distortions,) a row of `Chains.ops`, on the host.
      levels: (max_distortions,) the same row of `Chains.levels`.
    """
    steps = [
        f"{_DISTORTIONS[op].name} {level + 1}"
        for op, level in zip(np.asarray(ops), np.asarray(levels), strict=True)
        if op >= 0
    ]
    return ", ".join(steps) or "pristine"
