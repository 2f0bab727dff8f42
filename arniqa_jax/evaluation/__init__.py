"""From features to SRCC tables: ridge regression, protocol and reports.

The imports below are lazy, so that importing the package does not load JAX.
"""

import importlib

_MODULES = {
    "evaluate": "protocol",
    "load_benchmarks": "loading",
    "validate": "protocol",
}

__all__ = ["evaluate", "load_benchmarks", "validate"]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
