"""NT-Xent and the measures of an embedding, against float64 recomputation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arniqa_jax.model import losses


def _views(rows: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.random.default_rng(seed).normal(size=(2, rows, dim))
    return a.astype(np.float32), b.astype(np.float32)


def _nt_xent_by_loops(a, b, temperature):
    z = np.concatenate([a, b]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    rows = len(z)
    total = 0.0
    for i in range(rows):
        j = (i + rows // 2) % rows
        others = [np.exp(z[i] @ z[k] / temperature) for k in range(rows) if k != i]
        total -= np.log(np.exp(z[i] @ z[j] / temperature) / sum(others))
    return total / rows


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_is_its_definition(temperature):
    a, b = _views(6, 5)
    expected = _nt_xent_by_loops(a, b, temperature)
    np.testing.assert_allclose(losses.nt_xent(a, b, temperature), expected, rtol=1e-6)


def test_nt_xent_normalises_its_inputs():
    a, b = _views(6, 5)
    scaled = losses.nt_xent(3 * a, 0.2 * b)
    np.testing.assert_allclose(scaled, losses.nt_xent(a, b), rtol=1e-6)


def test_equal_embeddings_are_at_chance():
    same = jnp.ones((8, 4))
    np.testing.assert_allclose(losses.nt_xent(same, same), np.log(15), rtol=1e-6)


def test_nt_xent_is_stable_at_a_low_temperature():
    a, b = _views(6, 5)
    # exp(1 / 0.001) overflows float32 by far.
    value, grads = jax.value_and_grad(losses.nt_xent, (0, 1))(a, b, 1e-3)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_a_zero_row_has_a_finite_gradient():
    a, b = _views(4, 3)
    a[1] = 0
    grad = jax.grad(losses.nt_xent)(jnp.asarray(a), jnp.asarray(b))
    assert np.isfinite(grad).all()


def test_alignment_of_equal_and_opposite_pairs():
    a, _ = _views(4, 3)
    np.testing.assert_allclose(losses.alignment(a, 2 * a), 0, atol=1e-6)
    np.testing.assert_allclose(losses.alignment(a, -a), 4, rtol=1e-6)


def test_uniformity_is_its_definition():
    z, _ = _views(7, 4)
    z64 = z / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    distances = ((z64[:, None] - z64[None]) ** 2).sum(-1)
    off_diagonal = distances[~np.eye(7, dtype=bool)]
    expected = np.log(np.exp(-2 * off_diagonal).mean())
    np.testing.assert_allclose(losses.uniformity(z), expected, rtol=1e-5)
