"""The pictures of the distortions, and the errors of the command."""

import subprocess
import sys

import numpy as np
import pytest
from skimage import data

from arniqa_jax import degradation, errors
from arniqa_jax.degradation import contact_sheets


def _image() -> np.ndarray:
    return data.astronaut()[40:96, 180:228].astype(np.float32) / 255


def test_contact_sheet_shows_every_distortion_at_every_level():
    image = _image()
    rows = np.array(contact_sheets.draw_distortions(image).axes).reshape(-1, 6)
    for row, distortion in zip(rows, degradation.CATALOGUE.values(), strict=True):
        name, *values = (axis.get_title() for axis in row)
        assert name.split() == distortion.name.split("_")
        expected = [f"{i}: {v:g}" for i, v in enumerate(distortion.levels, 1)]
        assert values == expected
        shown = [np.asarray(axis.images[0].get_array()) for axis in row]
        np.testing.assert_array_equal(shown[0], image)
        assert np.abs(shown[5] - image).max() > 0.02


@pytest.mark.slow
def test_chains_have_their_recipes():
    image = _image()
    axes = contact_sheets.draw_chains(image, count=4).axes
    recipes = [axis.get_title() for axis in axes]
    assert len(set(recipes)) > 1
    for axis, recipe in zip(axes, recipes, strict=True):
        same = np.array_equal(axis.images[0].get_array(), image)
        assert same == (recipe == "pristine")
        for step in recipe.split("\n"):
            name, _, level = step.partition(" ")
            assert name == "pristine" or name in degradation.CATALOGUE
            assert level in ("", "1", "2", "3", "4", "5")


def test_photograph_of_any_mode_is_cut_to_a_square(tmp_path):
    from PIL import Image

    path = tmp_path / "gray.png"
    Image.fromarray(np.full((50, 90), 128, np.uint8)).save(path)
    image = contact_sheets.load_crop(str(path))
    assert image.shape == (224, 224, 3)
    np.testing.assert_allclose(image, 128 / 255, atol=1e-6)


def test_unreadable_photographs(tmp_path):
    with pytest.raises(errors.ImageError, match=r"nowhere\.png: there is no such file"):
        contact_sheets.load_crop("nowhere.png")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(errors.ImageError, match=r"text\.png cannot be read"):
        contact_sheets.load_crop(str(text))


def test_command_without_a_folder_is_wrong_use():
    command = [sys.executable, "-m", "arniqa_jax.degradation.gallery"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--output=DIR is missing" in done.stderr
    assert done.stderr.count("\n") == 1
