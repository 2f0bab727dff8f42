"""Write the pristine photographs of KADIS-700k into sharded ArrayRecord files.

A pod reads a few large files faster than 140,000 small ones. The PNG files are stored
unchanged. A file that cannot be decoded is skipped, with a warning that names it.

    python -m arniqa_jax.data.kadis700k --source=KADIS700K --output=DATA
    python -m arniqa_jax.main ... --config.data.source=tfds:kadis700k \\
        --config.data.root=DATA

DATA may be gs://BUCKET/DIR. The files are then written to a temporary folder first.
"""

from absl import flags

from arniqa_jax import command
from arniqa_jax.errors import UsageError

FLAGS = flags.FlagValues()
SOURCE = flags.DEFINE_string(
    "source", None, "Unpacked KADIS-700k; contains ref_imgs.", flag_values=FLAGS
)
OUTPUT = flags.DEFINE_string(
    "output", None, "TFDS data_dir to write to, or gs://...", flag_values=FLAGS
)
SHARDS = flags.DEFINE_integer(
    "shards", 0, "Number of files; 0 = by size.", lower_bound=0, flag_values=FLAGS
)


def main(arguments: list[str]) -> None:
    """Check the flags and write the files."""
    if arguments or not SOURCE.value or not OUTPUT.value:
        raise UsageError("expected --source=DIR --output=DIR and no other arguments")
    from arniqa_jax.data import kadis700k_writer

    folder, number = kadis700k_writer.write(
        SOURCE.value, OUTPUT.value, shards=SHARDS.value
    )
    print(f"{number} photographs in {folder}")


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
