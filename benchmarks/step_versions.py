"""Compare the whole step of another version of this program with that of this version.

    git worktree add ../before c286845
    python benchmarks/step_versions.py ../before [--config=pretrain --pairs=4 --turns=2]

Processes take turns. Each compiles the step of the config twice, first with an empty
cache and then with the filled one, and runs it on noise. From a version it uses only
the functions that build a step, which exist since c286845.
"""

import argparse
import importlib
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

_HERE = pathlib.Path(__file__).resolve().parents[1]
_LEARNING_RATE = 1e-3


def main():
    """Run both versions in turns and print a row for each process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=pathlib.Path, help="a checkout")
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--pairs", type=int, help="default: the config's")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--role", choices=["step"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        print(json.dumps(measure(arguments.config, arguments.pairs, arguments.steps)))
        return
    print("version  compiled, s: cold   warm  temporaries, MB  step, s: least  median")
    trees = {"before": arguments.before.resolve(), "here": _HERE}
    for _ in range(arguments.turns):
        for name, tree in trees.items():
            finished = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--role=step"],
                env=os.environ | {"PYTHONPATH": str(tree)},
                cwd=tree,
                capture_output=True,
                text=True,
            )
            if finished.returncode:
                sys.exit(f"{tree}: {finished.stderr}")
            cold, warm, megabytes, least, median = json.loads(finished.stdout)
            print(
                f"{name:7}  {cold:17.1f}  {warm:5.1f}  {megabytes:15.0f}"
                f"  {least:14.3f}  {median:6.3f}",
                flush=True,
            )


def measure(config_name: str, pairs: int | None, steps: int) -> list[float]:
    """Return seconds to compile (cold, warm), MB of temporaries, seconds of a step."""
    # These imports come from the version in PYTHONPATH.
    from arniqa_jax.distributed import sharding
    from arniqa_jax.training import optimizers, train_step
    from arniqa_jax.weights import encoders

    config = importlib.import_module(f"configs.{config_name}").get_config()
    config.model.init = "random"  # the time does not depend on the values
    config.train.batch_size = pairs = pairs or config.train.batch_size
    optimizer = optimizers.optimizer(
        name=config.optimizer.name,
        schedule=lambda _: _LEARNING_RATE,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    mesh = sharding.make_mesh()
    # In c286845 the seed is a constant of the program; later versions take the key as
    # an argument.
    has_seed = "seed" in inspect.signature(train_step.make_step).parameters
    step = train_step.make_step(
        encoders.build_model(config),
        optimizer,
        lambda _: _LEARNING_RATE,
        mesh,
        temperature=config.loss.temperature,
        accumulation=1,
        degradation_options=dict(**config.degradation),
        **({"seed": config.seed} if has_seed else {}),
    )
    key = () if has_seed else (train_step.run_key(config.seed, mesh),)
    state = train_step.initial_state(encoders.initial_variables(config), optimizer)
    batch = sharding.put_batch(_noise(pairs, config.data.patch_size, train_step), mesh)

    state = jax.device_put(state, sharding.replicated(mesh))
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for _ in range(2):
            jax.clear_caches()
            start = time.perf_counter()
            compiled = step.lower(state, batch, *key).compile()
            seconds.append(time.perf_counter() - start)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        state, *_ = jax.block_until_ready(compiled(state, batch, *key))
        times.append(time.perf_counter() - start)
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return [*seconds, megabytes, min(times), float(np.median(times))]


def _noise(pairs: int, size: int, train_step) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(0, 256, (pairs, 2, 2, size, size, 3), np.uint8),
        "seed": rng.integers(0, 2**32, pairs, np.uint32),
        "skipped": np.zeros((pairs, 2), np.int32),
        "stop": np.zeros(pairs, np.int32),
    }
    return {name: batch[name] for name in train_step.BATCH}


if __name__ == "__main__":
    main()
