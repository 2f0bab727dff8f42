"""A small encoder on the photographs that ship with installed packages, in minutes.

    python -m arniqa_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

From random weights, the paper's settings stay at chance for hundreds of steps: small
crops, many pairs, BatchNorm in the projector and AdamW learn within the first hundred.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config() -> ConfigDict:
    """The deltas to `pretrain`; an epoch of the built-in photographs is one step."""
    config = pretrain.get_config()
    config.data.patch_size = 64
    config.model.arch = "resnet18"
    config.model.init = "random"
    config.model.normalize_features = False
    config.model.projector_norm = "batch"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 20
    config.train.batch_size = 32
    config.train.steps = 300
    config.train.picture_every = 100
    config.train.checkpoint_every = 100
    config.evaluation.every_epochs = 100
    return config
