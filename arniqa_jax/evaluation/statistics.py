"""Agreement of predictions with opinion scores, with bootstrap intervals.

SRCC and KRCC compare orders and need no fit. PLCC and RMSE are computed without a fit,
and after the usual 4-parameter logistic fit.

An undefined statistic is NaN, never a number. A correlation is undefined for fewer than
three images, and if the predictions or the scores are constant. A statistic after the
fit is undefined if there is no fit.

Shapes: N images, R bootstrap replicates.
"""

import functools
import warnings

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

# The statistics of every result, in the order of the tables.
METRICS = ("srcc", "plcc", "krcc", "rmse", "plcc_fit", "rmse_fit")
# Number of bootstrap replicates. The ends of an interval then have an error of about
# 0.1 of its width.
REPLICATES = 1000
# A correlation over fewer images is undefined.
FEWEST_IMAGES = 3
# Values that differ by less than this fraction of the largest differ only by rounding.
_ROUNDING = 1e-12


def is_constant(x_N) -> bool:
    """Return whether all values are equal, up to the rounding of float64."""
    x_N = np.asarray(x_N, np.float64)
    return not len(x_N) or np.ptp(x_N) <= _ROUNDING * np.abs(x_N).max()


def srcc(x_N, y_N) -> float:
    """Return Spearman's rank correlation, ties by average ranks; NaN if undefined."""
    if _is_undefined(x_N, y_N):
        return float("nan")
    return _pearson(scipy.stats.rankdata(x_N), scipy.stats.rankdata(y_N))


def plcc(x_N, y_N) -> float:
    """Return Pearson's correlation; NaN if undefined."""
    return float("nan") if _is_undefined(x_N, y_N) else _pearson(x_N, y_N)


def krcc(x_N, y_N) -> float:
    """Return Kendall's tau-b; NaN if undefined."""
    if _is_undefined(x_N, y_N):
        return float("nan")
    return float(scipy.stats.kendalltau(x_N, y_N).statistic)


def rmse(x_N, y_N) -> float:
    """Return the root mean squared difference, in the unit of the scores."""
    return float(np.sqrt(np.mean((np.asarray(x_N) - np.asarray(y_N)) ** 2)))


def _is_undefined(x_N, y_N) -> bool:
    return len(x_N) < FEWEST_IMAGES or is_constant(x_N) or is_constant(y_N)


def _pearson(x_N, y_N) -> float:
    x_N = np.asarray(x_N, np.float64) - np.mean(x_N)
    y_N = np.asarray(y_N, np.float64) - np.mean(y_N)
    norm = np.linalg.norm(x_N) * np.linalg.norm(y_N)
    return float(np.clip(x_N @ y_N / norm, -1.0, 1.0))


def logistic(x_N, b1, b2, b3, b4) -> np.ndarray:
    """Return y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), the 4-parameter fit."""
    return b2 + (b1 - b2) * scipy.special.expit((x_N - b3) / abs(b4))


def _logistic_jacobian(x_N, b1, b2, b3, b4) -> np.ndarray:
    # By default curve_fit computes finite differences. They are 0 if a parameter is as
    # small as 1e-16, such as the mean of centred predictions, and the fit would stop at
    # its start.
    z = (x_N - b3) / abs(b4)
    s = scipy.special.expit(z)
    slope = (b1 - b2) * s * (1 - s)
    return np.stack([s, 1 - s, -slope / abs(b4), -slope * z / b4], axis=-1)


def fit_logistic(predictions_N, scores_N) -> np.ndarray | None:
    """Fit the logistic function from the usual start (VQEG).

    Returns:
      The four parameters, or None if there is no fit: for fewer than five images, for
      constant predictions or scores, or if the fit does not converge.
    """
    if len(predictions_N) < 5 or _is_undefined(predictions_N, scores_N):
        return None
    spread = np.std(predictions_N)
    start = (np.max(scores_N), np.min(scores_N), np.mean(predictions_N), spread)
    try:
        # The covariance, which is not used, may be undetermined or overflow.
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
    """Return the `srcc` of each row of predictions (A, N), as (A,)."""
    return np.array([srcc(row, scores_N) for row in predictions_AN])


class Agreement:
    """Predictions and opinion scores: every statistic and its bootstrap samples."""

    def __init__(self, predictions_N: np.ndarray, scores_N: np.ndarray):
        """Store the predictions and a score for each, both float64."""
        self.predictions_N = predictions_N
        self.scores_N = scores_N

    @functools.cached_property
    def fitted_N(self) -> np.ndarray | None:
        """The predictions after the logistic fit; None if there is no fit."""
        parameters = fit_logistic(self.predictions_N, self.scores_N)
        if parameters is None:
            return None
        return logistic(self.predictions_N, *parameters)

    def value(self, metric: str) -> float:
        """Return a statistic of METRICS; NaN if it is undefined."""
        kind, _, fit = metric.partition("_")
        function = {"srcc": srcc, "plcc": plcc, "krcc": krcc, "rmse": rmse}[kind]
        x_N = self.fitted_N if fit else self.predictions_N
        return float("nan") if x_N is None else function(x_N, self.scores_N)

    def bootstrap(self, metric: str, counts_RN: np.ndarray) -> np.ndarray:
        """Return a statistic for every replicate, (R,).

        A replicate repeats images. The logistic fit is that of all images. A replicate
        is NaN if its statistic is undefined. All are NaN if the statistic of all images
        is undefined.
        """
        kind, _, fit = metric.partition("_")
        if np.isnan(self.value(metric)):
            return np.full(len(counts_RN), np.nan)
        x_N = self.fitted_N if fit else self.predictions_N
        function = {
            "srcc": _bootstrap_srcc,
            "plcc": _bootstrap_plcc,
            "krcc": _bootstrap_krcc,
            "rmse": _bootstrap_rmse,
        }[kind]
        # Process some hundred replicates at a time, because each takes 8 N bytes in
        # several arrays.
        step = max(1, 4_000_000 // max(1, len(x_N)))
        parts = [
            function(x_N, self.scores_N, counts_RN[i : i + step])
            for i in range(0, len(counts_RN), step)
        ]
        return np.concatenate(parts)


def resampling_counts(
    seed: int, images: int, replicates: int | None = None
) -> np.ndarray:
    """Return how often each image occurs in each bootstrap replicate, (R, N) int32."""
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    size = REPLICATES if replicates is None else replicates
    return rng.multinomial(images, share, size=size).astype(np.int32)


def median_of_samples(samples_SR) -> np.ndarray:
    """Return the median over splits of every replicate, (R,).

    Splits where the statistic is undefined are left out. If it is undefined in all
    splits, the median is NaN.
    """
    medians_R = np.full(samples_SR.shape[1], np.nan)
    usable = ~np.isnan(samples_SR).all(axis=0)
    medians_R[usable] = np.nanmedian(samples_SR[:, usable], axis=0)
    return medians_R


def defined(values) -> np.ndarray:
    """Return the values that are not NaN, or a single NaN if there are none.

    So a median or mean over splits uses the splits where the statistic is defined, and
    is itself undefined if there are none.
    """
    values = np.asarray(values, np.float64)
    known = values[~np.isnan(values)]
    return known if len(known) else np.array([np.nan])


def interval(samples_R) -> tuple[float, float]:
    """Return the central 95 % of the samples that are not NaN; NaN without any."""
    samples_R = samples_R[~np.isnan(samples_R)]
    if not len(samples_R):
        return float("nan"), float("nan")
    low, high = np.percentile(samples_R, [2.5, 97.5])
    return float(low), float(high)


def corrected_t_test(differences_S, train_images: int, test_images: int) -> float:
    """Return the two-sided p-value that the mean difference over splits is 0.

    The splits of one dataset overlap, so the plain paired t-test finds differences that
    do not exist. Nadeau and Bengio (2003) inflate the variance: the factor 1/S becomes
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
    # Average ranks with multiplicities: all lower values, plus half of the own group.
    groups_RG, group_of_N = _group_counts(values_N, counts_RN)
    return (np.cumsum(groups_RG, axis=1) - groups_RG / 2)[:, group_of_N]


def _group_counts(values_N, counts_RN):
    """Return the counts of the G distinct values, (R, G), and each image's value."""
    distinct, group_of_N = np.unique(values_N, return_inverse=True)
    order = np.argsort(group_of_N, kind="stable")
    first = np.searchsorted(group_of_N[order], np.arange(len(distinct)))
    groups_RG = np.add.reduceat(counts_RN[:, order], first, axis=1, dtype=np.float64)
    return groups_RG, group_of_N


def _weighted_plcc(x_RN, y_RN, counts_RN) -> np.ndarray:
    weights = counts_RN / np.maximum(counts_RN.sum(1, keepdims=True), 1)
    x, variance_x = _centre(x_RN, weights)
    y, variance_y = _centre(y_RN, weights)
    covariance = (weights * x * y).sum(1)
    return _divide(covariance, np.sqrt(variance_x * variance_y))


def _centre(x_RN, weights_RN):
    """Return the values minus their means, and the variances; 0 if only rounding."""
    centred_RN = x_RN - (weights_RN * x_RN).sum(1, keepdims=True)
    variance_R = (weights_RN * centred_RN * centred_RN).sum(1)
    scale_R = (weights_RN * x_RN * x_RN).sum(1)
    return centred_RN, np.where(variance_R > _ROUNDING**2 * scale_R, variance_R, 0.0)


def _divide(numerator_R, denominator_R) -> np.ndarray:
    """Return the quotients; NaN where the denominator is 0."""
    out = np.full(len(numerator_R), np.nan)
    return np.divide(numerator_R, denominator_R, out=out, where=denominator_R > 0)
