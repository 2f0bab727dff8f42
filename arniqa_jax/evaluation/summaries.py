"""Statistics over the splits of a dataset, with bootstrap intervals over its images.

Shapes: N images of a dataset, S splits, R bootstrap replicates.
"""

from collections.abc import Sequence

import numpy as np

from arniqa_jax.evaluation import statistics
from arniqa_jax.evaluation.results import Figure, Subset, TestPart

# A distortion type with fewer images in a test part is left out of its statistics.
_FEWEST_IMAGES = 4


class Resampling:
    """One bootstrap over the images of a dataset, shared by its splits and subsets."""

    def __init__(self, seed: int, pool: np.ndarray):
        """Draw the replicates of the images in `pool`, sorted indices."""
        self._pool = pool
        self._counts_RN = statistics.resampling_counts(seed, len(pool))

    def counts(self, indices: np.ndarray) -> np.ndarray:
        """Return how often each image is in each replicate, (R, len(indices))."""
        return self._counts_RN[:, np.searchsorted(self._pool, indices)]


def figures(
    tests: Sequence[TestPart],
    scores_N: np.ndarray,
    resampling: Resampling,
    metrics: Sequence[str],
) -> dict[str, Figure]:
    """Return median, mean and spread over splits, with an interval over images.

    Splits where a statistic is undefined are left out of its median, mean and spread.
    """
    agreements = _agreements(tests, scores_N)
    found = {}
    for metric in metrics:
        values_S = statistics.defined([a.value(metric) for a in agreements])
        samples_SR = _samples(agreements, tests, resampling, metric)
        low, high = statistics.interval(statistics.median_of_samples(samples_SR))
        found[metric] = Figure(
            median=float(np.median(values_S)),
            mean=float(np.mean(values_S)),
            std=float(np.std(values_S)),
            low=low,
            high=high,
        )
    return found


def samples(tests, scores_N, resampling: Resampling, metric: str) -> np.ndarray:
    """Return the bootstrap samples of a statistic, (S, R)."""
    return _samples(_agreements(tests, scores_N), tests, resampling, metric)


def per_split(tests, scores_N) -> dict[str, list[float]]:
    """Return every statistic, split by split; NaN where it is undefined."""
    agreements = _agreements(tests, scores_N)
    return {m: [a.value(m) for a in agreements] for m in statistics.METRICS}


def _agreements(tests, scores_N) -> list[statistics.Agreement]:
    return [
        statistics.Agreement(test.predictions, scores_N[test.indices]) for test in tests
    ]


def _samples(agreements, tests, resampling, metric) -> np.ndarray:
    return np.array(
        [
            agreement.bootstrap(metric, resampling.counts(test.indices))
            for agreement, test in zip(agreements, tests, strict=True)
        ]
    )


def by_label(
    labels: Sequence[str],
    tests: Sequence[TestPart],
    scores_N: np.ndarray,
    resampling: Resampling,
) -> dict[str, Subset]:
    """Return SRCC and PLCC of each distortion type or group, in order of appearance."""
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
