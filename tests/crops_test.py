"""Crops have the positions that the method defines, and zeros outside the image."""

import numpy as np
import pytest
from PIL import Image

from arniqa_jax.data import crops
from arniqa_jax.inference import preprocessing


def _image(height, width):
    """Return an image whose pixels encode their row and column; none is zero."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows + 1, columns + 1, np.full_like(rows, 200)], axis=-1).astype(
        np.uint8
    )


def _corner(crop):
    """Row and column in the image of a crop's first pixel that is inside it."""
    inside = np.argwhere(crop[..., 2])
    row, column = inside[0]
    red, green = crop[row, column, :2].astype(int)
    return red - 1 - row, green - 1 - column


def test_five_crops_in_the_official_order():
    image = _image(100, 61)
    offsets = [_corner(crop) for crop in preprocessing.five_crops(image, 32)]
    assert offsets == [(34, 14), (0, 0), (68, 0), (0, 29), (68, 29)]


def test_five_crops_of_a_smaller_image_have_negative_offsets_and_zeros():
    image = _image(20, 41)
    result = preprocessing.five_crops(image, 32)
    offsets = [_corner(crop) for crop in result]
    assert offsets == [(-6, 4), (0, 0), (-12, 0), (0, 9), (-12, 9)]
    for crop, (top, _) in zip(result, offsets, strict=True):
        inside = np.zeros(32, bool)
        inside[-top : 20 - top] = True
        np.testing.assert_array_equal(crop.any(axis=(1, 2)), inside)


def test_random_crop_reaches_every_offset_and_no_other():
    image = _image(34, 36)
    rng = np.random.default_rng(0)
    offsets = {_corner(crops.random_crop(rng, image, 32)) for _ in range(400)}
    assert offsets == {(row, column) for row in range(3) for column in range(5)}


def test_random_crop_of_a_smaller_image_has_zeros_at_bottom_and_right():
    image = _image(20, 30)
    crop = crops.random_crop(np.random.default_rng(0), image, 32)
    np.testing.assert_array_equal(crop[:20, :30], image)
    assert not crop[20:].any() and not crop[:, 30:].any()


def test_random_crop_draws_as_often_whatever_the_size_of_the_image():
    generators = [np.random.default_rng(5), np.random.default_rng(5)]
    crops.random_crop(generators[0], _image(8, 8), 32)
    crops.random_crop(generators[1], _image(8, 8), 8)
    assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize(
    ("shape", "half"),
    [((33, 20), (16, 10)), ((1, 1), (1, 1)), ((1, 9), (1, 4)), ((2, 3), (1, 1))],
)
def test_half_scale_floors_each_side_and_keeps_a_pixel(shape, half):
    assert crops.half_scale(_image(*shape)).shape == (*half, 3)


def test_half_scale_is_pillows_antialiased_bicubic():
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((26, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(crops.half_scale(image), np.asarray(expected))
    # Without antialiasing, noise of this contrast would keep its spread.
    assert crops.half_scale(image).std() < 0.7 * image.std()


def test_evaluation_crops_are_full_scale_then_half_scale():
    image = np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    result = preprocessing.evaluation_crops(image, 24)
    assert result.shape == (5, 2, 24, 24, 3) and result.dtype == np.uint8
    np.testing.assert_array_equal(result[:, 0], preprocessing.five_crops(image, 24))
    half = crops.half_scale(image)
    np.testing.assert_array_equal(result[:, 1], preprocessing.five_crops(half, 24))
