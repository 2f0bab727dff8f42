"""Agreement of predictions with opinion scores, and how far to trust the figure.

SRCC and KRCC compare orders and need no fit; PLCC and RMSE are given both raw and
after the customary 4-parameter logistic fit. Predictions that are all equal carry no
order: their correlation counts as 0.

Shapes: N images, R bootstrap replicates.
"""

import functools
import warnings

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

# Figures of every result, in the order of the tables.
METRICS = ("srcc", "plcc", "krcc", "rmse", "plcc_fit", "rmse_fit")
# Bootstrap replicates: the ends of an interval are then good to about 0.1 of its width.
REPLICATES = 1000


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


def _logistic_jacobian(x_N, b1, b2, b3, b4) -> np.ndarray:
    # Differences, curve_fit's default, are 0 for a parameter of, say, 1e-16, as the
    # mean of centred predictions is; the fit then stops before it has begun.
    z = (x_N - b3) / abs(b4)
    s = scipy.special.expit(z)
    slope = (b1 - b2) * s * (1 - s)
    return np.stack([s, 1 - s, -slope / abs(b4), -slope * z / b4], axis=-1)


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
        # Only the covariance, which is not used, may be undetermined or overflow.
        with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)
            parameters, _ = scipy.optimize.curve_fit(
                logistic,
                predictions_N,
                scores_N,
                p0=start,
                jac=_logistic_jacobian,
                maxfev=10_000,
            )
    except RuntimeError:
        return None
    return parameters


def srcc_path(predictions_AN, scores_N) -> np.ndarray:
    """`srcc` of each row of predictions (A, N); returns (A,)."""
    ranks = scipy.stats.rankdata(scores_N)
    return np.array([plcc(scipy.stats.rankdata(row), ranks) for row in predictions_AN])


class Agreement:
    """Predictions beside opinion scores: every figure, and its bootstrap samples."""

    def __init__(self, predictions_N: np.ndarray, scores_N: np.ndarray):
        """For one score per prediction, both float64."""
        self.predictions_N = predictions_N
        self.scores_N = scores_N

    @functools.cached_property
    def fitted_N(self) -> np.ndarray:
        """The predictions through the logistic fit, or as they are without one."""
        parameters = fit_logistic(self.predictions_N, self.scores_N)
        if parameters is None:
            return self.predictions_N
        return logistic(self.predictions_N, *parameters)

    def value(self, metric: str) -> float:
        """A figure of METRICS."""
        kind, _, fit = metric.partition("_")
        function = {"srcc": srcc, "plcc": plcc, "krcc": krcc, "rmse": rmse}[kind]
        return function(self.fitted_N if fit else self.predictions_N, self.scores_N)

    def bootstrap(self, metric: str, counts_RN: np.ndarray) -> np.ndarray:
        """The figure of every replicate, as if images were repeated; (R,).

        The logistic fit is that of all images. NaN where a replicate has no spread.
        """
        kind, _, fit = metric.partition("_")
        x_N = self.fitted_N if fit else self.predictions_N
        function = {
            "srcc": _bootstrap_srcc,
            "plcc": _bootstrap_plcc,
            "krcc": _bootstrap_krcc,
            "rmse": _bootstrap_rmse,
        }[kind]
        # Some hundred replicates at a time: 8 N bytes each, in several arrays.
        step = max(1, 4_000_000 // max(1, len(x_N)))
        parts = [
            function(x_N, self.scores_N, counts_RN[i : i + step])
            for i in range(0, len(counts_RN), step)
        ]
        return np.concatenate(parts)


def resampling_counts(
    seed: int, images: int, replicates: int | None = None
) -> np.ndarray:
    """Draws how often each image occurs in each bootstrap replicate: (R, N) int32."""
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    size = REPLICATES if replicates is None else replicates
    return rng.multinomial(images, share, size=size).astype(np.int32)


def median_of_samples(samples_SR) -> np.ndarray:
    """The median over splits of every replicate, (R,); NaN where no split has one."""
    medians_R = np.full(samples_SR.shape[1], np.nan)
    usable = ~np.isnan(samples_SR).all(axis=0)
    medians_R[usable] = np.nanmedian(samples_SR[:, usable], axis=0)
    return medians_R


def interval(samples_R) -> tuple[float, float]:
    """The central 95 % of the samples that are numbers; NaN without any."""
    samples_R = samples_R[~np.isnan(samples_R)]
    if not len(samples_R):
        return float("nan"), float("nan")
    low, high = np.percentile(samples_R, [2.5, 97.5])
    return float(low), float(high)


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


def _bootstrap_srcc(x_N, y_N, counts_RN):
    ranks_x, ranks_y = (_weighted_ranks(v, counts_RN) for v in (x_N, y_N))
    return _weighted_plcc(ranks_x, ranks_y, counts_RN)


def _bootstrap_plcc(x_N, y_N, counts_RN):
    x_RN, y_RN = (np.broadcast_to(v, counts_RN.shape) for v in (x_N, y_N))
    return _weighted_plcc(x_RN, y_RN, counts_RN)


def _bootstrap_rmse(x_N, y_N, counts_RN):
    total = counts_RN.sum(1)
    squares = counts_RN @ (x_N - y_N) ** 2
    return np.sqrt(_divide(squares, total))


def _bootstrap_krcc(x_N, y_N, counts_RN):
    # tau-b = c' (Sx * Sy) c / sqrt(c' |Sx| c  c' |Sy| c), S the signs of all pairs of
    # images and c how often each occurs; repetitions of one image are ties in both.
    counts_RN = counts_RN.astype(np.float32)
    concordance = np.zeros(len(counts_RN))
    for start in range(0, len(x_N), 1024):
        rows = slice(start, start + 1024)
        sign_x, sign_y = (
            np.sign(v[rows, None] - v[None, :]).astype(np.float32) for v in (x_N, y_N)
        )
        products = counts_RN[:, rows] @ (sign_x * sign_y)
        concordance += np.einsum("rn,rn->r", products, counts_RN)
    untied = [
        counts_RN.sum(1, dtype=np.float64) ** 2
        - (_group_counts(v, counts_RN)[0] ** 2).sum(1)
        for v in (x_N, y_N)
    ]
    return _divide(concordance, np.sqrt(untied[0] * untied[1]))


def _weighted_ranks(values_N, counts_RN) -> np.ndarray:
    # Average ranks with multiplicities: everything below, plus half of the own group.
    groups_RG, group_of_N = _group_counts(values_N, counts_RN)
    return (np.cumsum(groups_RG, axis=1) - groups_RG / 2)[:, group_of_N]


def _group_counts(values_N, counts_RN):
    """How often each of the G distinct values occurs, (R, G), and the value of each."""
    distinct, group_of_N = np.unique(values_N, return_inverse=True)
    order = np.argsort(group_of_N, kind="stable")
    first = np.searchsorted(group_of_N[order], np.arange(len(distinct)))
    groups_RG = np.add.reduceat(counts_RN[:, order], first, axis=1, dtype=np.float64)
    return groups_RG, group_of_N


def _weighted_plcc(x_RN, y_RN, counts_RN) -> np.ndarray:
    weights = counts_RN / np.maximum(counts_RN.sum(1, keepdims=True), 1)
    x = x_RN - (weights * x_RN).sum(1, keepdims=True)
    y = y_RN - (weights * y_RN).sum(1, keepdims=True)
    covariance = (weights * x * y).sum(1)
    norm = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    return _divide(covariance, norm)


def _divide(numerator_R, denominator_R) -> np.ndarray:
    """NaN where the denominator is 0: a replicate of one image, say."""
    out = np.full(len(numerator_R), np.nan)
    return np.divide(numerator_R, denominator_R, out=out, where=denominator_R > 0)
