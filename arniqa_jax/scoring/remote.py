"""Files behind a URL (`gs://`, `s3://`, `https://` ...), read through fsspec."""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from arniqa_jax import errors
from arniqa_jax.data.images import one_line

# The package that fsspec needs for a scheme, and our extra that installs it.
_EXTRAS = {
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "s3": ("s3fs", "s3"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
}


def is_url(path: str | os.PathLike) -> bool:
    """Return whether a path begins with a scheme such as `gs://`."""
    return isinstance(path, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path))


def list_urls(url: str) -> Iterator[str]:
    """Yield the URLs of the files that a URL names, sorted.

    Args:
      url: URL of a file, of a folder (listed recursively), or a pattern.

    Raises:
      ArniqaError: the package for this kind of URL is missing.
      ImageError: the URL cannot be listed; the message begins with it.
    """
    system, path = _open_system(url)
    scheme = url.partition("://")[0]
    try:
        if scheme in ("http", "https"):
            found = [url]  # web servers do not list files; `?` is part of an address
        elif any(character in path for character in "*?["):
            found = [
                f"{scheme}://{one.lstrip('/')}" for one in sorted(system.glob(path))
            ]
        elif system.isdir(path):
            found = [
                f"{scheme}://{one.lstrip('/')}" for one in sorted(system.find(path))
            ]
        else:
            found = [url]
    except Exception as error:
        raise _reason(url, error) from error
    yield from found


def read(url: str) -> bytes:
    """Return the content of a file.

    Raises:
      ImageError: it cannot be read; the message begins with the URL.
    """
    system, path = _open_system(url)
    try:
        return system.cat_file(path)
    except Exception as error:
        raise _reason(url, error) from error


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading: a path, or a URL, which is read in blocks.

    Raises:
      ImageError: it cannot be opened; the message begins with the path.
    """
    try:
        if not is_url(path):
            return pathlib.Path(path).open("rb")
        system, inside = _open_system(path)
        return system.open(inside, "rb")
    except errors.ArniqaError:
        raise
    except Exception as error:
        raise _reason(path, error) from error


def _open_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.partition("://")[0]
        package, extra = _EXTRAS.get(
            scheme, (f"fsspec's package for {scheme}://", None)
        )
        install = f"pip install 'arniqa_jax[{extra}]'" if extra else "install it"
        raise errors.ArniqaError(
            f"{url} needs {package}, which is not installed: {install}"
        ) from error
    except ValueError as error:  # no such scheme
        raise errors.UsageError(f"{url}: {one_line(error)}") from error


def _reason(url: str, error: Exception) -> errors.ImageError:
    """Return an ImageError with the reason; the packages raise errors of many types."""
    if isinstance(error, FileNotFoundError):
        return errors.ImageError(f"{url}: unreadable: there is no such file")
    return errors.ImageError(f"{url}: unreadable: {one_line(error)}")
