"""The work of the score command: one row per image, and progress."""

import pathlib
import sys
import time
from collections.abc import Iterable, Iterator

import tqdm
from absl import logging

from arniqa_jax import command
from arniqa_jax.scoring import inputs, rows, tables
from arniqa_jax.scoring.scorer import Scorer

# Seconds between two progress lines if the output is not a terminal.
_LINE_EVERY = 30.0


def run(
    model: Scorer, arguments: list[str], output: pathlib.Path | None, **options
) -> int:
    """Score until the end, SIGTERM or Ctrl-C, and return the exit code.

    Args:
      model: the model.
      arguments: files, folders, patterns or `-`, see `inputs.find`.
      output: the table to write; None for standard output.
      **options: passed to `score`.

    Raises:
      UsageError: the model has no regressor.
    """
    model.require_regressor()
    with command.StopRequest() as stop:
        failed = score(model, arguments, output, stop, **options)
    if stop.exit_code is not None:
        return stop.exit_code
    return command.FAILURE if failed else command.SUCCESS


def score(
    model: Scorer,
    arguments: list[str],
    output: pathlib.Path | None,
    stop: command.StopRequest,
    *,
    details: bool,
    raw: bool,
    resume: bool,
    map_folder: str | None,
) -> int:
    """Write a row for each image; return how many images have no score.

    Args:
      model: the model.
      arguments: files, folders, patterns or `-`, see `inputs.find`.
      output: the table to write; None for standard output.
      stop: checked after each image.
      details: whether to write width, height, seconds (to decode) and the scores of
        crops.
      raw: whether to write scores on the scale of the regressor's dataset.
      resume: whether to skip the images that have a score in the output.
      map_folder: folder for a heat map of each image; None for no maps.
    """
    columns = rows.columns(model.crops, details=details)
    identity = {"fingerprint": model.fingerprint, "raw": raw} if output else {}
    skipped = inputs.Skipped()

    def find() -> Iterator[inputs.Input]:
        return _each_once(inputs.find(arguments, sys.stdin.buffer, skipped), arguments)

    failed = 0
    with tables.Table(
        output, columns, stdout=sys.stdout, resume=resume, identity=identity
    ) as table:
        total = None
        if sys.stderr.isatty() and "-" not in arguments:
            total = sum(1 for _ in find())
            skipped.clear()
        progress = _Progress(total, len(table.done))
        items = (item for item in find() if not table.has(item.shown))
        for row in rows.score_stream(model, items, raw=raw, map_folder=map_folder):
            failed += row["score"] is None
            table.write(row)
            progress.advance(failed)
            if stop.exit_code is not None:
                break
        progress.close()
    if skipped:
        logging.warning("%s", skipped)
    return failed


def _each_once(
    items: Iterable[inputs.Input], arguments: list[str]
) -> Iterator[inputs.Input]:
    """Yield each path once, although several arguments may name it."""
    if len(arguments) == 1 and arguments != ["-"]:
        yield from items  # one folder or pattern names nothing twice
        return
    seen = set()
    for item in items:
        digest = tables.digest(item.shown)
        if digest not in seen:
            seen.add(digest)
            yield item


class _Progress:
    """A progress bar on a terminal; otherwise occasional log lines."""

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
