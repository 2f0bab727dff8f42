"""The examples in docstrings run, and give the results that they show."""

import doctest
import importlib
import pathlib

import numpy as np
import pytest
import small_model
from PIL import Image

_PACKAGE = pathlib.Path(__file__).parents[1] / "arniqa_jax"


def _modules_with_examples() -> list[str]:
    found = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__init__"))
    return found


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples(name, tmp_path, monkeypatch):
    # The examples use the files MODEL and photo.jpg.
    small_model.write(tmp_path / "MODEL", "live")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_the_public_functions_have_examples():
    assert {
        "arniqa_jax",
        "arniqa_jax.degradation.catalogue",
        "arniqa_jax.evaluation.ridge",
        "arniqa_jax.model.losses",
    } <= set(_modules_with_examples())
