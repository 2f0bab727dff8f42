"""Figures of an evaluation: scatter, distortion manifold, best and worst, bars.

They are drawn without pyplot, so they need no display and change no global state.
"""

import dataclasses
import io
import pathlib

import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arniqa_jax.datasets.labelled import PROXY, Benchmark
from arniqa_jax.evaluation import manifold, statistics
from arniqa_jax.evaluation.manifold import Manifold
from arniqa_jax.evaluation.results import DatasetResult, Results
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.storage.files import write_atomically

_SHOWN = 16  # number of best and of worst images
_THUMBNAIL = 160  # pixels


def write(
    results: Results,
    benchmarks: list[Benchmark],
    extractor: DatasetExtractor,
    directory: pathlib.Path,
) -> dict[str, list[Manifold]]:
    """Draw every figure of every dataset into a directory, created if missing.

    Every process draws, because the features are read jointly; process 0 writes.

    Args:
      results: the results of the evaluation.
      benchmarks: its datasets, for the images.
      extractor: its extractor, which has the features in its cache.
      directory: directory for `NAME_scatter.png` and so on.

    Returns:
      The manifolds that were drawn, by the name of the dataset.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for benchmark in benchmarks:
        logging.info("%s: figures", benchmark.title)
        dataset = results.dataset(benchmark.name)
        drawn = {
            "scatter": scatter(dataset),
            "best_and_worst": best_and_worst(dataset, benchmark),
        }
        if benchmark.types:
            if dataset.by_type:
                drawn["distortions"] = bars(dataset, benchmark)
            found[benchmark.name] = manifold.compute(benchmark, extractor, results.seed)
            for points in found[benchmark.name]:
                drawn[points.method] = manifold.draw(benchmark, points)
        if jax.process_index() == 0:
            for name, figure in drawn.items():
                save(figure, directory / f"{benchmark.name}_{name}.png")
    return found


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write a figure as a PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    write_atomically(path, buffer.getvalue())


def score_name(dataset: DatasetResult) -> str:
    """Return the name of the scores, for the label of an axis."""
    if dataset.kind == PROXY:
        return "SSIM to the original (proxy)"
    return "MOS" if dataset.higher_is_better else "DMOS (lower is better)"


def scatter(dataset: DatasetResult) -> Figure:
    """Draw the scores over the predictions on the test part of the first split."""
    test = dataset.tests[0]
    scores = dataset.scores_N[test.indices]
    figure = Figure(figsize=(5, 4.5))
    axes = figure.add_subplot()
    axes.scatter(test.predictions, scores, s=10, alpha=0.5, linewidths=0)
    parameters = statistics.fit_logistic(test.predictions, scores)
    if parameters is not None:
        x = np.linspace(test.predictions.min(), test.predictions.max(), 200)
        axes.plot(x, statistics.logistic(x, *parameters), color="C3", label="fit")
        axes.legend(frameon=False)
    values = {m: dataset.per_split[m][0] for m in ("srcc", "plcc_fit")}
    axes.set(
        xlabel=f"predicted {score_name(dataset)}",
        ylabel=score_name(dataset),
        title=f"{dataset.title}: {len(scores):,} test images, "
        f"SRCC {_shown(values['srcc'])}, PLCC after the fit "
        f"{_shown(values['plcc_fit'])}",
    )
    axes.title.set_fontsize("medium")
    return figure


def _shown(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"


def bars(dataset: DatasetResult, benchmark: Benchmark) -> Figure:
    """Draw the SRCC of each distortion type, with intervals; colour = group.

    A type whose SRCC is undefined has no bar.
    """
    subsets = dataset.by_type
    figures = [
        subset.srcc
        if not np.isnan(subset.srcc.median)
        else dataclasses.replace(subset.srcc, median=0.0, low=0.0, high=0.0)
        for subset in subsets.values()
    ]
    # The median may lie outside its interval if a part has few images.
    errors = [
        (max(0.0, f.median - f.low), max(0.0, f.high - f.median)) for f in figures
    ]
    group_of = dict(zip(benchmark.types, benchmark.groups, strict=True))
    groups = list(dict.fromkeys(group_of[name] for name in subsets))
    canvas = Figure(figsize=(7.5, 1.2 + 0.24 * len(subsets)))
    axes = canvas.add_subplot()
    axes.barh(
        list(subsets),
        [figure.median for figure in figures],
        xerr=np.array(errors).T,
        color=[f"C{groups.index(group_of[name])}" for name in subsets],
        error_kw={"ecolor": "0.3", "elinewidth": 1},
    )
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.invert_yaxis()
    handles = [
        Line2D([], [], marker="s", linestyle="", color=f"C{i}", label=group)
        for i, group in enumerate(groups)
    ]
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize="small",
        frameon=False,
    )
    axes.set(
        xlabel=f"SRCC with {score_name(dataset)}, 95 % interval over images",
        title=f"{dataset.title}: within each distortion",
        xlim=(min([-0.05, *(f.low - 0.05 for f in figures)]), 1.02),
    )
    return canvas


def best_and_worst(dataset: DatasetResult, benchmark: Benchmark) -> Figure:
    """Draw the test images with the best and the worst predictions."""
    indices, predictions = tested_images(dataset)
    order = np.argsort(predictions, kind="stable")
    if dataset.higher_is_better:
        order = order[::-1]
    shown = min(_SHOWN, max(1, len(order) // 2))
    columns = 8
    rows = -(-shown // columns)
    figure = Figure(figsize=(2 * columns, 2 * (2.3 * rows + 0.6)), layout="constrained")
    chosen = (("best", order[:shown]), ("worst", order[::-1][:shown]))
    for axes, (word, places) in zip(figure.subplots(2, 1), chosen, strict=True):
        axes.set_title(
            f"{dataset.title}: predicted {word} of {len(indices):,} test images "
            f"(predicted / {score_name(dataset)})"
        )
        for i, place in enumerate(places):
            row, column = divmod(i, columns)
            index = indices[place]
            image = thumbnail(benchmark.images[int(index)])
            height, width = 0.94 * np.array(image.shape[:2]) / max(image.shape[:2])
            top = 1.15 * row
            axes.imshow(image, extent=(column, column + width, top + height, top))
            scores = f"{predictions[place]:.3g} / {dataset.scores_N[index]:.3g}"
            axes.text(column, top - 0.03, scores, fontsize="small")
        axes.set(xlim=(0, columns), ylim=(1.15 * rows - 0.15, -0.15), aspect="equal")
        axes.axis("off")
    return figure


def tested_images(dataset: DatasetResult) -> tuple[np.ndarray, np.ndarray]:
    """Return the images in any test part, and their mean predictions over splits."""
    total, count = np.zeros((2, len(dataset.scores_N)))
    for test in dataset.tests:
        total[test.indices] += test.predictions
        count[test.indices] += 1
    indices = np.flatnonzero(count)
    return indices, total[indices] / count[indices]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return every n-th pixel, which shows distortions better than an average."""
    step = max(1, min(image.shape[:2]) // _THUMBNAIL)
    return image[::step, ::step]
