"""Runs the main command and kills it with SIGKILL, or another signal, at some moment.

    python tests/interrupted_run.py MOMENT:STEP[:SIGNAL[:DELAY]] FLAGS_OF_MAIN...

MOMENT is `step` (while the metrics of this step are written), `save` (just after the
writing of this checkpoint has begun), `evaluation` (with half of the features of the
validation at this step on disk; with a delay, as it begins), `start` (of the process,
at whatever step), or `never`. The signal falls DELAY seconds later. With `fail` the
process raises an error instead, while the metrics of this step are written.
"""

import os
import signal
import sys
import threading

from arniqa_jax import command, errors, main


def _arm(moment: str, at: int, number: signal.Signals, delay: float | None) -> None:
    """Replaces what is called at the moment by something that dies in it."""

    def _die():
        if delay is None:
            os.kill(os.getpid(), number)
        else:
            killer = threading.Timer(delay, os.kill, (os.getpid(), number))
            killer.daemon = True  # a run that ends before, ends
            killer.start()

    if moment == "start":
        _die()
    from arniqa_jax.evaluation import protocol
    from arniqa_jax.inference import feature_store
    from arniqa_jax.storage import checkpoints
    from arniqa_jax.training import metrics_log

    write = metrics_log.MetricsLog.step
    save = checkpoints.Checkpoints.save
    validate = protocol.validate

    def write_or_die(self, step, metrics):
        if step == at:
            _die()
        write(self, step, metrics)

    def save_and_die(self, state, *, srcc=None):
        save(self, state, srcc=srcc)
        if int(state.step) == at:
            _die()

    def validate_and_die(encoder, *args, **options):
        if encoder.name == f"step {at}" and delay is not None:
            _die()
        elif encoder.name == f"step {at}":
            append = feature_store.Writer.append

            def append_and_die(self, values):
                append(self, values)
                if self.done > 300:  # of 600 images
                    _die()

            feature_store.Writer.append = append_and_die
        return validate(encoder, *args, **options)

    def fail_to_write(self, step, metrics):
        if step == at:
            raise errors.DatasetError("a fault of this process alone")
        write(self, step, metrics)

    if moment == "fail":
        metrics_log.MetricsLog.step = fail_to_write
    elif moment == "step":
        metrics_log.MetricsLog.step = write_or_die
    elif moment == "save":
        checkpoints.Checkpoints.save = save_and_die
    elif moment == "evaluation":
        protocol.validate = validate_and_die
    elif moment not in ("start", "never"):
        raise ValueError(moment)


def armed_main(arguments: list[str]) -> int:
    """`main`, once the moment is set; not before, so that flags are checked first."""
    moment, _, rest = MOMENT.partition(":")
    at, _, rest = rest.partition(":")
    name, _, delay = rest.partition(":")
    number = signal.Signals[name or "SIGKILL"]
    _arm(moment, int(at or 0), number, float(delay) if delay else None)
    return main.main(arguments)


if __name__ == "__main__":
    MOMENT = sys.argv.pop(1)
    command.run(armed_main, main.FLAGS, usage=__doc__)
