"""Locks on files; the system releases the locks of a process when it ends."""

from typing import IO

from arniqa_jax import errors


def try_lock(file: IO) -> bool:
    """Lock an open file until it is closed; return False if it is locked already.

    Raises:
      ArniqaError: this system has no such locks.
    """
    fcntl = _fcntl()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO) -> None:
    """Wait until an open file can be locked, then lock it until it is closed.

    Raises:
      ArniqaError: this system has no such locks.
    """
    fcntl = _fcntl()
    fcntl.flock(file, fcntl.LOCK_EX)


def _fcntl():
    # The import is here so that the package can be imported on Windows.
    try:
        import fcntl
    except ImportError:
        raise errors.ArniqaError(errors.NOT_ON_WINDOWS) from None
    return fcntl
