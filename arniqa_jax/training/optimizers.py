"""Learning-rate schedules and optimizers."""

import jax
import jax.numpy as jnp
import optax

from arniqa_jax import errors

# The batch size that `optimizer.learning_rate` refers to, which is the paper's.
REFERENCE_BATCH_SIZE = 16


def learning_rate_schedule(
    *,
    name: str,
    learning_rate: float,
    batch_size: int,
    steps_per_epoch: int,
    total_steps: int,
    first_period_epochs: float,
    period_multiplier: float,
    floor: float,
    warmup_steps: int,
    lr_scaling: str,
) -> optax.Schedule:
    """Return the schedule; the arguments are the fields of the config.

    Returns:
      The learning rate as a function of the update k = 0, 1, .... Within a period of T
      steps it is floor + (peak - floor) (1 + cos(pi k / T)) / 2, with k counted from
      the start of the period (Loshchilov and Hutter, "SGDR", 2017).

    Raises:
      UsageError: a name is unknown or a value is out of range.
    """
    scale = {
        "none": 1.0,
        "linear": batch_size / REFERENCE_BATCH_SIZE,
        "sqrt": (batch_size / REFERENCE_BATCH_SIZE) ** 0.5,
    }.get(lr_scaling)
    if scale is None:
        raise errors.UsageError(
            f"schedule.lr_scaling={lr_scaling!r}: expected none, linear or sqrt"
        )
    peak = learning_rate * scale
    if name == "constant":
        after_warmup = optax.constant_schedule(peak)
    elif name == "cosine":
        starts = (0, max(total_steps - warmup_steps, 1))
        after_warmup = _cosine_periods(starts, peak, floor)
    elif name == "warm_restarts":
        first = first_period_epochs * steps_per_epoch
        starts = _restarts(first, period_multiplier, total_steps)
        after_warmup = _cosine_periods(starts, peak, floor)
    else:
        raise errors.UsageError(
            f"schedule.name={name!r}: expected warm_restarts, cosine or constant"
        )
    if not warmup_steps:
        return after_warmup
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, after_warmup], [warmup_steps])


def _restarts(first: float, multiplier: float, total_steps: int) -> tuple[int, ...]:
    """Return the steps at which periods begin, and the end of the last period."""
    if first < 1 or multiplier < 1:
        raise errors.UsageError(
            "schedule.first_period_epochs must be at least one step long and "
            f"schedule.period_multiplier at least 1, found {first:g} steps and "
            f"{multiplier:g}"
        )
    # Whole steps avoid a restart that rounding moves to the next step.
    starts, period = [0], first
    while starts[-1] < total_steps:
        starts.append(starts[-1] + round(period))
        period *= multiplier
    return tuple(starts)


def _cosine_periods(
    starts: tuple[int, ...], peak: float, floor: float
) -> optax.Schedule:
    """Return a schedule of half a cosine, `peak` to `floor`, between `starts`."""
    edges = jnp.asarray(starts, jnp.int32)

    def schedule(step: jax.Array) -> jax.Array:
        period = jnp.searchsorted(edges, step, side="right") - 1
        period = jnp.minimum(period, len(starts) - 2)
        start, end = edges[period], edges[period + 1]
        progress = jnp.minimum((step - start) / (end - start), 1.0)
        return floor + (peak - floor) * (1 + jnp.cos(jnp.pi * progress)) / 2

    return schedule


def optimizer(
    *, name: str, schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Return the optimizer; the arguments are the fields of the config.

    `sgd` is PyTorch's: the weight decay of *every* parameter is added to its gradient
    before the momentum. `adamw` has decoupled weight decay. `lars` (You et al., 2017)
    excludes vectors (biases, BatchNorm) from weight decay and adaptation, as is
    customary.

    Raises:
      UsageError: the name is unknown.
    """
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum)
        )
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay)
    if name == "lars":

        def matrices(params):
            return jax.tree.map(lambda p: p.ndim > 1, params)

        return optax.lars(
            schedule,
            weight_decay=weight_decay,
            weight_decay_mask=matrices,
            trust_ratio_mask=matrices,
            momentum=momentum,
        )
    raise errors.UsageError(f"optimizer.name={name!r}: expected sgd, adamw or lars")
