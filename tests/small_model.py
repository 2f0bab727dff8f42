"""A model directory with a seeded `tiny` encoder for 32-pixel crops, for the tests."""

import pathlib

import jax
import numpy as np

from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model.simclr import SimCLR
from arniqa_jax.weights import model_directory, torch_names
from arniqa_jax.weights.regressors import Regressor


def write(directory: pathlib.Path, *names: str, crops: str = "five") -> pathlib.Path:
    """Writes a model with a regressor for each name; LIVE's scale, lower is better."""
    module = SimCLR(arch="tiny")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: (
            rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
            * rng.choice([-1, 1], x.shape if len(x.shape) == 4 else ()).astype(
                np.float32
            )
        ),
        torch_names.abstract_variables(module, projector=False),
    )
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    encoder = Encoder(module, variables, "tiny", patch_size=32)
    source = model_directory.Source("seeded", "0" * 64, "arniqa_jax", "none")
    model_directory.write(directory, encoder, source)
    for name in names:
        regressor = Regressor(
            dataset=name,
            alpha=1.0,
            score_range=(1, 100),
            higher_is_better=False,
            crops=crops,
            patch_size=32,
            encoder=encoder.fingerprint,
            images=779,
            weights_D=rng.normal(0, 30, 2 * encoder.feature_dim),
            intercept=50.0,
        )
        model_directory.write_regressor(directory, regressor, name)
    return directory


def proxy_regressor(encoder: Encoder, intercept: float = 0.5) -> Regressor:
    """Returns a regressor of an encoder, as an evaluation on the proxy fits it."""
    return Regressor(
        dataset="proxy",
        alpha=1.0,
        score_range=(0, 1),
        higher_is_better=True,
        crops="five",
        patch_size=encoder.patch_size,
        encoder=encoder.fingerprint,
        images=840,
        weights_D=np.ones(2 * encoder.feature_dim),
        intercept=intercept,
    )
