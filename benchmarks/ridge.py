"""Compare the ridge path with scikit-learn's fits, one fit per penalty, in one run.

    python benchmarks/ridge.py [--rows=7000] [--columns=4096] [--fits=3]

Features have the spectrum and the mean of an encoder's features. All 100 fits of
scikit-learn take minutes, so by default some fits are timed and the time is scaled up.
`--fits` is their number. Weights, predictions and the best penalty are compared for
these fits.
"""

import argparse
import time

import numpy as np
import scipy.stats
from sklearn.linear_model import Ridge

from arniqa_jax.evaluation import ridge

ALPHAS = np.geomspace(1e-3, 1e3, 100)


def make_problem(rows: int, columns: int, seed: int = 0):
    """Return rows of length 1, with a power-law spectrum about a mean, and scores."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, columns + 1) ** -0.8
    latent = rng.normal(size=(rows, columns)) * scale
    rotation = rng.normal(size=(columns, columns)) / np.sqrt(columns)
    x = latent @ rotation + rng.uniform(size=columns) * 0.05
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = latent[:, :50] @ rng.normal(size=50) + 0.5 * rng.normal(size=rows)
    return x.astype(np.float32), y


def main() -> None:
    """Print the times, their ratio and the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=7000)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--fits", type=int, default=3, help="fits of scikit-learn")
    options = parser.parse_args()
    x, y = make_problem(options.rows + 1000, options.columns)
    train, held_out = slice(0, options.rows), slice(options.rows, None)

    clock = _Clock()
    weights, intercepts = ridge.fit_path(x[train], y[train], ALPHAS)
    ours = clock.seconds()

    x64 = x.astype(np.float64)
    chosen = np.linspace(0, len(ALPHAS) - 1, options.fits).round().astype(int)
    times, errors, srcc = [], [], []
    for index in chosen:
        clock = _Clock()
        model = Ridge(alpha=ALPHAS[index]).fit(x64[train], y[train])
        times.append(clock.seconds())
        expected = model.predict(x64[held_out])
        found = x64[held_out] @ weights[index] + intercepts[index]
        errors.append(np.abs(found - expected).max() / np.ptp(expected))
        srcc.append(
            [scipy.stats.spearmanr(p, y[held_out]).statistic for p in (found, expected)]
        )
    theirs = np.mean(times, axis=0) * len(ALPHAS)
    best = [f"{ALPHAS[i]:.3g}" for i in chosen[np.argmax(srcc, axis=0)]]

    print(f"{options.rows} x {options.columns}, {len(ALPHAS)} penalties, seconds")
    print(f"{'':24} {'wall':>8} {'CPU':>8}")
    for name, row in (
        ("fit_path", ours),
        (f"scikit-learn, {len(ALPHAS)} fits", theirs),
        ("ratio", theirs / ours),
    ):
        print(f"{name:24} {row[0]:8.1f} {row[1]:8.1f}")
    print(f"({len(chosen)} of the fits timed)")
    print(f"predictions differ by at most {max(errors):.1e} of their range")
    print(f"best penalty of those timed: {best[0]}, scikit-learn's {best[1]}")


class _Clock:
    """Measures seconds since its creation: wall-clock time and processor time."""

    def __init__(self):
        self._started = time.perf_counter(), time.process_time()

    def seconds(self) -> np.ndarray:
        return np.subtract((time.perf_counter(), time.process_time()), self._started)


if __name__ == "__main__":
    main()
