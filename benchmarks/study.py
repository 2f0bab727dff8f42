"""Train variants of a config from several seeds, and compare them on human scores.

    python benchmarks/study.py pairing --output=DIR --photographs=DIR \\
        --datasets=builtin,biq2021 --root=DATASETS [--seeds=27,28,29] \\
        [--config.train.steps=1000 ...]

The studies are the rows of `STUDIES`. The first variant of a study is the reference for
the others. Every variant and seed is a normal run in OUTPUT/VARIANT-SEED, started by
`arniqa_jax.main`. The same command resumes interrupted runs, skips finished ones, and
prints the tables, which it also writes to OUTPUT/STUDY.md:

- each run: SRCC of the untrained and of the trained encoder on each dataset, the
  difference, and its 95 % interval over images
- each variant: its mean gain over the seeds; its mean difference from the first variant
  with the same seed, and the 95 % interval of that mean over the seeds (Student's t)
"""

import argparse
import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import scipy.stats

from arniqa_jax import command, errors
from arniqa_jax.evaluation import comparison, results
from arniqa_jax.storage import workdir as run_directory
from arniqa_jax.storage.files import write_atomically

# Variants by name, each a set of fields that differ from the config.
STUDIES = {
    "pairing": {
        pairing: {"data.pairing": pairing}
        for pairing in ("independent", "rolled", "same")
    },
    "negatives": {
        "both-scales": {},
        "one-scale": {"loss.scale_negatives": False},
    },
    "chains": {
        f"up-to-{length}": {"degradation.max_distortions": length}
        for length in (4, 1, 2, 7)
    },
    "levels": {
        f"{levels}-levels": {"degradation.num_levels": levels} for levels in (5, 1, 3)
    },
    "recipe": {
        "scratch": {},
        "tiny": {"model.arch": "tiny"},
        "crop-96": {"data.patch_size": 96},
        "batch-128": {"train.batch_size": 128},
        "temperature-0.2": {"loss.temperature": 0.2},
        "no-projector-norm": {"model.projector_norm": "none"},
        "rate-3e-3": {"optimizer.learning_rate": 3e-3},
        "whole-std": {"evaluation.crops": "whole_std"},
        "five-crops": {"evaluation.crops": "five"},
    },
}


class Finished(NamedTuple):
    """The evaluations of a finished run."""

    variant: str
    seed: int
    untrained: results.Results
    trained: results.Results


def main():
    """Run the missing runs and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--config", default="scratch")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--photographs", default="", help="default: built-in ones")
    parser.add_argument("--datasets", default="builtin")
    parser.add_argument("--root", default="", help="folder of the datasets")
    parser.add_argument("--seeds", type=_seeds, default="27,28,29")
    arguments, fields = parser.parse_known_args()
    if unknown := [field for field in fields if not field.startswith("--config.")]:
        parser.error(f"expected --config.FIELD=VALUE, found {' '.join(unknown)}")
    common = [
        f"--config.data.root={arguments.photographs}",
        f"--config.evaluation.root={arguments.root}",
        f"--config.evaluation.datasets={arguments.datasets}",
        *fields,
    ]
    runs = []
    # Run all variants of one seed before the next seed, so that an interrupted study
    # has complete comparisons.
    for seed in arguments.seeds:
        for variant, fields in STUDIES[arguments.study].items():
            workdir = arguments.output / f"{variant}-{seed}"
            changes = [f"--config.{name}={value}" for name, value in fields.items()]
            _train(
                arguments.config,
                workdir,
                [*common, *changes, f"--config.seed={seed}"],
            )
            runs.append(read(workdir, variant, seed))
    text = f"{table_of_runs(runs)}\n\n{table_of_variants(runs)}\n"
    write_atomically(arguments.output / f"{arguments.study}.md", text)
    print(text, end="")


def _seeds(text: str) -> list[int]:
    """Return the seeds of a comma-separated list, each once."""
    seeds = [int(seed) for seed in text.split(",") if seed.strip("+-").isdecimal()]
    if len(seeds) < len(text.split(",")) or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(
            f"expected different whole numbers, such as 27,28,29, found {text!r}"
        )
    return seeds


def _train(config: str, workdir: pathlib.Path, fields: list[str]) -> None:
    program = [sys.executable, "-m", "arniqa_jax.main", f"--config={config}"]
    # The output of a run is discarded, because its tables are in its directory.
    run = subprocess.Popen(
        [*program, f"--workdir={workdir}", *fields], stdout=subprocess.DEVNULL
    )
    # Pass SIGTERM on. A terminal sends Ctrl-C to the run too, which then saves a
    # checkpoint, so this process only has to wait.
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: run.terminate()),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
    }
    code = run.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code < 0 or code in (errors.START_AGAIN, errors.INTERRUPTED):
        command.report(
            f"the run in {workdir} was stopped (exit code {code}); the same command "
            "continues the study",
            code,
        )
    # Of other errors, the run has said what is wrong.
    if code:
        raise SystemExit(code if code > 0 else errors.FAILURE)


def read(workdir: pathlib.Path, variant: str, seed: int) -> Finished:
    """Return the evaluations at the end of a run from random weights.

    The evaluate command may have added others later, with other crops, so only those
    with the crops of the run count, and of equal ones the first.
    """
    crops = run_directory.read_config(workdir).evaluation.crops
    files = workdir.glob("results/*/results.json")
    found = [
        one
        for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
        if (one := results.load(path.parent)).crops == crops
    ]
    untrained = [one for one in found if one.encoder == "untrained"]
    steps = {
        int(one.encoder.removeprefix("step ")): one
        for one in found
        if one.encoder.startswith("step ")
    }
    if not untrained or not steps:
        raise SystemExit(
            f"{workdir}/results: expected an evaluation of the untrained encoder and "
            "of a step"
        )
    return Finished(variant, seed, untrained[-1], steps[max(steps)])


def table_of_runs(runs: list[Finished]) -> str:
    """Return the Markdown table of each run and dataset."""
    lines = [
        "| variant | seed | dataset | untrained | trained | gain, 95 % over images |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        for found in comparison.compare(run.untrained, run.trained):
            before, after = found.srcc
            lines.append(
                f"| {run.variant} | {run.seed} | {found.title} | {before:.3f} | "
                f"{after:.3f} | {after - before:+.3f}, {found.low:+.3f} to "
                f"{found.high:+.3f} |"
            )
    return "\n".join(lines)


def table_of_variants(runs: list[Finished]) -> str:
    """Return the Markdown table of each variant and dataset, over the seeds."""
    first = {run.seed: run for run in runs if run.variant == runs[0].variant}
    lines = [
        "| variant | dataset | seeds | mean gain | difference from "
        f"{runs[0].variant}, 95 % over seeds |",
        "|---|---|---|---|---|",
    ]
    for variant in dict.fromkeys(run.variant for run in runs):
        same = [run for run in runs if run.variant == variant]
        for dataset in same[0].trained.datasets:
            gains = [
                _srcc(r.trained, dataset) - _srcc(r.untrained, dataset) for r in same
            ]
            differences = [
                _srcc(run.trained, dataset) - _srcc(first[run.seed].trained, dataset)
                for run in same
            ]
            compared = "" if variant == runs[0].variant else _interval(differences)
            gain = np.mean(gains)
            lines.append(
                f"| {variant} | {dataset.title} | {len(same)} | {gain:+.3f} | "
                f"{compared} |"
            )
    return "\n".join(lines)


def _srcc(evaluated: results.Results, dataset: results.DatasetResult) -> float:
    return evaluated.dataset(dataset.name).figures["srcc"].median


def _interval(values: list[float]) -> str:
    """Return the mean and, for at least two values, its 95 % interval."""
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:+.3f}, one seed"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return f"{mean:+.3f}, {mean - half:+.3f} to {mean + half:+.3f}"


if __name__ == "__main__":
    main()
