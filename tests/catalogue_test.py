"""The table of distortions, its conventions, and the outputs of the official code."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from arniqa_jax import degradation, errors

GOLDEN = pathlib.Path(__file__).parent / "golden" / "distortions.npz"

# Group and levels of every distortion: a new row of the catalogue needs one here.
ROWS = {
    "gaussian_blur": ("blur", (0.1, 0.5, 1, 2, 5)),
    "lens_blur": ("blur", (1, 2, 4, 6, 8)),
    "motion_blur": ("blur", (1, 2, 4, 6, 10)),
    "color_diffusion": ("color_distortion", (1, 3, 6, 8, 12)),
    "color_shift": ("color_distortion", (1, 3, 6, 8, 12)),
    "color_saturation_1": ("color_distortion", (0.4, 0.2, 0.1, 0, -0.4)),
    "color_saturation_2": ("color_distortion", (1, 2, 3, 6, 9)),
    "jpeg2000": ("jpeg", (16, 32, 45, 120, 170)),
    "jpeg": ("jpeg", (43, 36, 24, 7, 4)),
    "white_noise": ("noise", (0.001, 0.002, 0.003, 0.005, 0.01)),
    "white_noise_color_component": ("noise", (0.0001, 0.0005, 0.001, 0.002, 0.003)),
    "impulse_noise": ("noise", (0.001, 0.005, 0.01, 0.02, 0.03)),
    "multiplicative_noise": ("noise", (0.001, 0.005, 0.01, 0.02, 0.05)),
    "brighten": ("brightness_change", (0.1, 0.2, 0.4, 0.7, 1.1)),
    "darken": ("brightness_change", (0.05, 0.1, 0.2, 0.4, 0.8)),
    "mean_shift": ("brightness_change", (0, 0.08, -0.08, 0.15, -0.15)),
    "jitter": ("spatial_distortion", (0.05, 0.1, 0.2, 0.5, 1)),
    "non_eccentricity_patch": ("spatial_distortion", (20, 40, 60, 80, 100)),
    "pixelate": ("spatial_distortion", (0.01, 0.05, 0.1, 0.2, 0.5)),
    "quantization": ("spatial_distortion", (20, 16, 13, 10, 7)),
    "color_block": ("spatial_distortion", (2, 4, 6, 8, 10)),
    "high_sharpen": ("sharpness_contrast", (1, 2, 3, 6, 12)),
    "linear_contrast_change": ("sharpness_contrast", (0, 0.15, -0.4, 0.3, -0.6)),
    "non_linear_contrast_change": ("sharpness_contrast", (0.4, 0.3, 0.2, 0.1, 0.05)),
}
# Distortions that are flat almost everywhere, or whose number of steps is dynamic.
WITHOUT_GRADIENT = {
    *("color_diffusion", "color_saturation_2", "jpeg2000", "jpeg", "quantization"),
    *("non_eccentricity_patch", "color_block"),
}
# Outputs of whole 8-bit steps: an ulp moves a value in a thousand by one of them.
FLOORED = {"color_diffusion", "color_saturation_2"}
# The identity at these levels, up to rounding.
IDENTITY = {("gaussian_blur", 1), ("motion_blur", 1), ("mean_shift", 1)}

KEY = jax.random.key(3)


def _photographs() -> np.ndarray:
    """The images of the golden values, uint8 (2, 224, 224, 3)."""
    return np.stack([data.astronaut()[:224, 100:324], data.coffee()[120:344, 180:404]])


def _small() -> np.ndarray:
    """Return a smooth and a noisy image, not square: float32 (2, 56, 48, 3)."""
    photo = data.astronaut()[40:96, 180:228].astype(np.float32) / 255
    noise = np.random.default_rng(0).random(photo.shape, np.float32)
    return np.stack([photo, noise])


def test_catalogue_is_complete_and_in_order():
    found = {
        name: (distortion.group, distortion.levels)
        for name, distortion in degradation.CATALOGUE.items()
    }
    assert list(found.items()) == list(ROWS.items())
    assert all(name == d.name for name, d in degradation.CATALOGUE.items())


@pytest.mark.parametrize("name", ROWS)
def test_conventions(name):
    """Shape, dtype, range, determinism; jit, vmap and batches agree."""
    images = jnp.asarray(_small())
    out = degradation.distort(KEY, images, name=name, level=3)
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert not np.array_equal(out, images)
    np.testing.assert_array_equal(
        out, degradation.distort(KEY, images, name=name, level=3)
    )
    # An image's result does not depend on the images beside it.
    alone = degradation.distort(KEY, images[0], name=name, level=3)
    np.testing.assert_allclose(out[0], alone, atol=1e-6)


def test_leading_axes_are_keyed_by_flat_index():
    images = jnp.full((2, 3, 48, 48, 3), 0.5)
    out = degradation.distort(KEY, images, name="white_noise", level=3)
    flat = degradation.distort(
        KEY, images.reshape(6, 48, 48, 3), name="white_noise", level=3
    )
    np.testing.assert_array_equal(out.reshape(flat.shape), flat)
    residual = np.asarray(flat - 0.5).reshape(6, -1)
    np.testing.assert_allclose(np.corrcoef(residual), np.eye(6), atol=0.05)


@pytest.mark.parametrize("name", ROWS)
def test_under_jit_and_vmap(name):
    images = jnp.asarray(_small())
    keys = jax.random.split(KEY, 2)

    def distort(key, image):
        return degradation.distort(key, image, name=name, level=3)

    mapped = jax.jit(jax.vmap(distort))(keys, images)
    for key, image, out in zip(keys, images, mapped, strict=True):
        np.testing.assert_allclose(distort(key, image), out, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_gradient(name):
    images = jnp.asarray(_small())
    docstring = degradation.CATALOGUE[name].function.__doc__
    if name in WITHOUT_GRADIENT:
        assert "no gradient" in " ".join(docstring.lower().split())
        return
    # With black, white and flat parts, where careless formulas give NaN.
    images = images.at[:, :8].set(0).at[:, 8:16].set(1).at[:, 16:24].set(0.5)

    def total(images):
        return jnp.sum(degradation.distort(KEY, images, name=name, level=2))

    gradient = jax.grad(total)(images)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-3


def _golden_keys(names):
    for name in names:
        for level in range(1, 6):
            if name == "motion_blur":
                for angle in (0, 30, 45, 90, 137, 180):
                    yield f"{name}/{level}/angle{angle}"
            else:
                yield f"{name}/{level}"


def _distort_for(key: str, images) -> np.ndarray:
    name, level, *angle = key.split("/")
    options = {"angle": int(angle[0].removeprefix("angle"))} if angle else {}
    images = images[:1] if angle else images
    return np.asarray(
        degradation.distort(KEY, images, name=name, level=int(level), **options)
    )


def _as_float(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32) / np.iinfo(stored.dtype).max


def test_golden_values():
    """Against outputs of the official code (tests/golden/make_distortions.py)."""
    golden = np.load(GOLDEN)
    names = {key.split("/")[0] for key in golden.files}
    images = jnp.asarray(_photographs().astype(np.float32) / 255)
    near, far = slice(0, 6), slice(-6, None)
    middle = slice(88, 94)
    windows = [(near, near), (near, far), (far, near), (far, far), (middle, middle)]
    for key in _golden_keys(sorted(names)):
        out = _distort_for(key, images)
        found = np.stack([out[:, rows, columns] for rows, columns in windows], 1)
        _check(key, found, _as_float(golden[key]), share=2e-3)


@pytest.mark.shared
def test_reference_outputs(shared_data):
    """Against the whole windows of the official code's outputs."""
    reference = np.load(shared_data / "distortion_reference.npz")
    images = jnp.asarray(reference["images"].astype(np.float32) / 255)
    names = {key.split("/")[0] for key in np.load(GOLDEN).files}
    for key in _golden_keys(sorted(names)):
        out = _distort_for(key, images)
        found = np.stack(
            [out[:, r : r + 48, c : c + 48] for r, c in reference["windows"]], 1
        )
        _check(key, found, _as_float(reference[key]), share=5e-4)


def _check(key: str, found, expected, *, share: float):
    name, level = key.split("/")[:2]
    error = np.abs(found - expected)
    if name in FLOORED:
        assert error.max() < 1.01 / 255, key
        if key != "color_saturation_2/1":  # the identity before the floor: a coin flip
            assert np.mean(error > 0.5 / 255) <= share, key
    else:
        assert error.max() <= (3e-5 if name == "high_sharpen" else 2e-5), key
    if (name, int(level)) in IDENTITY:
        assert error.max() < 1e-6, key


def test_images_are_checked_at_trace_time():
    good = np.full((48, 48, 3), 0.5, np.float32)

    def wrong(images, match, **changes):
        arguments = {"name": "jpeg", "level": 1} | changes
        with pytest.raises(errors.UsageError, match=match):
            degradation.distort(KEY, images, **arguments)
        if isinstance(images, np.ndarray):
            return
        with pytest.raises(errors.UsageError, match=match):
            jax.eval_shape(lambda x: degradation.distort(KEY, x, **arguments), images)

    wrong(jnp.zeros((48, 48)), "shape")
    wrong(jnp.zeros((2, 48, 48, 4)), "shape")
    wrong(jnp.zeros((3, 48, 48)), "shape")
    wrong(jnp.zeros((48, 48, 3), jnp.bfloat16), "float32.*bfloat16")
    wrong(jnp.zeros((48, 48, 3), jnp.float16), "float32.*float16")
    wrong(jnp.zeros((48, 48, 3), jnp.uint8), "float32.*divide")
    wrong(jnp.zeros((31, 64, 3)), "color_block.*32.*31x64", name="color_block")
    wrong(jnp.zeros((64, 47, 3)), "patch.*48.*64x47", name="non_eccentricity_patch")
    wrong(good * 3, r"\[0, 1\].*1.5")
    wrong(good - 1, r"\[0, 1\].*-0.5")
    wrong(good * np.nan, r"\[0, 1\].*nan")
    wrong(good, "'jpgg'.*did you mean 'jpeg'", name="jpgg")
    wrong(good, "1..5, got 0", level=0)
    wrong(good, "1..5, got 6", level=6)
    wrong(good, "1..5, got 2.5", level=2.5)
    wrong(good, "'angle'", angle=3)


def test_import_leaves_jax_alone():
    code = "import sys, arniqa_jax.degradation; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = degradation.nonsense
