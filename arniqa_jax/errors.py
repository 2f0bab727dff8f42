"""The errors that a user can cause, and the exit codes of the commands.

A command prints such an error as one line. The message says what was expected, what was
found and what to do. Any other exception that leaves the package, with a traceback, is
a bug.
"""

NOT_ON_WINDOWS = (
    "arniqa_jax runs on Linux and macOS. On Windows, run it in the Windows Subsystem "
    "for Linux (wsl --install)"
)

# Exit codes. sysexits.h defines 75 as "temporary failure, try again".
SUCCESS = 0
FAILURE = 1
WRONG_USE = 2
START_AGAIN = 75
INTERRUPTED = 130


class ArniqaError(Exception):
    """A problem that the user can fix; a command prints it and exits with 1."""

    exit_code = FAILURE


class UsageError(ArniqaError):
    """A wrong flag, config field or argument value; a command exits with 2."""

    exit_code = WRONG_USE


class LostProcessError(ArniqaError):
    """Another process has ended; exit code 75 asks to start all processes again."""

    exit_code = START_AGAIN


class ImageError(ArniqaError):
    """An image cannot be used; the message names it and gives the reason."""


class BucketError(ArniqaError):
    """A file behind a URL cannot be read or written; the message names it."""


class DatasetError(ArniqaError):
    """A folder of photographs or a labelled dataset is incomplete or malformed."""


class CheckpointError(ArniqaError):
    """A checkpoint or model directory is missing, damaged or of another model."""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
