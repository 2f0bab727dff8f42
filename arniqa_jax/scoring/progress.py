"""Progress of scoring many images: a bar on a terminal, otherwise log lines."""

import sys
import time

import tqdm
from absl import logging

# Seconds between two lines if the output is not a terminal.
_LINE_EVERY = 30.0


class Progress:
    """A progress bar on a terminal; otherwise occasional log lines."""

    def __init__(self, total: int | None, done: int):
        """Start to count.

        Args:
          total: number of images; None if unknown.
          done: number of images that already have a score.
        """
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="img",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._start = self._last = time.monotonic()
        self._count = self._failed = 0

    def advance(self, failed: int, images: int = 1) -> None:
        """Count images; `failed` is the total number of images without a score."""
        self._count, self._failed = self._count + images, failed
        self._bar.update(images)
        if self._bar.disable and time.monotonic() - self._last > _LINE_EVERY:
            self._last = time.monotonic()
            self._log()

    def close(self) -> None:
        """Write the last line."""
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
