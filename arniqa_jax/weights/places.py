"""Models that lie elsewhere: each is copied to this machine before it is read."""

import os
import pathlib

from arniqa_jax.storage import files
from arniqa_jax.weights import hub


def is_elsewhere(model: str | os.PathLike) -> bool:
    """Return whether a model is named by an address, not by a local path."""
    return hub.is_address(os.fspath(model))


def fetch(model: str | os.PathLike, name: str = "model") -> pathlib.Path:
    """Return the local directory of a model, downloaded if it lies elsewhere.

    Args:
      model: a local path, or an address on the Hugging Face hub, whose regressor is
        ignored.
      name: name of the flag, field or argument, for the error.

    Raises:
      ArniqaError: the model cannot be downloaded.
      UsageError: the path is a URL of another kind.
    """
    if hub.is_address(os.fspath(model)):
        return hub.download(hub.parse(os.fspath(model)))
    return files.local_path(model, name)
