"""Requests to stop: SIGTERM, by which a scheduler ends a process, and Ctrl-C."""

import os
import signal

from arniqa_jax import errors


class StopRequest:
    """Records SIGTERM and Ctrl-C, so that a loop can stop between two steps.

    Use it as a context manager around the loop. A second Ctrl-C raises
    `KeyboardInterrupt` at once.

    Attributes:
      exit_code: None until a signal arrives, then the exit code to use.
    """

    def __init__(self):
        self.exit_code: int | None = None

    def __enter__(self):
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, _):
        if self.exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        by_user = number == signal.SIGINT
        self.exit_code = errors.INTERRUPTED if by_user else errors.START_AGAIN
        # Do not use logging: the signal may have arrived while its lock was held.
        os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")
