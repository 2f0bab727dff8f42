"""The work of the evaluate command: one evaluation, or the comparison of two."""

import pathlib
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict

from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.distributed import agreement
from arniqa_jax.evaluation import comparison, loading, protocol, regressors, report
from arniqa_jax.evaluation import results as result_files
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.weights import encoders, evaluated, model_directory, places


def evaluate(
    config: ConfigDict,
    workdir: str,
    model: str,
    checkpoint: str,
    *,
    replace: bool | None = None,
) -> None:
    """Evaluate one encoder and write the results.

    Args:
      config: the tree of `configs/evaluate.py`.
      workdir: directory for features and results.
      model: workdir or model directory of the encoder, or its address, see
        `weights.places`.
      checkpoint: checkpoint of the model.
      replace: whether new regressors replace those with the same name in a model
        directory; None makes this an error.

    Raises:
      UsageError: the model has a regressor of one of the datasets, and `replace` is
        None.
    """
    benchmarks = loading.from_config(config)()
    of_model = pathlib.Path(model) / "regressors"
    adds = not places.is_elsewhere(model) and model_directory.is_model_directory(
        pathlib.Path(model)
    )
    if adds and replace is None:
        regressors.check_names([b.name for b in benchmarks], of_model)
    encoder = encoders.load(model, checkpoint, photographs=config.data.root)
    place = Workdir(workdir)
    with place.synced():
        for results, directory in _evaluate(config, encoder, benchmarks, place, model):
            if jax.process_index() == 0 and adds:
                # The regressors are part of the model when it is passed on.
                write = regressors.write_all if replace else regressors.write_missing
                for name in write(results, of_model):
                    print(f"regressor {name} written to {model}")
            if jax.process_index() == 0:
                print(f"written to {place.shown(directory)}, see index.html")
    agreement.wait_for_all("the evaluation is written")


def _evaluate(
    config: ConfigDict,
    encoder: Encoder,
    benchmarks: list[Benchmark],
    place: Workdir,
    model: str,
) -> Iterator[tuple[result_files.Results, pathlib.Path]]:
    """Yield the results in each mode, and the directory to which they are written."""
    writes = jax.process_index() == 0
    options = {
        "cache_dir": place.features,
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
            evaluated.write(directory, model, results.encoder)
            print(report.terminal_table(results))
        manifolds = {}
        if config.evaluation.figures and not full_reference:
            # Import here, because it loads matplotlib.
            from arniqa_jax.evaluation import figures

            extractor = DatasetExtractor(encoder, **options)
            manifolds = figures.write(
                results, benchmarks, extractor, directory / "figures"
            )
        if writes:
            from arniqa_jax.evaluation import page

            page.write(results, benchmarks, manifolds, directory)
        yield results, directory


def compare(a: str, b: str, config: ConfigDict | None, workdir: str | None) -> None:
    """Print two evaluations side by side, and write the comparison to a workdir.

    Args:
      a, b: directories with results.
      config: of the datasets, for the gMAD pairs and the images of the page; None to
        write neither.
      workdir: where the comparison goes; None to print only.
    """
    results = result_files.load(a), result_files.load(b)
    differences = comparison.compare(*results)
    print(report.side_by_side(*results, differences))
    if workdir is None:
        return
    names = map(report.short_name, results)
    place = Workdir(workdir)
    directory = place.results / "-".join(["comparison", *names])
    with place.synced():
        benchmarks = []
        if config is not None:
            # Import here, because it loads matplotlib.
            from arniqa_jax.evaluation import gmad

            benchmarks = loading.from_config(config)()
            gmad.write(*results, benchmarks, directory)
        write_comparison(*results, differences, benchmarks, directory)
    print(f"written to {place.shown(directory)}, see index.html")


def write_comparison(
    a: result_files.Results,
    b: result_files.Results,
    differences: Sequence[comparison.Difference],
    benchmarks: Sequence[Benchmark],
    directory: pathlib.Path,
) -> None:
    """Write the tables and the page that compare two evaluations.

    Args:
      a, b: the two evaluations.
      differences: the differences between them.
      benchmarks: datasets whose images the page shows.
      directory: where both go; created if missing.
    """
    # Import here, because it loads matplotlib.
    from arniqa_jax.evaluation import page

    report.write_comparison(a, b, differences, directory)
    page.write_comparison(a, b, differences, benchmarks, directory)
