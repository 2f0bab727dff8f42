"""Output of an evaluation: tables for the terminal, and a directory of files."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from arniqa_jax import errors
from arniqa_jax.evaluation import regressors, rendering, results, tables
from arniqa_jax.evaluation.comparison import Difference
from arniqa_jax.evaluation.results import Results
from arniqa_jax.evaluation.tables import Table
from arniqa_jax.storage.files import write_atomically


def terminal_table(evaluated: Results) -> str:
    """Return the main table and, for several datasets, the cross-dataset table.

    The text is at most 80 columns wide.
    """
    shown = [tables.within(evaluated), tables.cross(evaluated)]
    return "\n\n".join(rendering.to_text(table) for table in shown if table is not None)


def side_by_side(a: Results, b: Results, differences: Sequence[Difference]) -> str:
    """Return a table of encoder B next to encoder A, with their differences.

    The text is at most 80 columns wide.
    """
    return rendering.to_text(tables.comparison(a, b, differences))


def new_directory(parent: pathlib.Path, evaluated: Results) -> pathlib.Path:
    """Return a directory for these results, without the results of another evaluation.

    It is `PARENT/STEP_or_NAME`. A number follows if a different evaluation is there, or
    one that cannot be read. The same evaluation (encoder, datasets, protocol) is
    overwritten.
    """
    name = short_name(evaluated)
    name += "-full-reference" if evaluated.full_reference else ""
    for number in itertools.count(1):
        directory = parent / (name if number == 1 else f"{name}-{number}")
        if not (directory / "results.json").exists():
            break
        try:
            if _identity(results.load(directory)) == _identity(evaluated):
                break
        except errors.ArniqaError as error:
            logging.warning("%s; it is left as it is", error)
    return directory


def short_name(evaluated: Results) -> str:
    """Return the step or the name of the encoder, safe for a file name."""
    name = evaluated.encoder.removeprefix("step ")
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _identity(evaluated: Results) -> tuple:
    datasets = [(d.name, d.fingerprint) for d in evaluated.datasets]
    protocol = (evaluated.crops, evaluated.full_reference, evaluated.seed)
    return evaluated.fingerprint, protocol, datasets


def write(
    evaluated: Results, directory: pathlib.Path, config: dict[str, Any] | None = None
) -> None:
    """Write the tables and the regressors.

    Args:
      evaluated: the results.
      directory: created if missing; gets `results.json`, `predictions.npz`,
        `results.md`, `results.tex`, one `.csv` per table, and `regressors/`.
      config: recorded in `results.json`.
    """
    results.save(evaluated, directory, config)
    _write_tables(tables.all_tables(evaluated), directory, "results")
    regressors.write_all(evaluated, directory / "regressors")


def csv_tables(evaluated: Results) -> dict[str, str]:
    """Return the tables by their names, each as the text of a .csv file."""
    return {
        table.name: rendering.to_csv(table) for table in tables.all_tables(evaluated)
    }


def write_comparison(
    a: Results, b: Results, differences: Sequence[Difference], directory: pathlib.Path
) -> None:
    """Write the table of `side_by_side` as `comparison.md`, `.tex` and `.csv`."""
    table = tables.comparison(a, b, differences)
    directory.mkdir(parents=True, exist_ok=True)
    _write_tables([table], directory, "comparison")


def _write_tables(found: Sequence[Table], directory: pathlib.Path, name: str) -> None:
    for suffix, render in (
        (".md", rendering.to_markdown),
        (".tex", rendering.to_latex),
    ):
        write_atomically(directory / f"{name}{suffix}", "\n".join(map(render, found)))
    for table in found:
        write_atomically(directory / f"{table.name}.csv", rendering.to_csv(table))
