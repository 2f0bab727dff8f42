"""The gMAD competition of two encoders (Ma et al., 2016).

One encoder is the defender, the other the attacker. Among images that the defender
rates equal, the attacker picks the two whose quality it rates most different. If the
attacker is right, the defender has a weakness there. The competition is held at two
levels of quality, low and high, and in both roles.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from arniqa_jax import errors
from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.evaluation import figures
from arniqa_jax.evaluation.results import Results

# The defender's predictions near these quantiles count as equal; so does this fraction
# of the images.
_LEVELS = {"low": 0.15, "high": 0.85}
_EQUAL_SHARE = 0.05
_FEWEST_EQUAL = 2


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that are equal for the defender and not for the attacker.

    `better` and `worse` are indices of images, as the attacker ranks them.
    """

    level: str
    better: int
    worse: int


def find_pairs(defender_N: np.ndarray, attacker_N: np.ndarray) -> list[Pair]:
    """Return the pair at each level.

    Args:
      defender_N, attacker_N: predictions for the same images, higher is better.
    """
    count = max(_FEWEST_EQUAL, round(_EQUAL_SHARE * len(defender_N)))
    pairs = []
    for level, quantile in _LEVELS.items():
        distance = np.abs(defender_N - np.quantile(defender_N, quantile))
        equal = np.argsort(distance, kind="stable")[:count]
        attacked = attacker_N[equal]
        better, worse = equal[np.argmax(attacked)], equal[np.argmin(attacked)]
        pairs.append(Pair(level, int(better), int(worse)))
    return pairs


def write(
    a: Results, b: Results, benchmarks: list[Benchmark], directory: pathlib.Path
) -> None:
    """Draw one figure for each dataset that both encoders were evaluated on.

    Raises:
      UsageError: a dataset differs from the one that was evaluated.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for benchmark in benchmarks:
        names = [{d.name for d in results.datasets} for results in (a, b)]
        if not all(benchmark.name in known for known in names):
            logging.info("%s: not in both evaluations, no gMAD", benchmark.title)
            continue
        if benchmark.fingerprint() != a.dataset(benchmark.name).fingerprint:
            raise errors.UsageError(
                f"{benchmark.title}: the dataset under evaluation.root is not the one "
                f"that was evaluated; give the same evaluation.* and seed"
            )
        figures.save(draw(a, b, benchmark), directory / f"{benchmark.name}_gmad.png")


def draw(a: Results, b: Results, benchmark: Benchmark) -> Figure:
    """Return a figure of four pairs: each encoder as the defender, at each level."""
    upward = 1 if benchmark.higher_is_better else -1
    predictions = {}
    for letter, results in (("A", a), ("B", b)):
        indices, predicted = figures.tested_images(results.dataset(benchmark.name))
        predictions[letter] = predicted
    unit = figures.score_name(a.dataset(benchmark.name))
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(f"{benchmark.title}, gMAD. A: {a.encoder}; B: {b.encoder}")
    roles = figure.subfigures(1, 2, wspace=0.05)
    for part, (defender, attacker) in zip(roles, (("A", "B"), ("B", "A")), strict=True):
        part.suptitle(f"{defender} defends, {attacker} attacks")
        pairs = find_pairs(
            upward * predictions[defender], upward * predictions[attacker]
        )
        grid = part.subplots(len(pairs), 2)
        for row, pair in zip(grid, pairs, strict=True):
            sides = ((pair.better, "better"), (pair.worse, "worse"))
            for axes, (place, word) in zip(row, sides, strict=True):
                index = int(indices[place])
                axes.imshow(figures.thumbnail(benchmark.images[index]))
                axes.axis("off")
                scores = [f"{name} {p[place]:.3g}" for name, p in predictions.items()]
                scores.append(f"{unit} {benchmark.scores_N[index]:.3g}")
                axes.set_title(
                    f"{pair.level} for {defender}; {word} for {attacker}\n"
                    + ", ".join(scores),
                    fontsize="small",
                )
    return figure
