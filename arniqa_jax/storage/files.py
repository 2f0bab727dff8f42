"""Files that are written atomically."""

import os
import pathlib


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    The content goes to a temporary file of this process in the same directory, which
    is renamed when it is complete and on the disk.

    Raises:
      OSError: it cannot be written; `filename` is always set.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # of a full disk it names none
        raise
    finally:
        temporary.unlink(missing_ok=True)
