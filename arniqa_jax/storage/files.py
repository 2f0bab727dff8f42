"""Local files: check that a path is local, and write atomically."""

import contextlib
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

from arniqa_jax import errors


def local_path(path: str | os.PathLike, name: str) -> pathlib.Path:
    """Return the path of a local file or directory.

    Args:
      path: the path as given by the user.
      name: name of the flag, field or argument, for the error.

    Raises:
      UsageError: the path is a URL, such as `gs://bucket/run`. `pathlib` would treat it
        as a relative path and create a directory `gs:`.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", os.fspath(path))
    if scheme:
        raise errors.UsageError(
            f"{name}={os.fspath(path)}: expected a local path, found a "
            f"{scheme[1]}: URL; mount the bucket or copy the files, and give the "
            "local path"
        )
    return pathlib.Path(path)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises:
      OSError: see `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary path for the new content of `path`.

    The temporary file is in the same directory, and no other writer uses its name. When
    the caller has closed it, it is flushed to disk and renamed to `path`. After an
    error it is removed, and `path` keeps its old content.

    Raises:
      OSError: the file cannot be written; `filename` is always set.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # not set if the disk is full
        raise
    finally:
        temporary.unlink(missing_ok=True)
