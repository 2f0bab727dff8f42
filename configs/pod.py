"""KADIS-700k on a TPU pod slice or a box of GPUs: one large batch over all devices.

    python -m arniqa_jax.main --config=pod --workdir=SHARED/run \\
        --config.data.root=SHARED/kadis700k

SHARED is a bucket, gs://BUCKET, or a file system that all hosts mount.
"""

from ml_collections import ConfigDict

from arniqa_jax.configs import pretrain


def get_config() -> ConfigDict:
    """Return the changes to `pretrain` for many devices."""
    config = pretrain.get_config()
    config.data.workers = 16
    config.model.dtype = "bfloat16"
    config.optimizer.name = "lars"
    config.schedule.name = "cosine"
    config.schedule.lr_scaling = "sqrt"
    config.schedule.warmup_steps = 170  # half an epoch of KADIS-700k
    config.train.batch_size = 4096
    config.train.epochs = 100
    return config
