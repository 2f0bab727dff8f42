"""Open the datasets that a config names."""

import difflib
import functools
import os
import pathlib
from collections.abc import Callable

from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue, csv_table, meta_tables
from arniqa_jax.datasets.csv_table import TableFormat
from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.evaluation import proxy
from arniqa_jax.storage import cache
from arniqa_jax.storage.bucket_paths import BucketPath, place


def from_config(config: ConfigDict) -> Callable[[], list[Benchmark]]:
    """Open the datasets of a config as `defer_proxy` does.

    Args:
      config: a tree with the fields of `evaluation`, and `seed`.
    """
    chosen = config.evaluation
    return defer_proxy(
        chosen.datasets,
        chosen.root,
        allow_partial=chosen.allow_partial,
        seed=config.seed,
        table=TableFormat.parse(chosen.csv_columns, chosen.csv_range),
    )


def load_benchmarks(names: str, root: str | os.PathLike, **options) -> list[Benchmark]:
    """Return the datasets that `defer_proxy` opens, which takes the same arguments."""
    return defer_proxy(names, root, **options)()


def defer_proxy(
    names: str,
    root: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    allow_partial: bool = False,
    seed: int = 27,
    table: TableFormat | None = None,
) -> Callable[[], list[Benchmark]]:
    """Open datasets by name, but make the proxy later.

    Args:
      names: comma-separated, in any letter case: keys of `catalogue.DATASETS`,
        `builtin` for the proxy, `csv` for a user's table in `root`, `csv:PATH` for a
        table elsewhere (or a folder with one; relative to `root`), or `meta:NAME` for a
        table of IQA-PyTorch, see `meta_tables`.
      root: folder that contains the folders of the datasets, on disk or in a bucket;
        may be empty for `builtin`.
      cache_dir: where the proxy is kept; by default the user's cache directory, so that
        it is made once per machine.
      allow_partial: whether to continue if images or scores are missing, and mark the
        dataset.
      seed: seed of drawn splits.
      table: columns and range of the users' tables.

    Returns:
      A function that returns the datasets. Its first call makes the proxy, which takes
      half a minute, if it is named and was never made on this machine.

    Raises:
      UsageError: a name is unknown or given twice, or there is no name or no root.
      DatasetError: see `catalogue.open_benchmark`.
    """
    folder = place(root, "evaluation.root") if str(root) else None
    opened: dict[str, Benchmark | None] = {}
    for name in names.split(","):
        benchmark = _open(name.strip(), folder, allow_partial, seed, table)
        key = "builtin" if benchmark is None else benchmark.name
        if key in opened:
            raise errors.UsageError(f"evaluation.datasets={names!r} has {key} twice")
        opened[key] = benchmark

    directory = pathlib.Path(cache_dir or cache.directory())
    if "builtin" in opened:
        directory.mkdir(parents=True, exist_ok=True)  # fails now, not during the run

    @functools.cache
    def load() -> list[Benchmark]:
        return [
            proxy.open_proxy(directory) if benchmark is None else benchmark
            for benchmark in opened.values()
        ]

    return load


def _open(name, root, allow_partial, seed, table) -> Benchmark | None:
    """Open one dataset; return None for the proxy."""
    kind, _, path = name.partition(":")
    known = ["builtin", "csv", "meta", *catalogue.DATASETS]
    if kind.lower() not in known or (path and kind.lower() not in ("csv", "meta")):
        near = difflib.get_close_matches(kind.lower(), known, n=1, cutoff=0)
        raise errors.UsageError(
            f"evaluation.datasets has no {name!r}; did you mean {near[0]}? The names "
            f"are {', '.join(known)}"
        )
    if kind.lower() == "builtin":
        return None
    if root is None and not path:
        raise errors.UsageError(
            f"evaluation.datasets={name} needs evaluation.root, the folder that "
            f"contains the datasets"
        )
    root = root or pathlib.Path()
    options = {"allow_partial": allow_partial, "seed": seed}
    if kind.lower() == "csv":
        path = place(path, "csv")
        path = path if isinstance(path, BucketPath) else root / path
        return csv_table.open_csv(path, **options, table=table)
    if kind.lower() == "meta":
        return meta_tables.open_meta(path, root, **options)
    return catalogue.open_benchmark(kind.lower(), root, **options)
