"""Pre-training from random weights on your own photographs, on a CPU or one GPU.

    python -m arniqa_jax.main --config=scratch --workdir=runs/scratch \\
        --config.data.root=PHOTOGRAPHS

The encoder has 1.2 million parameters. With 256 pairs per step, its SRCC on 300 images
of BIQ2021 was 0.577 after 1,500 steps. The SRCC of the untrained encoder is 0.499.
`benchmarks/study.py recipe` varies the fields below one at a time.
"""

from ml_collections import ConfigDict

from arniqa_jax.configs import quickstart


def get_config() -> ConfigDict:
    """Return the changes to `quickstart`."""
    config = quickstart.get_config()
    config.model.arch = "small"
    config.schedule.warmup_steps = 100
    config.train.batch_size = 64
    config.train.steps = 3000
    config.train.picture_every = 500
    config.train.checkpoint_every = 500
    config.evaluation.every_epochs = 500
    return config
