"""Joint decisions of the processes of a run, and the exit of one process alone.

All processes call the functions that communicate, at the same point of the program.
With a single process these functions cost nothing.
"""

import atexit
import contextlib
import itertools
import os
import pathlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

# JAX has no public interface to the key-value store that its processes share.
from jax._src import distributed
from jax.experimental import multihost_utils

from arniqa_jax import errors

_MESSAGE_BYTES = 4096
# Seconds that process 0 waits for the others to leave: after its own failure, and after
# the loss of a process, which may never report that it leaves.
_GRACE_AFTER_FAILURE, _GRACE_AFTER_LOSS = 10.0, 2.0
_ALIVE, _FAILED, _LEFT, _DONE = (
    f"arniqa_jax/{name}" for name in ("alive", "failed", "left", "done")
)
_LONGEST_ACTION_MS = 600_000
_actions = itertools.count()  # calls of `on_first_process`, the same on all processes
_exiting = threading.Event()  # set when the interpreter exits
# Substrings of the error messages of a broken collective, one per backend.
_LOST = ("Gloo", "NCCL", "coordination service", "heartbeat", "UNAVAILABLE")


def agree(value: int) -> int:
    """Return the value of process 0.

    It can differ from the value of other processes, because a shared file system may
    show changes to them late.
    """
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(np.asarray(value)).item()


def least(value: int) -> int:
    """Return the least value of all processes."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.asarray(value)).min())


def agree_text(text: str) -> str:
    """Return the text of process 0, of at most 4096 bytes."""
    return text if jax.process_count() == 1 else _of_first(text.encode()).decode()


def _of_first(message: bytes) -> bytes:
    """Return the message of process 0, which may not end with a zero byte."""
    padded = np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return received.tobytes().rstrip(b"\0")


def share_files(directory: pathlib.Path) -> bool:
    """Return whether all processes see the files that process 0 writes in a directory.

    They do not if the directory is on the disk of each machine.
    """
    if jax.process_count() == 1:
        return True
    token = agree(secrets.randbits(31))
    mark = directory / f".seen-{token}"
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        mark.touch()
    wait_for_all(f"mark {token}")
    seen = bool(least(mark.exists()))
    if jax.process_index() == 0:
        mark.unlink()
    return seen


def on_first_process(action: Callable[[], object]) -> None:
    """Call `action` on process 0 only.

    Every process waits. If `action` raises an error, every process raises it.

    Raises:
      ArniqaError: raised by `action`, or in place of its OSError. A UsageError remains
        a UsageError.
    """
    if jax.process_count() == 1:
        action()
        return
    message = b""
    done = f"{_DONE}/{next(_actions)}"
    client = distributed.global_state.client
    if jax.process_index() == 0:
        try:
            action()
        except (errors.ArniqaError, OSError) as error:
            code = getattr(error, "exit_code", errors.ArniqaError.exit_code)
            message = f"{code} {error}".encode()[:_MESSAGE_BYTES]
        client.key_value_set(done, "")
    else:
        # The action may take a minute, but a collective of CPUs waits for 30 s only.
        client.blocking_key_value_get(done, _LONGEST_ACTION_MS)
    code, _, text = _of_first(message).decode(errors="replace").partition(" ")
    if code:
        kinds = (errors.ArniqaError, errors.UsageError)
        raise {kind.exit_code: kind for kind in kinds}[int(code)](text)


def wait_for_all(place: str) -> None:
    """Wait until all processes have called this function.

    Args:
      place: a name, the same on all processes.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def reporting_lost_process() -> Iterator[None]:
    """Raise a one-line error if a collective fails because another process has ended.

    Raises:
      ArniqaError: another process has failed; `exit_code` is its exit code.
      LostProcessError: another process has ended without reporting a failure.
    """
    try:
        yield
    except Exception as error:
        lost = as_lost_process(error)
        if lost is None:
            raise
        raise lost from error


def as_lost_process(error: Exception) -> errors.ArniqaError | None:
    """Return the error to report if a collective failed as another process has ended.

    Returns:
      The failure of another process, with its exit code; a LostProcessError if no
      process has said that it failed; None for any other error.
    """
    # JAX raises JaxRuntimeError where it waits for a result, and ValueError where it
    # dispatches.
    if not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
        return None
    if jax.process_count() == 1 or not any(sign in str(error) for sign in _LOST):
        return None
    reason = " ".join(str(error).split())[:200]
    return _failure() or errors.LostProcessError(_lost(reason))


def watch(heartbeat_seconds: float) -> None:
    """Start a thread that ends this process when another one is silent for too long.

    A collective may wait forever for a dead process. JAX's own heartbeat also ends the
    process, but by a crash with a page of C++ stack trace. This thread acts earlier and
    prints one line. Only the death of process 0, which holds the key-value store, is
    left to JAX.

    Args:
      heartbeat_seconds: this process ends when another one has been silent for this
        long.
    """
    thread = threading.Thread(
        target=_watch, args=(heartbeat_seconds,), name="watch", daemon=True
    )
    thread.start()
    # An interpreter that exits ends a daemon thread when it returns from JAX's C++
    # code, and that aborts the process.
    atexit.register(_end_watch, thread)


def _end_watch(thread: threading.Thread) -> None:
    _exiting.set()
    thread.join(timeout=5.0)


def _watch(heartbeat_seconds: float) -> None:
    client, rank = distributed.global_state.client, jax.process_index()
    heard = dict.fromkeys(range(jax.process_count()), ("", time.monotonic()))
    # Failures are read about once per second, heartbeats ten times per interval.
    ticks = max(1, round(heartbeat_seconds / 10))
    for beat in itertools.count():
        if _exiting.wait(heartbeat_seconds / 10 / ticks):
            return
        failure = _failure()
        if failure is not None:
            os.write(2, f"error: {failure}\n".encode())
            leave(failure.exit_code)
        if beat % ticks:
            continue
        try:
            client.key_value_set(f"{_ALIVE}/{rank}", str(beat), allow_overwrite=True)
            said = dict(client.key_value_dir_get(_ALIVE))
        except (jax.errors.JaxRuntimeError, ValueError):
            return  # process 0 is gone, or this process is exiting
        now = time.monotonic()
        for other, (last, moment) in heard.items():
            word = said.get(f"{_ALIVE}/{other}", "")
            if word != last:
                heard[other] = (word, now)
            elif now - moment > 0.7 * heartbeat_seconds:
                # Do not use logging: a blocked thread may hold its lock.
                line = _lost(f"process {other} was silent for {now - moment:.0f} s")
                os.write(2, f"error: {line}\n".encode())
                leave(errors.LostProcessError.exit_code, 0.2 * heartbeat_seconds)


def _lost(how: str) -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()} has lost another one "
        f"({how}), whose own output says why. Start all processes again: the run "
        "resumes at its last checkpoint"
    )


def _failure() -> errors.ArniqaError | None:
    """Return the failure that another process has reported, as an error, or None."""
    try:
        said = distributed.global_state.client.key_value_dir_get(_FAILED)
    except (jax.errors.JaxRuntimeError, ValueError):
        return None  # process 0, which holds the store, is gone
    if not said:
        return None
    code, rank = map(int, said[0][1].split())
    if rank == jax.process_index():
        return None
    failure = errors.ArniqaError(
        f"process {rank} of {jax.process_count()} has failed, and its own output says "
        "why"
    )
    failure.exit_code = code
    return failure


def leave(code: int, grace: float | None = None) -> None:
    """End this process without the shutdown barrier, if it is one of several.

    All processes end with the same code: that of the first one that has failed, or the
    code of a lost process where none has. The others notice a failure within a second
    or two. A normal exit of a JAX process waits for all processes, and crashes if they
    do not arrive.

    Args:
      code: the exit code.
      grace: seconds that process 0 waits at most for the others to leave; the
        coordination service that connects them ends with process 0.
    """
    if not jax.distributed.is_initialized():
        return
    client, rank = distributed.global_state.client, jax.process_index()
    failed = code != errors.LostProcessError.exit_code
    with contextlib.suppress(jax.errors.JaxRuntimeError, ValueError):
        if failed:
            client.key_value_set(f"{_FAILED}/first", f"{code} {rank}")
    failure = _failure()  # another process may have failed first
    if failure is not None:
        code, failed = failure.exit_code, True
    with contextlib.suppress(jax.errors.JaxRuntimeError, ValueError):
        client.key_value_set(f"{_LEFT}/{rank}", "", allow_overwrite=True)
        if grace is None:
            grace = _GRACE_AFTER_FAILURE if failed else _GRACE_AFTER_LOSS
        end = time.monotonic() + grace
        while rank == 0 and time.monotonic() < end:
            if len(client.key_value_dir_get(_LEFT)) == jax.process_count():
                break
            time.sleep(0.1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def start_timeout(seconds: float, place: str, *, process_id: int | None) -> Iterator:
    """End this process with one line if the others do not arrive in time.

    JAX's own timeout ends a process by a crash with a C++ stack trace.

    Args:
      seconds: time for the block.
      place: where the processes meet, for the message.
      process_id: index of this process, if it is known.
    """
    line = (
        f"error: the processes of this run have not all arrived at {place} within "
        f"{seconds:g} s (--start_timeout_seconds): start all of them, with the same "
        "--coordinator and --num_processes, on machines that reach each other\n"
    )

    def give_up():
        os.write(2, line.encode())
        os._exit(errors.LostProcessError.exit_code)

    # Process 0 stays a little longer: the others crash when it ends before them.
    longer = max(2.0, 0.1 * seconds) if process_id == 0 else 0.0
    timer = threading.Timer(seconds + longer, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
