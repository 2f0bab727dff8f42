"""Evaluates an encoder on labelled datasets, by the protocol of the paper.

    python -m arniqa_jax.evaluate --config=evaluate --workdir=DIR \\
        [--config.evaluation.root=DATASETS] [--config.evaluation.datasets=live,csiq]
    python -m arniqa_jax.evaluate --compare A B [--workdir=DIR --config=...]

Prints the tables and writes them, with figures and regressors, to a directory of its
own below DIR/results. The second form compares two of these directories; with a
workdir and the datasets in reach it also writes the gMAD figures there.
"""

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
CONFIG = command.define_config(FLAGS)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; without one, give --model and any directory to write to.",
    flag_values=FLAGS,
)
MODEL = flags.DEFINE_string(
    "model",
    None,
    "Model directory or other workdir to evaluate, instead of that of --workdir.",
    flag_values=FLAGS,
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "best",
    "best (by validation), last, a step, or untrained.",
    flag_values=FLAGS,
)
PROCESSES = command.ProcessFlags(FLAGS)
COMPARE = flags.DEFINE_string(
    "compare",
    None,
    "Directory with results.json (or a workdir with one); a second one follows.",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Checks the flags, and evaluates or compares; returns the exit code."""
    from arniqa_jax.evaluation import job

    if COMPARE.value is not None:
        if len(arguments) != 1:
            raise errors.UsageError(
                f"--compare A B takes two directories, found {1 + len(arguments)}"
            )
        job.compare(COMPARE.value, arguments[0], CONFIG.value, WORKDIR.value)
        return command.SUCCESS
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if CONFIG.value is None or WORKDIR.value is None:
        raise errors.UsageError(
            "--config and --workdir are needed, for example "
            "--config=evaluate --workdir=runs/first"
        )
    PROCESSES.start()
    job.evaluate(
        CONFIG.value, WORKDIR.value, MODEL.value or WORKDIR.value, CHECKPOINT.value
    )
    return command.SUCCESS


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
