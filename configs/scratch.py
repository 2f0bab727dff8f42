"""Pre-training from random weights on your own photographs, on a CPU or one GPU.

    python -m arniqa_jax.main --config=scratch --workdir=runs/scratch \\
        --config.data.root=PHOTOGRAPHS

The encoder has 1.2 million parameters. The page "What it learns" of the documentation
says how well it agrees with people before and after training.
`benchmarks/study.py recipe` varies the recipe, one field at a time.
"""

from ml_collections import ConfigDict

from arniqa_jax.configs import quickstart


def get_config() -> ConfigDict:
    """Return the changes to `quickstart`."""
    config = quickstart.get_config()
    config.data.cache_mib = 512  # a few hundred photographs stay decoded
    config.model.arch = "small"
    config.schedule.warmup_steps = 100
    config.train.batch_size = 64
    config.train.steps = 2500  # an hour on one core
    config.train.picture_every = 500
    config.train.checkpoint_every = 500
    # Five crops of 64 pixels show too little of a photograph.
    config.evaluation.crops = "whole"
    return config
