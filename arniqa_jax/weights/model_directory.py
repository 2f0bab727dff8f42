"""Model directories: an encoder with its regressors.

    model.json            architecture, source, licence, versions
    encoder/              the variables, by Orbax, or
    encoder.safetensors   the variables, in the official layout of PyTorch
    regressors/NAME.json  with NAME.npz, see `weights.regressors`

The workdir of a run can be used like a model directory: its encoder is that of a
checkpoint, its regressors are those that evaluations of this encoder wrote to
`results/`.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
from typing import Any

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model.simclr import SimCLR
from arniqa_jax.storage import checkpoints
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.weights import float16 as half
from arniqa_jax.weights import regressors, torch_files, torch_names
from arniqa_jax.weights.regressors import Regressor

FORMAT_VERSION = 1
_DESCRIPTION, _ENCODER, _REGRESSORS = "model.json", "encoder", "regressors"
_SAFETENSORS = "encoder.safetensors"
_MODULE_FIELDS = (
    "arch",
    "embedding_dim",
    "normalize_features",
    "projector_norm",
    "dtype",
)
_PACKAGES = ("arniqa_jax", "jax", "flax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an encoder comes from.

    Attributes:
      file: name of the file, or the checkpoint of a run.
      sha256: of the file; the fingerprint of the encoder if there is no single file.
      layout: title of the layout of its tensors, see `torch_names.LAYOUTS`.
      licence: under which its owner publishes it.
    """

    file: str
    sha256: str
    layout: str
    licence: str


def is_model_directory(path: pathlib.Path) -> bool:
    """Return whether `path` is a model directory; a workdir is not."""
    return (path / _DESCRIPTION).is_file()


def write(
    directory: pathlib.Path,
    encoder: Encoder,
    source: Source,
    *,
    safetensors: bool = False,
    float16: bool = False,
) -> None:
    """Write a model directory without regressors.

    Args:
      directory: missing or empty.
      encoder: its variables may lack the projector.
      source: where the encoder comes from, kept in `model.json`.
      safetensors: write `encoder.safetensors` instead of `encoder/`.
      float16: round the kernels, and store them as float16 in `encoder.safetensors`.

    Raises:
      CheckpointError: the directory is not empty, or it cannot be written, or a
        weight is too large for float16.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise errors.CheckpointError(
            f"{directory} exists already; remove it or choose another directory"
        )
    encoder = half.round_kernels(encoder) if float16 else encoder
    directory.mkdir(parents=True, exist_ok=True)
    if safetensors:
        tensors = torch_names.to_torch(encoder.variables)
        tensors = half.store_kernels(tensors) if float16 else tensors
        torch_files.write_tensors(directory / _SAFETENSORS, tensors)
    else:
        checkpoints.save_variables(directory / _ENCODER, encoder.variables)
    description = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(encoder.module, name) for name in _MODULE_FIELDS},
        "feature_width": 2 * encoder.feature_dim,
        "patch_size": encoder.patch_size,
        "imagenet_input": encoder.imagenet_input,
        "projector": "projector_0" in encoder.variables["params"],
        "fingerprint": encoder.fingerprint,
        "source": dataclasses.asdict(source),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    # Written last: the directory counts as a model only when it is complete.
    write_atomically(directory / _DESCRIPTION, json.dumps(description, indent=1) + "\n")


def read_encoder(directory: pathlib.Path) -> Encoder:
    """Return the encoder of a model directory.

    Raises:
      CheckpointError: the directory is damaged, or has another format version.
    """
    path = directory / _DESCRIPTION
    description = _read_description(path)
    try:
        module = SimCLR(**{name: description[name] for name in _MODULE_FIELDS})
        options = {name: description[name] for name in ("patch_size", "imagenet_input")}
        file = description["source"]["file"]
        fingerprint = description["fingerprint"]
    except (KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{path} is damaged ({error!r}): convert the model again"
        ) from error
    place = directory / _SAFETENSORS
    if place.is_file():
        tensors = torch_files.read_tensors(place)
        variables = torch_names.from_torch(tensors, str(place)).variables
    else:
        # Expected shapes would take most of a second to trace; the fingerprint decides.
        place = directory / _ENCODER
        variables = checkpoints.load_variables(place, like=None)
    encoder = Encoder(module, variables, file, **options)
    with contextlib.suppress(KeyError):  # raised by variables without an encoder
        if encoder.fingerprint == fingerprint:
            return encoder
    raise errors.CheckpointError(
        f"{place} does not hold the encoder that {path.name} describes: convert the "
        "model again"
    )


def read_source(directory: pathlib.Path) -> Source:
    """Return where the encoder of a model directory comes from."""
    path = directory / _DESCRIPTION
    try:
        return Source(**_read_description(path)["source"])
    except (KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{path} is damaged ({error!r}): convert the model again"
        ) from error


def write_regressor(directory: pathlib.Path, regressor: Regressor, name: str) -> None:
    """Add a regressor to a model directory."""
    (directory / _REGRESSORS).mkdir(exist_ok=True)
    regressors.write(regressor, directory / _REGRESSORS, name)


def find_regressors(directory: pathlib.Path, encoder: Encoder) -> dict[str, Regressor]:
    """Return the regressors for an encoder, by name.

    Args:
      directory: a model directory, a workdir, or the directory of one evaluation. All
        regressors of a model directory must fit the encoder. A workdir may also hold
        evaluations of other checkpoints, which are skipped; a later evaluation of this
        encoder replaces an earlier one.
      encoder: the encoder of the directory.

    Raises:
      CheckpointError: a file is damaged, or a regressor of a model directory was
        fitted to another encoder.
    """
    fingerprint = encoder.fingerprint
    if is_model_directory(directory):
        found = _read_all(directory / _REGRESSORS)
        for name, regressor in found.items():
            if regressor.encoder != fingerprint:
                raise errors.CheckpointError(
                    f"{directory}: the regressor {name} was fitted to another encoder "
                    f"({regressor.encoder[:16]}, not {fingerprint[:16]}); remove it, "
                    "or fit it again with arniqa_jax.evaluate"
                )
        return found
    evaluations = [*directory.glob(_REGRESSORS)]
    evaluations += directory.glob(f"results/*/{_REGRESSORS}")
    found = {}
    for evaluation in sorted(evaluations, key=lambda path: path.stat().st_mtime):
        found |= {
            name: regressor
            for name, regressor in _read_all(evaluation).items()
            if regressor.encoder == fingerprint
        }
    return found


def _read_all(directory: pathlib.Path) -> dict[str, Regressor]:
    names = sorted(path.stem for path in directory.glob("*.json"))
    return {name: regressors.read(directory, name) for name in names}


def _read_description(path: pathlib.Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
        version = description["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{path} does not describe a model ({error!r}): convert the model again"
        ) from error
    if version != FORMAT_VERSION:
        raise errors.CheckpointError(
            f"{path} has the format version {version}, this program reads "
            f"{FORMAT_VERSION}: convert the model again"
        )
    return description
