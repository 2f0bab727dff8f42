"""Pre-train an encoder, and evaluate it at the end.

    python -m arniqa_jax.main --config=pretrain --workdir=DIR \\
        [--config.data.root=PHOTOGRAPHS] [--config.FIELD=VALUE ...]

The same command resumes an interrupted run. The comments in configs/pretrain.py explain
the fields.
"""

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
CONFIG = command.define_config(FLAGS)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, created if missing; may be gs://BUCKET/RUN.",
    flag_values=FLAGS,
)
PROCESSES = command.ProcessFlags(FLAGS)


def main(arguments: list[str]) -> int:
    """Check the flags and start the run; return the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if CONFIG.value is None or WORKDIR.value is None:
        raise errors.UsageError(
            "--config and --workdir are needed, for example "
            "--config=pretrain --workdir=runs/first"
        )
    from arniqa_jax.training import loop

    PROCESSES.start()
    return loop.run(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
