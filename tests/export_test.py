"""The exported program, run in a process that does not import this package."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import small_model
from PIL import Image

import arniqa_jax
from arniqa_jax import errors, export
from arniqa_jax.inference import preprocessing

LOADER = """
import sys
import jax, numpy as np
program = jax.export.deserialize(open(sys.argv[1], "rb").read())
assert program.platforms == ("cpu", "cuda", "tpu")
for count in (1, 3):
    scores = program.call(np.load(sys.argv[2])[:count])
    print(*(float(score) for score in scores))
assert not any(name.startswith(("arniqa", "flax")) for name in sys.modules)
"""


def test_equals_the_scorer(tmp_path):
    model = arniqa_jax.load(small_model.write(tmp_path / "model", "live"))
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    crops = np.stack([preprocessing.evaluation_crops(image, 32) for image in images])
    np.save(tmp_path / "crops.npy", crops)
    (tmp_path / "scorer").write_bytes(export.export(model))
    files = [tmp_path / "scorer", tmp_path / "crops.npy"]
    lines = subprocess.run(
        [sys.executable, "-c", "import jax.export\n" + LOADER, *files],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout.splitlines()
    expected = model.score(images)
    for line, count in zip(lines, (1, 3), strict=True):
        found = [float(score) for score in line.split()]
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)


def test_the_loader_of_the_documentation(tmp_path):
    model = arniqa_jax.load(small_model.write(tmp_path / "model", "live"))
    (tmp_path / "scorer.stablehlo").write_bytes(export.export(model))
    # Narrower than a crop at half its size, and of odd sides.
    pixels = np.random.default_rng(0).integers(0, 256, (71, 45, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    page = pathlib.Path(__file__).parents[1] / "docs" / "weights.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (loader,) = (block for block in blocks if "jax.export" in block)
    printed = subprocess.run(
        [sys.executable, "-c", loader],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    (expected,) = model.score([tmp_path / "photo.jpg"])
    assert float(printed.strip("[]\n")) == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_exported(tmp_path):
    whole = small_model.write(tmp_path / "whole", "live", crops="whole")
    with pytest.raises(errors.UsageError, match="crops=five"):
        export.export(arniqa_jax.load(whole))
    with pytest.raises(errors.UsageError, match="no regressor"):
        export.export(arniqa_jax.load(small_model.write(tmp_path / "none")))
