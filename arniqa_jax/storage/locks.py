"""Locks on files. The system releases the lock of a process that has ended."""

from typing import IO

from arniqa_jax import errors


def try_lock(file: IO) -> bool:
    """Lock an open file until it is closed; return False where another one holds it.

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
    """Lock an open file until it is closed, once the others have released it.

    Raises:
      ArniqaError: this system has no such locks.
    """
    fcntl = _fcntl()
    fcntl.flock(file, fcntl.LOCK_EX)


def _fcntl():
    # Here, so that the package can be imported on Windows.
    try:
        import fcntl
    except ImportError:
        raise errors.ArniqaError(errors.NOT_ON_WINDOWS) from None
    return fcntl
