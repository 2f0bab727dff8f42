"""The two image codecs among the distortions; each has its own module."""

from arniqa_jax.degradation.jpeg import jpeg
from arniqa_jax.degradation.jpeg2000 import jpeg2000

__all__ = ["jpeg", "jpeg2000"]
