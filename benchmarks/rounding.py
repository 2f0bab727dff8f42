"""Measure how far runs diverge by rounding alone, by learning rate.

    python benchmarks/rounding.py [--steps=20 --seed=27]
        [--learning_rates=1e-3,1e-4,1e-5]

The runs train the tiny encoder on the built-in photographs (as in
tests/processes_test.py, but with a constant learning rate). The run on 4 simulated
devices is compared with runs on 1 and 2 devices, and with runs on 4 devices whose
initial values differ by 1e-7. A rounding error can decide the sign at a ReLU whose
input is close to zero, and therefore whether it has a gradient. At a high learning rate
this moves the weights enough to flip other ReLUs in the next step.
"""

import argparse

import jax
import numpy as np
import optax
import step
from jax.sharding import AxisType, Mesh

from arniqa_jax.data import pairs, photos
from arniqa_jax.distributed import sharding
from arniqa_jax.training import optimizers, train_step
from arniqa_jax.weights import encoders

_DEVICES = 4
_RELATIVE_CHANGE = 1e-7
_CHANGED_STARTS = 3


def main():
    """Print a row for each learning rate and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning_rates", default="1e-3,1e-4,1e-5")
    parser.add_argument("--seed", type=int, default=27)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", _DEVICES)
    print("largest difference to 4 devices; parameters moved: from their start")
    print("learning rate  run                loss  parameters  moved")
    for learning_rate in map(float, arguments.learning_rates.split(",")):
        runs = _Runs(learning_rate, arguments.steps, arguments.seed)
        losses, params = runs.run(_DEVICES)
        moved = _largest(params, runs.start["params"])
        others = {"1 device": (1, None), "2 devices": (2, None)}
        for index in range(_CHANGED_STARTS):
            others[f"4, start {index + 1}"] = (_DEVICES, index)
        for name, (devices, change) in others.items():
            other_losses, other_params = runs.run(devices, change)
            off = np.abs(other_losses / losses - 1).max()
            apart = _largest(other_params, params)
            figures = f"{off:.1e}     {apart:.1e}  {moved:.1e}"
            print(f"{learning_rate:<13g}  {name:12}  {figures}", flush=True)


class _Runs:
    """Runs of one config that share their batches and compiled programs."""

    def __init__(self, learning_rate: float, steps: int, seed: int):
        self._config = config = step.read_config(
            "configs/pretrain.py",
            *("data.patch_size=64", "train.batch_size=8", f"seed={seed}"),
            *("model.arch=tiny", "model.init=random", "model.embedding_dim=16"),
        )
        source = photos.open_photos(config.data.root, config.data.source)
        self._schedule = optax.constant_schedule(learning_rate)
        self._optimizer = optimizers.optimizer(
            name=config.optimizer.name,
            schedule=self._schedule,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )
        self._batches = self._read(source, steps)
        self._compiled = {}
        self.start = jax.device_get(encoders.initial_variables(config))

    def _read(self, source: photos.PhotoSource, steps: int) -> list[dict]:
        with pairs.pair_batches(
            source,
            seed=self._config.seed,
            patch_size=self._config.data.patch_size,
            batch_size=self._config.train.batch_size,
            workers=0,
        ) as batches:
            read = [next(batches) for _ in range(steps)]
        for batch in read:
            batch["stop"] = np.zeros_like(batch["seed"], np.int32)
        return [{name: batch[name] for name in train_step.BATCH} for batch in read]

    def run(self, devices: int, change: int | None = None) -> tuple[np.ndarray, dict]:
        """Return the losses and final parameters of one run.

        `change` is the seed of a change to the initial values, or None.
        """
        mesh = Mesh(jax.devices()[:devices], ("data",), axis_types=(AxisType.Auto,))
        if devices not in self._compiled:
            self._compiled[devices] = train_step.make_step(
                encoders.build_model(self._config),
                self._optimizer,
                self._schedule,
                mesh,
                temperature=self._config.loss.temperature,
                accumulation=1,
                degradation_options=dict(**self._config.degradation),
            )
        variables = self.start
        if change is not None:
            rng = np.random.default_rng(change)
            variables = jax.tree.map(
                lambda x: (
                    x * (1 + _RELATIVE_CHANGE * rng.standard_normal(x.shape))
                ).astype(np.float32),
                variables,
            )
        state = sharding.replicate(
            train_step.initial_state(variables, self._optimizer), mesh
        )
        key = train_step.run_key(self._config.seed, mesh)
        losses = []
        for batch in self._batches:
            batch = sharding.put_batch(batch, mesh)
            state, metrics, _ = self._compiled[devices](state, batch, key)
            losses.append(metrics["loss"].item())
        return np.array(losses), jax.device_get(state.params)


def _largest(a: dict, b: dict) -> float:
    differences = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
    return max(jax.tree.leaves(differences))


if __name__ == "__main__":
    main()
