"""Three updates equal those of PyTorch, and the usual mistakes do not.

tests/golden/make_training.py recorded them; PyTorch's own float32 deviates from its
float64 by up to 4e-6.
"""

import pathlib

import jax
import numpy as np
import pytest
import seeded_weights
from jax.sharding import AxisType

from arniqa_jax import degradation
from arniqa_jax.distributed import sharding
from arniqa_jax.model import simclr
from arniqa_jax.training import optimizers, train_step
from arniqa_jax.weights import torch_names

_GOLDEN = pathlib.Path(__file__).parent / "golden" / "training.npz"
_OPTIONS = seeded_weights.TRAINING
_MODEL = simclr.SimCLR(arch="tiny", embedding_dim=16)


@pytest.fixture(autouse=True)
def recorded_crops(monkeypatch):
    """Make the step take the crops as they are, without degrading them."""

    def degrade(key, batch, *, tile, **options):
        keys = jax.vmap(jax.random.key)(batch["seed"])
        preview = train_step.Preview(
            batch["images"], degradation.draw_chains(keys, **options)
        )
        return batch["images"].astype(np.float32) / 255, preview

    monkeypatch.setattr(train_step, "degrade", degrade)


def _start():
    """The start values, in our names."""
    shapes = torch_names.to_torch(
        jax.tree.map(
            lambda x: np.zeros(x.shape, np.float32),
            torch_names.abstract_variables(_MODEL, projector=True),
        )
    )
    tensors = {
        name: seeded_weights.training_tensor(name, value.shape)
        for name, value in shapes.items()
        if not name.endswith("num_batches_tracked")
    }
    return torch_names.from_torch(tensors, "seeded").variables


def _train(
    *,
    temperature=_OPTIONS["temperature"],
    weight_decay=_OPTIONS["weight_decay"],
    swap_views=False,
    schedule_lag=0,
    devices=1,
):
    """Return what the golden file holds, as our step computes it."""
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )  # fmt: skip
    schedule = optimizers.learning_rate_schedule(
        name="warm_restarts",
        learning_rate=_OPTIONS["learning_rate"],
        batch_size=16,
        steps_per_epoch=_OPTIONS["steps_per_epoch"],
        total_steps=15,
        first_period_epochs=1.0,
        period_multiplier=2.0,
        floor=_OPTIONS["floor"],
        warmup_steps=0,
        lr_scaling="none",
    )
    optimizer = optimizers.optimizer(
        name="sgd",
        schedule=lambda k: schedule(k - schedule_lag),
        momentum=_OPTIONS["momentum"],
        weight_decay=weight_decay,
    )
    step = train_step.make_step(
        _MODEL, optimizer, schedule, mesh,
        temperature=temperature, accumulation=1,
        degradation_options={"tile": 0},
    )  # fmt: skip
    state = jax.device_put(
        train_step.initial_state(_start(), optimizer), sharding.replicated(mesh)
    )
    key = train_step.run_key(0, mesh)
    found = {"loss": [], "grad_norm": []}
    for k in range(_OPTIONS["steps"]):
        crops = seeded_weights.training_crops(k)
        batch = {
            "images": crops[:, ::-1] if swap_views else crops,
            "seed": np.zeros(len(crops), np.uint32),
            "skipped": np.zeros((len(crops), 2), np.int32),
            "stop": np.zeros(len(crops), np.int32),
        }
        state, metrics, _ = step(state, sharding.put_batch(batch, mesh), key)
        found["loss"].append(metrics["loss"])
        found["grad_norm"].append(metrics["grad_norm"])
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    for name, value in torch_names.to_torch(jax.device_get(variables)).items():
        if not name.endswith("num_batches_tracked"):
            kind = "stats" if "running" in name else "params"
            found[f"{kind}.{name}"] = seeded_weights.sample(value)
    return found


def _deviations(found):
    """The largest deviation of each kind, relative to the largest value of its array.

    `moved` is that of the parameters relative to how far the updates moved them.
    """
    golden = np.load(_GOLDEN)
    recorded = [name for name in golden.files if name.startswith(("params.", "stats."))]
    assert set(recorded) == set(found) - {"loss", "grad_norm"}
    worst = dict.fromkeys(("loss", "grad_norm", "params", "stats", "moved"), 0.0)
    start = torch_names.to_torch(_start())
    for name in ("loss", "grad_norm", *recorded):
        kind, _, rest = name.partition(".")
        deviation = np.abs(np.asarray(found[name]) - golden[name]).max()
        worst[kind] = max(worst[kind], deviation / np.abs(golden[name]).max())
        if kind == "params":
            moved = np.abs(golden[name] - seeded_weights.sample(start[rest])).max()
            worst["moved"] = max(worst["moved"], deviation / moved)
    return worst


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_three_updates_are_those_of_pytorch(devices):
    """BatchNorm and negatives are those of the whole batch, on all devices together."""
    worst = _deviations(_train(devices=devices))
    assert max(worst.values()) < 1e-4, worst


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "shows_in"),
    [
        ({"weight_decay": 0.0}, "params"),
        ({"temperature": 0.11}, "loss"),
        # The running statistics are those of view B first, and then of view A.
        ({"swap_views": True}, "stats"),
        ({"schedule_lag": 1}, "params"),
    ],
)
def test_the_usual_mistakes_show(mistake, shows_in):
    assert _deviations(_train(**mistake))[shows_in] > 1e-3


def test_the_schedule_is_that_of_pytorch_one_update_earlier():
    official = np.load(_GOLDEN)["learning_rates"]
    schedule = optimizers.learning_rate_schedule(
        name="warm_restarts", learning_rate=1e-3, batch_size=16, steps_per_epoch=5,
        total_steps=15, first_period_epochs=1.0, period_multiplier=2.0, floor=1e-6,
        warmup_steps=0, lr_scaling="none",
    )  # fmt: skip
    ours = np.array([schedule(k) for k in range(len(official))])
    # The official loop calls the scheduler after the update: its update k + 1 has the
    # learning rate of position k. Its first two updates have the same one.
    np.testing.assert_allclose(ours[:-1], official[1:], rtol=1e-5)
    assert official[0] == official[1]
