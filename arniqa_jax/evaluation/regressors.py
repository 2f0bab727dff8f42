"""The regressors that an evaluation fits, written for scoring."""

import pathlib

from arniqa_jax.evaluation.results import Results
from arniqa_jax.weights import regressors
from arniqa_jax.weights.regressors import Regressor


def write_all(results: Results, directory: pathlib.Path) -> None:
    """Writes the regressor of each whole dataset; nothing in full-reference mode."""
    for name, regressor in _from_results(results).items():
        regressors.write(regressor, directory, name)


def add_missing(results: Results, directory: pathlib.Path) -> list[str]:
    """As `write_all`, but leaves alone what is there; returns the names it wrote."""
    added = []
    for name, regressor in _from_results(results).items():
        if not (directory / f"{name}.json").exists():
            regressors.write(regressor, directory, name)
            added.append(name)
    return added


def _from_results(results: Results) -> dict[str, Regressor]:
    if results.full_reference:
        # It maps features that scoring without a reference has not.
        return {}
    return {
        dataset.name: Regressor(
            dataset=dataset.title,
            alpha=dataset.alpha,
            score_range=dataset.score_range,
            higher_is_better=dataset.higher_is_better,
            crops=results.crops,
            patch_size=results.patch_size,
            encoder=results.fingerprint,
            images=dataset.images,
            weights_D=dataset.weights_D,
            intercept=dataset.intercept,
        )
        for dataset in results.datasets
    }
