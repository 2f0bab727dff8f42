"""What the processes of a run decide together, and how one ends without the others.

Everything here is called by all processes at the same place, and costs nothing where
there is but one.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

# There is no public way to the store that the processes of JAX share.
from jax._src import distributed
from jax.experimental import multihost_utils

from arniqa_jax import errors

_MESSAGE_BYTES = 4096
_GRACE = 2.0
_ALIVE = "arniqa_jax/alive"
# What the messages of a broken collective have in them, by backend.
_LOST = ("Gloo", "NCCL", "coordination service", "heartbeat", "UNAVAILABLE")


def agree(value: int) -> int:
    """What process 0 sees: for others, a shared file system may lag behind."""
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(np.asarray(value)).item()


def on_first_process(action: Callable[[], object]) -> None:
    """Calls `action` on process 0; all wait, and all raise what it could not do.

    Raises:
      ArniqaError: raised by `action`, or made of its OSError; a UsageError stays one.
    """
    if jax.process_count() == 1:
        action()
        return
    message = b""
    if jax.process_index() == 0:
        try:
            action()
        except (errors.ArniqaError, OSError) as error:
            code = getattr(error, "exit_code", errors.ArniqaError.exit_code)
            message = f"{code} {error}".encode()[:_MESSAGE_BYTES]
    padded = np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
    code, _, text = received.rstrip(b"\0").decode(errors="replace").partition(" ")
    if code:
        kinds = (errors.ArniqaError, errors.UsageError)
        raise {kind.exit_code: kind for kind in kinds}[int(code)](text)


def wait_for_all(place: str) -> None:
    """Returns when all processes have come here.

    Args:
      place: a name, the same on all.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def reporting_lost_process() -> Iterator[None]:
    """Turns the error of a collective that another process has left into a line.

    Raises:
      LostProcessError: another process has ended.
    """
    try:
        yield
    # JAX raises the one where it waits for a result, the other where it dispatches.
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _LOST):
            raise
        reason = " ".join(str(error).split())[:200]
        raise errors.LostProcessError(_lost(reason)) from error


def watch(heartbeat_seconds: float) -> None:
    """Starts a thread that ends this process when another one falls silent.

    A collective may wait for a dead process for ever. JAX ends it too, but by a crash,
    under a page of C++; this thread is earlier and says it in a line. Only the death of
    process 0, which holds the store, is left to JAX.

    Args:
      heartbeat_seconds: after so long without a word this process has ended.
    """
    threading.Thread(
        target=_watch, args=(heartbeat_seconds,), name="watch", daemon=True
    ).start()


def _watch(heartbeat_seconds: float) -> None:
    client, rank = distributed.global_state.client, jax.process_index()
    heard = dict.fromkeys(range(jax.process_count()), ("", time.monotonic()))
    for beat in itertools.count():
        time.sleep(heartbeat_seconds / 10)
        try:
            client.key_value_set(f"{_ALIVE}/{rank}", str(beat), allow_overwrite=True)
            said = dict(client.key_value_dir_get(_ALIVE))
        except (jax.errors.JaxRuntimeError, ValueError):
            return  # process 0 is gone, or this one is on its usual way out
        now = time.monotonic()
        for other, (last, moment) in heard.items():
            word = said.get(f"{_ALIVE}/{other}", "")
            if word != last:
                heard[other] = (word, now)
            elif now - moment > 0.7 * heartbeat_seconds:
                # Not through logging, whose lock may be held where all stands still.
                line = _lost(f"process {other} was silent for {now - moment:.0f} s")
                os.write(2, f"error: {line}\n".encode())
                leave(errors.LostProcessError.exit_code, 0.2 * heartbeat_seconds)


def _lost(how: str) -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()} has lost another one "
        f"({how}), whose own output says why. Start all of them again: the run resumes "
        "at its last checkpoint"
    )


def leave(code: int, grace: float = _GRACE) -> None:
    """Ends this process, if it is one of several, without waiting for the others.

    They find out: at once where the connections break, otherwise by its heartbeat. The
    usual end of a JAX process waits for all, and crashes when they do not come.

    Args:
      code: the exit code.
      grace: seconds that process 0 stays for the others to say what they have to say;
        with it goes the service that keeps them together.
    """
    if not jax.distributed.is_initialized():
        return
    if jax.process_index() == 0:
        time.sleep(grace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_after_traceback(*exception) -> None:
    """A `sys.excepthook` for one of several processes."""
    sys.__excepthook__(*exception)
    leave(errors.ArniqaError.exit_code)
