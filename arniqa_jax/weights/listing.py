"""The models with a name as text, and which of the official ones are in the cache."""

import textwrap

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.weights import official, shipped, torch_import, torch_names
from arniqa_jax.weights.regressors import Regressor


def describe() -> str:
    """Return a table of the models with a name, with cache directory and licences."""
    rows = [("name", "dataset", "images", "raw scores", "better", "on this machine")]
    shipped_row, shipped_licence = _describe_shipped()
    rows.append(shipped_row)
    for name, key in torch_import.OFFICIAL_REGRESSORS.items():
        dataset = catalogue.DATASETS[key]
        rows.append(_row(name, dataset.title, dataset, official.cache_state(name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    notes = (
        "A score is the raw score scaled to 0..1, and higher is better for every "
        "model; `score --raw` gives raw scores.",
        f"{shipped.NAME} is a small model for a first look, and no replacement for the "
        f"official ones. Its card: {shipped.DIRECTORY / 'README.md'}",
        f"Licence of {shipped.NAME}: {shipped_licence}",
        f"The other models share one encoder, {official.ENCODER}, which the first use "
        "fetches.",
        f"Cache: {official.directory()}",
        f"Licence: {torch_names.OFFICIAL.licence}",
    )
    return "\n".join([*lines, "", *map(_fill, notes)])


def _describe_shipped() -> tuple[tuple[str, ...], str]:
    """Return the row of the model of this package, and its licence."""
    try:
        regressor, source = shipped.describe()
    except errors.CheckpointError as error:
        return (shipped.NAME, "-", "-", "-", "-", "damaged"), str(error)
    row = _row(shipped.NAME, regressor.dataset, regressor, "installed")
    return row, source.licence


def _row(
    name: str, title: str, scale: catalogue.Specification | Regressor, state: str
) -> tuple[str, ...]:
    low, high = scale.score_range
    better = "higher" if scale.higher_is_better else "lower"
    return name, title, str(scale.images), f"{low:g} to {high:g}", better, state


def _fill(note: str) -> str:
    """Wrap a note, but never inside a path."""
    return textwrap.fill(note, 88, break_long_words=False, break_on_hyphens=False)
