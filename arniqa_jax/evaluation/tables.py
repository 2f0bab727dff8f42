"""Tables of an evaluation, as rows of strings; `report` turns them into files.

`*` marks a dataset that is not complete, `proxy` stands beside what is no opinion, and
quoted figures are in columns that say so.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from arniqa_jax.data.labelled import AUTHENTIC, PROXY, SYNTHETIC
from arniqa_jax.evaluation import published
from arniqa_jax.evaluation.comparison import Difference
from arniqa_jax.evaluation.results import DatasetResult, Figure, Results, Subset

# Datasets of each average of the published tables.
_AVERAGED = {SYNTHETIC: 4, AUTHENTIC: 2, "all": 6}
_BLANK = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells ready to print.

    Attributes:
      name: of the file that holds it.
      title: above the table.
      header: names of the columns.
      rows: as many cells each; the first is the label.
      notes: below the table.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def number(value: float | None) -> str:
    """Three digits after the point; nothing for what is not there."""
    return _BLANK if value is None or math.isnan(value) else f"{value:.3f}"


def with_interval(figure: Figure) -> str:
    """`0.508 [0.41 0.60]`: the median and its interval."""
    if math.isnan(figure.low):
        return number(figure.median)
    return f"{figure.median:.3f} [{figure.low:.2f} {figure.high:.2f}]"


def label(dataset: DatasetResult) -> str:
    """The title, with a star where images are missing."""
    return dataset.title + ("*" if dataset.note else "")


def within(results: Results) -> Table:
    """The main table: every dataset on its own splits."""
    rows = [
        (
            label(dataset),
            f"{dataset.images:,}",
            f"{dataset.alpha:.3g}",
            with_interval(dataset.figures["srcc"]),
            with_interval(dataset.figures["plcc"]),
            number(dataset.figures["krcc"].median),
            number(dataset.figures["rmse"].median),
        )
        for dataset in results.datasets
    ]
    rows += [
        (
            name,
            f"{count} of {_AVERAGED[name]}",
            _BLANK,
            number(srcc),
            number(plcc),
            _BLANK,
            _BLANK,
        )
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
    """(name, datasets, SRCC, PLCC): means over the sets of the published averages."""
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
        if dataset.kind == PROXY:
            yield (
                f"{dataset.title}: SSIM to the original stands in for opinions; the "
                f"test part is {len(dataset.tests[0].indices)} images of contents that "
                f"training has not seen"
            )
        count = len(dataset.tests)
        splits = "1 split" if count == 1 else f"{count} splits"
        yield f"{dataset.title}: {splits}, {dataset.split_origin}"


def spread(results: Results) -> Table:
    """Every figure with mean and spread over the splits."""
    rows = [
        (
            label(dataset),
            metric,
            number(figure.median),
            number(figure.mean),
            number(figure.std),
            number(figure.low),
            number(figure.high),
        )
        for dataset in results.datasets
        for metric, figure in dataset.figures.items()
    ]
    return Table(
        "figures",
        f"{results.encoder}: every figure over the splits",
        ("dataset", "figure", "median", "mean", "std", "low", "high"),
        tuple(rows),
        ("plcc_fit and rmse_fit follow the 4-parameter logistic fit",),
    )


def quoted(results: Results) -> Table | None:
    """Published figures of the datasets at hand, ours beside them."""
    ours = {
        d.name: (d.title, d.figures["srcc"].median, d.figures["plcc"].median)
        for d in results.datasets
        if not d.note
    }
    for name, count, *means in averages(results):
        if name == "all" and count == _AVERAGED["all"]:
            ours["all"] = ("average of six", *means)
    rows = [
        (title, method, number(s), number(p), number(srcc), number(plcc))
        for name, (title, srcc, plcc) in ours.items()
        for method, s, p in published.WITHIN.get(name, ())
    ]
    if not rows:
        return None
    header = ("dataset", "method (quoted)", "SRCC", "PLCC", "our SRCC", "our PLCC")
    return Table("published", "Published figures, quoted", header, tuple(rows))


def distortions(results: Results) -> Table | None:
    """SRCC and PLCC per distortion type and group."""
    rows = []
    for dataset in results.datasets:
        for kind, subsets in (("group", dataset.by_group), ("type", dataset.by_type)):
            rows += [
                (label(dataset), kind, name, *_subset(s)) for name, s in subsets.items()
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


def _subset(subset: Subset) -> tuple[str, str, str]:
    return (
        f"{subset.images:,}",
        with_interval(subset.srcc),
        with_interval(subset.plcc),
    )


def cross(results: Results) -> Table | None:
    """One dataset's regressor on another, in the form of the published table."""
    titles = {d.name: label(d) for d in results.datasets}
    rows = []
    for pair in results.cross:
        srcc = pair.figures["srcc"]
        quotes = published.CROSS.get((pair.train, pair.test))
        rows.append(
            (
                titles[pair.train],
                titles[pair.test],
                *(map(number, quotes) if quotes else [_BLANK] * 4),
                with_interval(srcc),
                _signed(srcc.median - quotes[-1]) if quotes else _BLANK,
            )
        )
    if not rows:
        return None
    methods = ("Su", "CONTR", "Re-IQA", "ARNIQA")
    return Table(
        "cross",
        f"{results.encoder}: trained on one dataset, tested on all of another, SRCC",
        ("training", "testing", *methods, "ours", "diff."),
        tuple(rows),
        (
            f"quoted: {', '.join(published.METHODS)}; diff.: ours less ARNIQA",
            "higher is better everywhere: DMOS is negated",
        ),
    )


def efficiency(results: Results) -> Table | None:
    """SRCC by the share of the training part."""
    with_curve = [d for d in results.datasets if d.efficiency]
    if not with_curve:
        return None
    shares = list(with_curve[0].efficiency)
    rows = [
        (label(d), *(number(d.efficiency[share].median) for share in shares))
        for d in with_curve
    ]
    return Table(
        "efficiency",
        f"{results.encoder}: SRCC with part of the training images",
        ("dataset", *(f"{float(share):.0%}" for share in shares)),
        tuple(rows),
    )


def comparison(a: Results, b: Results, differences: Sequence[Difference]) -> Table:
    """Two encoders side by side."""
    rows = [
        (
            d.title,
            number(d.srcc[0]),
            number(d.srcc[1]),
            f"{_signed(d.srcc[1] - d.srcc[0])} [{d.low:+.2f} {d.high:+.2f}]",
            _BLANK if d.p_value is None else number(d.p_value),
            "yes" if d.significant else "no",
            number(d.plcc[0]),
            number(d.plcc[1]),
            _signed(d.plcc[1] - d.plcc[0]),
        )
        for d in differences
    ]
    proxies = [d.title for d in a.datasets if d.kind == PROXY]
    return Table(
        "comparison",
        f"A: {a.encoder}   B: {b.encoder}",
        (
            "dataset",
            "SRCC A",
            "SRCC B",
            "B - A",
            "p",
            "differ",
            "PLCC A",
            "PLCC B",
            "B - A",
        ),
        tuple(rows),
        (
            "B - A [95 % interval over images]; p: paired over splits, if several",
            *(f"{title}: SSIM stands in for opinions" for title in proxies),
        ),
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}"
