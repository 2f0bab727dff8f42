"""The tables of an evaluation: which statistic is in which row and column.

Cells are values; `rendering` turns them into text. `*` marks an incomplete dataset, and
`proxy` marks scores that are not opinions. Columns with published values say so.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from arniqa_jax.datasets.labelled import AUTHENTIC, PROXY, SYNTHETIC
from arniqa_jax.evaluation import published, statistics
from arniqa_jax.evaluation.comparison import Difference
from arniqa_jax.evaluation.results import DatasetResult, Figure, Results, Subset

# Number of datasets in each average of the published tables.
_AVERAGED = {SYNTHETIC: 4, AUTHENTIC: 2, "all": 6}
# The main table has a note about every test part with fewer images.
_FEW_IMAGES = 10


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference, printed with its sign and with its interval if there is one."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


# None is an empty cell; NaN is a statistic that is undefined.
Cell = str | int | float | Figure | Change | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      name: name of its file.
      title: text above the table.
      header: names of the columns.
      rows: rows with one cell per column; the first cell is the label.
      notes: lines below the table.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def _label(dataset: DatasetResult) -> str:
    return dataset.title + ("*" if dataset.note else "")


def all_tables(results: Results) -> list[Table]:
    """Return every table of an evaluation that has rows, the main one first."""
    found = [
        within(results),
        spread(results),
        distortions(results),
        cross(results),
        efficiency(results),
        quoted(results),
    ]
    return [table for table in found if table is not None]


def within(results: Results) -> Table:
    """Return the main table: every dataset on its own splits."""
    rows = [
        (
            _label(dataset),
            dataset.images,
            f"{dataset.alpha:.3g}",
            dataset.figures["srcc"],
            dataset.figures["plcc"],
            dataset.figures["krcc"].median,
            dataset.figures["rmse"].median,
        )
        for dataset in results.datasets
    ]
    rows += [
        (name, f"{count} of {_AVERAGED[name]}", None, srcc, plcc, None, None)
        for name, count, srcc, plcc in averages(results)
    ]
    mode = ", full reference" if results.full_reference else ""
    return Table(
        "results",
        f"{results.encoder}{mode}: median over splits [95 % interval over images]",
        ("dataset", "images", "alpha", "SRCC", "PLCC", "KRCC", "RMSE"),
        tuple(rows),
        tuple(_notes(results)),
    )


def averages(results: Results) -> list[tuple[str, int, float, float]]:
    """Return (name, datasets, SRCC, PLCC): means over the published datasets."""
    found = []
    for name in _AVERAGED:
        datasets = [
            d for d in results.datasets if d.averaged and name in (d.kind, "all")
        ]
        if len(datasets) > 1:
            means = (
                float(np.mean([d.figures[metric].median for d in datasets]))
                for metric in ("srcc", "plcc")
            )
            found.append((name, len(datasets), *means))
    return found


def _notes(results: Results):
    for dataset in results.datasets:
        if dataset.note:
            yield f"* {dataset.title}: {dataset.note}"
        if dataset.remark:
            yield f"{dataset.title}: {dataset.remark}"
        yield from (f"{dataset.title}: {doubt}" for doubt in _doubts(dataset))
        if dataset.kind == PROXY:
            yield (
                f"{dataset.title}: SSIM to the original stands in for opinions; the "
                f"test part is {len(dataset.tests[0].indices)} images of contents that "
                f"training has not seen"
            )
        count = len(dataset.tests)
        splits = "1 split" if count == 1 else f"{count} splits"
        yield f"{dataset.title}: {splits}, {dataset.split_origin}"


def _doubts(dataset: DatasetResult):
    """Yield why statistics of a dataset are undefined or uncertain."""
    if dataset.has_constant_scores:
        score = dataset.scores_N[0]
        yield f"every score is {score:g}, so no regressor is saved"
    smallest = min(len(test.indices) for test in dataset.tests)
    if smallest < _FEW_IMAGES:
        images = "1 image" if smallest == 1 else f"{smallest} images"
        yield f"a test part has only {images}: too few for a reliable figure"
    undefined = int(np.isnan(dataset.per_split["srcc"]).sum())
    others = "; medians are over the others" if undefined < len(dataset.tests) else ""
    if undefined:
        yield (
            f"correlations are undefined (-) in {undefined} of {len(dataset.tests)} "
            f"test parts (constant scores or predictions, or fewer than "
            f"{statistics.FEWEST_IMAGES} images){others}"
        )
    if np.isnan(dataset.validation_srcc):
        yield (
            "alpha is the one with the lowest RMSE on the validation parts, whose SRCC "
            "is undefined"
        )


def spread(results: Results) -> Table:
    """Return every statistic with its mean and spread over the splits."""
    rows = [
        (_label(dataset), metric, figure, figure.mean, figure.std)
        for dataset in results.datasets
        for metric, figure in dataset.figures.items()
    ]
    return Table(
        "figures",
        f"{results.encoder}: every figure over the splits",
        ("dataset", "figure", "median", "mean", "std"),
        tuple(rows),
        ("plcc_fit and rmse_fit follow the 4-parameter logistic fit",),
    )


def quoted(results: Results) -> Table | None:
    """Return the published figures of the complete datasets, next to ours."""
    ours = {
        d.name: (d.title, d.figures["srcc"].median, d.figures["plcc"].median)
        for d in results.datasets
        if not d.note
    }
    for name, count, *means in averages(results):
        if name == "all" and count == _AVERAGED["all"]:
            ours["all"] = ("average of six", *means)
    rows = [
        (title, *quote, srcc, plcc)
        for name, (title, srcc, plcc) in ours.items()
        for quote in published.WITHIN.get(name, ())
    ]
    if not rows:
        return None
    header = ("dataset", "method (quoted)", "SRCC", "PLCC", "our SRCC", "our PLCC")
    return Table("published", "Published figures, quoted", header, tuple(rows))


def distortions(results: Results) -> Table | None:
    """Return SRCC and PLCC per distortion type and group; None without types."""
    rows = [
        (_label(dataset), kind, name, *_subset(subset))
        for dataset in results.datasets
        for kind, subsets in (("group", dataset.by_group), ("type", dataset.by_type))
        for name, subset in subsets.items()
    ]
    if not rows:
        return None
    return Table(
        "distortions",
        f"{results.encoder}: within each distortion",
        ("dataset", "by", "distortion", "images", "SRCC", "PLCC"),
        tuple(rows),
        ("images: of all test parts together",),
    )


def _subset(subset: Subset) -> tuple[Cell, ...]:
    return subset.images, subset.srcc, subset.plcc


def cross(results: Results) -> Table | None:
    """Return the SRCC of each regressor on the other datasets, as published."""
    titles = {d.name: _label(d) for d in results.datasets}
    quotes = [published.CROSS.get((pair.train, pair.test)) for pair in results.cross]
    if not quotes:
        return None
    rows = []
    for pair, quote in zip(results.cross, quotes, strict=True):
        srcc = pair.figures["srcc"]
        row = (titles[pair.train], titles[pair.test])
        if any(quotes):
            row += quote or (None,) * len(published.METHODS)
        row += (srcc,)
        if any(quotes):
            row += (Change(srcc.median - quote[-1]) if quote else None,)
        rows.append(row)
    header, notes = ("training", "testing", "ours"), ()
    if any(quotes):
        # Short names, for a terminal of 80 columns.
        short = ("Su", "CONTR.", "Re-IQA", "ARNIQA")
        header = ("training", "testing", *short, "ours", "diff.")
        notes = (f"quoted: {', '.join(published.METHODS)}; diff.: ours less ARNIQA's",)
    return Table(
        "cross",
        f"{results.encoder}: trained on one dataset, tested on all of another, SRCC",
        header,
        tuple(rows),
        (*notes, "DMOS is negated: higher is better everywhere"),
    )


def efficiency(results: Results) -> Table | None:
    """Return the SRCC by fraction of the training part; None without a curve."""
    with_curve = [d for d in results.datasets if d.efficiency]
    if not with_curve:
        return None
    shares = list(with_curve[0].efficiency)
    return Table(
        "efficiency",
        f"{results.encoder}: SRCC with part of the training images",
        ("dataset", "share", "SRCC"),
        tuple(
            (_label(d), f"{float(share):.0%}", d.efficiency[share])
            for d in with_curve
            for share in shares
        ),
    )


def comparison(a: Results, b: Results, differences: Sequence[Difference]) -> Table:
    """Return the table of two encoders side by side."""
    rows = [
        (
            _label(a.dataset(d.name)),
            *d.srcc,
            Change(d.srcc[1] - d.srcc[0], d.low, d.high),
            d.p_value,
            "yes" if d.significant else "no",
            *d.plcc,
            Change(d.plcc[1] - d.plcc[0]),
        )
        for d in differences
    ]
    proxies = [d.title for d in a.datasets if d.kind == PROXY]
    header = ("dataset", "SRCC A", "SRCC B", "SRCC B-A", "p", "differ")
    return Table(
        "comparison",
        f"A: {a.encoder}   B: {b.encoder}",
        (*header, "PLCC A", "PLCC B", "PLCC B-A"),
        tuple(rows),
        (
            "[95 % interval over images]; p: paired over the splits, if several",
            *(f"{title}: SSIM stands in for opinions" for title in proxies),
        ),
    )
