"""Evaluates an encoder on labelled datasets, by the protocol of the paper.

    python -m arniqa_jax.evaluate --config=configs/evaluate.py --workdir=DIR \\
        [--config.evaluation.root=DATASETS] [--config.evaluation.datasets=live,csiq]
    python -m arniqa_jax.evaluate --compare A B [--workdir=DIR --config=...]

Prints the tables and writes them, with figures and regressors, to a directory of its
own below DIR/results. The second form compares two of these directories; with a
workdir and the datasets in reach it also writes the gMAD figures there.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict, config_flags

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
    if COMPARE.value is not None:
        if len(arguments) != 1:
            raise errors.UsageError(
                f"--compare A B takes two directories, found {1 + len(arguments)}"
            )
        return compare(COMPARE.value, arguments[0], CONFIG.value, WORKDIR.value)
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if CONFIG.value is None or WORKDIR.value is None:
        raise errors.UsageError(
            "--config and --workdir are needed, for example "
            "--config=configs/evaluate.py --workdir=runs/first"
        )
    PROCESSES.start()
    return evaluate(
        CONFIG.value, WORKDIR.value, MODEL.value or WORKDIR.value, CHECKPOINT.value
    )


def evaluate(config: ConfigDict, workdir: str, model: str, checkpoint: str) -> int:
    """Evaluates one encoder and writes what was found.

    Args:
      config: the tree of `configs/evaluate.py`.
      workdir: where features and results go.
      model: workdir or model directory of the encoder.
      checkpoint: which encoder of it.
    """
    import jax

    from arniqa_jax import agreement, encoders, model_directory, sharding
    from arniqa_jax.evaluation import figures, protocol, regressors, report
    from arniqa_jax.evaluation.features import Extractor
    from arniqa_jax.workdir import Workdir

    encoder = encoders.load(model, checkpoint)
    benchmarks = _open_benchmarks(config)
    place = Workdir(workdir)
    writes = jax.process_index() == 0
    options = {
        "cache_dir": place.features,
        "mesh": sharding.make_mesh(),
        "crops": config.evaluation.crops,
        "workers": config.data.workers,
    }
    for full_reference in [False] + [True] * config.evaluation.full_reference:
        results = protocol.evaluate(
            encoder,
            benchmarks,
            **options,
            seed=config.seed,
            full_reference=full_reference,
            data_efficiency=config.evaluation.data_efficiency,
        )
        directory = report.new_directory(place.results, results)
        if writes:
            report.write(results, directory, config.to_dict())
            print(report.terminal_table(results))
        if config.evaluation.figures and not full_reference:
            extractor = Extractor(encoder, **options)
            figures.write(results, benchmarks, extractor, directory / "figures")
        if writes and model_directory.is_model_directory(pathlib.Path(model)):
            # Whoever passes the model on passes these on too.
            place_of_model = pathlib.Path(model) / "regressors"
            for name in regressors.add_missing(results, place_of_model):
                print(f"regressor {name} added to {model}")
        if writes:
            print(f"written to {directory}")
    agreement.wait_for_all("the evaluation is written")
    return command.SUCCESS


def compare(a: str, b: str, config: ConfigDict | None, workdir: str | None) -> int:
    """Prints two evaluations side by side; draws the gMAD pairs where it can."""
    from arniqa_jax.evaluation import gmad, report, results
    from arniqa_jax.workdir import Workdir

    results_a, results_b = results.load(a), results.load(b)
    print(report.side_by_side(results_a, results_b))
    if workdir is None:
        return command.SUCCESS
    names = map(report.short_name, (results_a, results_b))
    directory = Workdir(workdir).results / "-".join(["comparison", *names])
    report.write_comparison(results_a, results_b, directory)
    if config is not None:
        gmad.write(results_a, results_b, _open_benchmarks(config), directory)
    print(f"written to {directory}")
    return command.SUCCESS


def _open_benchmarks(config: ConfigDict) -> list:
    from arniqa_jax import evaluation

    return evaluation.load_benchmarks(
        config.evaluation.datasets,
        config.evaluation.root,
        allow_partial=config.evaluation.allow_partial,
        seed=config.seed,
    )


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
