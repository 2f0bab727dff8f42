"""Agreement of predictions with opinion scores, and how far to trust the figure.

SRCC and KRCC compare orders and need no fit; PLCC and RMSE are given both raw and
after the customary 4-parameter logistic fit. Predictions that are all equal carry no
order: their correlation counts as 0.

Shapes: N images, R bootstrap replicates.
"""

import dataclasses
import warnings

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

# Figures of every result, in the order of the tables.
METRICS = ("srcc", "plcc", "krcc", "rmse", "plcc_fit", "rmse_fit")


def srcc(x_N, y_N) -> float:
    """Spearman's rank correlation, ties by average ranks; 0 for a constant input."""
    return plcc(scipy.stats.rankdata(x_N), scipy.stats.rankdata(y_N))


def plcc(x_N, y_N) -> float:
    """Pearson's correlation; 0 for a constant input."""
    x_N = np.asarray(x_N, np.float64) - np.mean(x_N)
    y_N = np.asarray(y_N, np.float64) - np.mean(y_N)
    norm = np.linalg.norm(x_N) * np.linalg.norm(y_N)
    return float(np.clip(x_N @ y_N / norm, -1.0, 1.0)) if norm > 0 else 0.0


def krcc(x_N, y_N) -> float:
    """Kendall's tau-b; 0 for a constant input."""
    if np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return 0.0
    return float(scipy.stats.kendalltau(x_N, y_N).statistic)


def rmse(x_N, y_N) -> float:
    """Root mean squared difference, in the unit of the scores."""
    return float(np.sqrt(np.mean((np.asarray(x_N) - np.asarray(y_N)) ** 2)))


def logistic(x_N, b1, b2, b3, b4) -> np.ndarray:
    """y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), the 4-parameter logistic."""
    return b2 + (b1 - b2) * scipy.special.expit((x_N - b3) / abs(b4))


def fit_logistic(predictions_N, scores_N) -> np.ndarray | None:
    """Fits the logistic from the customary start (VQEG).

    Returns:
      The four parameters, or None where there is nothing to fit: fewer than five
      images, constant predictions, or a fit that does not converge.
    """
    spread = np.std(predictions_N)
    if len(predictions_N) < 5 or spread == 0:
        return None
    start = (np.max(scores_N), np.min(scores_N), np.mean(predictions_N), spread)
    try:
        with warnings.catch_warnings():
            # Only the covariance, which is not used, may be undetermined.
            warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)
            parameters, _ = scipy.optimize.curve_fit(
                logistic, predictions_N, scores_N, p0=start, maxfev=10_000
            )
    except RuntimeError:
        return None
    return parameters


def all_metrics(predictions_N, scores_N) -> dict[str, float]:
    """Every figure of METRICS; the fitted ones equal the raw ones without a fit."""
    parameters = fit_logistic(predictions_N, scores_N)
    fitted_N = (
        predictions_N if parameters is None else logistic(predictions_N, *parameters)
    )
    return {
        "srcc": srcc(predictions_N, scores_N),
        "plcc": plcc(predictions_N, scores_N),
        "krcc": krcc(predictions_N, scores_N),
        "rmse": rmse(predictions_N, scores_N),
        "plcc_fit": plcc(fitted_N, scores_N),
        "rmse_fit": rmse(fitted_N, scores_N),
    }


def srcc_path(predictions_AN, scores_N) -> np.ndarray:
    """`srcc` of each row of predictions (A, N); returns (A,)."""
    ranks = scipy.stats.rankdata(scores_N)
    return np.array([plcc(scipy.stats.rankdata(row), ranks) for row in predictions_AN])


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % bootstrap interval."""

    low: float
    high: float


def resampling_counts(seed: int, images: int, replicates: int = 1000) -> np.ndarray:
    """Draws how often each image occurs in each bootstrap replicate: (R, N) int32."""
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    return rng.multinomial(images, share, size=replicates).astype(np.int32)


def bootstrap_srcc(predictions_N, scores_N, counts_RN) -> np.ndarray:
    """SRCC of every replicate; equals `srcc` of the repeated images. Returns (R,)."""
    ranks_x = _weighted_ranks(predictions_N, counts_RN)
    ranks_y = _weighted_ranks(scores_N, counts_RN)
    return _weighted_plcc(ranks_x, ranks_y, counts_RN)


def bootstrap_plcc(predictions_N, scores_N, counts_RN) -> np.ndarray:
    """PLCC of every replicate. Returns (R,)."""
    shape = counts_RN.shape
    x, y = (np.broadcast_to(v, shape) for v in (predictions_N, scores_N))
    return _weighted_plcc(x, y, counts_RN)


def interval(samples_R) -> Interval:
    """The central 95 % of the samples; replicates without a value are left out."""
    low, high = np.nanpercentile(samples_R, [2.5, 97.5])
    return Interval(float(low), float(high))


def corrected_t_test(differences_S, train_images: int, test_images: int) -> float:
    """Two-sided p-value that the mean difference over splits is 0.

    The splits of one dataset overlap, so the plain paired t-test finds differences that
    are not there. Nadeau and Bengio (2003) inflate the variance: the factor 1/S becomes
    1/S + test/train.
    """
    differences_S = np.asarray(differences_S, np.float64)
    splits = len(differences_S)
    variance = differences_S.var(ddof=1) * (1 / splits + test_images / train_images)
    if variance == 0:
        return 1.0 if differences_S.mean() == 0 else 0.0
    t = differences_S.mean() / np.sqrt(variance)
    return float(2 * scipy.stats.t.sf(abs(t), splits - 1))


def _weighted_ranks(values_N, counts_RN) -> np.ndarray:
    # Average ranks with multiplicities: everything below, plus half of the own group.
    order = np.argsort(values_N, kind="stable")
    _, group_of = np.unique(np.asarray(values_N)[order], return_inverse=True)
    first = np.searchsorted(group_of, np.arange(group_of[-1] + 1))
    in_group = np.add.reduceat(counts_RN[:, order], first, axis=1, dtype=np.float64)
    middle = np.cumsum(in_group, axis=1) - in_group / 2
    ranks = np.empty(counts_RN.shape)
    ranks[:, order] = middle[:, group_of]
    return ranks


def _weighted_plcc(x_RN, y_RN, counts_RN) -> np.ndarray:
    weights = counts_RN / np.maximum(counts_RN.sum(1, keepdims=True), 1)
    x = x_RN - (weights * x_RN).sum(1, keepdims=True)
    y = y_RN - (weights * y_RN).sum(1, keepdims=True)
    covariance = (weights * x * y).sum(1)
    norm = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    # A replicate without spread (all draws on one image) has no correlation.
    return np.divide(covariance, norm, out=np.full(len(x), np.nan), where=norm > 0)
