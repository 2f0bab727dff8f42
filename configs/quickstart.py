"""A small encoder on the photographs that come with installed packages, in minutes.

    python -m arniqa_jax.main --config=quickstart --workdir=runs/quickstart

From random weights and with the paper's settings, the loss stays at chance for hundreds
of steps. Small crops, a tiny encoder, many pairs, BatchNorm in the projector and AdamW
make it fall early.
"""

from ml_collections import ConfigDict

from arniqa_jax.configs import pretrain


def get_config() -> ConfigDict:
    """Return the changes to `pretrain` for a short run.

    One step is one epoch of the built-in photographs.
    """
    config = pretrain.get_config()
    config.data.patch_size = 64
    config.model.arch = "tiny"
    config.model.init = "random"
    config.model.normalize_features = False
    config.model.projector_norm = "batch"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 20
    config.train.batch_size = 32
    config.train.steps = 1000
    config.train.picture_every = 250
    config.train.checkpoint_every = 250
    # No validation on the way: versions of one photograph are too few to choose a
    # checkpoint by, and the schedule ends at the last step.
    config.evaluation.every_epochs = 0
    return config
