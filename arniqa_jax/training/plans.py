"""Derived quantities of a config: steps, learning rates, and checks of its values."""

import importlib.util
from typing import NamedTuple

import optax
from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.inference import preprocessing
from arniqa_jax.training import optimizers, profiler


class Plan(NamedTuple):
    """The length and intervals of a run in steps.

    Attributes:
      epoch: steps of an epoch.
      total: the step where the run ends.
      evaluate_every: steps between validations; 0 for none before the end.
      save_every: steps between checkpoints.
    """

    epoch: int
    total: int
    evaluate_every: int
    save_every: int


def make_plan(config: ConfigDict, photographs: int) -> Plan:
    """Return the plan of a config for a number of photographs."""
    epoch = max(1, photographs // config.train.batch_size)
    return Plan(
        epoch=epoch,
        total=config.train.steps or config.train.epochs * epoch,
        evaluate_every=config.evaluation.every_epochs * epoch,
        save_every=config.train.checkpoint_every or epoch,
    )


def learning_rates(config: ConfigDict, plan: Plan) -> optax.Schedule:
    """Return the learning-rate schedule of a config and its plan."""
    return optimizers.learning_rate_schedule(
        **config.schedule,
        learning_rate=config.optimizer.learning_rate,
        batch_size=config.train.batch_size,
        steps_per_epoch=plan.epoch,
        total_steps=plan.total,
    )


def check(config: ConfigDict) -> None:
    """Raise UsageError if a value of the config is not allowed.

    Values that the start of a run uses anyway are checked there.
    """
    for group, field, least in (
        ("data", "patch_size", 32),
        ("data", "workers", 0),
        ("model", "embedding_dim", 1),
        ("model", "batch_norm_groups", 1),
        ("train", "batch_size", 1),
        ("train", "epochs", 1),
        ("train", "steps", 0),
        ("train", "log_every", 1),
        ("train", "picture_every", 0),
        ("train", "checkpoint_every", 0),
        ("train", "accumulation", 1),
        ("optimizer", "learning_rate", 0),
        ("schedule", "warmup_steps", 0),
        ("evaluation", "every_epochs", 0),
    ):
        if config[group][field] < least:
            raise errors.UsageError(
                f"{group}.{field}={config[group][field]}: expected at least {least}"
            )
    if config.loss.temperature <= 0:
        raise errors.UsageError(
            f"loss.temperature={config.loss.temperature}: expected above 0"
        )
    # The run reads this field when it evaluates, which may be at its end only.
    preprocessing.check_crops(config.evaluation.crops, field="evaluation.crops")
    profiler.parse_steps(config.log.profile_steps)
    if config.log.wandb_project and importlib.util.find_spec("wandb") is None:
        raise errors.UsageError(
            f"log.wandb_project={config.log.wandb_project} needs wandb, which is not "
            "installed: pip install 'arniqa_jax[wandb]'"
        )
