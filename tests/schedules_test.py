"""Learning rates at important steps, and SGD against PyTorch's rule in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arniqa_jax import errors
from arniqa_jax.training import optimizers


def _schedule(**changes):
    fields = {
        "name": "warm_restarts",
        "learning_rate": 1e-3,
        "batch_size": 16,
        "steps_per_epoch": 10,
        "total_steps": 100,
        "first_period_epochs": 1.0,
        "period_multiplier": 2.0,
        "floor": 1e-6,
        "warmup_steps": 0,
        "lr_scaling": "none",
    }
    return optimizers.learning_rate_schedule(**fields | changes)


def _cosine(progress, peak=1e-3, floor=1e-6):
    return floor + (peak - floor) * (1 + np.cos(np.pi * progress)) / 2


def test_warm_restarts_by_step():
    schedule = _schedule()
    # Periods of 10, 20, 40 and 80 steps begin at 0, 10, 30 and 70.
    for step, progress in [
        (0, 0), (1, 0.1), (9, 0.9), (10, 0), (20, 0.5), (29, 0.95), (30, 0),
        (50, 0.5), (69, 39 / 40), (70, 0), (99, 29 / 80),
    ]:  # fmt: skip
        np.testing.assert_allclose(schedule(step), _cosine(progress), rtol=1e-5)


def test_warm_restarts_after_a_warm_up():
    schedule = _schedule(warmup_steps=4)
    np.testing.assert_allclose(
        [schedule(k) for k in (0, 1, 3)], [0, 2.5e-4, 7.5e-4], 1e-6
    )
    np.testing.assert_allclose(schedule(4), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(9), _cosine(0.5), rtol=1e-5)


def test_cosine_ends_at_the_floor():
    schedule = _schedule(name="cosine", warmup_steps=20)
    np.testing.assert_allclose(schedule(20), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(60), _cosine(0.5), rtol=1e-5)
    np.testing.assert_allclose(schedule(100), 1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("rule", "peak"), [("none", 1e-3), ("linear", 4e-3), ("sqrt", 2e-3)]
)
def test_scaling_with_the_batch(rule, peak):
    schedule = _schedule(name="constant", batch_size=64, lr_scaling=rule)
    np.testing.assert_allclose(schedule(7), peak, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "exponential"},
        {"lr_scaling": "cubic"},
        {"period_multiplier": 0.5},
        {"first_period_epochs": 0.01},
    ],
)
def test_values_that_make_no_sense(changes):
    with pytest.raises(errors.UsageError, match=f"schedule.{next(iter(changes))}"):
        _schedule(**changes)


def test_sgd_is_that_of_pytorch():
    optimizer = optimizers.optimizer(
        name="sgd", schedule=lambda _: 0.1, momentum=0.9, weight_decay=0.01
    )
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
    state = optimizer.init(params)
    expected = {name: np.array(p, np.float64) for name, p in params.items()}
    buffer = dict.fromkeys(params, 0.0)
    for step in range(3):
        grads = {"kernel": jnp.array([[0.3, 0.1 * step]]), "bias": jnp.array([-1.0])}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name in expected:
            # The decay of every parameter, biases included, is in its gradient.
            gradient = np.array(grads[name]) + 0.01 * expected[name]
            buffer[name] = 0.9 * buffer[name] + gradient
            expected[name] = expected[name] - 0.1 * buffer[name]
            np.testing.assert_allclose(params[name], expected[name], rtol=1e-6)


def test_lars_leaves_vectors_without_decay():
    optimizer = optimizers.optimizer(
        name="lars", schedule=lambda _: 0.1, momentum=0.9, weight_decay=0.5
    )
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = {"kernel": jnp.full((2, 2), 1e-3), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["bias"], 0)
    assert (np.abs(updates["kernel"]) > 0).all()


def test_an_unknown_optimizer_is_named():
    with pytest.raises(errors.UsageError, match=r"optimizer\.name='adam'"):
        optimizers.optimizer(
            name="adam", schedule=lambda _: 0.1, momentum=0.9, weight_decay=0.0
        )
