"""Evaluation of a trained or imported encoder on labelled datasets.

    python -m arniqa_jax.evaluate --config=configs/evaluate.py --workdir=runs/kadis \\
        --config.evaluation.root=DATASETS --config.evaluation.datasets=live,csiq

Only `evaluation.*`, `data.workers` and `seed` are read; the model is that of the
workdir, with its own config.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config() -> ConfigDict:
    """The deltas to `pretrain`: what costs too much to be done after a training."""
    config = pretrain.get_config()
    with config.unlocked():
        # Besides the plain tables, from [f, |f - f_ref|] where there are references.
        config.evaluation.full_reference = False
        # Besides the whole training part, 10, 20, 50 and 80 % of it.
        config.evaluation.data_efficiency = False
        config.evaluation.figures = True  # scatter, manifold, best and worst, bars
    return config
