"""Ridge regressions on parts of one labelled dataset.

Shapes: N images, D features, A penalties.
"""

import functools

import numpy as np

from arniqa_jax.datasets.splits import Split
from arniqa_jax.evaluation import ridge, statistics
from arniqa_jax.inference.feature_store import Features


class Regressions:
    """Ridge regressions on parts of one dataset, which share sums if that is faster."""

    def __init__(
        self,
        features: Features,
        scores_N: np.ndarray,
        rows: np.ndarray,
        *,
        shared: bool,
    ):
        """Use images among `rows`; `shared` says that several parts will be fitted."""
        self._features = features
        self._scores_N = scores_N
        self.rows = features.readable(rows)
        self._shared = shared

    def fit_path(self, indices: np.ndarray, alphas_A) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (A, D) and intercepts (A,), fitted on images at `indices`."""
        if len(indices) * self._features.crops < self._features.width:
            x = self._features.take(indices).reshape(-1, self._features.width)
            y = np.repeat(self._scores_N[indices], self._features.crops)
            return ridge.fit_path(x, y, alphas_A)
        rest = np.setdiff1d(self.rows, indices)
        if not self._shared or len(rest) >= len(indices):
            moments = self._moments(indices)
        elif len(rest):
            moments = self._total - self._moments(rest, self._total.origin_D)
        else:
            moments = self._total
        return moments.fit_path(alphas_A)

    def validation_srcc(self, split: Split, alphas_A) -> np.ndarray:
        """Return the SRCC on the validation part for each penalty, (A,)."""
        path = self.fit_path(split.train, alphas_A)
        predictions_AN = self.predict(path, split.validation)
        return statistics.srcc_path(predictions_AN, self._scores_N[split.validation])

    def predict(self, path, indices: np.ndarray) -> np.ndarray:
        """Return predictions (A, len(indices))."""
        return self._features.predict(indices, *path)

    def _moments(self, indices, origin_D=None) -> ridge.Moments:
        blocks = self._features.regression_blocks(indices, self._scores_N)
        return ridge.Moments.of(blocks, origin_D)

    @functools.cached_property
    def _total(self) -> ridge.Moments:
        return self._moments(self.rows)
