"""The programs that are compiled, as functions and the shapes of their arguments.

Nothing in this module runs a program. Arguments are `jax.ShapeDtypeStruct`s, and the
mesh may consist of devices that do not exist. N pairs have 2 views at 2 scales, so they
have 4 N crops.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from accelerator import plain
from arniqa_jax.degradation.catalogue import CATALOGUE
from arniqa_jax.distributed import sharding
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model import losses, simclr
from arniqa_jax.training import optimizers, train_step
from arniqa_jax.weights import encoders

CROPS_OF_A_PAIR = 4
# Number of images that a device scores at once, five crops at two scales each.
SCORED_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and abstract arguments.

    Attributes:
      name: name in the tables.
      function: the jitted function, with its shardings.
      arguments: shapes and dtypes.
    """

    name: str
    function: Callable
    arguments: tuple

    def compile(self) -> tuple[Any, float]:
        """Return the compiled program, and the seconds to lower and compile it."""
        start = time.perf_counter()
        compiled = self.function.lower(*self.arguments).compile()
        return compiled, time.perf_counter() - start


def step(config: ConfigDict, mesh: Mesh) -> Program:
    """Return the training step of a config.

    Raises:
      UsageError: the batch cannot be divided, or a field is out of range.
    """
    sharding.check_batch_size(config.train.batch_size, mesh, config.train.accumulation)
    model = encoders.build_model(config)
    schedule = optimizers.learning_rate_schedule(
        **config.schedule,
        learning_rate=config.optimizer.learning_rate,
        batch_size=config.train.batch_size,
        steps_per_epoch=1000,
        total_steps=10_000,
    )
    optimizer = optimizers.optimizer(
        name=config.optimizer.name,
        schedule=schedule,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    function = train_step.make_step(
        model,
        optimizer,
        schedule,
        mesh,
        temperature=config.loss.temperature,
        scale_negatives=config.loss.scale_negatives,
        accumulation=config.train.accumulation,
        degradation_options=dict(**config.degradation),
    )
    state = jax.eval_shape(
        lambda variables: train_step.initial_state(variables, optimizer),
        encoders.abstract_variables(model),
    )
    batch = train_step.abstract_batch(config.train.batch_size, config.data.patch_size)
    return Program("step", function, (state, batch, _key()))


def encoder(config: ConfigDict, mesh: Mesh) -> Program:
    """Return the loss's gradient through the encoder only, on one device."""
    model = encoders.build_model(config)

    def loss(params, batch_stats, view_a, view_b):
        a, b, batch_stats = simclr.embed_views(
            model, params, batch_stats, view_a, view_b
        )
        value = losses.nt_xent(a, b, temperature=config.loss.temperature)
        return value, batch_stats

    variables = encoders.abstract_variables(model)
    return _gradient("encoder", loss, variables, config, mesh)


def plain_flax(config: ConfigDict, mesh: Mesh) -> Program:
    """Return the same gradient through a plain Flax ResNet-50, on one device."""
    model = plain.PlainSimCLR(jnp.dtype(config.model.dtype), config.model.embedding_dim)

    def loss(params, batch_stats, view_a, view_b):
        return plain.loss(
            model, params, batch_stats, view_a, view_b, config.loss.temperature
        )

    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0)
    )
    return _gradient("plain", loss, variables, config, mesh)


def _gradient(name, loss, variables, config, mesh) -> Program:
    device = _one_device(mesh)
    size = config.data.patch_size
    # These are the pairs of one device of the mesh; a view has two crops of each pair.
    crops = 2 * max(1, config.train.batch_size // mesh.size)
    views = jax.ShapeDtypeStruct((crops, size, size, 3), jnp.float32)
    function = jax.jit(
        jax.grad(loss, has_aux=True), in_shardings=device, out_shardings=device
    )
    arguments = (variables["params"], variables["batch_stats"], views, views)
    return Program(name, function, arguments)


def chain(config: ConfigDict, mesh: Mesh) -> Program:
    """Return the degradation of the pairs of one device, with the draw of chains."""
    device = _one_device(mesh)
    pairs = max(1, config.train.batch_size // mesh.size)
    batch = train_step.abstract_batch(pairs, config.data.patch_size)
    batch = {name: batch[name] for name in ("images", "seed")}
    options = dict(**config.degradation)
    function = jax.jit(
        lambda key, batch: train_step.degrade(key, batch, **options)[0],
        in_shardings=device,
        out_shardings=device,
    )
    return Program("chain", function, (_key(), batch))


def distortion(name: str, config: ConfigDict, mesh: Mesh) -> Program:
    """Return one distortion on the four crops of a pair, with the level as data."""
    device = _one_device(mesh)
    size = config.data.patch_size
    crops = jax.ShapeDtypeStruct((CROPS_OF_A_PAIR, size, size, 3), jnp.float32)
    level = jax.ShapeDtypeStruct((), jnp.int32)
    function = jax.jit(CATALOGUE[name], in_shardings=device, out_shardings=device)
    return Program(name, function, (_key(), crops, level))


def score(config: ConfigDict, mesh: Mesh) -> Program:
    """Return the scorer on one device: from uint8 crops to features.

    The regressor is left out; it is one product with a vector.
    """
    device = _one_device(mesh)
    model = encoders.build_model(config)
    size = config.data.patch_size
    frozen = Encoder(model, None, "", size)
    weights = jax.eval_shape(frozen.fold, encoders.abstract_variables(model))

    def features(weights, crops):
        return frozen.embed(weights, crops.astype(jnp.float32) / 255)

    function = jax.jit(features, in_shardings=device, out_shardings=device)
    crops = jax.ShapeDtypeStruct((SCORED_IMAGES * 10, size, size, 3), jnp.uint8)
    return Program("scorer", function, (weights, crops))


def _one_device(mesh: Mesh) -> NamedSharding:
    alone = Mesh(mesh.devices.flat[:1], mesh.axis_names, axis_types=mesh.axis_types)
    return NamedSharding(alone, P())


def _key():
    return jax.eval_shape(lambda: jax.random.key(0))
