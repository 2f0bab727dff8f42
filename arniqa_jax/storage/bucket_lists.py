"""What lies in a bucket, with sizes, times and versions."""

import datetime
import posixpath
from typing import Any, NamedTuple

from arniqa_jax.storage import buckets


class Entry(NamedTuple):
    """A file or folder in a bucket.

    Attributes:
      is_folder: whether it is a folder.
      size: in bytes.
      stamp: changes if the file is written again.
      modified: when the file was written, in seconds since 1970; 0 if not known.
    """

    is_folder: bool
    size: int
    stamp: str
    modified: float


def find_entries(url: str) -> dict[str, Entry]:
    """Return the files of a directory, recursively, by their relative names.

    Raises:
      BucketError: it cannot be listed. A directory without files is empty instead.
    """
    found = buckets.find_details(url)
    return {name: _entry(details) for name, details in found.items()}


def list_folder(url: str) -> dict[str, Entry]:
    """Return what lies directly in a folder, by name, with one request per 1,000.

    Raises:
      BucketError: it cannot be listed. A folder that does not exist is empty instead.
    """
    system, path = buckets.open_system(url)

    def listed():
        try:
            return system.ls(path, detail=True)
        except FileNotFoundError:
            return []

    entries = {}
    for details in buckets.retried(url, listed):
        if details["name"].strip("/") != path.strip("/"):
            name = posixpath.basename(details["name"].rstrip("/"))
            entries[name] = _entry(details)
    return dict(sorted(entries.items()))


def _entry(details: dict[str, Any]) -> Entry:
    """Return what a package of fsspec says of a file; each uses its own names."""
    stamps = (details.get(key) for key in ("etag", "ETag", "md5Hash", "created"))
    times = (details.get(key) for key in ("mtime", "LastModified", "created"))
    time_ = next(filter(None, times), None)
    return Entry(
        is_folder=details["type"] == "directory",
        size=details["size"] or 0,
        stamp=str(next(filter(None, stamps), "")),
        modified=time_.timestamp() if isinstance(time_, datetime.datetime) else 0.0,
    )
