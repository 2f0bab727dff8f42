"""Scores images: one line each, in the order given, whatever is wrong with some.

    python -m arniqa_jax.score --model=kadid10k|DIR PATH... [--output=scores.csv]

PATH is a file, a folder (with all below it), a pattern, or - for a list on standard
input. Columns: path, score (higher is better, nominally 0..1), error (why there is no
score). Exit code 1 where an image has no score.
"""

import os
import pathlib
import sys
import time

from absl import flags, logging

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
MODEL = flags.DEFINE_string(
    "model",
    None,
    "Model directory, workdir of a run, DIR:NAME for one of several regressors, or the "
    "name of an official regressor.",
    flag_values=FLAGS,
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File to write, .csv, .jsonl or .parquet; without it CSV on standard output.",
    flag_values=FLAGS,
)
DETAILS = flags.DEFINE_bool(
    "details",
    False,
    "Add width, height, seconds (to decode) and the scores of the crops.",
    flag_values=FLAGS,
)
RAW = flags.DEFINE_bool(
    "raw", False, "Scores in the scale of the regressor's dataset.", flag_values=FLAGS
)
RESUME = flags.DEFINE_bool(
    "resume",
    False,
    "Go on, with the same model: skip the images that --output has.",
    flag_values=FLAGS,
)
CROPS = flags.DEFINE_enum(
    "crops",
    None,
    ["five", "whole"],
    "Centre and corners, or the whole image; by default as the regressor was fitted.",
    flag_values=FLAGS,
)
MAP = flags.DEFINE_string(
    "map", None, "Folder for a heat map of each image, PNG.", flag_values=FLAGS
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    0,
    "Images in a batch; 0 for a number that suits the devices.",
    lower_bound=0,
    flag_values=FLAGS,
)
PRECISION = flags.DEFINE_enum(
    "precision",
    "highest",
    ["default", "high", "highest"],
    "Of float32 convolutions on a TPU or GPU: highest gives the scores of a CPU; "
    "default is faster, and scores differ.",
    flag_values=FLAGS,
)
PROCESSES = command.ProcessFlags(FLAGS)
# Seconds between two lines about progress where there is no terminal.
_LINE_EVERY = 30.0


def main(arguments: list[str]) -> int:
    """Checks the flags and scores; returns the exit code."""
    if not MODEL.value or not arguments:
        raise errors.UsageError(
            "a model and something to score are needed, for example --model=kadid10k "
            "photos/"
        )
    from arniqa_jax.scoring import parts, scorer

    PROCESSES.start()
    output = pathlib.Path(OUTPUT.value) if OUTPUT.value else None
    share = parts.Share.of_this_process(output)
    model = scorer.load(
        MODEL.value,
        crops=CROPS.value,
        batch_size=BATCH_SIZE.value,
        precision=PRECISION.value,
    )
    model.require_regressor()
    with command.StopRequest() as stop:
        failed = score(model, arguments, share, stop)
    if stop.exit_code is not None:
        return stop.exit_code
    failed = share.merge(failed)
    return command.FAILURE if failed else command.SUCCESS


def score(model, arguments: list[str], share, stop: command.StopRequest) -> int:
    """Writes the rows of this process; returns how many images have no score."""
    from arniqa_jax.scoring import inputs, scorer, tables

    columns = ["path", "score", "error"]
    names = [f"score_{name}" for name in scorer.CROPS[model.crops]]
    if DETAILS.value:
        columns += ["width", "height", "seconds", *names]
    with tables.Table(
        share.output, columns, stdout=sys.stdout, resume=RESUME.value
    ) as table:
        failed, total = table.failed, None
        if sys.stderr.isatty() and "-" not in arguments:
            total = sum(1 for _ in share.take(inputs.find(arguments, sys.stdin.buffer)))
        items = share.take(inputs.find(arguments, sys.stdin.buffer))
        items = (item for item in items if not table.has(item.shown))
        views = inputs.load_all(model.view, items, threads=os.cpu_count() or 1)
        progress = _Progress(total, len(table.done))
        for loaded, features_CD in model.embed(views):
            row = {"path": loaded.input.shown, "error": loaded.reason}
            if features_CD is None:
                failed += 1
            else:
                scores_C = model.scores_of(features_CD[None], raw=RAW.value)[0]
                row["score"] = round(float(scores_C.mean()), 6)
                row["width"], row["height"] = loaded.width, loaded.height
                row["seconds"] = round(loaded.seconds, 4)
                row |= {
                    name: round(float(value), 6)
                    for name, value in zip(names, scores_C, strict=True)
                }
                if MAP.value:
                    _write_map(model, loaded.input.path)
            table.write(row)
            progress.advance(failed)
            if stop.exit_code is not None:
                break
        progress.close()
    return failed


def _write_map(model, path: str) -> None:
    from arniqa_jax.data.images import decode_image
    from arniqa_jax.scoring import heat_map

    # The whole path in the name: two folders may have files of one name.
    name = os.path.abspath(path).strip(os.sep).replace(os.sep, "__")
    image = decode_image(path, apply_orientation=True)
    heat_map.write(model, image, pathlib.Path(MAP.value) / f"{name}.png")


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int | None, done: int):
        import tqdm

        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="img",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._start = self._last = time.monotonic()
        self._count = self._failed = 0

    def advance(self, failed: int) -> None:
        self._count, self._failed = self._count + 1, failed
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._last > _LINE_EVERY:
            self._last = time.monotonic()
            self._log()

    def close(self) -> None:
        self._bar.close()
        self._log()

    def _log(self) -> None:
        rate = self._count / max(time.monotonic() - self._start, 1e-9)
        logging.info(
            "%d images, %.1f a second; %d without a score",
            self._count,
            rate,
            self._failed,
        )


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
