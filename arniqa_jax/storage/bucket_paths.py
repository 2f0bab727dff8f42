"""Paths in a bucket, with the methods of `pathlib.Path` that read.

Code that takes a `BucketPath` or a `pathlib.Path` finds and reads files in the same way
in a bucket and on disk. A `BucketPath` is not `os.PathLike`, so that no function takes
it for a local path by mistake.
"""

import fnmatch
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any

from arniqa_jax.storage import bucket_lists, buckets
from arniqa_jax.storage.files import local_path


class BucketPath:
    """The URL of a file or folder; picklable.

    Each folder is listed once, with the first path that needs the list, and the paths
    that are made from each other share the lists. So thousands of paths are checked
    with a few requests, and later changes in the bucket are not seen.
    """

    def __init__(self, url: str, _lists: dict[str, dict] | None = None):
        place, _, inside = url.partition("://")
        self._url = f"{place}://{posixpath.normpath(inside)}"
        self._lists = {} if _lists is None else _lists

    def __getstate__(self) -> dict[str, Any]:
        return {"_url": self._url, "_lists": {}}

    def __str__(self) -> str:
        return self._url

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __lt__(self, other: "BucketPath") -> bool:
        return self._url < other._url

    def __truediv__(self, name: "str | os.PathLike | BucketPath") -> "BucketPath":
        """Return the path of a name in this folder; a URL is returned as it is."""
        text = str(name)
        url = text if buckets.is_url(text) else buckets.join(self._url, text)
        return BucketPath(url, self._lists)

    name = property(lambda self: posixpath.basename(self._url))
    stem = property(lambda self: posixpath.splitext(self.name)[0])
    suffix = property(lambda self: posixpath.splitext(self.name)[1])

    @property
    def parent(self) -> "BucketPath":
        """The folder of this path; a bucket is its own parent."""
        scheme, _, inside = self._url.partition("://")
        above = posixpath.dirname(inside)
        return BucketPath(f"{scheme}://{above}", self._lists) if above else self

    def resolve(self) -> "BucketPath":
        """Return the path: a bucket has no links."""
        return self

    def iterdir(self) -> Iterator["BucketPath"]:
        """Yield what lies in this folder, in the order of the names."""
        return (self / name for name in self._list())

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yield what lies in this folder and matches a pattern without slashes."""
        return (self / name for name in self._list() if fnmatch.fnmatch(name, pattern))

    def is_dir(self) -> bool:
        entry = self._entry()
        return entry.is_folder if entry else bool(self._list())

    def is_file(self) -> bool:
        entry = self._entry()
        return entry is not None and not entry.is_folder

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def stamp(self) -> str:
        """Return a string that changes if the file is written again."""
        entry = self._entry()
        return f"{entry.size} {entry.stamp}" if entry else ""

    def read_bytes(self) -> bytes:
        """Return the content of the file.

        Raises:
          FileNotFoundError: there is no such file.
          BucketError: it cannot be read; the message begins with the URL.
        """
        if not self.is_file():
            raise FileNotFoundError(f"{self}: there is no such file")
        return buckets.read(self._url)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content of the file as text."""
        return self.read_bytes().decode(encoding, errors)

    def _list(self) -> dict[str, bucket_lists.Entry]:
        if self._url not in self._lists:
            self._lists[self._url] = bucket_lists.list_folder(self._url)
        return self._lists[self._url]

    def _entry(self) -> bucket_lists.Entry | None:
        """Return what the list of the parent says; None for a bucket, or if missing."""
        parent = self.parent
        return None if parent is self else parent._list().get(self.name)


AnyPath = pathlib.Path | BucketPath


def place(path: str | os.PathLike, name: str) -> AnyPath:
    """Return the path of a file or folder, on disk or in a bucket.

    Args:
      path: a local path or a URL.
      name: name of the flag, field or argument, for the error.

    Raises:
      UsageError: the path is neither; or it is on a web server, which lists nothing.
      BucketError: the bucket does not exist, is forbidden or does not answer.
    """
    if not buckets.is_url(path):
        return local_path(path, name)
    buckets.check_listable(path, name)
    return BucketPath(path)
