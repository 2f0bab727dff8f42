"""Images in other files: `.tar` shards and Parquet files, read in order.

Both are read as a stream, from disk or from a URL, with one image in memory at a time.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.storage import buckets

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".parquet")
# A larger encoded image is rejected, so that no archive fills the memory.
MAX_BYTES = 2**30
# Columns of a Parquet file that may contain images, in order of preference.
_IMAGE_COLUMNS = ("image", "img", "bytes", "jpg", "jpeg", "png", "webp", "content")
_ID_COLUMNS = (
    "path",
    "id",
    "key",
    "__key__",
    "image_id",
    "file_name",
    "filename",
    "url",
)
_ROWS_AT_A_TIME = 32


class Member(NamedTuple):
    """An image in an archive: its name there, and its bytes or an error."""

    name: str
    content: bytes | None
    reason: str | None = None


def is_archive(path: str) -> bool:
    """Return whether a file with this name contains images."""
    return path.lower().endswith(SUFFIXES)


def read(path: str, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """Yield the images of an archive, in its order.

    Args:
      path: a path or a URL, see `is_archive`.
      suffixes: suffixes of the names of images in a `.tar`, in lower case.

    Raises:
      ImageError: the archive is damaged or cannot be read; the message begins with its
        path. The images before the damage are yielded first.
    """
    try:
        opened = buckets.open_binary(path)
    except errors.BucketError as error:
        raise errors.ImageError(str(error)) from error
    with opened as file:
        try:
            if path.lower().endswith(".parquet"):
                yield from _read_parquet(file)
            else:
                yield from _read_tar(file, suffixes)
        except errors.ArniqaError as error:
            raise errors.ImageError(f"{path}: {error}") from error
        except Exception as error:  # of many types: damage, a lost connection
            raise errors.ImageError(
                f"{path}: unreadable: {errors.one_line(error)}"
            ) from error


def _read_tar(file: Any, suffixes: tuple[str, ...]) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            names = member.name.removeprefix("./").split("/")
            if not member.isfile() or any(map(folders.is_hidden, names)):
                continue
            if not member.name.lower().endswith(suffixes):
                continue
            if member.size > MAX_BYTES:
                reason = f"more than {MAX_BYTES >> 20} MiB"
                yield Member("/".join(names), None, reason)
                continue
            yield Member("/".join(names), archive.extractfile(member).read())


def _read_parquet(file: Any) -> Iterator[Member]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise errors.ArniqaError(
            "Parquet needs pyarrow, which is not installed: pip install "
            "'arniqa_jax[parquet]'"
        ) from error
    table = parquet.ParquetFile(file)
    names = table.schema_arrow.names
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    if image is None:
        raise errors.UsageError(
            f"no column with images ({', '.join(_IMAGE_COLUMNS)}) among "
            f"{', '.join(names)}"
        )
    key = next((name for name in _ID_COLUMNS if name in names), None)
    columns = [image, key] if key else [image]
    row = 0
    for batch in table.iter_batches(_ROWS_AT_A_TIME, columns=columns):
        for values in batch.to_pylist():
            yield _cell(values[image], values[key] if key else None, row)
            row += 1


def _cell(value: Any, key: Any, row: int) -> Member:
    """Return the image of a row: bytes, or the `{bytes, path}` of Hugging Face."""
    if isinstance(value, dict):
        key = key if key is not None else value.get("path")
        value = value.get("bytes")
    name = os.fspath(key) if isinstance(key, str) else str(row if key is None else key)
    if not isinstance(value, bytes):
        return Member(name, None, "no bytes of an image in this row")
    if len(value) > MAX_BYTES:
        return Member(name, None, f"more than {MAX_BYTES >> 20} MiB")
    return Member(name, value)
