"""Score images: one row each, in the given order, even if some cannot be scored.

    python -m arniqa_jax.score --model=kadid10k|DIR PATH... [--output=scores.csv]

PATH is a file, a folder (searched recursively), a pattern, or - for a list on standard
input. Columns: path, score (higher is better, nominally 0..1), error (why there is no
score). The exit code is 1 if an image has no score.
"""

import functools

from absl import flags

from arniqa_jax import command, errors
from arniqa_jax.storage import bucket_paths

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_boolean = functools.partial(flags.DEFINE_bool, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS, lower_bound=0)
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)

MODEL = command.define_model(FLAGS)
OUTPUT = _string(
    "output", None, "Table, .csv, .jsonl or .parquet; default: CSV on standard output."
)
DETAILS = _boolean(
    "details", False, "Add width, height, seconds (to decode) and the crops' scores."
)
RAW = _boolean("raw", False, "Scores on the scale of the regressor's dataset.")
RESUME = _boolean(
    "resume",
    False,
    "Continue --output with the same model: skip the images that have a score there.",
)
CROPS = _enum(
    "crops",
    None,
    ["five", "whole", "whole_std"],
    "Centre and corners, or the whole image; default: as the regressor was fitted.",
)
MAP = _string("map", None, "Folder for a heat map (PNG) of each image.")
BACKGROUND = _string(
    "background", "black", "What transparent pixels show: black, white or R,G,B."
)
REPORT = _string("report", None, "Folder for a page that shows the scores.")
SHARD = _string(
    "shard",
    None,
    "I/N: score the I-th of N fixed parts of the images, I from 0, into its own file.",
)
ENGINE = _enum("engine", "local", ["local", "ray"], "Where to score: here, or by Ray.")
ADDRESS = _string("address", None, "Ray cluster; default: start Ray on this machine.")
WORKERS = _integer("workers", 0, "Processes of the engine; 0: as many as devices.")
BATCH_SIZE = _integer(
    "batch_size", 0, "Images per batch; 0 chooses a number that suits the devices."
)
PRECISION = _enum(
    "precision",
    "highest",
    ["default", "high", "highest", "bfloat16"],
    "Precision of float32 convolutions on a TPU or GPU. highest gives the scores of a "
    "CPU; default and, on any device, bfloat16 are faster, and their scores differ.",
)


def main(arguments: list[str]) -> int:
    """Check the flags and score; return the exit code."""
    if not MODEL.value or not arguments:
        raise errors.UsageError("expected --model=MODEL and something to score")
    from arniqa_jax.scoring import job, rows

    score_rows = rows.ScoreRows(
        MODEL.value,
        details=DETAILS.value,
        raw=RAW.value,
        map_folder=MAP.value,
        crops=CROPS.value,
        batch_size=BATCH_SIZE.value,
        precision=PRECISION.value,
        background=BACKGROUND.value,
    )
    return job.run(
        score_rows,
        arguments,
        bucket_paths.place(OUTPUT.value, "--output") if OUTPUT.value else None,
        resume=RESUME.value,
        shard=SHARD.value,
        engine=ENGINE.value,
        address=ADDRESS.value,
        workers=WORKERS.value,
        report=REPORT.value,
    )


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
