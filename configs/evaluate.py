"""Evaluation of a trained or imported encoder on labelled datasets.

    python -m arniqa_jax.evaluate --config=evaluate --workdir=runs/kadis \\
        --config.evaluation.root=DATASETS --config.evaluation.datasets=live,csiq

Only `evaluation.*`, `data.workers` and `seed` are read. The model comes from the
workdir, with its own config.
"""

from ml_collections import ConfigDict

from arniqa_jax.configs import pretrain


def get_config() -> ConfigDict:
    """Return the config `pretrain` with the six datasets of the paper's table."""
    config = pretrain.get_config()
    config.evaluation.datasets = "live,csiq,tid2013,kadid10k,flive,spaq"
    return config
