"""The training step on a GPU by pairs, dtype and tile, and the shares of its parts.

The parts are measured for every tile or dtype: the degradation does not depend on the
dtype, nor the encoder on the tile. The whole step has the default tile.
"""

import concurrent.futures
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import step
from absl import flags

from arniqa_jax.data import pairs as data_pairs
from arniqa_jax.data import photos
from arniqa_jax.distributed import sharding
from arniqa_jax.model import losses
from arniqa_jax.training import optimizers, train_step
from arniqa_jax.weights import encoders

_DTYPES = ("bfloat16", "float32")
_KEYS = 3  # number of keys (chains) over which the time of a batch is averaged
_LEARNING_RATE = 1e-3


def changes(settings) -> list[str]:
    """Return the changes to the config, `FIELD=VALUE`, that all parts share."""
    changed = ["model.init=random", f"data.root={settings.photos}"]
    if settings.small:
        changed += ["model.arch=tiny", "data.patch_size=64", "train.batch_size=4"]
        changed += ["data.workers=0"]
    return changed


def step_parts(settings) -> Iterator[tuple[str, object]]:
    """Yield whole step, its parts and input by pairs, dtype and tile.

    Most of the time is compilation, although programs are compiled side by side: 163 s
    for the eight programs of 64 pairs on an H200 with 16 cores. So the most important
    programs come first.
    """
    sizes = settings.pairs or ((2,) if settings.small else (64, 16, 256))
    work = Workload(settings, max(sizes))
    programs = {
        "whole step": functools.partial(_whole, settings, work),
        "parts": functools.partial(_parts, settings, work),
    }
    yield "device", jax.devices()[0].device_kind
    groups = [
        [("whole step", sizes[0]), ("parts", sizes[0])],
        [("whole step", size) for size in sizes[1:]],
        [("parts", size) for size in sizes[1:]],
    ]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for group in filter(None, groups):
            futures = {
                (kind, size): {
                    name: threads.submit(_compile, make)
                    for name, make in programs[kind](size).items()
                }
                for kind, size in group
            }
            # Nothing is timed while something else is compiled.
            every = [one for rows in futures.values() for one in rows.values()]
            concurrent.futures.wait(every)
            for (kind, size), rows in futures.items():
                figures = {name: _time(future) for name, future in rows.items()}
                yield f"{kind}, {size} pairs", figures
                if kind == "whole step":
                    yield f"input, {size} pairs", work.input_seconds(size)


def _whole(settings, work: "Workload", pairs: int) -> dict[str, Callable]:
    """Return what makes the program of the whole step, by its dtype."""
    dtypes = _DTYPES[:1] if settings.small else _DTYPES
    return {d: functools.partial(work.step, pairs, d, 0) for d in dtypes}


def _parts(settings, work: "Workload", pairs: int) -> dict[str, Callable]:
    """Return what makes each program of a part of the step."""
    tiles = (1,) if settings.small else (1, 2, 4, 8)
    degradation = {
        f"degradation, tile {tile}": functools.partial(work.degradation, pairs, tile)
        for tile in tiles
    }
    encoder = {
        f"encoder, {dtype}": functools.partial(work.gradient, pairs, dtype)
        for dtype in _DTYPES
    }
    return degradation | encoder


@dataclasses.dataclass
class _Program:
    """A lowered program, and how to run it with the key of a run."""

    lowered: jax.stages.Lowered
    run: Callable[[Callable, jax.Array], object]

    def compile(self) -> Callable:
        """Return the compiled program."""
        return self.lowered.compile()


def _compile(make: Callable[[], _Program]) -> tuple[_Program, Callable]:
    program = make()
    return program, program.compile()


def _time(future: concurrent.futures.Future) -> dict[str, object]:
    """Return the figures of a compiled program.

    Returns:
      `seconds`, the mean over several keys of the fastest of three runs, and
      `temporaries` in bytes; or `error`, its first line.
    """
    try:
        program, compiled = future.result()
        seconds = [
            step.best_of(functools.partial(program.run, compiled), jax.random.key(seed))
            for seed in range(_KEYS)
        ]
    except jax.errors.JaxRuntimeError as error:
        # For example, a batch does not fit into memory.
        return {"error": str(error).splitlines()[0][:300]}
    memory = compiled.memory_analysis()
    return {
        "seconds": float(np.mean(seconds)),
        "temporaries": memory.temp_size_in_bytes if memory else None,
    }


class Workload:
    """Programs of a config's step for any number of pairs, with data to run them on."""

    def __init__(self, settings, most_pairs: int):
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl's flags
        config = step.read_config(settings.config, *changes(settings))
        self.config = config
        self._mesh = sharding.make_mesh()
        self._source = photos.open_photos(config.data.root, config.data.source)
        with self._batches(most_pairs) as batches:
            batch = next(batches)
        batch["stop"] = np.zeros_like(batch["seed"], np.int32)
        self._host_batch = {name: batch[name] for name in train_step.BATCH}
        self._variables = encoders.initial_variables(config)
        self._optimizer = optimizers.optimizer(
            name=config.optimizer.name,
            schedule=lambda _: _LEARNING_RATE,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )

    def _batches(self, pairs: int):
        data = self.config.data
        return data_pairs.pair_batches(
            self._source,
            seed=self.config.seed,
            patch_size=data.patch_size,
            batch_size=pairs,
            workers=data.workers,
            pairing=data.pairing,
        )

    def _on_host(self, pairs: int) -> dict[str, np.ndarray]:
        return {name: value[:pairs] for name, value in self._host_batch.items()}

    def _batch(self, pairs: int) -> dict[str, jax.Array]:
        return sharding.put_batch(self._on_host(pairs), self._mesh)

    def _model(self, dtype: str):
        config = self.config.copy_and_resolve_references()
        config.model.dtype = dtype
        return encoders.build_model(config)

    def input_seconds(self, pairs: int) -> dict[str, float]:
        """Return the seconds of a batch: in the loader, and in the transfer."""
        with self._batches(pairs) as batches:
            for _ in range(2):  # while the workers start
                next(batches)
            count = max(2, 256 // pairs)
            start = time.perf_counter()
            for _ in range(count):
                next(batches)
            loading = (time.perf_counter() - start) / count
        transfer = step.best_of(sharding.put_batch, self._on_host(pairs), self._mesh)
        workers = self.config.data.workers
        return {"loader": loading, "workers": workers, "host to device": transfer}

    def degradation(self, pairs: int, tile: int) -> _Program:
        """Return the chains of a batch, from uint8 crops to degraded crops."""
        options = {**self.config.degradation, "tile": tile}
        batch = self._batch(pairs)

        @jax.jit
        def degrade(key, batch):
            return train_step.degrade(key, batch, **options)[0]

        lowered = degrade.lower(jax.random.key(0), batch)
        return _Program(lowered, lambda compiled, key: compiled(key, batch))

    def gradient(self, pairs: int, dtype: str) -> _Program:
        """Return the loss and its gradient, for crops that are already degraded."""
        model = self._model(dtype)
        images = self._batch(pairs)["images"]
        views = [
            images[:, view].reshape(-1, *images.shape[3:]).astype(jnp.float32) / 255
            for view in (0, 1)
        ]
        state = train_step.TrainState(0, **self._variables, opt_state=())

        @jax.jit
        def gradient(state, a, b):
            return train_step._gradients(model, state, a, b, losses.contrast, 1)

        lowered = gradient.lower(state, *views)
        return _Program(lowered, lambda compiled, _: compiled(state, *views))

    def step(self, pairs: int, dtype: str, tile: int) -> _Program:
        """Return the whole step; tile 0 is the default of the platform."""
        function = train_step.make_step(
            self._model(dtype),
            self._optimizer,
            lambda _: _LEARNING_RATE,
            self._mesh,
            temperature=self.config.loss.temperature,
            scale_negatives=self.config.loss.scale_negatives,
            accumulation=1,
            degradation_options={**self.config.degradation, "tile": tile},
        )
        state = train_step.initial_state(self._variables, self._optimizer)
        held = [self._fresh(state)]
        batch = self._batch(pairs)
        replicated = sharding.replicated(self._mesh)

        def run(compiled, key):
            # The step donates its state and returns a new one.
            key = jax.device_put(key, replicated)
            held[0], metrics, preview = compiled(held[0], batch, key)
            return metrics, preview

        return _Program(function.lower(held[0], batch, self._key()), run)

    def _fresh(self, state):
        copy = jax.tree.map(jnp.copy, state)
        return jax.device_put(copy, sharding.replicated(self._mesh))

    def _key(self) -> jax.Array:
        return train_step.run_key(self.config.seed, self._mesh)
