"""ARNIQA, no-reference image quality assessment, in JAX and Flax.

The package imports nothing heavy by itself, so that `--help` answers at once; import
the module that is needed, for example `from arniqa_jax import degradation`.
"""

from arniqa_jax.version import __version__

__all__ = ["__version__"]
