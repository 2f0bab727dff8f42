"""Write one HTML page about a table of scores: worst, best, threshold, errors.

    python -m arniqa_jax.report scores.csv... --output=DIR [--threshold=0.5]

The tables come from arniqa_jax.score. Open DIR/index.html in a browser; it needs no
server. With --threshold, DIR also gets kept.txt and rejected.txt, lists of paths.
"""

import math

from absl import flags

from arniqa_jax import command, errors
from arniqa_jax.storage import files

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", flag_values=FLAGS)
THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Keep images with this score or a better one.", flag_values=FLAGS
)
MAP = flags.DEFINE_string(
    "map", None, "Folder of the heat maps that score --map wrote.", flag_values=FLAGS
)


def main(arguments: list[str]) -> int:
    """Check the flags and write the page; return the exit code."""
    if not arguments or not OUTPUT.value:
        raise errors.UsageError(
            "expected a table and a folder: scores.csv --output=report"
        )
    if THRESHOLD.value is not None and not math.isfinite(THRESHOLD.value):
        raise errors.UsageError(f"--threshold={THRESHOLD.value}: expected a number")
    maps = files.local_path(MAP.value, "--map") if MAP.value else None
    if maps and not maps.is_dir():
        raise errors.UsageError(f"--map={maps}: there is no such folder")
    from arniqa_jax.scoring import report_page

    page = report_page.write(
        [files.local_path(argument, "the table") for argument in arguments],
        files.local_path(OUTPUT.value, "--output"),
        threshold=THRESHOLD.value,
        map_folder=maps,
    )
    print(page)
    return errors.SUCCESS


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
