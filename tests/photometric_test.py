"""Point-wise distortions against their definitions."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate

from arniqa_jax.degradation import photometric

KEY = jax.random.key(0)


def _image() -> np.ndarray:
    """All 8-bit values, and random colours."""
    values = np.arange(256, dtype=np.float32).reshape(16, 16, 1) / 255
    noise = np.random.default_rng(0).random((16, 16, 3), np.float32)
    return np.concatenate([np.repeat(values, 3, -1), noise])


@pytest.mark.parametrize("factor", [0.4, 0.2, 0.0])
def test_color_saturation_1_is_that_of_hsv(factor):
    image = jnp.asarray(_image())
    scale = jnp.array([1, factor, 1]).reshape(1, 1, 3)
    expected = dm_pix.hsv_to_rgb(dm_pix.rgb_to_hsv(image) * scale)
    out = photometric.color_saturation_1(KEY, image, value=factor)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("a", [0, 0.15, -0.4, 0.3, -0.6])
def test_linear_contrast_change_is_the_spline(a):
    spline = interpolate.CubicSpline(
        [0, 0.3, 0.5, 0.7, 1], [0, 0.25 - a / 4, 0.5, 0.75 + a / 4, 1]
    )
    image = _image()
    out = photometric.linear_contrast_change(KEY, image, value=np.float32(a))
    np.testing.assert_allclose(out, spline(image), atol=1e-6)


@pytest.mark.parametrize("bins", [20, 16, 13, 10, 7])
def test_quantization_counts_thresholds(bins):
    eight_bit = np.random.default_rng(0).integers(0, 256, (32, 24, 3))
    thresholds = np.linspace(0, 255, bins + 1)[1:-1].astype(int)
    # Count the thresholds strictly below; the one at 0 gives 0 its own bin.
    count = (eight_bit[..., None] > np.concatenate([[0], thresholds])).sum(-1)
    expected = (count - count.min()) / (count.max() - count.min())
    image = eight_bit.astype(np.float32) / 255
    out = photometric.quantization(KEY, image, value=jnp.int32(bins))
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_quantization_of_a_constant_image():
    for level, expected in ((0.0, 0.0), (0.5, 1.0), (1.0, 1.0)):
        image = jnp.full((2, 8, 8, 3), level).at[1, 0, 0, 0].set(0.25)
        out = photometric.quantization(KEY, image, value=jnp.int32(7))
        # Each image by itself: the second has two values.
        assert (out[0] == expected).all()
        assert set(np.unique(out[1])) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["brighten", "darken"])
def test_brightness_keeps_black_and_white(name):
    function = getattr(photometric, name)
    image = jnp.zeros((8, 8, 3)).at[4:].set(1)
    np.testing.assert_allclose(function(KEY, image, value=0.4), image, atol=1e-5)
    gray = jnp.full((8, 8, 3), 0.5)
    out = function(KEY, gray, value=0.4)
    assert (out > 0.6).all() if name == "brighten" else (out < 0.4).all()


def test_color_saturation_2_keeps_gray():
    gray = jnp.asarray(_image()[:16])
    out = photometric.color_saturation_2(KEY, gray, value=jnp.int32(9))
    np.testing.assert_allclose(out, gray, atol=1.5 / 255)
