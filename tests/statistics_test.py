"""Correlations, fit and bootstrap against scipy."""

import numpy as np
import pytest
import scipy.stats

from arniqa_jax.evaluation import statistics


@pytest.fixture(params=["distinct", "ties"])
def pair(request):
    rng = np.random.default_rng(1)
    x = rng.normal(size=80)
    y = x + rng.normal(size=80)
    if request.param == "ties":
        x, y = np.round(x), np.round(2 * y) / 2
    return x, y


def test_correlations_equal_scipy(pair):
    x, y = pair
    np.testing.assert_allclose(
        [statistics.srcc(x, y), statistics.plcc(x, y), statistics.krcc(x, y)],
        [
            scipy.stats.spearmanr(x, y).statistic,
            scipy.stats.pearsonr(x, y).statistic,
            scipy.stats.kendalltau(x, y).statistic,
        ],
        rtol=1e-12,
    )


def test_path_is_srcc_of_each_row(pair):
    x, y = pair
    rows = np.stack([x, -x, np.zeros_like(x)])
    expected = [statistics.srcc(row, y) for row in rows]
    np.testing.assert_array_equal(statistics.srcc_path(rows, y), expected)
    assert np.isnan(expected[2])


@pytest.mark.parametrize(
    ("predictions", "scores"),
    [
        (np.full(9, 0.1), np.arange(9.0)),
        (np.arange(9.0), np.full(9, 0.1)),
        # Equal up to rounding: 0.1 + 0.2 is not 0.3.
        (np.array([0.1 + 0.2, 0.3] * 5), np.arange(10.0)),
        (np.array([1.0, 2.0]), np.array([1.0, 2.0])),
    ],
)
def test_undefined_statistics_are_nan(predictions, scores):
    agreement = statistics.Agreement(predictions, scores)
    counts = statistics.resampling_counts(0, len(scores), replicates=50)
    for metric in ("srcc", "plcc", "krcc", "plcc_fit", "rmse_fit"):
        assert np.isnan(agreement.value(metric)), metric
        assert np.isnan(agreement.bootstrap(metric, counts)).all(), metric
    assert np.isfinite(agreement.value("rmse"))


def test_small_differences_are_no_constant():
    x = 1e6 + 1e-3 * np.arange(9.0)
    assert statistics.plcc(x, np.arange(9.0)) == pytest.approx(1)
    assert statistics.srcc(1e-9 * x, np.arange(9.0)) == pytest.approx(1)


def test_bootstrap_equals_repeating_images(pair):
    x, y = pair
    counts = statistics.resampling_counts(0, len(x), replicates=20)
    assert (counts.sum(1) == len(x)).all()
    agreement = statistics.Agreement(x, y)
    for metric in statistics.METRICS:
        samples = agreement.bootstrap(metric, counts)
        for sample, count in zip(samples, counts, strict=True):
            repeated = statistics.Agreement(np.repeat(x, count), np.repeat(y, count))
            if metric.endswith("_fit"):
                # The fit is that of all images.
                fitted = np.repeat(agreement.fitted_N, count)
                repeated = statistics.Agreement(fitted, np.repeat(y, count))
            kind = metric.removesuffix("_fit")
            np.testing.assert_allclose(sample, repeated.value(kind), atol=2e-6)


def test_replicate_of_one_image_has_no_value():
    counts = np.array([[7, 0, 0, 0, 0, 0, 0], [0, 7, 0, 0, 0, 0, 0]], np.int32)
    # The weighted mean of 0.1 is off by a rounding error.
    agreement = statistics.Agreement(0.1 + np.arange(7.0), 0.1 + np.arange(7.0))
    for metric in ("srcc", "plcc", "krcc"):
        assert np.isnan(agreement.bootstrap(metric, counts)).all()


def test_interval_covers_the_truth():
    # 200 samples of 60 pairs with a correlation of 0.6: about 95 % of the intervals.
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        counts = statistics.resampling_counts(seed, 60, replicates=200)
        samples = statistics.Agreement(x, y).bootstrap("plcc", counts)
        low, high = statistics.interval(samples)
        covered += low <= 0.6 <= high
    assert 176 <= covered <= 199


def test_logistic_fit_recovers_its_parameters():
    x = np.linspace(-3, 3, 60)
    y = statistics.logistic(x, 90.0, 10.0, 0.4, 0.8)
    agreement = statistics.Agreement(x, y)
    np.testing.assert_allclose(agreement.fitted_N, y, rtol=1e-5)
    assert agreement.value("plcc_fit") > agreement.value("plcc")
    assert agreement.value("rmse_fit") < 1e-3 < agreement.value("rmse")


def test_decreasing_relation_is_fitted_too():
    # Predictions of quality beside DMOS.
    x = np.linspace(0, 1, 50)
    agreement = statistics.Agreement(x, 100 - 80 * x)
    assert agreement.value("plcc") == pytest.approx(-1)
    assert agreement.value("rmse_fit") < 2


def test_statistics_after_the_fit_are_undefined_without_one():
    few = statistics.Agreement(np.arange(4.0), np.arange(4.0))
    assert few.fitted_N is None
    assert np.isnan(few.value("plcc_fit")) and few.value("plcc") == pytest.approx(1)
    assert statistics.fit_logistic(np.ones(10), np.arange(10.0)) is None
    assert statistics.fit_logistic(np.arange(10.0), np.ones(10)) is None


def test_corrected_t_test_against_the_formula():
    differences = np.array([0.01, 0.02, 0.015, 0.005, 0.03])
    variance = differences.var(ddof=1) * (1 / 5 + 20 / 70)
    expected = 2 * scipy.stats.t.sf(differences.mean() / np.sqrt(variance), 4)
    p_value = statistics.corrected_t_test(differences, train_images=70, test_images=20)
    assert p_value == pytest.approx(expected)
    # The plain paired test would be surer of itself.
    assert p_value > scipy.stats.ttest_1samp(differences, 0).pvalue
    assert statistics.corrected_t_test(np.zeros(5), 70, 20) == 1.0


def test_median_over_splits_of_each_replicate():
    samples = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan], [2.0, 7.0, np.nan]])
    medians = statistics.median_of_samples(samples)
    np.testing.assert_array_equal(medians, [2.0, 6.0, np.nan])
    assert statistics.interval(medians) == (2.1, 5.9)
    assert np.isnan(statistics.interval(medians[2:])).all()
