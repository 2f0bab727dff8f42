"""Distort images on the accelerator: 24 distortions, and chains of several distortions.

Images are RGB float32 (..., H, W, 3) in [0, 1] everywhere in this package. The imports
below are lazy, so that importing the package does not load JAX.
"""

import importlib

_MODULES = {
    "CATALOGUE": "catalogue",
    "Distortion": "catalogue",
    "distort": "catalogue",
    "Chains": "chain",
    "apply_chains": "chain",
    "describe": "chain",
    "draw_chains": "chain",
}

__all__ = [
    "CATALOGUE",
    "Chains",
    "Distortion",
    "apply_chains",
    "describe",
    "distort",
    "draw_chains",
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def __dir__():
    return sorted(__all__)
