"""The weights that the authors of ARNIQA publish, downloaded once and converted.

They are release files of the official repository. Their licence is in
`torch_names.OFFICIAL`.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage import cache, locks
from arniqa_jax.weights import download, model_directory, torch_import
from arniqa_jax.weights.download import Pin

ENCODER = "ARNIQA.pth"
ADDRESS = "https://github.com/miccunifi/ARNIQA/releases/download/weights"
# Environment variable with another address, or with a folder that contains the files.
MIRROR = "ARNIQA_JAX_WEIGHTS"
# Size and SHA-256 of release files, as two independent public projects pin them. The
# other regressors are pinned by their first download.
PINS = {
    ENCODER: Pin(
        112_155_914, "ad2022e59b1040d5bab24f9325c10d0215956a2061248a36c15edaec3e60fcd1"
    ),
    "regressor_kadid10k.pth": Pin(
        19_778, "4315bf471d52eb7d3e5de1e2ac8bb465f8eec10cd724103c72a178b9aaa4aa3f"
    ),
    "regressor_koniq10k.pth": Pin(
        19_560, "af8f127aca38a8e1082e066b5ee93e533bf5f33aaf9c76b3c31526ef901919e1"
    ),
    "regressor_spaq.pth": Pin(
        19_678, "dbee93f9a8deb3c8357af0b7d4598c153b4a10075be34f9b69daa1aa04e778e3"
    ),
}


def fetch(name: str) -> pathlib.Path:
    """Return the model directory with the official encoder and the regressor `name`.

    Args:
      name: a key of `torch_import.OFFICIAL_REGRESSORS`.

    Raises:
      ArniqaError: the files cannot be downloaded; the message says which files to
        download by hand and where to put them.
      CheckpointError: the files differ from the published ones.
    """
    home = directory()
    model, files = home / "model", home / "files"
    if _is_complete(model, name):
        return model
    with _lock(home):
        if not model_directory.is_model_directory(model):
            encoder, source = torch_import.read_file(_file(files, ENCODER))
            # A process that was killed may have left a part of it.
            shutil.rmtree(model, ignore_errors=True)
            model_directory.write(model, encoder, source)
        if not _is_complete(model, name):
            encoder = model_directory.read_encoder(model)
            path = _file(files, f"regressor_{name}.pth")
            regressor = torch_import.read_regressor(path, name, encoder)
            model_directory.write_regressor(model, regressor, name)
    return model


def directory() -> pathlib.Path:
    """Return the directory of the official weights; it may not exist yet."""
    return cache.directory() / "official"


def cache_state(name: str) -> str:
    """Return the state of a regressor: `converted`, `downloaded` or `nothing`.

    A converted regressor is ready for use. The first use converts a downloaded one.
    """
    if _is_complete(directory() / "model", name):
        return "converted"
    file = directory() / "files" / f"regressor_{name}.pth"
    return "downloaded" if file.is_file() else "nothing"


def _is_complete(model: pathlib.Path, name: str) -> bool:
    return (model / "regressors" / f"{name}.json").is_file()


def _file(files: pathlib.Path, name: str) -> pathlib.Path:
    """Return a published file from the user's folder, the cache or the network.

    Args:
      files: folder in the cache where downloads are kept; users may put files there.
      name: name of the file.
    """
    pin = PINS.get(name)
    mirror = os.environ.get(MIRROR) or ADDRESS
    if "://" not in mirror:
        path = pathlib.Path(mirror).expanduser() / name
        if not path.is_file():
            raise errors.ArniqaError(
                f"{path}: there is no such file. {MIRROR} is a folder, which must "
                f"contain {name}; fetch it from {ADDRESS}/{name}"
            )
        download.check(path, pin)
        return path
    address = f"{mirror.rstrip('/')}/{name}"
    try:
        return download.fetch(address, files / name, pin=pin)
    except OSError as error:
        raise errors.ArniqaError(
            f"{address} cannot be downloaded ({error}). Fetch it on any machine, and "
            f"put it at {files / name}, or in a folder that {MIRROR} names"
        ) from error


@contextlib.contextmanager
def _lock(home: pathlib.Path) -> Iterator[None]:
    """Let one process at a time download and convert; the others wait."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "a") as file:
        if not locks.try_lock(file):
            logging.info("waiting for another process that downloads the weights")
            locks.wait_for_lock(file)
        yield
