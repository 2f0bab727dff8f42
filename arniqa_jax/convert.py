"""Convert weights from PyTorch to a model directory, and back.

    python -m arniqa_jax.convert --from=ARNIQA.pth \\
        [--regressor=regressor_kadid10k.pth] --to=DIR
    python -m arniqa_jax.convert --from=DIR --to=FILE.pth

Reads the official weights and checkpoints of the official training code, torchvision's
ResNet-18, -34 and -50, the encoders of CONTRIQUE and Re-IQA, model directories and
workdirs of runs. Writes a model directory, or a .safetensors or .pth file in the layout
of the official code. Only writing .pth needs PyTorch (the extra `convert`).
"""

from absl import flags

from arniqa_jax import command, errors
from arniqa_jax.storage import files

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

SAFETENSORS = flags.DEFINE_bool(
    "safetensors",
    False,
    "Write the encoder of a model directory as encoder.safetensors, not by Orbax.",
    flag_values=FLAGS,
)
FLOAT16 = flags.DEFINE_bool(
    "float16",
    False,
    "Round the kernels to float16 in a safetensors file: half the size, and scores "
    "that differ in the third decimal.",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Check the flags and convert; return the exit code."""
    from arniqa_jax.weights import torch_import

    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if not FROM.value or not TO.value:
        raise errors.UsageError(
            "--from and --to are needed, for example --from=ARNIQA.pth --to=DIR"
        )
    torch_import.convert(
        files.local_path(FROM.value, "--from"),
        files.local_path(TO.value, "--to"),
        [files.local_path(path, "--regressor") for path in REGRESSOR.value],
        safetensors=SAFETENSORS.value,
        float16=FLOAT16.value,
    )
    print(f"written to {TO.value}")
    return errors.SUCCESS


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
