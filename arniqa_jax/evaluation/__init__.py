"""From features to SRCC tables: ridge regression, protocol and reports.

`load_benchmarks` is imported when it is first used, so that importing the package does
not load JAX.
"""

import importlib

__all__ = ["load_benchmarks"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.loading"), name)
