"""Conversion of the weights of PyTorch models to model directories, and back."""

import dataclasses
import hashlib
import pathlib

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.weights import encoders, model_directory, torch_files, torch_names
from arniqa_jax.weights import float16 as half
from arniqa_jax.weights.model_directory import Source
from arniqa_jax.weights.regressors import Regressor

# NAME of an official file `regressor_NAME.pth` -> key of `catalogue.DATASETS`.
OFFICIAL_REGRESSORS = {
    "live": "live",
    "csiq": "csiq",
    "tid2013": "tid2013",
    "kadid10k": "kadid10k",
    "flive": "flive",
    "spaq": "spaq",
    "clive": "clive",
    "koniq10k": "koniq-10k",
}


def convert(
    source: pathlib.Path,
    target: pathlib.Path,
    regressor_files: list[pathlib.Path],
    *,
    safetensors: bool = False,
    float16: bool = False,
) -> None:
    """Read an encoder, and write it with its regressors if the target can hold them.

    Args:
      source: a file of tensors, a model directory or a workdir.
      target: a file of tensors, or a directory that is missing or empty.
      regressor_files: official regressors.
      safetensors: write `encoder.safetensors` to the directory, not `encoder/`.
      float16: round the kernels, and store them as float16 in a safetensors file. The
        regressors are kept, although they were fitted before.

    Raises:
      UsageError: regressors for a file of tensors, a regressor of unknown name, or
        float16 for another kind of file.
      CheckpointError: see `torch_names.from_torch` and `model_directory`.
    """
    to_file = target.suffix in torch_files.SUFFIXES
    if to_file and regressor_files:
        raise errors.UsageError(
            f"{target.name} cannot hold a --regressor: give a directory as --to"
        )
    if float16 and not (target.suffix == ".safetensors" if to_file else safetensors):
        raise errors.UsageError(
            "--float16 needs --safetensors, or a name of --to that ends in .safetensors"
        )
    names = [regressor_name(path) for path in regressor_files]
    if source.is_dir():
        encoder, found, origin = read_directory(source)
    else:
        encoder, origin = read_file(source)
        found = {}
    if float16:
        encoder = half.round_kernels(encoder)
        found = {
            name: dataclasses.replace(regressor, encoder=encoder.fingerprint)
            for name, regressor in found.items()
        }
    if to_file:
        tensors = torch_names.to_torch(encoder.variables)
        tensors = half.store_kernels(tensors) if float16 else tensors
        torch_files.write_tensors(target, tensors)
        return
    found |= {
        name: read_regressor(path, name, encoder)
        for name, path in zip(names, regressor_files, strict=True)
    }
    model_directory.write(
        target, encoder, origin, safetensors=safetensors, float16=float16
    )
    for name, regressor in found.items():
        model_directory.write_regressor(target, regressor, name)


def regressor_name(path: pathlib.Path) -> str:
    """Return the dataset in the name of an official regressor file.

    Raises:
      UsageError: the name has no known dataset.
    """
    name = path.stem.removeprefix("regressor_")
    if name not in OFFICIAL_REGRESSORS:
        raise errors.UsageError(
            f"--regressor={path}: expected the name regressor_NAME.pth, which decides "
            f"the scale of the scores, with NAME one of "
            f"{', '.join(OFFICIAL_REGRESSORS)}"
        )
    return name


def read_file(path: pathlib.Path) -> tuple[Encoder, Source]:
    """Return the encoder in a file of tensors, and its source."""
    tensors = torch_files.read_tensors(path)
    imported = torch_names.from_torch(tensors, str(path))
    layout = imported.layout
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    encoder = Encoder(
        imported.module,
        imported.variables,
        path.name,
        imagenet_input=layout.imagenet_input,
    )
    return encoder, Source(path.name, digest, layout.title, layout.licence)


def read_regressor(path: pathlib.Path, name: str, encoder: Encoder) -> Regressor:
    """Return an official regressor for an encoder.

    Raises:
      CheckpointError: the file is damaged, or its features have another width.
    """
    weights_D, intercept = torch_files.read_regressor(path)
    width = 2 * encoder.feature_dim
    if weights_D.shape != (width,):
        raise errors.CheckpointError(
            f"{path} takes {len(weights_D)} features, but the encoder {encoder.name} "
            f"({encoder.module.arch}) gives {width}"
        )
    dataset = catalogue.DATASETS[OFFICIAL_REGRESSORS[name]]
    return Regressor(
        dataset=dataset.title,
        alpha=None,  # the file does not contain it
        score_range=dataset.score_range,
        higher_is_better=dataset.higher_is_better,
        crops="five",
        patch_size=encoder.patch_size,
        encoder=encoder.fingerprint,
        images=dataset.images,
        weights_D=weights_D,
        intercept=intercept,
    )


def read_directory(
    path: pathlib.Path,
) -> tuple[Encoder, dict[str, Regressor], Source]:
    encoder = encoders.load(path)
    found = model_directory.find_regressors(path, encoder)
    if model_directory.is_model_directory(path):
        return encoder, found, model_directory.read_source(path)
    origin = Source(
        f"{path.resolve().name}, {encoder.name}",
        encoder.fingerprint,
        "arniqa_jax",
        "unknown: the owner of the run decides",
    )
    return encoder, found, origin
