"""Colour spaces against scikit-image and their own inverses."""

import jax.numpy as jnp
import numpy as np
from skimage import color as oracle

from arniqa_jax.degradation import color


def _colours() -> np.ndarray:
    """All of a 9x9x9 grid of colours, black and white included."""
    axis = np.linspace(0, 1, 9, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    return grid.reshape(27, 27, 3)


def test_lab_is_lab_with_red_and_blue_swapped():
    images = _colours()
    fx, fy, fz = np.asarray(color.lab_roots(jnp.asarray(images)))
    lab = np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], -1)
    # scikit-image has the matrix of another edition of the standard, and 0.0088564
    # where kornia has 0.008856: equal to two hundredths.
    np.testing.assert_allclose(lab, oracle.rgb2lab(images[..., ::-1]), atol=0.02)


def test_lab_there_and_back():
    images = _colours()
    back = color.rgb_from_lab_roots(color.lab_roots(jnp.asarray(images)))
    np.testing.assert_allclose(back, images, atol=5e-6)


def test_transfer_curves_are_inverse():
    x = jnp.linspace(0, 1, 1000)
    linear = color.linear_from_srgb(x)
    np.testing.assert_allclose(linear[-1], 1, atol=1e-6)
    np.testing.assert_allclose(color.srgb_from_linear(linear), x, atol=1e-6)
    expected = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    np.testing.assert_allclose(linear, expected, atol=5e-7)


def test_ycbcr_difference():
    """By the definition of BT.601, to the three digits that the official code has."""
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(3, 4, 5)).astype(np.float32)
    y, cb, cr = difference
    expected = np.stack(
        [
            y + 1.402 * cr,
            y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587,
            y + 1.772 * cb,
        ],
        -1,
    )
    found = color.rgb_from_ycbcr_difference(jnp.asarray(difference))
    np.testing.assert_allclose(found, expected, atol=5e-3)
