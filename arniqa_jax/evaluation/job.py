"""What the evaluate command does: one evaluation, or the comparison of two."""

import pathlib

import jax
from ml_collections import ConfigDict

from arniqa_jax.distributed import agreement
from arniqa_jax.evaluation import figures, gmad, loading, protocol, regressors, report
from arniqa_jax.evaluation import results as result_files
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.weights import encoders, model_directory


def evaluate(config: ConfigDict, workdir: str, model: str, checkpoint: str) -> None:
    """Evaluate one encoder and write the results.

    Args:
      config: the tree of `configs/evaluate.py`.
      workdir: where features and results go.
      model: workdir or model directory of the encoder.
      checkpoint: which encoder of it.
    """
    encoder = encoders.load(model, checkpoint)
    benchmarks = _open_benchmarks(config)
    place = Workdir(workdir)
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
            print(report.terminal_table(results))
        if config.evaluation.figures and not full_reference:
            extractor = DatasetExtractor(encoder, **options)
            figures.write(results, benchmarks, extractor, directory / "figures")
        if writes and model_directory.is_model_directory(pathlib.Path(model)):
            # Whoever passes the model on passes these on too.
            place_of_model = pathlib.Path(model) / "regressors"
            for name in regressors.add_missing(results, place_of_model):
                print(f"regressor {name} added to {model}")
        if writes:
            print(f"written to {directory}")
    agreement.wait_for_all("the evaluation is written")


def compare(a: str, b: str, config: ConfigDict | None, workdir: str | None) -> None:
    """Print two evaluations side by side, and draw the gMAD pairs where it can."""
    results_a, results_b = result_files.load(a), result_files.load(b)
    print(report.side_by_side(results_a, results_b))
    if workdir is None:
        return
    names = map(report.short_name, (results_a, results_b))
    directory = Workdir(workdir).results / "-".join(["comparison", *names])
    report.write_comparison(results_a, results_b, directory)
    if config is not None:
        gmad.write(results_a, results_b, _open_benchmarks(config), directory)
    print(f"written to {directory}")


def _open_benchmarks(config: ConfigDict) -> list:
    return loading.load_benchmarks(
        config.evaluation.datasets,
        config.evaluation.root,
        allow_partial=config.evaluation.allow_partial,
        seed=config.seed,
    )
