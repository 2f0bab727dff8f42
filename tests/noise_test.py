"""Random distortions against statistics of the official code, and streams of bits."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from skimage import data

from arniqa_jax import degradation
from arniqa_jax.degradation import noise, randomness

GOLDEN = json.loads(
    (pathlib.Path(__file__).parent / "golden" / "distortions.json").read_text()
)
DRAWS = 64


def _correlation(a, b) -> float:
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def _fields(out, image) -> list[float]:
    """Statistics of a residual, in the order of the golden fields after psnr, ssim."""
    residual = out - image
    # The share of pixels changed at all, and by at least 1/255.
    largest = np.abs(residual).max(-1)
    fields = [np.mean(largest > threshold) for threshold in (1e-6, 0.999 / 255)]
    fields += [*residual.mean((0, 1)), *residual.var((0, 1))]
    fields += [
        np.mean(
            [_correlation(r[:, 1:], r[:, :-1]) for r in np.moveaxis(residual, -1, 0)]
        ),
        np.mean([_correlation(r[1:], r[:-1]) for r in np.moveaxis(residual, -1, 0)]),
    ]
    red, green, blue = np.moveaxis(residual, -1, 0)
    pairs = ((red, green), (red, blue), (green, blue))
    return fields + [_correlation(*pair) for pair in pairs]


@pytest.mark.parametrize("key", GOLDEN["levels"])
def test_statistics(key):
    name, level = key.split("/")
    image = data.astronaut()[:224, 100:324].astype(np.float32) / 255
    images = jnp.broadcast_to(image, (DRAWS, *image.shape))
    out = degradation.distort(jax.random.key(1), images, name=name, level=int(level))
    found = np.array([_fields(sample, image) for sample in np.asarray(out)])
    golden = GOLDEN["levels"][key]
    # Both sides are means of 64 draws. The golden values have six digits.
    deviation = np.hypot(found.std(0), golden["std"][2:])
    error = np.maximum(deviation / np.sqrt(DRAWS), 1e-6)
    score = (found.mean(0) - golden["mean"][2:]) / error
    fields = GOLDEN["fields"][2:]
    assert np.abs(score).max() < 5, dict(zip(fields, score.round(1), strict=True))


def test_impulse_noise_counts():
    """Half of the draws salt, then half pepper, which wins where both meet."""
    image = jnp.full((64, 64, 3), 0.5)
    size = image.size
    out = noise.impulse_noise(jax.random.key(0), image, value=jnp.float32(0.03))
    draws = int(0.03 * size)
    pepper, salt = int((out == 0).sum()), int((out == 1).sum())
    assert pepper + salt == int((out != 0.5).sum())
    # With replacement, so fewer places than draws.
    assert 0.95 * (draws - draws // 2) < pepper <= draws - draws // 2
    assert 0.93 * (draws // 2) < salt <= draws // 2


@pytest.mark.parametrize("count", [0, 1, 230])
def test_impulses_by_product_equal_the_scatter(count):
    image = jax.random.uniform(jax.random.key(1), (48, 80, 3))
    draw = jnp.arange(230)
    # Few places, so that salt and pepper meet.
    position = jax.random.randint(jax.random.key(2), draw.shape, 0, 200)
    position = position.at[-1].set(image.size - 1)
    salt, pepper = draw < count // 2, (draw >= count // 2) & (draw < count)
    arguments = image, position, salt, pepper
    found = noise._set_by_product(*arguments)
    np.testing.assert_array_equal(found, noise._set_by_scatter(*arguments))


def test_normals_by_index():
    key, shape = jax.random.key(7), (5, 9)
    counter = jnp.arange(45, dtype=jnp.uint32)[::-1]
    found = randomness.normal_at(randomness.seeds(key), counter)
    expected = randomness.normal(key, shape).reshape(-1)[::-1]
    np.testing.assert_array_equal(found, expected)


def test_bits_are_uniform_and_independent():
    words = np.asarray(randomness.bits(jax.random.key(5), (1 << 16,)))
    for shift in (0, 8, 16, 24):
        counts = np.bincount(words >> shift & 255, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    pairs = (words[:-1] >> 28) * 16 + (words[1:] >> 28)
    assert stats.chisquare(np.bincount(pairs, minlength=256)).pvalue > 1e-6
    # Another key gives another stream, whose bits are independent of the first one's.
    other = np.asarray(randomness.bits(jax.random.key(6), (1 << 16,)))
    together = np.bincount((words >> 28) * 16 + (other >> 28), minlength=256)
    assert stats.chisquare(together).pvalue > 1e-6


def test_normal_is_normal():
    z = np.asarray(randomness.normal(jax.random.key(2), (100_000,)))
    assert stats.kstest(z, "norm").pvalue > 1e-6
    assert 4 < np.abs(z).max() < 5.5


def test_uniform_leaves_out_its_ends():
    words = jnp.array([0, 2**32 - 1], jnp.uint32)
    ends = (words >> 9).astype(jnp.float32) * 2**-23 + 2**-24
    assert ends.min() > 0 and ends.max() < 1
    u = randomness.uniform(jax.random.key(0), (100_000,))
    assert stats.kstest(np.asarray(u), "uniform").pvalue > 1e-6
