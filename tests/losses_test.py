"""NT-Xent and the measures of an embedding, against float64 recomputation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

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


@pytest.mark.parametrize("over_devices", [False, True])
def test_without_the_other_scale_among_the_negatives(over_devices):
    """Rows 2i and 2i + 1 of a view are the scales of pair i."""
    a, b = _views(32, 5)
    pair, scale = np.divmod(np.arange(64) % 32, 2)
    excluded = (pair[:, None] == pair) & (scale[:, None] != scale)
    excluded |= np.eye(64, dtype=bool)

    def plain(a, b):
        z = jnp.concatenate([losses.l2_normalize(a), losses.l2_normalize(b)])
        logits = jnp.where(excluded, -jnp.inf, jnp.matmul(z, z.T, precision="highest"))
        positives = jnp.sum(z[:32] * z[32:], axis=-1)
        return jax.nn.logsumexp(logits, axis=-1).mean() - positives.mean()

    def found(a, b):
        if over_devices:
            return _over_devices(a, b, 1.0, scale_negatives=False)
        return losses.contrast(a, b, 1.0, scale_negatives=False).loss

    expected = jax.value_and_grad(plain, (0, 1))(a, b)
    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(found, (0, 1))(a, b)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


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
    alike, opposite = (losses.contrast(a, b).alignment for b in (2 * a, -a))
    np.testing.assert_allclose(alike, 0, atol=1e-6)
    np.testing.assert_allclose(opposite, 4, rtol=1e-6)


def test_uniformity_is_its_definition():
    a, b = _views(7, 4)
    z = np.concatenate([a, b]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    distances = ((z[:, None] - z[None]) ** 2).sum(-1)
    off_diagonal = distances[~np.eye(14, dtype=bool)]
    expected = np.log(np.exp(-2 * off_diagonal).mean())
    np.testing.assert_allclose(losses.contrast(a, b).uniformity, expected, rtol=1e-5)


def _plain(a, b, temperature):
    """NT-Xent with all similarities at once, for JAX to differentiate."""
    a, b = losses.l2_normalize(a), losses.l2_normalize(b)
    z = jnp.concatenate([a, b])
    logits = jnp.matmul(z, z.T, precision="highest") / temperature
    logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, logits)
    positives = jnp.sum(a * b, axis=-1) / temperature
    return jax.nn.logsumexp(logits, axis=-1).mean() - positives.mean()


def _over_devices(a, b, temperature, **options):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(
        functools.partial(
            losses.contrast, temperature=temperature, axis="data", **options
        ),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
    )(a, b).loss


@pytest.mark.parametrize("rows", [64, 512])
@pytest.mark.parametrize("form", [losses.nt_xent, _over_devices])
def test_loss_and_gradients_by_blocks_are_those_of_the_plain_form(
    monkeypatch, form, rows
):
    a, b = _views(rows // 2, 16)
    value_and_grad = functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    expected, expected_grads = jax.jit(value_and_grad(_plain))(a, b, 0.1)
    # Blocks of seven rows, the last one shorter.
    monkeypatch.setattr(losses, "BLOCK_BYTES", 4 * rows * 7)
    loss, grads = jax.jit(value_and_grad(form))(a, b, 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, wanted, atol=1e-5 * np.abs(wanted).max())


def test_no_device_holds_all_similarities(monkeypatch):
    rows = 1024
    monkeypatch.setattr(losses, "BLOCK_BYTES", 4 * rows * 16)
    views = [jax.ShapeDtypeStruct((rows // 2, 16), jnp.float32)] * 2
    bytes_of = {}
    for form in (_plain, losses.nt_xent, _over_devices):
        grad = jax.jit(lambda a, b, form=form: jax.grad(form, (0, 1))(a, b, 0.1))
        memory = grad.lower(*views).compile().memory_analysis()
        bytes_of[form] = memory.temp_size_in_bytes
    assert bytes_of[_plain] > 4 * rows**2
    assert bytes_of[losses.nt_xent] < rows**2
    assert bytes_of[_over_devices] < rows**2
