"""ARNIQA, no-reference image quality assessment, in JAX and Flax.

    import arniqa_jax
    model = arniqa_jax.load("kadid10k")     # or a model directory, or a workdir
    model.score(["photo.jpg"])              # float32 (1,), higher is better

The package imports nothing heavy by itself, so that `--help` answers at once; import
the module that is needed, for example `from arniqa_jax import degradation`.
"""

from arniqa_jax.version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name):
    if name == "load":
        from arniqa_jax.scoring.scorer import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
