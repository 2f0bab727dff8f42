"""The weights that the authors of ARNIQA publish: fetched once, converted, kept.

They are release files of the official repository, CC BY-NC 4.0. No checksums are
published: size and SHA-256 are noted at the first download (`pins.json`) and hold from
then on.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage import cache
from arniqa_jax.weights import download, model_directory, torch_import

ENCODER = "ARNIQA.pth"
# Overridden by the environment variable ARNIQA_JAX_WEIGHTS, for mirrors.
ADDRESS = "https://github.com/miccunifi/ARNIQA/releases/download/weights"


def fetch(name: str) -> pathlib.Path:
    """The model directory with the official encoder and the regressor `name`.

    Args:
      name: a key of `torch_import.OFFICIAL_REGRESSORS`.

    Raises:
      ArniqaError: PyTorch, which reads the files, is missing; or they cannot be had,
        and what to fetch by hand, and where to put it, is said.
      CheckpointError: they are not the files that they have to be.
    """
    home = directory()
    model, files = home / "model", home / "files"
    if _is_complete(model, name):
        return model
    with _lock(home):
        if not model_directory.is_model_directory(model):
            encoder, source = torch_import.read_file(_file(files, ENCODER))
            model_directory.write(model, encoder, source)
        if not _is_complete(model, name):
            encoder = model_directory.read_encoder(model)
            path = _file(files, f"regressor_{name}.pth")
            regressor = torch_import.read_regressor(path, name, encoder)
            model_directory.write_regressor(model, regressor, name)
    return model


def directory() -> pathlib.Path:
    """Return where the official weights are kept; it may not exist yet."""
    return cache.directory() / "official"


def cache_state(name: str) -> str:
    """Return what the cache has of a regressor: `converted`, `downloaded` or `nothing`.

    A converted regressor is ready for use. The file of a downloaded one is there, and
    the first use converts it.
    """
    if _is_complete(directory() / "model", name):
        return "converted"
    file = directory() / "files" / f"regressor_{name}.pth"
    return "downloaded" if file.is_file() else "nothing"


def _is_complete(model: pathlib.Path, name: str) -> bool:
    return (model / "regressors" / f"{name}.json").is_file()


def _file(files: pathlib.Path, name: str) -> pathlib.Path:
    """A downloaded file, or one that was put there by hand."""
    address = f"{os.environ.get('ARNIQA_JAX_WEIGHTS', ADDRESS)}/{name}"
    try:
        return download.fetch(address, files / name)
    except OSError as error:
        raise errors.ArniqaError(
            f"{address} cannot be fetched ({error}): fetch it by hand, from any "
            f"machine, and put it at {files / name}"
        ) from error


@contextlib.contextmanager
def _lock(home: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time fetch and convert; the others wait."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting for another process that fetches the weights")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
