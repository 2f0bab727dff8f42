"""The model that is part of this package: `starter`, for a first look offline.

Its card, `starter/README.md`, says what it was trained on and how far to trust it.
`benchmarks/starter.py` makes it from a run.
"""

import pathlib

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.weights import model_directory, regressors
from arniqa_jax.weights.model_directory import Source
from arniqa_jax.weights.regressors import Regressor

NAME = "starter"
DIRECTORY = pathlib.Path(__file__).parent / NAME
# Name of the only regressor; `evaluate` gives this name to the built-in proxy.
REGRESSOR = "builtin"


def read() -> tuple[Encoder, dict[str, Regressor]]:
    """Return the encoder, and the regressor by its name.

    Raises:
      CheckpointError: files of the installation are missing or damaged.
    """
    try:
        encoder = model_directory.read_encoder(DIRECTORY)
        found = model_directory.find_regressors(DIRECTORY, encoder)
        return encoder, {REGRESSOR: found[REGRESSOR]}
    except (errors.CheckpointError, KeyError) as error:
        raise _damaged() from error


def describe() -> tuple[Regressor, Source]:
    """Return the regressor, and where the encoder comes from, without the encoder.

    Raises:
      CheckpointError: files of the installation are missing or damaged.
    """
    try:
        regressor = regressors.read(DIRECTORY / "regressors", REGRESSOR)
        return regressor, model_directory.read_source(DIRECTORY)
    except errors.CheckpointError as error:
        raise _damaged() from error


def _damaged() -> errors.CheckpointError:
    return errors.CheckpointError(
        f"{DIRECTORY}, the model {NAME} of this package, is incomplete or damaged: "
        "install arniqa_jax again"
    )
