"""The ridge path against scikit-learn, one penalty at a time."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from arniqa_jax.evaluation import ridge

ALPHAS = np.geomspace(1e-3, 1e3, 100)


def _problem(rows, columns, seed=0):
    """Features with a decaying spectrum and a mean, as an encoder gives them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) * np.geomspace(1, 1e-3, columns) + 3
    y = x @ rng.normal(size=columns) + rng.normal(size=rows)
    return x.astype(np.float32), y


def _assert_same_as_sklearn(x, y, alphas, weights, intercepts):
    """At every ninth penalty, the first and the last of the hundred among them."""
    assert len(alphas) == len(weights) == len(intercepts)
    for alpha, weight, intercept in zip(
        alphas[::9], weights[::9], intercepts[::9], strict=True
    ):
        expected = Ridge(alpha=alpha).fit(x.astype(np.float64), y)
        scale = np.abs(expected.coef_).max()
        np.testing.assert_allclose(weight, expected.coef_, rtol=0, atol=1e-8 * scale)
        np.testing.assert_allclose(intercept, expected.intercept_, rtol=1e-8)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(300, 120), (60, 200), (200, 199), (150, 150), (3, 5), (10, 1), (1, 3)],
    ids=str,
)
def test_equals_sklearn_at_penalties_of_all_sizes(rows, columns):
    x, y = _problem(rows, columns)
    weights, intercepts = ridge.fit_path(x, y, ALPHAS)
    assert weights.shape == (100, columns) and weights.dtype == np.float64
    _assert_same_as_sklearn(x, y, ALPHAS, weights, intercepts)


def test_single_penalty_equals_sklearn():
    x, y = _problem(80, 30)
    _assert_same_as_sklearn(x, y, [0.1], *ridge.fit_path(x, y, [0.1]))


def test_constant_and_repeated_columns():
    # The Gram matrix is singular, and a Householder vector is zero.
    x, y = _problem(200, 120)
    x[:, 10:70] = x[:, :60]
    x[:, 100:] = 5
    _assert_same_as_sklearn(x, y, ALPHAS, *ridge.fit_path(x, y, ALPHAS))


def test_order_of_penalties_is_kept():
    x, y = _problem(50, 60)
    weights, _ = ridge.fit_path(x, y, ALPHAS[::-1])
    np.testing.assert_array_equal(weights[::-1], ridge.fit_path(x, y, ALPHAS)[0])


def test_blocks_do_not_matter(monkeypatch):
    x, y = _problem(300, 60)
    whole = ridge.fit_path(x, y, ALPHAS)
    monkeypatch.setattr(ridge, "BLOCK_ROWS", 64)
    for blocked, expected in zip(ridge.fit_path(x, y, ALPHAS), whole, strict=True):
        np.testing.assert_allclose(blocked, expected, rtol=1e-9, atol=1e-11)


def test_training_part_from_differences_of_sums():
    x, y = _problem(400, 90)
    held_out = np.arange(400) % 3 == 0
    total = ridge.Moments.of([(x, y)])
    rest = ridge.Moments.of([(x[held_out], y[held_out])], total.origin_D)
    weights, intercepts = (total - rest).fit_path(ALPHAS)
    _assert_same_as_sklearn(x[~held_out], y[~held_out], ALPHAS, weights, intercepts)


def test_sums_about_different_origins_do_not_mix():
    x, y = _problem(20, 4)
    with pytest.raises(ValueError, match="same origin"):
        _ = ridge.Moments.of([(x, y)]) + ridge.Moments.of([(x, y)])


@pytest.mark.parametrize("rows", [3, 30])
def test_bad_input_is_refused(rows):
    x, y = _problem(rows, 10)
    with pytest.raises(ValueError, match="above 0"):
        ridge.fit_path(x, y, [1.0, 0.0])
    with pytest.raises(ValueError, match="expected x"):
        ridge.fit_path(x, y[:-1], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        ridge.fit_path(np.where(x == x[0, 0], np.nan, x), y, [1.0])
    with pytest.raises(ValueError, match="at least one row"):
        ridge.fit_path(x[:0], y[:0], [1.0])
