"""What the score command does: one row for each image, and progress."""

import functools
import os
import pathlib
import sys
import time

import tqdm
from absl import logging

from arniqa_jax.command import StopRequest
from arniqa_jax.data.images import decode_image
from arniqa_jax.inference import preprocessing
from arniqa_jax.inference.extractor import map_in_threads
from arniqa_jax.scoring import heat_map, inputs, tables
from arniqa_jax.scoring.parts import Share
from arniqa_jax.scoring.scorer import Scorer

# Seconds between two lines about progress where there is no terminal.
_LINE_EVERY = 30.0


def score(
    model: Scorer,
    arguments: list[str],
    share: Share,
    stop: StopRequest,
    *,
    details: bool,
    raw: bool,
    resume: bool,
    map_folder: str | None,
) -> int:
    """Write the rows of this process; return how many images have no score.

    Args:
      model: the model.
      arguments: files, folders, patterns or `-`, see `inputs.find`.
      share: which images this process scores, and where it writes.
      stop: looked at after each image.
      details: also write width, height, seconds (to decode) and the scores of crops.
      raw: write scores in the scale of the regressor's dataset.
      resume: skip the images that the output has.
      map_folder: folder for a heat map of each image; None for no maps.
    """
    columns = ["path", "score", "error"]
    names = [f"score_{name}" for name in preprocessing.CROPS[model.crops]]
    if details:
        columns += ["width", "height", "seconds", *names]
    with tables.Table(share.output, columns, stdout=sys.stdout, resume=resume) as table:
        failed, total = table.failed, None
        if sys.stderr.isatty() and "-" not in arguments:
            total = sum(1 for _ in share.take(inputs.find(arguments, sys.stdin.buffer)))
        items = share.take(inputs.find(arguments, sys.stdin.buffer))
        items = (item for item in items if not table.has(item.shown))
        load = functools.partial(inputs.load, model.extractor.view)
        views = map_in_threads(load, items, threads=os.cpu_count() or 1)
        progress = _Progress(total, len(table.done))
        for loaded, features_CD in model.extractor.embed(views):
            row = {"path": loaded.input.shown, "error": loaded.reason}
            if features_CD is None:
                failed += 1
            else:
                scores_C = model.scores_of(features_CD[None], raw=raw)[0]
                row["score"] = round(float(scores_C.mean()), 6)
                row["width"], row["height"] = loaded.width, loaded.height
                row["seconds"] = round(loaded.seconds, 4)
                row |= {
                    name: round(float(value), 6)
                    for name, value in zip(names, scores_C, strict=True)
                }
                if map_folder:
                    _write_map(model, loaded.input.path, map_folder)
            table.write(row)
            progress.advance(failed)
            if stop.exit_code is not None:
                break
        progress.close()
    return failed


def _write_map(model: Scorer, path: str, folder: str) -> None:
    """Write the heat map of an image to a folder."""
    # The whole path in the name: two folders may have files of one name.
    name = os.path.abspath(path).strip(os.sep).replace(os.sep, "__")
    image = decode_image(path, apply_orientation=True)
    heat_map.write(model, image, pathlib.Path(folder) / f"{name}.png")


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int | None, done: int):
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
