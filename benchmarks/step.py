"""Measure the time and memory of a training step, and compare with the hardware's peak.

    python benchmarks/step.py --config=configs/pretrain.py [--batch_size=16]
        [--set=model.dtype=bfloat16 ...] [--json=FILE] [--trace=DIR] [--no-yardstick]
        [--memory]

Each part is a separate program on one batch, and its time is the fastest of several
runs. The whole step gets new batches, whose chains take more or less time, so the parts
do not add up to it exactly. The backward pass is the gradient less the forward pass.
Photographs come from `data.root` (by default the built-in photographs). The wait for
them is measured in a loop of steps.

The baseline is ResNet-50 in training mode, 224 px, also in plain PyTorch if that is
installed (--torch_python=INTERPRETER if it is installed elsewhere). Both run in their
own processes, in turns, and the best of each counts. On a CPU, start with
GLIBC_TUNABLES=glibc.malloc.hugetlb=1, which makes both sides faster.

--memory compiles the gradient with and without rematerialisation to measure the
activations of a pair, and estimates which batch fits which device. --trace writes a
profile of three steps for TensorBoard (plugin `profile`) or ui.perfetto.dev.
"""

import argparse
import json
import pathlib
import resource
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import encoder

from arniqa_jax.data import pairs, photos
from arniqa_jax.distributed import sharding
from arniqa_jax.model import losses, simclr
from arniqa_jax.training import optimizers, throughput, train_step
from arniqa_jax.weights import encoders

_REPEATS = 3
_WAITED_STEPS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/pretrain.py")
    parser.add_argument("--batch_size", type=int, help="pairs, over all devices")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures there")
    parser.add_argument("--trace", help="write a profile into this folder")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--no-yardstick", dest="yardstick", action="store_false")
    parser.add_argument("--torch_python", default=sys.executable)
    arguments = parser.parse_args()
    changes = list(arguments.set)
    if arguments.batch_size:
        changes.append(f"train.batch_size={arguments.batch_size}")
    config = read_config(arguments.config, *changes)
    flags.FLAGS.mark_as_parsed()  # grain's workers read absl's flags
    step = Step(config)
    figures = {
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "config": f"{arguments.config} {' '.join(arguments.set)}".strip(),
        "pairs": config.train.batch_size,
        "compile": step.compile_seconds(),
        "seconds": step.seconds(),
    }
    figures["flops"] = step.flops(figures["seconds"]["whole step"])
    figures["memory"] = step.memory()
    _print_step(figures)
    if arguments.trace:
        step.trace(arguments.trace)
    if arguments.memory:
        figures["activations"] = encoder.activations(config, step.state)
        encoder.print_activations(figures["activations"])
    if arguments.yardstick:
        figures["yardstick"] = encoder.yardstick(arguments.torch_python)
        encoder.print_yardstick(figures["yardstick"])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def read_config(path: str, *changes: str) -> ConfigDict:
    """Return a config as the commands read it; changes are `FIELD=VALUE`."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    changed = [f"--config.{change}" for change in changes]
    # ml_collections always looks for changed fields in sys.argv.
    sys.argv = [sys.argv[0], f"--config={path}", *changed]
    values(sys.argv)
    return holder.value


def best_of(function, *arguments, repeats: int = _REPEATS) -> float:
    """Return the seconds of the fastest of several runs, after one warm-up run."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


class Step:
    """The step of a config on all devices, with data to run it on."""

    def __init__(self, config):
        self._config = config
        self._cache = tempfile.TemporaryDirectory()  # removed with this object
        self._mesh = sharding.make_mesh()
        sharding.check_batch_size(
            config.train.batch_size, self._mesh, config.train.accumulation
        )
        self._model = encoders.build_model(config)
        schedule = optimizers.learning_rate_schedule(
            **config.schedule,
            learning_rate=config.optimizer.learning_rate,
            batch_size=config.train.batch_size,
            steps_per_epoch=1000,
            total_steps=10_000,
        )
        self._optimizer = optimizers.optimizer(
            name=config.optimizer.name,
            schedule=schedule,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )
        self._options = dict(**config.degradation)
        self._step = train_step.make_step(
            self._model,
            self._optimizer,
            schedule,
            self._mesh,
            temperature=config.loss.temperature,
            scale_negatives=config.loss.scale_negatives,
            accumulation=config.train.accumulation,
            degradation_options=self._options,
        )
        # Random weights are enough, because the time does not depend on their values.
        config = config.copy_and_resolve_references()
        config.model.init = "random"
        self.state = train_step.initial_state(
            encoders.initial_variables(config), self._optimizer
        )
        self._source = photos.open_photos(config.data.root, config.data.source)
        with self._batches() as batches:
            self._on_host = self._needed(next(batches))
        self._batch = sharding.put_batch(self._on_host, self._mesh)
        self._key = train_step.run_key(config.seed, self._mesh)

    def _batches(self):
        data = self._config.data
        return pairs.pair_batches(
            self._source,
            seed=self._config.seed,
            patch_size=data.patch_size,
            batch_size=self._config.train.batch_size,
            workers=data.workers,
            pairing=data.pairing,
        )

    @staticmethod
    def _needed(batch: dict) -> dict:
        batch["stop"] = np.zeros_like(batch["seed"], np.int32)
        return {name: batch[name] for name in train_step.BATCH}

    def _fresh_state(self):
        # Copy the state, because the step donates it.
        copy = jax.tree.map(jnp.copy, self.state)
        return jax.device_put(copy, sharding.replicated(self._mesh))

    def compile_seconds(self) -> dict[str, float]:
        """Return the compile time with an empty and with a filled persistent cache."""
        seconds = {}
        jax.config.update("jax_compilation_cache_dir", self._cache.name)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for name in ("cold", "warm"):
            jax.clear_caches()
            start = time.perf_counter()
            lowered = self._step.lower(self._fresh_state(), self._batch, self._key)
            self._compiled = lowered.compile()
            seconds[name] = time.perf_counter() - start
        return seconds

    def seconds(self) -> dict[str, float]:
        """Return the seconds of the whole step and of its parts."""
        model, state = self._model, self._fresh_state()

        @jax.jit
        def degrade(key, batch):
            return train_step.degrade(key, batch, **self._options)[0]

        def embed(params, batch_stats, views):
            a, b, batch_stats = simclr.embed_views(model, params, batch_stats, *views)
            return (a, b), batch_stats

        @jax.jit
        def gradient(params, batch_stats, views, cotangents):
            _, pull_back, _ = jax.vjp(
                lambda p: embed(p, batch_stats, views), params, has_aux=True
            )
            return pull_back(cotangents)[0]

        loss = jax.jit(jax.value_and_grad(losses.nt_xent, (0, 1)))
        crops = degrade(self._key, self._batch)
        views = tuple(crops[:, v].reshape(-1, *crops.shape[3:]) for v in (0, 1))
        forward = jax.jit(embed)
        variables = (state.params, state.batch_stats)
        embeddings, _ = forward(*variables, views)
        _, cotangents = loss(*embeddings)
        grads = gradient(*variables, views, cotangents)
        seconds = {
            "degradation": best_of(degrade, self._key, self._batch),
            "encoder forward": best_of(forward, *variables, views),
        }
        both = best_of(gradient, *variables, views, cotangents)
        seconds["encoder backward"] = both - seconds["encoder forward"]
        seconds["loss, both ways"] = best_of(loss, *embeddings)
        update = jax.jit(self._optimizer.update)
        seconds["optimizer"] = best_of(update, grads, state.opt_state, state.params)
        seconds["host to device"] = best_of(
            sharding.put_batch, self._on_host, self._mesh
        )
        del crops, views, embeddings, cotangents, grads, state, variables
        whole, waited = self._loop()
        return {"whole step": whole, **seconds, "waiting for data": waited}

    def _loop(self) -> tuple[float, float]:
        """Return the fastest step and the mean wait for a batch, as in training."""
        state = self._fresh_state()
        steps, waits = [], []
        with self._batches() as batches:
            next(batches)  # while the workers start
            for _ in range(_WAITED_STEPS):
                start = time.perf_counter()
                batch = next(batches)
                waits.append(time.perf_counter() - start)
                batch = sharding.put_batch(self._needed(batch), self._mesh)
                start = time.perf_counter()
                state, metrics, _ = self._compiled(state, batch, self._key)
                jax.block_until_ready(metrics)
                steps.append(time.perf_counter() - start)
        return min(steps), float(np.mean(waits))

    def flops(self, seconds: float) -> dict[str, float | None]:
        """Return the FLOPs of model and compiled program, and the share of peak."""
        images = 4 * self._config.train.batch_size
        size = self._config.data.patch_size
        meter = throughput.Throughput(self._model, size, images, self._mesh)
        fields = meter.of(seconds)
        analysis = self._compiled.cost_analysis()
        return {
            "model, of a step": 3 * images * throughput.model_flops(self._model, size),
            "compiled program": analysis.get("flops"),
            "images per second": fields["images_per_second"],
            "share of peak": fields.get("share_of_peak"),
        }

    def memory(self) -> dict[str, int | None]:
        """Return the bytes on one device: the compiler's plan, the measured peak."""
        plan = self._compiled.memory_analysis()
        seen = jax.devices()[0].memory_stats() or {}
        return {
            "state": sum(leaf.nbytes for leaf in jax.tree.leaves(self.state)),
            "arguments": plan.argument_size_in_bytes,
            "temporaries": plan.temp_size_in_bytes,
            "peak on the device": seen.get("peak_bytes_in_use"),
            "peak of this process": 1024
            * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }

    def trace(self, folder: str) -> None:
        """Write a profile of three steps."""
        state = self._fresh_state()
        with jax.profiler.trace(folder):
            for _ in range(3):
                state, metrics, _ = self._compiled(state, self._batch, self._key)
            jax.block_until_ready(metrics)
        print(f"\nprofile of three steps: {folder}")


def _print_step(figures: dict) -> None:
    print(f"{figures['config']}: {figures['pairs']} pairs on {figures['device']}\n")
    whole = figures["seconds"]["whole step"]
    for name, value in figures["seconds"].items():
        print(f"{name:22}{1e3 * value:10.1f} ms{100 * value / whole:8.1f} %")
    for name, value in figures["compile"].items():
        print(f"compile, {name:13}{value:10.1f} s")
    for name, value in figures["flops"].items():
        if value is None:
            shown = "   unknown for this device and dtype"
        elif name == "share of peak":
            shown = f"{100 * value:10.1f} %"
        elif name == "images per second":
            shown = f"{value:10.1f}"
        else:
            shown = f"{value / 1e9:10.1f} GFLOP"
        print(f"{name:22}{shown}")
    for name, value in figures["memory"].items():
        shown = "   not reported by this device"
        print(f"{name:22}{shown if value is None else f'{value / 1e6:10.0f} MB'}")


if __name__ == "__main__":
    main()
