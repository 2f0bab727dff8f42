"""One self-contained page with the results of an evaluation or a comparison.

`index.html` needs no network and no other file. It has tables, plots whose points show
their image, the SRCC of each distortion, and the best and worst images. The page
contains the results as JSON, and a script in the page (`page.html`) draws them.
"""

import dataclasses
import html
import importlib.resources
import json
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.evaluation import (
    figures,
    manifold,
    rendering,
    statistics,
    tables,
    thumbnails,
)
from arniqa_jax.evaluation.comparison import Difference
from arniqa_jax.evaluation.manifold import Manifold
from arniqa_jax.evaluation.results import DatasetResult, Results
from arniqa_jax.evaluation.tables import Table
from arniqa_jax.storage.files import write_atomically

NAME = "index.html"
# Maximum number of points in a plot. More points cover each other and make the page
# slow.
MAX_POINTS = 5000
_SHOWN = 16  # number of images in a grid
_COLOR = "#1f77b4"


@dataclasses.dataclass
class _Section:
    """One dataset of a page, with the images that its plots and grids refer to."""

    dataset: DatasetResult
    benchmark: Benchmark | None
    lines: dict[int, list[str]]  # the text for each image, by its index
    plots: list[dict] = dataclasses.field(default_factory=list)
    grids: list[tuple[str, Sequence[int]]] = dataclasses.field(default_factory=list)
    bars: list[dict] = dataclasses.field(default_factory=list)


def write(
    results: Results,
    benchmarks: Sequence[Benchmark],
    manifolds: Mapping[str, Sequence[Manifold]],
    directory: pathlib.Path,
) -> None:
    """Write the page of an evaluation.

    Args:
      results: the results.
      benchmarks: the datasets, for the images.
      manifolds: manifolds by the name of their dataset; may be empty.
      directory: directory of `index.html`.
    """
    sections = []
    for benchmark in benchmarks:
        if benchmark.name not in {d.name for d in results.datasets}:
            continue  # the full-reference mode leaves out datasets without references
        dataset = results.dataset(benchmark.name)
        section = _evaluated(dataset, benchmark, results.seed)
        for points in manifolds.get(benchmark.name, ()):
            section.plots.append(_manifold_plot(section, benchmark, points))
        sections.append(section)
    mode = ", full reference" if results.full_reference else ""
    _write_page(
        directory,
        f"Evaluation of {results.encoder}{mode}",
        f"{results.crops} crops of {results.patch_size} pixels, seed {results.seed}",
        tables.all_tables(results),
        sections,
        results.seed,
    )


def write_comparison(
    a: Results,
    b: Results,
    differences: Sequence[Difference],
    benchmarks: Sequence[Benchmark],
    directory: pathlib.Path,
) -> None:
    """Write the page of a comparison.

    Args:
      a, b: the two evaluations.
      differences: the differences between them.
      benchmarks: datasets whose images are available; others are shown without images.
      directory: directory of `index.html`.
    """
    at_hand = {b.name: b for b in benchmarks}
    sections = [
        _compared(a.dataset(d.name), b.dataset(d.name), at_hand.get(d.name), a.seed)
        for d in differences
    ]
    _write_page(
        directory,
        f"A: {a.encoder} and B: {b.encoder}",
        "two evaluations on the same test images",
        [tables.comparison(a, b, differences)],
        sections,
        a.seed,
    )


# --- One dataset ---------------------------------------------------------------------


def _evaluated(dataset: DatasetResult, benchmark: Benchmark, seed: int) -> _Section:
    indices, predictions = figures.tested_images(dataset)
    scores = dataset.scores_N[indices]
    lines = {
        int(i): [f"predicted {p:.4g}", f"{figures.score_name(dataset)} {s:.4g}"]
        for i, p, s in zip(indices, predictions, scores, strict=True)
    }
    section = _Section(dataset, benchmark, lines)
    order = np.argsort(predictions if dataset.higher_is_better else -predictions)
    shown = min(_SHOWN, max(1, len(order) // 2))
    gap = np.argsort(-np.abs(_ranks(predictions) - _ranks(scores)))
    section.grids = [
        ("Predicted best", indices[order[::-1][:shown]].tolist()),
        ("Predicted worst", indices[order[:shown]].tolist()),
        ("Furthest from the opinion, by rank", indices[gap[:shown]].tolist()),
    ]
    section.plots.append(
        _scatter(
            section,
            predictions,
            scores,
            indices,
            title="Opinion and mean prediction of the test images",
            axes=("predicted", figures.score_name(dataset)),
            line=_fit(predictions, scores),
            seed=seed,
        )
    )
    section.bars = _bars(dataset, benchmark)
    return section


def _compared(
    a: DatasetResult, b: DatasetResult, benchmark: Benchmark | None, seed: int
) -> _Section:
    """Return the tested images with both predictions, and the largest differences."""
    indices, of_a = figures.tested_images(a)
    _, of_b = figures.tested_images(b)
    scores = a.scores_N[indices]
    unit = figures.score_name(a)
    lines = {
        int(i): [f"A {x:.4g}", f"B {y:.4g}", f"{unit} {s:.4g}"]
        for i, x, y, s in zip(indices, of_a, of_b, scores, strict=True)
    }
    section = _Section(a, benchmark, lines)
    truth = _ranks(scores)
    gain = np.abs(_ranks(of_a) - truth) - np.abs(_ranks(of_b) - truth)
    order = np.argsort(-gain)
    shown = min(_SHOWN, max(1, len(order) // 2))
    section.grids = [
        ("B is nearer to the opinion, by rank", indices[order[:shown]].tolist()),
        ("A is nearer to the opinion, by rank", indices[order[::-1][:shown]].tolist()),
    ]
    section.plots.append(
        _scatter(
            section,
            of_a,
            of_b,
            indices,
            title="Mean predictions of the test images",
            axes=("predicted by A", "predicted by B"),
            line=[],
            seed=seed,
        )
    )
    return section


def _ranks(values) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def _fit(predictions, scores) -> list[list[float]]:
    parameters = statistics.fit_logistic(predictions, scores)
    if parameters is None:
        return []
    x = np.linspace(predictions.min(), predictions.max(), 60)
    return np.stack([x, statistics.logistic(x, *parameters)], axis=1).tolist()


def _scatter(section, x, y, indices, *, title, axes, line, seed) -> dict:
    """Return a plot of at most `MAX_POINTS` points, including those of the grids."""
    in_grids = [index for _, images in section.grids for index in images]
    kept = set(thumbnails.choose(in_grids, indices, MAX_POINTS, seed))
    points = [
        [float(px), float(py), int(index), 0, 0.55]
        for px, py, index in zip(x, y, indices, strict=True)
        if int(index) in kept
    ]
    if len(points) < len(indices):
        title += f" ({len(points):,} of {len(indices):,})"
    return {
        "title": title,
        "axes": axes,
        "points": points,
        "colors": [_COLOR],
        "legend": [],
        "line": line,
    }


def _manifold_plot(section: _Section, benchmark: Benchmark, points: Manifold) -> dict:
    types = np.array(benchmark.types)[points.indices]
    names = list(dict.fromkeys(types.tolist()))
    opacity = manifold.opacities(benchmark.levels_N[points.indices])
    plotted = []
    for index, (x, y), kind, alpha in zip(
        points.indices.tolist(), points.points_N2, types, opacity, strict=True
    ):
        line = f"{kind}, level {benchmark.levels_N[index] or 'unknown'}"
        section.lines.setdefault(index, []).append(line)
        color = names.index(kind)
        plotted.append([float(x), float(y), index, color, float(alpha)])
    rgb = np.rint(255 * manifold.palette(len(names))).astype(int)
    return {
        "title": f"{points.title} of the mean features; opacity = level",
        "axes": None,
        "points": plotted,
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in rgb],
        "legend": names,
        "line": [],
    }


def _bars(dataset: DatasetResult, benchmark: Benchmark) -> list[dict]:
    group_of = dict(zip(benchmark.types, benchmark.groups, strict=True))
    return [
        {
            "name": name,
            "group": group_of[name],
            "images": subset.images,
            "srcc": _number(subset.srcc.median),
            "low": _number(subset.srcc.low),
            "high": _number(subset.srcc.high),
        }
        for name, subset in dataset.by_type.items()
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# --- The page ------------------------------------------------------------------------


def _write_page(
    directory: pathlib.Path,
    title: str,
    summary: str,
    shown: Sequence[Table],
    sections: Sequence[_Section],
    seed: int,
) -> None:
    limit = thumbnails.LIMIT // max(1, len(sections))
    pictures: list[str] = []
    datasets = [_section_data(section, limit, pictures, seed) for section in sections]
    data = {"datasets": datasets, "thumbnails": pictures}
    # A `<` could end the element that contains the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    template = importlib.resources.files(__package__) / "page.html"
    page = string.Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        summary=html.escape(summary),
        tables="\n".join(map(rendering.to_html, shown)),
        data=text.replace("<", "\\u003c"),
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / NAME, page)


def _section_data(
    section: _Section, limit: int, pictures: list[str], seed: int
) -> dict[str, Any]:
    """Return the data of a section; append its thumbnails to `pictures`."""
    in_plots = {point[2] for plot in section.plots for point in plot["points"]}
    in_grids = [index for _, images in section.grids for index in images]
    used = np.array(sorted(in_plots | set(in_grids)), np.int64)
    encoded = {}
    if section.benchmark is not None:
        chosen = thumbnails.choose(in_grids, used, limit, seed)
        encoded = thumbnails.encode(section.benchmark, chosen)
    place = {int(index): i for i, index in enumerate(used)}
    images = []
    for index in used.tolist():
        name = section.dataset.image_names[index]
        image = {"name": name, "lines": section.lines.get(index, [])}
        if index in encoded:
            image["thumbnail"] = len(pictures)
            pictures.append(encoded[index])
        images.append(image)
    plots = [
        {
            **plot,
            "points": [[x, y, place[i], *rest] for x, y, i, *rest in plot["points"]],
        }
        for plot in section.plots
    ]
    return {
        "title": section.dataset.title,
        "limit": f"Point at an image in a plot to see it. {len(encoded):,} of "
        f"{len(used):,} images are embedded, at most {limit:,}.",
        "images": images,
        "plots": plots,
        "bars": section.bars,
        "grids": [
            {"title": title, "images": [place[index] for index in chosen]}
            for title, chosen in section.grids
        ],
    }
