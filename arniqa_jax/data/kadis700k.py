"""Write the pristine photographs of KADIS-700k into sharded ArrayRecord files.

A pod reads a few large files faster than 140,000 small ones. The PNG files are stored
unchanged. A file that cannot be decoded is skipped, with a warning that names it.

    python -m arniqa_jax.data.kadis700k --source=KADIS700K --output=DATA
    python -m arniqa_jax.main ... --config.data.source=tfds:kadis700k \\
        --config.data.root=DATA
"""

import contextlib
import os
import sys

from absl import flags

from arniqa_jax import command
from arniqa_jax.errors import DatasetError, UsageError
from arniqa_jax.storage.files import local_path

FLAGS = flags.FlagValues()
SOURCE = flags.DEFINE_string(
    "source", None, "Unpacked KADIS-700k; contains ref_imgs.", flag_values=FLAGS
)
OUTPUT = flags.DEFINE_string(
    "output", None, "TFDS data_dir to write to.", flag_values=FLAGS
)
SHARDS = flags.DEFINE_integer(
    "shards", 0, "Number of files; 0 = by size.", lower_bound=0, flag_values=FLAGS
)


def main(arguments: list[str]) -> None:
    if arguments or not SOURCE.value or not OUTPUT.value:
        raise UsageError("expected --source=DIR --output=DIR and no other arguments")
    folder, number = write(SOURCE.value, OUTPUT.value, shards=SHARDS.value)
    print(f"{number} photographs in {folder}")


def write(source: str, output: str, *, shards: int = 0) -> tuple[str, int]:
    """Write the TFDS dataset `kadis700k`, unless it exists already.

    Args:
      source: folder that contains `ref_imgs`.
      output: data_dir of TFDS.
      shards: number of files; 0 lets TFDS choose.

    Returns:
      The folder of the dataset and the number of photographs in it.

    Raises:
      DatasetError: `ref_imgs` has no PNG files, or fewer than two are readable.
    """
    import tensorflow_datasets as tfds

    from arniqa_jax.data import kadis700k_builder

    source = os.fspath(local_path(source, "--source"))
    output = os.fspath(local_path(output, "--output"))
    pristine = os.path.join(source, "ref_imgs")
    if not os.path.isdir(pristine) or not kadis700k_builder.list_files(pristine):
        raise DatasetError(f"{source}: expected a folder ref_imgs with PNG files")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = kadis700k_builder.Kadis700k(data_dir=output, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=source, num_shards=shards or None)
    # TFDS prints its progress. Standard output is only for results.
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare(download_config=config)
    return str(builder.data_path), builder.info.splits["train"].num_examples


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
