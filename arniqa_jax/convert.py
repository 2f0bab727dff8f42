"""Converts weights from PyTorch to a model directory, and back.

    python -m arniqa_jax.convert --from=ARNIQA.pth \\
        [--regressor=regressor_kadid10k.pth] --to=DIR
    python -m arniqa_jax.convert --from=DIR --to=FILE.pth

Reads the official weights and checkpoints of the official training code, torchvision's
ResNet-18, -34 and -50, CONTRIQUE's and Re-IQA's encoders (.pth needs the extra
`convert`; .safetensors does not), and model directories and workdirs of runs. Writes a
model directory, or the official layout of tensors to a .pth or .safetensors file.
"""

import hashlib
import pathlib

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
FROM = flags.DEFINE_string(
    "from",
    None,
    "File of tensors (.pth, .safetensors), model directory or workdir of a run.",
    flag_values=FLAGS,
)
TO = flags.DEFINE_string(
    "to",
    None,
    "Model directory, or file of tensors (.pth, .safetensors), to write.",
    flag_values=FLAGS,
)
REGRESSOR = flags.DEFINE_multi_string(
    "regressor",
    [],
    "Official regressor, regressor_NAME.pth; may be given several times.",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Checks the flags and converts; returns the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if not FROM.value or not TO.value:
        raise errors.UsageError(
            "--from and --to are needed, for example --from=ARNIQA.pth --to=DIR"
        )
    convert(
        pathlib.Path(FROM.value),
        pathlib.Path(TO.value),
        [pathlib.Path(path) for path in REGRESSOR.value],
    )
    print(f"written to {TO.value}")
    return command.SUCCESS


def convert(
    source: pathlib.Path, target: pathlib.Path, regressor_files: list[pathlib.Path]
) -> None:
    """Reads an encoder and writes it, with its regressors where they have a place.

    Args:
      source: a file of tensors, a model directory or a workdir.
      target: a file of tensors, or a directory that is missing or empty.
      regressor_files: official regressors.

    Raises:
      UsageError: a target that cannot hold regressors, or a regressor without a name.
      CheckpointError: see `torch_names.from_torch` and `model_directory`.
    """
    from arniqa_jax import model_directory, torch_files, torch_names

    to_file = target.suffix in torch_files.SUFFIXES
    if to_file and regressor_files:
        raise errors.UsageError(
            f"--regressor has no place in {target.name}: give a directory as --to"
        )
    names = [regressor_name(path) for path in regressor_files]
    if source.is_dir():
        encoder, found, origin = _read_directory(source)
    else:
        encoder, origin = read_file(source)
        found = {}
    if to_file:
        torch_files.write_tensors(target, torch_names.to_torch(encoder.variables))
        return
    found |= {
        name: read_regressor(path, name, encoder)
        for name, path in zip(names, regressor_files, strict=True)
    }
    model_directory.write(target, encoder, origin)
    for name, regressor in found.items():
        model_directory.write_regressor(target, regressor, name)


def regressor_name(path: pathlib.Path) -> str:
    """The dataset in the name of an official regressor file.

    Raises:
      UsageError: it names none.
    """
    from arniqa_jax import official_weights

    name = path.stem.removeprefix("regressor_")
    if name not in official_weights.DATASETS:
        raise errors.UsageError(
            f"--regressor={path}: expected the name regressor_NAME.pth, which tells "
            f"the scale of the scores, with NAME one of "
            f"{', '.join(official_weights.DATASETS)}"
        )
    return name


def read_file(path: pathlib.Path):
    """The encoder in a file of tensors, and its source."""
    from arniqa_jax import torch_files, torch_names
    from arniqa_jax.model.encoder import Encoder
    from arniqa_jax.model_directory import Source

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


def read_regressor(path: pathlib.Path, name: str, encoder):
    """An official regressor, made one for this encoder.

    Raises:
      CheckpointError: it is damaged or takes features of another width.
    """
    from arniqa_jax import official_weights, torch_files
    from arniqa_jax.data import benchmarks
    from arniqa_jax.evaluation.regressors import Regressor

    weights_D, intercept = torch_files.read_regressor(path)
    width = 2 * encoder.feature_dim
    if weights_D.shape != (width,):
        raise errors.CheckpointError(
            f"{path} takes {len(weights_D)} features, and the encoder {encoder.name} "
            f"({encoder.module.arch}) gives {width}"
        )
    dataset = benchmarks.DATASETS[official_weights.DATASETS[name]]
    return Regressor(
        dataset=dataset.title,
        alpha=None,  # not in the file
        score_range=dataset.score_range,
        higher_is_better=dataset.higher_is_better,
        crops="five",
        patch_size=encoder.patch_size,
        encoder=encoder.fingerprint,
        images=dataset.images,
        weights_D=weights_D,
        intercept=intercept,
    )


def _read_directory(path: pathlib.Path):
    from arniqa_jax import encoders, model_directory
    from arniqa_jax.model_directory import Source

    encoder = encoders.load(path)
    found = model_directory.find_regressors(path, encoder)
    if model_directory.is_model_directory(path):
        return encoder, found, model_directory.read_source(path)
    origin = Source(
        f"{path.resolve().name}, {encoder.name}",
        encoder.fingerprint,
        "arniqa_jax",
        "unknown: that of the run's owner",
    )
    return encoder, found, origin


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
