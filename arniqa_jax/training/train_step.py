"""One step of pre-training, pure: (state, batch, key) -> (state, metrics, preview).

Shapes: N pairs of photographs, each seen in 2 views (A and B) at 2 scales, so that a
view has M = 2N crops and the loss sees 2M = 4N embeddings.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from arniqa_jax import degradation
from arniqa_jax.distributed import sharding
from arniqa_jax.model import losses, simclr

# The arrays of a batch that a step needs. `stop` is 0 or an exit code for each pair.
# One of several processes uses it to ask all processes to stop.
BATCH = ("images", "seed", "skipped", "stop")
# The scalar metrics of a step; the step also returns the maximum of `stop`. `nonfinite`
# is the fraction of gradient values that are not finite. `bad_photos` is the number of
# unreadable photographs that the batch replaced.
METRICS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "alignment",
    "uniformity",
    "nonfinite",
    "bad_photos",
)
# Number of pairs per device whose degraded crops a step returns for the picture.
PREVIEW_PAIRS = 4


class TrainState(flax.struct.PyTreeNode):
    """The state that a step changes; replicated on all devices.

    Attributes:
      step: number of updates made, int32 scalar.
      params: parameters, float32.
      batch_stats: running statistics of BatchNorm, float32.
      opt_state: state of the optimizer.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


class Preview(NamedTuple):
    """The first pairs of each device, after degradation.

    Attributes:
      images: (n, 2 views, 2 scales, H, W, 3) uint8, degraded.
      chains: the chains of these pairs.
    """

    images: jax.Array
    chains: degradation.Chains


def abstract_batch(batch_size: int, patch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the arrays of `BATCH`, for N pairs."""
    shapes = {
        "images": ((2, 2, patch_size, patch_size, 3), jnp.uint8),
        "seed": ((), jnp.uint32),
        "skipped": ((2,), jnp.int32),
        "stop": ((), jnp.int32),
    }
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shapes[name][0]), shapes[name][1])
        for name in BATCH
    }


def initial_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state before the first step, given `params` and `batch_stats`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
    )


def run_key(seed: int, mesh: Mesh) -> jax.Array:
    """Return the key of a run, on all devices.

    Every random number of a step derives from this key.
    """
    replicated = sharding.replicated(mesh)
    return jax.jit(lambda: jax.random.key(seed), out_shardings=replicated)()


def degrade(
    key: jax.Array, batch: dict[str, jax.Array], **options
) -> tuple[jax.Array, Preview]:
    """Return the crops of each pair after its chain, and a preview.

    Both views and both scales of a pair go through the same chain. The randomness of a
    pair depends only on `key` and the seed of the pair, not on its position in the
    batch. So any division over devices and processes gives the same images.

    Args:
      key: the key of the run.
      batch: `images` (N, 2, 2, H, W, 3) uint8 and `seed` (N,) uint32.
      **options: options of `degradation.draw_chains`, and `tile` of `apply_chains`.

    Returns:
      Crops (N, 2, 2, H, W, 3) float32 in [0, 1], and the preview.
    """
    tile = options.pop("tile")
    images = batch["images"]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["seed"])
    chain_keys, crop_keys = (
        jax.vmap(jax.random.fold_in, (0, None))(keys, use) for use in (0, 1)
    )
    chains = degradation.draw_chains(chain_keys, **options)
    crops = images.reshape(len(images), 4, *images.shape[3:]).astype(jnp.float32) / 255
    crops = degradation.apply_chains(crop_keys, crops, chains, tile=tile)
    crops = crops.reshape(images.shape)
    preview = Preview(
        images=jnp.round(crops[:PREVIEW_PAIRS] * 255).astype(jnp.uint8),
        chains=jax.tree.map(lambda x: x[:PREVIEW_PAIRS], chains),
    )
    return crops, preview


def make_step(
    model: simclr.SimCLR,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    *,
    temperature: float,
    scale_negatives: bool = True,
    accumulation: int,
    degradation_options: dict[str, Any],
) -> Callable:
    """Return the jitted step for a mesh.

    The state is replicated and donated; the batch is divided over the devices.

    Args:
      model: the module.
      optimizer: its learning rate is `schedule`.
      schedule: for the metric `learning_rate`.
      mesh: the mesh of all devices, with one axis `data`.
      temperature: temperature of NT-Xent.
      scale_negatives: see `losses.contrast`.
      accumulation: number of chunks in which the batch is embedded, see `_gradients`.
      degradation_options: see `degrade`.

    Returns:
      step(state, batch, key) -> (state, metrics, preview). `key` is the key of the run,
      for the degradations. It is an argument so that runs with different seeds share
      one compiled program. The metrics are those of `METRICS`, and `stop`.
    """

    def degrade_shard(key, batch):
        return degrade(key, batch, **degradation_options)

    # Without `shard_map`, the partitioner would store the similarities of all rows on
    # every device.
    contrast_fn = jax.shard_map(
        functools.partial(
            losses.contrast,
            temperature=temperature,
            axis="data",
            scale_negatives=scale_negatives,
        ),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
    )

    def step(state: TrainState, batch, key):
        # No communication is needed, because each device degrades its own pairs. The
        # loops of the chains start from constants, which the check of varying axes
        # would reject.
        crops, preview = jax.shard_map(
            degrade_shard,
            mesh=mesh,
            in_specs=(P(), P("data")),
            out_specs=P("data"),
            check_vma=False,
        )(key, batch)
        # The full- and half-scale crops of a pair stay adjacent (a plain reshape gives
        # M = N x 2). Another order would send images between devices.
        view_a, view_b = (
            crops[:, view].reshape(-1, *crops.shape[3:]) for view in (0, 1)
        )
        contrast, batch_stats, grads = _gradients(
            model, state, view_a, view_b, contrast_fn, accumulation
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            **contrast._asdict(),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "grad_norm": optax.tree.norm(grads),
            "nonfinite": _share_nonfinite(grads),
            "bad_photos": batch["skipped"].sum(),
            "stop": batch["stop"].max(),
        }
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics, preview

    everywhere, over_batch = sharding.replicated(mesh), sharding.over_batch(mesh)
    return jax.jit(
        step,
        in_shardings=(everywhere, over_batch, everywhere),
        out_shardings=(everywhere, everywhere, over_batch),
        donate_argnums=0,
    )


def _gradients(model, state: TrainState, view_a, view_b, contrast_fn, accumulation):
    """Return the loss and measures, new batch statistics, and the loss's gradients.

    With several chunks (`accumulation`), the batch is embedded chunk by chunk. The loss
    is that of all embeddings together, so every negative counts. A second pass computes
    the gradient of each chunk (Gao et al., "GradCache", 2021), so only the activations
    of one chunk are in memory at a time. BatchNorm then normalises by chunk, not by
    batch.
    """

    def embed(params, batch_stats, view_a, view_b):
        a, b, batch_stats = simclr.embed_views(
            model, params, batch_stats, view_a, view_b
        )
        return (a, b), batch_stats

    def loss_of(a, b):
        contrast = contrast_fn(a, b)
        return contrast.loss, contrast

    if accumulation == 1:

        def loss_fn(params):
            (a, b), batch_stats = embed(params, state.batch_stats, view_a, view_b)
            loss, contrast = loss_of(a, b)
            return loss, (contrast, batch_stats)

        grads, aux = jax.grad(loss_fn, has_aux=True)(state.params)
        return *aux, grads

    def split(x):
        # Split by pairs, so that both scales of a pair are in one chunk. Every chunk
        # takes pairs from all devices, so that no image moves to another device.
        pairs = x.reshape(-1, accumulation, 2, *x.shape[1:])
        return jnp.moveaxis(pairs, 1, 0).reshape(accumulation, -1, *x.shape[1:])

    def join(chunks):
        pairs = chunks.reshape(accumulation, -1, 2, *chunks.shape[2:])
        return jnp.moveaxis(pairs, 0, 1).reshape(-1, *chunks.shape[2:])

    chunks = (split(view_a), split(view_b))

    def embed_chunk(batch_stats, chunk):
        z, batch_stats = embed(state.params, batch_stats, *chunk)
        return batch_stats, z

    batch_stats, z_chunks = jax.lax.scan(embed_chunk, state.batch_stats, chunks)
    a, b = (join(z) for z in z_chunks)
    z_grads, contrast = jax.grad(loss_of, (0, 1), has_aux=True)(a, b)

    def pull_back(grads, chunk_and_gradient):
        chunk, z_grad = chunk_and_gradient
        _, vjp = jax.vjp(
            lambda params: embed(params, state.batch_stats, *chunk)[0], state.params
        )
        return jax.tree.map(jnp.add, grads, vjp(z_grad)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    chunk_grads = tuple(split(g) for g in z_grads)
    grads, _ = jax.lax.scan(pull_back, zeros, (chunks, chunk_grads))
    return contrast, batch_stats, grads


def _share_nonfinite(tree) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    # Count in integers, because a float32 sum of 25 M values would be rounded.
    bad = sum(jnp.sum(~jnp.isfinite(leaf)) for leaf in leaves)
    return bad / sum(leaf.size for leaf in leaves)
