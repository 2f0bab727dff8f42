"""The recorded regressor file and the module that made it, see golden/."""

import importlib.util
import pathlib
from types import ModuleType

_GOLDEN = pathlib.Path(__file__).parent / "golden"
FILE = _GOLDEN / "regressor_kadid10k.pth"


def recorded() -> ModuleType:
    """Return the module that made the file; `fitted()` is the Ridge in it."""
    spec = importlib.util.spec_from_file_location(
        "make_regressor", _GOLDEN / "make_regressor.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
