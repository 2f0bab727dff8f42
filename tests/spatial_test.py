"""Spatial distortions: pixel positions, and differences from the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from arniqa_jax import degradation
from arniqa_jax.degradation import jitter, randomness, spatial

KEY = jax.random.key(0)


def _coordinates(height: int, width: int) -> np.ndarray:
    """An image whose first two channels say where a pixel comes from."""
    rows, columns = np.meshgrid(
        np.arange(height, dtype=np.float32) / height,
        np.arange(width, dtype=np.float32) / width,
        indexing="ij",
    )
    return np.stack([rows, columns, np.zeros_like(rows)], -1)


@pytest.mark.parametrize("size", [6, 10, 64, 97, 224, 511])
@pytest.mark.parametrize("s", [0.01, 0.05, 0.1, 0.2, 0.5])
def test_pixelate_indices(size, s):
    small = int(size * (0.95 - s**0.6))
    up = np.floor(np.arange(size, dtype=np.float32) * np.float32(small / size))
    down = np.floor(np.arange(small, dtype=np.float32) * np.float32(size / small))
    source = down.astype(int)[up.astype(int)]
    image = np.random.default_rng(0).random((size, 64, 3), np.float32)
    out = spatial.pixelate(KEY, jnp.asarray(image), value=jnp.float32(s))
    columns = spatial.pixelate(KEY, image.swapaxes(0, 1), value=jnp.float32(s))
    np.testing.assert_array_equal(np.asarray(out)[:, 0], image[source, 0])
    np.testing.assert_array_equal(out, np.asarray(columns).swapaxes(0, 1))


def test_pixelate_factor_in_float32():
    """The size is computed in float32 on the device; no usual image notices."""
    for s in (0.01, 0.05, 0.1, 0.2, 0.5):
        sizes = np.arange(1, 3231)
        exact = np.floor(sizes * (0.95 - s**0.6))
        factor = np.float32(0.95) - np.float32(s) ** np.float32(0.6)
        np.testing.assert_array_equal(
            np.floor(sizes.astype(np.float32) * factor), exact
        )


def test_patches_are_clean_copies():
    """Every copied pixel keeps one offset over its patch: no smear."""
    size = 64
    image = _coordinates(size, size)
    out = spatial.non_eccentricity_patch(KEY, jnp.asarray(image), value=jnp.int32(1))
    moved = np.argwhere(np.abs(out - image).max(-1) > 1e-6)
    assert len(moved) > 0
    offsets = np.asarray(out)[tuple(moved.T)][:, :2] * size - moved
    assert len(np.unique(offsets.round(), axis=0)) == 1
    assert np.abs(offsets).max() < spatial.PATCH_SIZE / 2 + 0.5
    assert np.ptp(moved, axis=0).max() < spatial.PATCH_SIZE


def test_patches_stay_inside_and_count():
    size = 96
    image = _coordinates(size, size)
    shares = []
    for patches in (1, 20, 100):
        out = spatial.non_eccentricity_patch(
            KEY, jnp.asarray(image), value=jnp.int32(patches)
        )
        changed = np.abs(out - image).max(-1) > 1e-6
        # 8 pixels at the upper and left border, and at the others, are out of reach.
        assert not changed[:8].any() and not changed[:, :8].any()
        assert not changed[-8:].any() and not changed[:, -8:].any()
        shares.append(changed.mean())
    assert shares[0] < shares[1] < shares[2]


def test_color_blocks():
    image = jnp.full((64, 80, 3), 0.5)
    out = np.asarray(spatial.color_block(KEY, image, value=jnp.int32(1)))
    covered = np.argwhere((out != 0.5).any(-1))
    assert len(covered) == spatial.BLOCK_SIZE**2
    assert (np.ptp(covered, axis=0) == spatial.BLOCK_SIZE - 1).all()
    assert len(np.unique(out[tuple(covered.T)], axis=0)) == 1


def test_jitter_does_not_drift():
    """A pixel's mean source is the pixel itself, up to the noise."""
    size = 128
    image = jnp.asarray(_coordinates(size, size))
    for s in (0.2, 1.0):
        out = np.asarray(jitter.jitter(KEY, image, value=jnp.float32(s)))
        offset = ((out - image) * size)[16:-16, 16:-16, :2]
        # Five offsets of deviation s, smoothed by the interpolation.
        count = offset[..., 0].size
        assert np.abs(offset.mean((0, 1))).max() < 5 * s * np.sqrt(5 / count)
        assert 0.5 * s < offset.std() < np.sqrt(5) * s


def test_bilinear_reads_between_pixels_and_clamps():
    image = jnp.asarray(_coordinates(8, 8))
    y = jnp.full((8, 8), 2.25).at[0, 0].set(-3)
    x = jnp.full((8, 8), 5.5).at[0, 0].set(100)
    out = jitter._bilinear(image, y, x)
    np.testing.assert_allclose(out[1, 1], [2.25 / 8, 5.5 / 8, 0], atol=1e-7)
    np.testing.assert_allclose(out[0, 0], [0, 7 / 8, 0], atol=1e-7)


# The sizes leave a last block of 28 x 7, 6 x 2, 5 x 1 and 2 x 6 pixels.
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 224, 224), marks=pytest.mark.slow),
        (1, 48, 80),
        (3, 61, 97),
        (1, 26, 54),
    ],
)
@pytest.mark.parametrize("value", [0.05, 0.1, 0.2, 0.5, 1.0])
def test_jitter_by_blocks_equals_the_gather(shape, value):
    """Up to the rounding of the gather's positions, 1e-5 of a pixel in five rounds."""
    images = jax.random.uniform(KEY, (*shape, 3))
    keys = jax.vmap(lambda key: jax.random.split(key, jitter.ROUNDS))(
        jax.random.split(KEY, shape[0])
    )
    arguments = keys, images, jnp.float32(value)
    found = jax.jit(jitter._by_blocks)(*arguments)
    expected = jax.jit(jitter._by_gather)(*arguments)
    np.testing.assert_allclose(found, expected, atol=6e-5)


def test_jitter_windows_cover_the_levels_and_no_more():
    levels = degradation.CATALOGUE["jitter"].levels
    assert max(levels) <= jitter.MAX_VALUE
    reach = [w for w in jitter.WINDOWS if 5.4 * max(levels) <= w]
    assert reach == [jitter.WINDOWS[-1]]
    image = jnp.asarray(_coordinates(48, 48))
    assert np.isnan(jitter.jitter(KEY, image, value=jnp.float32(1.2))).all()


@pytest.mark.parametrize("shape", [(2, 224, 224), (1, 48, 80), (1, 61, 197)])
@pytest.mark.parametrize("value", [1, 20, 100])
def test_patches_in_one_kernel_equal_the_loop(shape, value):
    images = jax.random.uniform(KEY, (*shape, 3))
    arguments = jax.random.split(KEY, shape[0]), images, jnp.int32(value)
    with pltpu.force_tpu_interpret_mode():
        found = jax.jit(spatial._patches_in_one_kernel)(*arguments)
    expected = jax.jit(spatial._patches_in_loop)(*arguments)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [0, 2, 10])
def test_color_blocks_by_selection_equal_the_loop(value):
    image = jax.random.uniform(KEY, (48, 80, 3))
    arguments = KEY, image, jnp.int32(value)
    found = spatial._blocks_by_selection(*arguments)
    np.testing.assert_array_equal(found, spatial._blocks_in_loop(*arguments))


def test_tpu_forms_cover_the_levels():
    catalogue = degradation.CATALOGUE
    assert max(catalogue["color_block"].levels) <= spatial.MAX_BLOCKS
    assert max(catalogue["non_eccentricity_patch"].levels) <= spatial.MAX_PATCHES


def test_color_shift_does_not_wrap():
    """A bright bar at the lower and right border must not enter at the other side."""
    image = np.zeros((64, 64, 3), np.float32)
    image[-6:] = 1
    image[:, -6:] = 1
    images = jnp.broadcast_to(image, (16, 64, 64, 3))
    out = np.asarray(spatial.color_shift(KEY, images, value=jnp.int32(12)))
    assert (out[:, :40, :40] == 0).all()
    np.testing.assert_array_equal(out[..., ::2], images[..., ::2])
    assert (np.abs(out[..., 1] - image[..., 1]).max((1, 2)) > 0.1).all()


def test_color_shift_moves_down_and_right():
    image = np.full((64, 64, 3), 0.2, np.float32)
    image[24:40, 24:40] = 0.9
    out = np.asarray(spatial.color_shift(KEY, jnp.asarray(image), value=jnp.int32(6)))
    change = out[..., 1] - image[..., 1]
    rows, columns = np.indices(change.shape)
    gained, lost = change > 0.05, change < -0.05
    assert rows[gained].mean() > rows[lost].mean()
    assert columns[gained].mean() > columns[lost].mean()


def test_color_shift_of_a_flat_image():
    flat = jnp.full((48, 48, 3), 0.3)
    out = spatial.color_shift(KEY, flat, value=jnp.int32(12))
    np.testing.assert_allclose(out, flat, atol=1e-6)


def test_images_get_keys_by_flat_index():
    images = jnp.zeros((2, 3, 4, 4, 3))
    keys = randomness.image_keys(KEY, images)
    assert keys.shape == (2, 3)
    expected = jax.random.fold_in(KEY, 4)
    assert (jax.random.key_data(keys[1, 1]) == jax.random.key_data(expected)).all()
