"""A regressor file made as the authors of ARNIQA made theirs; see golden/."""

import importlib.util
import pathlib

import numpy as np
import pytest

from arniqa_jax.weights import torch_files

GOLDEN = pathlib.Path(__file__).parent / "golden"
FILE = GOLDEN / "regressor_kadid10k.pth"


@pytest.fixture(scope="module")
def recorded():
    """The module that made the file."""
    path = GOLDEN / "make_regressor.py"
    spec = importlib.util.spec_from_file_location("make_regressor", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_intercept_may_have_the_shape_of_a_number(recorded):
    """The authors' files are Ridges, whose intercept has the shape ()."""
    weights_D, intercept = torch_files.read_regressor(FILE)
    ridge = recorded.fitted()
    np.testing.assert_allclose(weights_D, ridge.coef_, rtol=1e-6)
    assert intercept == pytest.approx(ridge.intercept_, rel=1e-6)
