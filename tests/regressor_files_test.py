"""A regressor file made as the authors of ARNIQA made theirs; see golden/."""

import numpy as np
import pytest
import regressor_files

from arniqa_jax.weights import torch_files


def test_the_intercept_may_have_the_shape_of_a_number():
    """The authors' files are Ridges, whose intercept has the shape ()."""
    weights_D, intercept = torch_files.read_regressor(regressor_files.FILE)
    ridge = regressor_files.recorded().fitted()
    np.testing.assert_allclose(weights_D, ridge.coef_, rtol=1e-6)
    assert intercept == pytest.approx(ridge.intercept_, rel=1e-6)
