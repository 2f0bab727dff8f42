"""A trace of some training steps, by `jax.profiler`, in the run directory."""

import pathlib
from typing import Any

import jax
from absl import logging

from arniqa_jax import errors


def parse_steps(text: str) -> tuple[int, int] | None:
    """Return the first and the last step of `log.profile_steps`, or None.

    Raises:
      UsageError: the text is not FIRST:LAST.
    """
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise errors.UsageError(
            f"log.profile_steps={text!r}: expected FIRST:LAST, the first and the last "
            "step of the trace, counted from 1, for example 100:105"
        )
    return int(first), int(last)


class Profiler:
    """Starts and stops the trace. Call `before` and `after` around every step."""

    def __init__(self, directory: pathlib.Path, steps: str):
        """Prepare a trace.

        Args:
          directory: of the trace, for `xprof` or the profile plugin of TensorBoard.
          steps: FIRST:LAST, both included; empty for none.
        """
        self._directory = directory
        self._steps = parse_steps(steps)
        self._running = False

    def before(self, step: int) -> None:
        """Start the trace if `step` is the first one in its range."""
        if self._steps and self._steps[0] <= step <= self._steps[1]:
            if not self._running:
                jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Stop the trace after the last step of its range.

        Args:
          step: the step that was started.
          results: the arrays of the step, which are waited for.
        """
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Stop the trace if it is running."""
        if self._running:
            self._running = False
            self._steps = None
            jax.profiler.stop_trace()
            logging.info("a trace of the steps is in %s", self._directory)
