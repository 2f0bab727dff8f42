"""Figures over the splits of a dataset, with bootstrap intervals over its images.

Shapes: N images of a dataset, S splits, R bootstrap replicates.
"""

from collections.abc import Sequence

import numpy as np

from arniqa_jax.evaluation import statistics
from arniqa_jax.evaluation.results import Figure, Subset, TestPart

# Below this number of test images a correlation means nothing.
_FEWEST_IMAGES = 4


class Resampling:
    """One bootstrap over the images of a dataset, shared by its splits and subsets."""

    def __init__(self, seed: int, pool: np.ndarray):
        """For images among `pool`, sorted."""
        self._pool = pool
        self._counts_RN = statistics.resampling_counts(seed, len(pool))

    def counts(self, indices: np.ndarray) -> np.ndarray:
        """How often each image occurs in each replicate, (R, len(indices))."""
        return self._counts_RN[:, np.searchsorted(self._pool, indices)]


def figures(
    tests: Sequence[TestPart],
    scores_N: np.ndarray,
    resampling: Resampling,
    metrics: Sequence[str],
) -> dict[str, Figure]:
    """Median, mean and spread over splits; interval of the median over images."""
    values, samples = {m: [] for m in metrics}, {m: [] for m in metrics}
    for test in tests:
        scores = scores_N[test.indices]
        counts_RN = resampling.counts(test.indices)
        agreement = statistics.Agreement(test.predictions, scores)
        for metric in metrics:
            values[metric].append(agreement.value(metric))
            samples[metric].append(agreement.bootstrap(metric, counts_RN))
    return {m: _figure(values[m], np.array(samples[m])) for m in metrics}


def _figure(values_S, samples_SR) -> Figure:
    low, high = statistics.interval(statistics.median_of_samples(samples_SR))
    median, mean, std = np.median(values_S), np.mean(values_S), np.std(values_S)
    return Figure(float(median), float(mean), float(std), low, high)


def per_split(tests, scores_N) -> dict[str, list[float]]:
    agreements = [
        statistics.Agreement(test.predictions, scores_N[test.indices]) for test in tests
    ]
    return {m: [a.value(m) for a in agreements] for m in statistics.METRICS}


def by_label(
    labels: Sequence[str],
    tests: Sequence[TestPart],
    scores_N: np.ndarray,
    resampling: Resampling,
) -> dict[str, Subset]:
    """SRCC and PLCC within each distortion type or group, in order of appearance."""
    subsets = {}
    for label in dict.fromkeys(labels):
        chosen_N = np.asarray(labels) == label
        parts = []
        for test in tests:
            inside = chosen_N[test.indices]
            if inside.sum() >= _FEWEST_IMAGES:
                part = (test.indices[inside], test.predictions[inside])
                parts.append(TestPart(*part, test.train_images))
        if parts:
            found = figures(parts, scores_N, resampling, ("srcc", "plcc"))
            subsets[label] = Subset(sum(len(part.indices) for part in parts), **found)
    return subsets
