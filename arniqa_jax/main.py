"""Pre-trains an encoder, and evaluates it at the end.

    python -m arniqa_jax.main --config=configs/pretrain.py --workdir=DIR \\
        [--config.data.root=PHOTOGRAPHS] [--config.FIELD=VALUE ...]

The same command again resumes. The fields are explained in configs/pretrain.py.
"""

from absl import flags
from ml_collections import config_flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file; comes before the --config.FIELD=VALUE that change it.",
    lock_config=True,
    flag_values=FLAGS,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run, made where missing.", flag_values=FLAGS
)
PROCESSES = command.ProcessFlags(FLAGS)


def main(arguments: list[str]) -> int:
    """Checks the flags and starts the run; returns the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if CONFIG.value is None or WORKDIR.value is None:
        raise errors.UsageError(
            "--config and --workdir are needed, for example "
            "--config=configs/pretrain.py --workdir=runs/first"
        )
    from arniqa_jax.training import loop

    PROCESSES.start()
    return loop.run(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
