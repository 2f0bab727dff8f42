"""Files and directories behind URLs (`gs://`, `s3://`, `https://`), through fsspec.

An object is written with one request, so a reader sees the old content or the new one.
A directory is a prefix of the names of objects; it exists if it has an object.

The packages for Google Cloud and S3 repeat a request that fails for a moment several
times. The functions here repeat it again, more slowly, with a log line. So an outage of
a few minutes does not end a run. Errors of all packages become one-line errors here.
"""

import hashlib
import os
import pathlib
import posixpath
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, BinaryIO, TypeVar

from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage import bucket_errors, files

# The package that fsspec needs for a scheme, and our extra that installs it.
_EXTRAS = {
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "s3": ("s3fs", "s3"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
}
# Seconds before an operation is repeated, after the packages have given up.
_PAUSES = (1.0, 5.0, 20.0, 60.0)
_THREADS = 8  # of an upload or download of many files

Result = TypeVar("Result")


def is_url(path: str | os.PathLike) -> bool:
    """Return whether a path begins with a scheme such as `gs://`."""
    return isinstance(path, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path))


def scheme(url: str) -> str:
    """Return the scheme of a URL, such as `gs`."""
    return url.partition("://")[0].lower()


def is_pattern(path: str) -> bool:
    """Return whether a path has a wildcard: `*`, `?` or `[`."""
    return any(character in path for character in "*?[")


def join(url: str, *names: str) -> str:
    """Return the URL of a file below a directory."""
    return "/".join([url.rstrip("/"), *names])


def check(url: str, *, deadline: float = 20.0) -> None:
    """Raise an error soon if a bucket cannot be used.

    Call it before a library that waits for minutes, or forever, when the bucket does
    not exist or the address of the service is wrong.

    Args:
      url: of the bucket, or of anything in it. The object itself need not exist.
      deadline: seconds to wait for an answer.

    Raises:
      BucketError: the bucket does not exist, is forbidden, or does not answer.
      ArniqaError: the package for this kind of URL is missing.
    """
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def probe():
        try:
            _list_one(url)
            answer.put(None)
        except Exception as error:
            answer.put(error)

    threading.Thread(target=probe, name="probe of a bucket", daemon=True).start()
    bucket = "/".join(url.split("/")[:3])
    try:
        error = answer.get(timeout=deadline)
    except queue.Empty:
        raise errors.BucketError(
            f"{bucket} did not answer within {deadline:g} s: check the network, the "
            "credentials and the address of the service"
            + "".join(f", {name}={os.environ[name]}" for name in _endpoints())
        ) from None
    if isinstance(error, FileNotFoundError):
        raise errors.BucketError(
            f"{bucket}: there is no such bucket; create it, or correct the URL"
        ) from error
    if error is not None:
        raise bucket_errors.translate(url, error) from error


def check_listable(url: str, name: str) -> None:
    """Raise an error soon if the files below a URL cannot be listed.

    Args:
      url: of a folder.
      name: name of the flag, field or argument, for the error.

    Raises:
      UsageError: the URL is on a web server.
      BucketError, ArniqaError: see `check`.
    """
    if scheme(url) in ("http", "https"):
        raise errors.UsageError(
            f"{name}={url}: expected a local path, gs:// or s3://; a web server does "
            "not list its files"
        )
    check(url)


def list_urls(url: str) -> list[str]:
    """Return the URLs of the files that a URL names, sorted.

    Args:
      url: URL of a file, of a folder (listed recursively), or a pattern.

    Raises:
      BucketError: the URL cannot be listed; the message begins with it.
      ArniqaError: the package for this kind of URL is missing.
    """
    system, path = open_system(url)
    if scheme(url) in ("http", "https"):
        return [url]  # web servers do not list files; `?` is part of an address
    if is_pattern(path):
        found = retried(url, lambda: system.glob(path))
    elif retried(url, lambda: system.isdir(path)):
        found = retried(url, lambda: system.find(path))
    else:
        return [url]
    return [f"{url.partition('://')[0]}://{one.lstrip('/')}" for one in sorted(found)]


def find(url: str) -> dict[str, int]:
    """Return the files of a directory, recursively: relative name and size in bytes.

    Raises:
      BucketError: it cannot be listed. A directory without files is empty instead.
    """
    return {name: details["size"] for name, details in find_details(url).items()}


def find_details(url: str) -> dict[str, dict[str, Any]]:
    """Return the files of a directory like `find`, with all that fsspec says."""
    system, path = open_system(url)
    found = retried(url, lambda: system.find(path, detail=True))
    root = path.strip("/") + "/"
    return {
        name.strip("/").removeprefix(root): details
        for name, details in sorted(found.items())
        if name.strip("/").startswith(root) and not name.endswith("/")
    }


def exists(url: str) -> bool:
    """Return whether there is a file or a directory of this URL."""
    system, path = open_system(url)

    def look():
        try:
            return bool(system.info(path))
        except FileNotFoundError:
            return False

    return retried(url, look)


def read(url: str) -> bytes:
    """Return the content of a file.

    Raises:
      BucketError: it cannot be read; the message begins with the URL.
    """
    system, path = open_system(url)
    return retried(url, lambda: system.cat_file(path))


def write(url: str, content: bytes | str) -> None:
    """Write a file, atomically.

    Raises:
      BucketError: it cannot be written; the message begins with the URL.
    """
    system, path = open_system(url)
    data = content.encode() if isinstance(content, str) else content
    retried(url, lambda: system.pipe_file(path, data), "unwritable")


def delete(url: str) -> None:
    """Remove a file, or a directory with all its files, if it exists.

    Raises:
      BucketError: it cannot be removed; the message begins with the URL.
    """
    system, path = open_system(url)

    def remove():
        try:
            system.rm(path, recursive=True)
        except FileNotFoundError:
            return

    retried(url, remove, "not removable")


def upload_files(path: pathlib.Path, url: str, names: Iterable[str]) -> None:
    """Copy files of a local directory to a directory; each is written atomically.

    Raises:
      BucketError: a file cannot be written; the message begins with its URL.
    """

    def copy(name):
        write(join(url, name), (path / name).read_bytes())

    _in_threads(copy, names)


def download_files(url: str, path: pathlib.Path, names: Iterable[str]) -> None:
    """Copy files of a directory to a local directory; each is written atomically.

    Raises:
      BucketError: a file does not exist or cannot be read.
    """

    def copy(name):
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(target, read(join(url, name)))

    _in_threads(copy, names)


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading: a path, or a URL, which is read in blocks.

    Raises:
      BucketError: it cannot be opened; the message begins with the path.
    """
    if not is_url(path):
        try:
            return pathlib.Path(path).open("rb")
        except (OSError, ValueError) as error:
            raise bucket_errors.translate(path, error) from error
    system, inside = open_system(path)
    return retried(path, lambda: system.open(inside, "rb"))


def open_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path in it.

    It keeps no listings: other processes write to the bucket too.

    Raises:
      ArniqaError: the package for this kind of URL is missing.
      UsageError: there is no such kind of URL.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package, extra = _EXTRAS.get(
            scheme(url), (f"fsspec's package for {scheme(url)}://", None)
        )
        install = f"pip install 'arniqa_jax[{extra}]'" if extra else "install it"
        raise errors.ArniqaError(
            f"{url} needs {package}, which is not installed: {install}"
        ) from error
    except ValueError as error:  # no such scheme
        raise errors.UsageError(f"{url}: {errors.one_line(error)}") from error
    except Exception as error:  # the credentials cannot be read
        raise bucket_errors.translate(url, error) from error


def retried(
    url: str, operation: Callable[[], Result], state: str = "unreadable"
) -> Result:
    """Return the result of an operation, repeated after transient errors.

    Raises:
      BucketError: the error is not transient, or the last attempt failed too.
    """
    for pause in (*_PAUSES, None):
        try:
            return operation()
        except Exception as error:
            if pause is None or not bucket_errors.is_transient(error):
                raise bucket_errors.translate(url, error, state) from error
            logging.warning(
                "%s: %s; trying again in %g s",
                url,
                errors.one_line(error),
                pause,
            )
            time.sleep(pause)
    raise AssertionError("not reached")


def _list_one(url: str) -> None:
    """Ask for one object of a bucket; raise the package's own error."""
    system, path = open_system(url)
    bucket = path.lstrip("/").partition("/")[0]
    if scheme(url) in ("gs", "gcs"):
        # The right to list objects is enough, unlike for `info` of a bucket.
        system.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
    elif scheme(url) == "s3":
        system.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
    else:
        system.exists(path)


def _endpoints() -> list[str]:
    """Return the variables that are set and change the address of the service."""
    known = ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    return [name for name in known if os.environ.get(name)]


def _in_threads(action: Callable[[str], None], names: Iterable[str]) -> None:
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(action, names):
            pass


def local_name(url: str) -> str:
    """Return a name for a local copy, which no other URL has."""
    name = posixpath.basename(url.rstrip("/"))
    return f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
