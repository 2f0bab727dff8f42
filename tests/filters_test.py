"""Kernels against MATLAB's definitions, filters against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal

from arniqa_jax import degradation
from arniqa_jax.degradation import correlation, filters

KEY = jax.random.key(0)


def _image(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def _correlate(image, kernel) -> np.ndarray:
    """By SciPy in float64, replicated borders."""
    radius = kernel.shape[0] // 2
    padded = np.pad(image.astype(float), [(radius, radius)] * 2 + [(0, 0)], "edge")
    return np.stack(
        [signal.correlate(padded[..., c], kernel, "valid") for c in range(3)], -1
    )


def _gaussian(sigma: float, radius: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return np.outer(weights, weights) / weights.sum() ** 2


@pytest.mark.parametrize("sigma, radius", [(0.1, 1), (0.5, 1), (1, 2), (2, 4), (5, 10)])
def test_gaussian_blur(sigma, radius):
    image = _image()
    out = filters.gaussian_blur(KEY, image, value=jnp.float32(sigma))
    expected = _correlate(image, _gaussian(sigma, radius))
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_gaussian_wider_than_the_image():
    """The band folds all that leaves a small image onto its borders."""
    plane = _image(12, 9)[..., 0]
    out = filters.gaussian_planes(plane, 20.0, max_radius=40)
    expected = ndimage.gaussian_filter(
        plane.astype(float), 20.0, mode="nearest", radius=40
    )
    np.testing.assert_allclose(out, expected, atol=1e-6)


def _disk(radius: int, steps: int = 400) -> np.ndarray:
    """The disk's share of each pixel, by counting a fine grid of rows exactly in x."""
    edges = np.arange(-filters.LENS_RADIUS, filters.LENS_RADIUS + 2) - 0.5
    rows = (np.arange(steps) + 0.5) / steps
    kernel = []
    for top in edges[:-1]:
        half = np.sqrt(np.maximum(radius**2 - (top + rows) ** 2, 0))[:, None]
        reach = np.clip(edges, -half, half)
        kernel.append(np.diff(reach, axis=1).mean(0))
    kernel = np.array(kernel)
    return kernel / kernel.sum()


@pytest.mark.parametrize("radius", [1, 2, 4, 6, 8])
def test_disk_kernel(radius):
    kernel = np.asarray(filters.disk_kernel(jnp.int32(radius)))
    np.testing.assert_allclose(kernel, _disk(radius), atol=2e-5)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    assert kernel.min() >= 0


@pytest.mark.parametrize("radius", [1, 4, 8])
def test_lens_blur(radius):
    image = _image()
    out = filters.lens_blur(KEY, image, value=jnp.int32(radius))
    np.testing.assert_allclose(out, _correlate(image, _disk(radius)), atol=2e-5)


def _matlab_motion(length: float, angle: float) -> np.ndarray:
    """MATLAB's algorithm, quadrant by quadrant, from its documentation."""
    eps = np.finfo(float).eps
    half = (max(1, length) - 1) / 2
    phi = angle % 180 / 180 * np.pi
    cosine, sine = np.cos(phi), np.sin(phi)
    sign = int(np.sign(cosine))
    columns = int(np.trunc(half * cosine + sign - length * eps))
    rows = int(np.trunc(half * sine + 1 - length * eps))
    x, y = np.meshgrid(np.arange(0, columns + sign, sign), np.arange(rows + 1))
    distance = y * cosine - x * sine
    last = (np.hypot(x, y) >= half) & (np.abs(distance) <= 1)
    beyond = half - np.abs((x[last] + distance[last] * sine) / cosine)
    distance[last] = np.hypot(distance[last], beyond)
    weights = np.maximum(1 + eps - np.abs(distance), 0)
    kernel = np.zeros((2 * weights.shape[0] - 1, 2 * weights.shape[1] - 1))
    kernel[: weights.shape[0], : weights.shape[1]] = weights[::-1, ::-1]
    kernel[weights.shape[0] - 1 :, weights.shape[1] - 1 :] = weights
    kernel /= kernel.sum()
    kernel = np.pad(kernel, [((11 - n) // 2, (11 - n) // 2) for n in kernel.shape])
    return kernel[::-1] if cosine > 0 else kernel


@pytest.mark.parametrize("length", [1, 2, 4, 6, 10])
def test_motion_kernel(length):
    for angle in range(0, 181, 3):
        kernel = filters.motion_kernel(jnp.int32(length), jnp.int32(angle))
        np.testing.assert_allclose(kernel, _matlab_motion(length, angle), atol=2e-6)


def test_motion_blur_draws_an_angle_for_each_image():
    images = jnp.broadcast_to(_image(24, 24), (4, 24, 24, 3))
    out = degradation.distort(jax.random.key(1), images, name="motion_blur", level=5)
    for first in range(4):
        for second in range(first):
            assert np.abs(out[first] - out[second]).max() > 0.01
    angle = 37
    fixed = degradation.distort(KEY, images, name="motion_blur", level=5, angle=angle)
    np.testing.assert_array_equal(fixed[0], fixed[3])
    expected = _correlate(_image(24, 24), _matlab_motion(10, angle))
    np.testing.assert_allclose(fixed[0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 40, 56, 3), (1, 30, 230, 3), (12, 9, 3)])
def test_forms_of_correlation_agree(shape):
    """A CPU runs shifted sums, an accelerator matrix products in blocks of columns."""
    images = jax.random.uniform(KEY, shape)
    kernel = jax.random.uniform(KEY, (17, 17)) / 17**2
    kernel = kernel.at[:3].set(0).at[-3:].set(0)
    for mirrored in (False, True):
        if mirrored:
            kernel += kernel[::-1]
        form = correlation.of_mirrored if mirrored else correlation.by_rows
        sums = form(images, kernel, 5)
        products = correlation.by_products(images, kernel, 5, mirrored)
        np.testing.assert_allclose(products, sums, atol=1e-6)
        flat = images.reshape(-1, *shape[-3:])[0]
        first = np.asarray(sums).reshape(-1, *shape[-3:])[0]
        np.testing.assert_allclose(first, _correlate(flat, kernel), atol=1e-6)


def test_forms_of_products_agree():
    planes = jax.random.uniform(KEY, (3, 80, 150))
    rows, columns = (
        filters.gaussian_band(size, 3.0, max_radius=10) for size in planes.shape[-2:]
    )
    whole = filters._filter_whole(planes, rows, columns)
    blocks = filters._filter_by_blocks(planes, rows, columns, reach=10)
    np.testing.assert_allclose(blocks, whole, atol=1e-6)


@pytest.mark.parametrize("name, level", [("lens_blur", 2), ("motion_blur", 4)])
def test_gradient_of_a_correlation(name, level):
    """The loop of the gradient runs over all rows; it must be the same filter."""
    images = jax.random.uniform(KEY, (2, 20, 24, 3))
    weights = jax.random.uniform(jax.random.key(1), images.shape)

    def total(images):
        out = degradation.CATALOGUE[name](KEY, images, level - 1)
        return jnp.sum(weights * out)

    # The filter is linear, so its value is the product with its gradient.
    gradient = jax.grad(total)(images)
    np.testing.assert_allclose(jnp.sum(gradient * images), total(images), rtol=1e-5)


def test_high_sharpen_leaves_a_flat_image_alone():
    image = jnp.full((20, 20, 3), jnp.array([0.2, 0.5, 0.7]))
    out = filters.high_sharpen(KEY, image, value=jnp.int32(12))
    np.testing.assert_allclose(out, image, atol=1e-5)


def test_color_diffusion_keeps_gray_gray():
    gray = np.broadcast_to(_image()[..., :1], (40, 56, 3))
    out = np.asarray(
        filters.color_diffusion(KEY, jnp.asarray(gray), value=jnp.int32(6))
    )
    np.testing.assert_allclose(out, gray, atol=2.5 / 255)
