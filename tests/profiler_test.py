"""A trace of some steps, and the lines at the start of a run."""

import jax
import jax.numpy as jnp
import pytest

from arniqa_jax import errors
from arniqa_jax.training import overview, plans, profiler
from configs import pretrain


def _run(trace, first, last):
    step_fn = jax.jit(lambda x: jnp.sin(x) @ x)
    x = jnp.ones((8, 8))
    for step in range(first, last + 1):
        trace.before(step)
        x = step_fn(x)
        trace.after(step, x)
    trace.close()


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [("2:3", 1, 4), ("2:30", 1, 3), ("1:3", 3, 5)],  # whole; cut at its end, its start
)
def test_a_trace_is_written(tmp_path, steps, first, last):
    _run(profiler.Profiler(tmp_path / "profile", steps), first, last)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


def test_no_trace(tmp_path):
    _run(profiler.Profiler(tmp_path / "profile", ""), 1, 3)
    _run(profiler.Profiler(tmp_path / "profile", "7:9"), 1, 3)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", ["5", "5:", "a:b", "9:8", "0:3", "-1:3"])
def test_steps_that_are_no_range(steps):
    config = pretrain.get_config()
    config.log.profile_steps = steps
    with pytest.raises(errors.UsageError, match="FIRST:LAST"):
        plans.check(config)


def test_the_table_counts_every_parameter():
    params = {
        "encoder": {
            "conv1": {"kernel": jnp.ones((3, 3, 3, 8))},
            "layer1_0": {"a": {"kernel": jnp.ones((8, 4))}, "b": {"bias": jnp.ones(9)}},
        },
        "projector_0": {"kernel": jnp.ones((100, 16)), "bias": jnp.ones(16)},
    }
    lines = [line.split() for line in overview.parameter_table(params)]
    assert lines[1:] == [
        ["encoder/conv1", *["3", "x", "3", "x", "3", "x", "8"], "216"],
        ["encoder/layer1_0", *["8", "x", "4"], "41"],
        ["projector_0", *["100", "x", "16"], "1,616"],
        ["total", "1,873"],
    ]
