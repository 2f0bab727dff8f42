"""Ridge regression over a whole grid of penalties from one factorisation.

For every penalty a > 0 the problem is scikit-learn's `Ridge(alpha=a)`,

    minimise over w, b:  sum_i (y_i - x_i w - b)^2 + a |w|^2,

whose solution needs (G + a I)^-1 for the Gram matrix G of the centred rows. An
orthogonal similarity G = Q B Q' to a matrix B of small bandwidth costs 4/3 n^3
operations, all of them in matrix products. (An eigendecomposition costs 9 n^3, half of
it bound by memory.) After that, each penalty is a banded Cholesky solve, because G + a
I = Q (B + a I) Q' and Q does not depend on a.

All arithmetic is float64. Shapes: N rows, D features, A penalties.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
import scipy.linalg

# Number of rows converted to float64 at once: 128 MiB at D = 4096.
BLOCK_ROWS = 4096
# Bandwidth of B: wide enough that matrix products run at full speed, narrow enough that
# a banded solve is cheap.
_BANDWIDTH = 96
# Up to this number of penalties, a dense Cholesky factorisation for each (n^3 / 3) is
# cheaper.
_FEW_PENALTIES = 4


def fit_path(x_ND, y_N, alphas_A) -> tuple[np.ndarray, np.ndarray]:
    """Return ridge regressions with an intercept for all penalties.

    Args:
      x_ND: features of any float dtype; may be memory-mapped, because they are read in
        blocks.
      y_N: targets.
      alphas_A: penalties, all above 0.

    Returns:
      float64 weights (A, D) and intercepts (A,), in the order of the penalties.

    Raises:
      ValueError: the shapes do not fit, there are no rows, a penalty is not above 0, or
        a value is not finite.

    >>> import numpy as np
    >>> weights, intercepts = fit_path(np.eye(3), np.arange(3.0), [0.1, 1.0])
    >>> weights.shape, intercepts
    ((2, 3), array([1., 1.]))
    """
    if np.ndim(x_ND) != 2 or np.shape(y_N) != (len(x_ND),):
        raise ValueError(
            f"expected x (N, D) and y (N,), found {np.shape(x_ND)} and {np.shape(y_N)}"
        )
    if len(x_ND) >= x_ND.shape[1]:
        starts = range(0, len(x_ND), BLOCK_ROWS)
        blocks = ((x_ND[i : i + BLOCK_ROWS], y_N[i : i + BLOCK_ROWS]) for i in starts)
        return Moments.of(blocks).fit_path(alphas_A)
    return _fit_dual(
        np.asarray(x_ND, np.float64), np.asarray(y_N, np.float64), alphas_A
    )


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over rows that determine a ridge regression with more rows than columns.

    Moments can be added and subtracted: the moments of a training part are those of the
    dataset minus those of the held-out rows. The sums are taken about `origin_D`, near
    the mean of the data, so that neither centring nor subtraction cancels digits.
    """

    origin_D: np.ndarray
    count: int
    x_D: np.ndarray
    y: float
    xx_DD: np.ndarray
    xy_D: np.ndarray

    @classmethod
    def of(cls, blocks: Iterable, origin_D: np.ndarray | None = None) -> "Moments":
        """Return the sums over `blocks` of rows.

        A block is a pair of (rows, D) features and (rows,) targets. `origin_D` defaults
        to the mean of the first block. Only moments with the same origin can be added
        or subtracted.
        """
        total = None
        for x_ND, y_N in blocks:
            x_ND = np.asarray(x_ND, np.float64)
            y_N = np.asarray(y_N, np.float64)
            if origin_D is None:
                origin_D = x_ND.mean(0)
            x_ND = x_ND - origin_D
            block = cls(
                origin_D=origin_D,
                count=len(x_ND),
                x_D=x_ND.sum(0),
                y=y_N.sum(),
                xx_DD=x_ND.T @ x_ND,
                xy_D=x_ND.T @ y_N,
            )
            total = block if total is None else total + block
        if total is None or total.count == 0:
            raise ValueError("ridge regression needs at least one row, found none")
        return total

    def __add__(self, other: "Moments") -> "Moments":
        return self._combine(other, 1)

    def __sub__(self, other: "Moments") -> "Moments":
        return self._combine(other, -1)

    def _combine(self, other: "Moments", sign: int) -> "Moments":
        if other.origin_D is not self.origin_D:
            raise ValueError("only moments about the same origin can be combined")
        return Moments(
            self.origin_D,
            *(
                getattr(self, name) + sign * getattr(other, name)
                for name in ("count", "x_D", "y", "xx_DD", "xy_D")
            ),
        )

    def fit_path(self, alphas_A) -> tuple[np.ndarray, np.ndarray]:
        """Return what the function `fit_path` returns for the rows that were summed."""
        x_mean_D, y_mean = self.x_D / self.count, self.y / self.count
        gram_DD = self.xx_DD - np.outer(self.x_D, x_mean_D)
        weights_AD = _solve_path(gram_DD, self.xy_D - self.x_D * y_mean, alphas_A)
        return weights_AD, y_mean - weights_AD @ (self.origin_D + x_mean_D)


def _fit_dual(x_ND, y_N, alphas_A):
    # w = X' (X X' + a I)^-1 y for centred X and y needs N x N instead of D x D.
    if not len(x_ND):
        raise ValueError("ridge regression needs at least one row, found none")
    x_mean_D, y_mean = x_ND.mean(0), y_N.mean()
    x_ND = x_ND - x_mean_D
    weights_AD = _solve_path(x_ND @ x_ND.T, y_N - y_mean, alphas_A) @ x_ND
    return weights_AD, y_mean - weights_AD @ x_mean_D


def _solve_path(gram, target, alphas_A) -> np.ndarray:
    """Return the solutions z (A, n) of (gram + a I) z = target, for every penalty a."""
    alphas_A = np.asarray(alphas_A, np.float64)
    if alphas_A.ndim != 1 or not (alphas_A > 0).all():
        raise ValueError(f"penalties must be above 0, found {alphas_A}")
    if not (np.isfinite(gram).all() and np.isfinite(target).all()):
        raise ValueError("the features or targets of a regression are not finite")
    identity = np.eye(len(gram))
    if len(alphas_A) <= _FEW_PENALTIES:
        solve = functools.partial(scipy.linalg.solve, b=target, assume_a="pos")
        return np.stack([solve(gram + alpha * identity) for alpha in alphas_A])
    band, reflectors = _reduce_to_band(gram, min(_BANDWIDTH, len(gram) - 1))
    rotated = target.copy()
    for start, v, t in reflectors:  # Q' target
        rotated[start:] -= v @ (t.T @ (v.T @ rotated[start:]))
    solutions = np.empty((len(gram), len(alphas_A)))
    for i, alpha in enumerate(alphas_A):
        shifted = band.copy()
        shifted[0] += alpha
        solutions[:, i] = scipy.linalg.solveh_banded(shifted, rotated, lower=True)
    for start, v, t in reversed(reflectors):  # Q solutions
        solutions[start:] -= v @ (t @ (v.T @ solutions[start:]))
    return solutions.T


def _reduce_to_band(matrix, width: int):
    """Return a symmetric matrix reduced to a band, by blocked Householder steps.

    Returns:
      The band of bandwidth `width` in LAPACK's lower form (width + 1, n), and the
      factors (start, V, T) of Q = prod_k (I - V_k T_k V_k'), where V_k acts on the rows
      from `start`.
    """
    a = matrix.copy()
    n = len(a)
    reflectors = []
    for left in range(0, n - width - 1, max(width, 1)) if width else ():
        start = left + width
        panel = slice(left, start)
        (packed, tau), r = scipy.linalg.qr(a[start:, panel], mode="raw")
        v = np.tril(packed, -1)[:, : len(tau)]
        np.fill_diagonal(v, 1.0)
        t = _triangular_factor(v, tau)
        a[start:, panel] = 0.0
        a[start : start + len(r), panel] = r
        # With Y = A V T and W = Y - V (T' V' Y) / 2:
        # (I - V T V')' A (I - V T V') = A - W V' - V W'.
        trailing = a[start:, start:]
        w = trailing @ (v @ t)
        w -= v @ (t.T @ (v.T @ w)) / 2
        trailing -= np.hstack([w, v]) @ np.hstack([v, w]).T
        reflectors.append((start, v, t))
    band = np.zeros((width + 1, n))
    for offset in range(width + 1):
        band[offset, : n - offset] = np.diagonal(a, -offset)
    return band, reflectors


def _triangular_factor(v, tau):
    # H_1 H_2 ... = I - V T V' (LAPACK's dlarft, forward and columnwise).
    inner = v.T @ v
    t = np.diag(tau)
    for j in range(1, len(tau)):
        t[:j, j] = -tau[j] * (t[:j, :j] @ inner[:j, j])
    return t
