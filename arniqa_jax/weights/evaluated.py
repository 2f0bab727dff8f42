"""The encoder of an evaluation, recorded next to the regressors that it fitted.

An evaluation of `--model=RUN` may write to another directory, which then contains
regressors but no encoder. With this record, scoring finds the encoder.
"""

import json
import os
import pathlib

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.weights import places

_FILE = "encoder.json"


def write(directory: pathlib.Path, model: str | os.PathLike, encoder: str) -> None:
    """Record the encoder of an evaluation.

    Args:
      directory: directory of the results, which contains `regressors/`.
      model: workdir or model directory of the encoder, or its address.
      encoder: name of the encoder: `step N`, `untrained`, or that of a model directory.
    """
    checkpoint = encoder.removeprefix("step ")
    if not places.is_elsewhere(model):
        model = os.path.abspath(model)
    record = {"model": os.fspath(model), "checkpoint": checkpoint}
    write_atomically(directory / _FILE, json.dumps(record, indent=1) + "\n")


def find(directory: pathlib.Path) -> tuple[str, str] | None:
    """Return the model and the checkpoint of the last evaluation in a directory.

    Args:
      directory: directory of one evaluation, or a workdir with evaluations in
        `results`.

    Returns:
      The pair, or None if the directory has no record.

    Raises:
      CheckpointError: the record is damaged, or its model no longer exists.
    """
    records = [directory / _FILE, *directory.glob(f"results/*/{_FILE}")]
    records = [path for path in records if path.is_file()]
    if not records:
        return None
    last = max(records, key=lambda path: path.stat().st_mtime_ns)
    try:
        record = json.loads(last.read_text())
        model, checkpoint = record["model"], record["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{last} is damaged ({error!r}): evaluate again"
        ) from error
    if not (places.is_elsewhere(model) or os.path.isdir(model)):
        raise errors.CheckpointError(
            f"{last} names the model {model}, which does not exist: evaluate again "
            f"with --model=PATH of the model"
        )
    return model, checkpoint
