"""The official models as text: their names, and which of them are in the cache."""

import textwrap

from arniqa_jax.datasets import catalogue
from arniqa_jax.weights import official, torch_import, torch_names


def describe() -> str:
    """Return a table of the official models, with cache directory and licence."""
    rows = [("name", "dataset", "images", "raw scores", "better", "in the cache")]
    for name, key in torch_import.OFFICIAL_REGRESSORS.items():
        dataset = catalogue.DATASETS[key]
        low, high = dataset.score_range
        rows.append(
            (
                name,
                dataset.title,
                str(dataset.images),
                f"{low:g} to {high:g}",
                "higher" if dataset.higher_is_better else "lower",
                official.cache_state(name),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    notes = (
        "A score is the raw score scaled to 0..1, and higher is better for every "
        "model; `score --raw` gives raw scores. All models share one encoder, "
        f"{official.ENCODER}, which the first use fetches.",
        f"Cache: {official.directory()}",
        f"Licence: {torch_names.OFFICIAL.licence}",
    )
    return "\n".join([*lines, "", *map(_fill, notes)])


def _fill(note: str) -> str:
    """Wrap a note, but never inside a path."""
    return textwrap.fill(note, 88, break_long_words=False, break_on_hyphens=False)
