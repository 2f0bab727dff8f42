"""The errors that a user can cause, each printed by a command as one line.

A message says what was expected, what was found and what to do. Anything else that
escapes from the package, a traceback included, is a bug.
"""


class ArniqaError(Exception):
    """Something the user can put right; a command prints it and exits with 1."""

    exit_code = 1


class UsageError(ArniqaError):
    """A wrong flag, config field or argument value; a command exits with 2."""

    exit_code = 2


class LostProcessError(ArniqaError):
    """Another process of the run has ended; the code asks for all to start again."""

    exit_code = 75


class ImageError(ArniqaError):
    """One image cannot be used; the message names it and gives the reason."""


class DatasetError(ArniqaError):
    """A folder of photographs or a labelled dataset is not as it has to be."""


class CheckpointError(ArniqaError):
    """A checkpoint or model directory is missing, damaged or of another model."""
