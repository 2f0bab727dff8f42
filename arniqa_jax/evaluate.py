"""Evaluate an encoder on labelled datasets, by the protocol of the paper.

    python -m arniqa_jax.evaluate --config=evaluate --workdir=DIR \\
        [--config.evaluation.root=DATASETS] [--config.evaluation.datasets=live,csiq]
    python -m arniqa_jax.evaluate --compare A B [--workdir=DIR --config=...]

The first form prints the tables and writes them, with figures and regressors, to a new
directory under DIR/results. The second form compares two such directories. If a workdir
is given, it writes the comparison there. If a config is given too, it adds the gMAD
figures.
"""

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
CONFIG = command.define_config(FLAGS)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, maybe gs://BUCKET/RUN. Without a run, give --model and any "
    "directory to write to.",
    flag_values=FLAGS,
)
MODEL = flags.DEFINE_string(
    "model",
    None,
    "Model directory, another workdir, or the address of one (gs://, s3://, "
    "hf://ORG/REPO), to evaluate instead of the run in --workdir.",
    flag_values=FLAGS,
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "best",
    "best (by validation), last, a step, or untrained.",
    flag_values=FLAGS,
)
REPLACE = flags.DEFINE_bool(
    "replace",
    None,
    "Whether new regressors replace those of the same name in a model directory. "
    "Without this flag such a name is an error.",
    flag_values=FLAGS,
)
PROCESSES = command.ProcessFlags(FLAGS)
COMPARE = flags.DEFINE_string(
    "compare",
    None,
    "Directory with results.json, or a workdir that contains one; B follows.",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Check the flags and evaluate or compare; return the exit code."""
    from arniqa_jax.evaluation import job

    if COMPARE.value is not None:
        if len(arguments) != 1:
            raise errors.UsageError(
                f"--compare A B takes two directories, found {1 + len(arguments)}"
            )
        job.compare(COMPARE.value, arguments[0], CONFIG.value, WORKDIR.value)
        return errors.SUCCESS
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if CONFIG.value is None or WORKDIR.value is None:
        raise errors.UsageError(
            "--config and --workdir are needed, for example "
            "--config=evaluate --workdir=runs/first"
        )
    PROCESSES.start()
    job.evaluate(
        CONFIG.value,
        WORKDIR.value,
        MODEL.value or WORKDIR.value,
        CHECKPOINT.value,
        replace=REPLACE.value,
    )
    return errors.SUCCESS


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
