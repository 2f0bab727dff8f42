"""ARNIQA, no-reference image quality assessment, in JAX and Flax.

Load a model from official weights ("kadid10k"), a model directory or the workdir of a
run, and compute scores, features and a loss:

>>> import arniqa_jax
>>> model = arniqa_jax.load("MODEL")
>>> scores = model.score(["photo.jpg"])  # float32 (N,), higher is better
>>> scores.shape
(1,)
>>> features = model.features(["photo.jpg"])  # (N, 5 crops, 2 x width)
>>> features.shape == (1, 5, 2 * model.encoder.feature_dim)
True
>>> model.quality_map("photo.jpg").ndim  # scores of a sliding window, (rows, columns)
2

`score_fn` is pure and differentiable, for training a model that generates images:

>>> import jax
>>> images = jax.random.uniform(jax.random.key(0), (1, 40, 40, 3))
>>> def loss(images):
...     return -model.score_fn(model.params, images).mean()
>>> jax.grad(loss)(images).shape
(1, 40, 40, 3)

Importing the package loads nothing heavy, so that `--help` answers at once. Import the
module that you need, for example `from arniqa_jax import degradation`.
"""

from arniqa_jax.version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name):
    if name == "load":
        from arniqa_jax.scoring.scorer import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
