"""The regressors that an evaluation fits, written for scoring."""

import pathlib
from collections.abc import Iterable

from arniqa_jax import errors
from arniqa_jax.evaluation.results import Results
from arniqa_jax.weights import regressors
from arniqa_jax.weights.regressors import Regressor


def write_all(results: Results, directory: pathlib.Path) -> list[str]:
    """Write the regressor of each whole dataset; return their names.

    There is no regressor in full-reference mode, and none of a dataset whose scores are
    all equal.
    """
    fitted = _from_results(results)
    for name, regressor in fitted.items():
        regressors.write(regressor, directory, name)
    return list(fitted)


def write_missing(results: Results, directory: pathlib.Path) -> list[str]:
    """Write like `write_all`, but skip existing names; return the names written."""
    fitted = _from_results(results)
    for name in _existing(fitted, directory):
        del fitted[name]
    for name, regressor in fitted.items():
        regressors.write(regressor, directory, name)
    return list(fitted)


def check_names(names: Iterable[str], directory: pathlib.Path) -> None:
    """Raise an error if a model already has a regressor with one of these names.

    Args:
      names: names of the datasets that are evaluated.
      directory: `regressors` of a model directory.

    Raises:
      UsageError: the message lists the regressors and the flags to choose with.
    """
    existing = _existing(names, directory)
    if existing:
        raise errors.UsageError(
            f"{directory.parent} already has a regressor {', '.join(existing)}: "
            f"--replace writes the new one over it, --noreplace keeps the old one (the "
            f"results of the evaluation hold the new one in any case)"
        )


def _existing(names: Iterable[str], directory: pathlib.Path) -> list[str]:
    return [name for name in names if (directory / f"{name}.json").exists()]


def _from_results(results: Results) -> dict[str, Regressor]:
    if results.full_reference:
        # Scoring without a reference does not have the features that these regressors
        # need.
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
        if not dataset.has_constant_scores
    }
