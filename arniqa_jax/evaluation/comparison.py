"""Test whether two evaluations differ by more than chance.

Both are computed on the same resampled images of the same test parts, so that images
that are hard for both cancel. There are two measures: a 95 % bootstrap interval of the
difference over images and, for several splits, the p-value of the corrected paired
t-test.
"""

import dataclasses

import numpy as np

from arniqa_jax import errors
from arniqa_jax.evaluation import statistics, summaries
from arniqa_jax.evaluation.results import DatasetResult, Results


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of encoder B from encoder A on one dataset.

    Attributes:
      name, title: of the dataset.
      srcc, plcc: medians (A, B); NaN where undefined.
      low, high: 95 % interval of the difference of the SRCCs; NaN where undefined.
      p_value: over splits; None where fewer than two splits have both SRCCs.
    """

    name: str
    title: str
    srcc: tuple[float, float]
    plcc: tuple[float, float]
    low: float
    high: float
    p_value: float | None

    @property
    def significant(self) -> bool:
        """Whether 0 is outside the interval and, for several splits, p < 0.05."""
        outside = self.low > 0 or self.high < 0
        return outside and (self.p_value is None or self.p_value < 0.05)


def compare(a: Results, b: Results) -> list[Difference]:
    """Return the differences on the datasets that both encoders were evaluated on.

    Raises:
      UsageError: there are no such datasets, or a dataset or its splits differ.
    """
    both = [d for d in a.datasets if d.name in {other.name for other in b.datasets}]
    if not both:
        raise errors.UsageError(
            f"nothing to compare: {a.encoder} was evaluated on "
            f"{', '.join(d.title for d in a.datasets)}, {b.encoder} on "
            f"{', '.join(d.title for d in b.datasets)}"
        )
    return [_compare_dataset(d, b.dataset(d.name), a.seed) for d in both]


def _compare_dataset(a: DatasetResult, b: DatasetResult, seed: int) -> Difference:
    same = a.fingerprint == b.fingerprint and all(
        np.array_equal(x.indices, y.indices)
        for x, y in zip(a.tests, b.tests, strict=True)
    )
    if not same:
        raise errors.UsageError(
            f"{a.title}: the two evaluations are of different images, scores or "
            f"splits; evaluate both again on the same files"
        )
    pool = np.unique(np.concatenate([test.indices for test in a.tests]))
    resampling = summaries.Resampling(seed, pool)
    medians = [
        statistics.median_of_samples(
            summaries.samples(result.tests, result.scores_N, resampling, "srcc")
        )
        for result in (a, b)
    ]
    low, high = statistics.interval(medians[1] - medians[0])
    p_value = None
    differences_S = np.subtract(b.per_split["srcc"], a.per_split["srcc"])
    differences_S = differences_S[~np.isnan(differences_S)]
    if len(differences_S) > 1:
        p_value = statistics.corrected_t_test(
            differences_S,
            train_images=a.tests[0].train_images,
            test_images=len(a.tests[0].indices),
        )
    return Difference(
        name=a.name,
        title=a.title,
        srcc=(a.figures["srcc"].median, b.figures["srcc"].median),
        plcc=(a.figures["plcc"].median, b.figures["plcc"].median),
        low=low,
        high=high,
        p_value=p_value,
    )
