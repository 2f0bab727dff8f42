"""The files below a folder: one rule for links, hidden files and order.

Photographs for pre-training, images to score and the files of labelled datasets are
all found by `walk`, so that the same folder has the same files everywhere.
"""

import dataclasses
import os
from collections.abc import Iterator

from arniqa_jax.storage.bucket_paths import BucketPath

# Archives made on a Mac contain this folder, which holds no images.
_LEFT_OUT = "__MACOSX"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or a folder that `walk` found.

    Attributes:
      path: the path that was walked, joined with the path below it.
      is_folder: whether it is a folder; a broken link counts as a file.
      reason: why a folder cannot be listed; None for everything else.
    """

    path: str
    is_folder: bool = False
    reason: str | None = None


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is left out."""
    return name.startswith(".") or name == _LEFT_OUT


def walk(folder: str | os.PathLike | BucketPath) -> Iterator[Entry]:
    """List everything below a folder, lazily, each folder in the order of its names.

    Links to files and folders are followed. The one exception is a link to a folder
    that the link itself lies in: following it would never end. Hidden files and
    folders, whose names begin with a dot, are left out; `folder` itself may be hidden.
    A folder comes before what is in it.

    Args:
      folder: where to start; it is not listed itself, except with a reason. In a
        bucket there are no links.

    Yields:
      Files and folders. A folder that cannot be listed has a `reason`.
    """
    if isinstance(folder, BucketPath):
        yield from _walk_bucket(folder)
        return
    root = os.fspath(folder)
    pending: list[tuple[Entry, frozenset]] = [(Entry(root, True), frozenset())]
    while pending:
        entry, above = pending.pop()
        if not entry.is_folder:
            yield entry
            continue
        try:
            status = os.stat(entry.path)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            inside = sorted(_list(entry.path), key=lambda found: found.path)
        except OSError as error:
            yield dataclasses.replace(entry, reason=f"unreadable: {error.strerror}")
            continue
        if entry.path != root:
            yield entry
        above = above | {identity}
        pending += ((found, above) for found in reversed(inside))


def _walk_bucket(folder: BucketPath) -> Iterator[Entry]:
    for path in folder.iterdir():
        if not is_hidden(path.name):
            yield Entry(str(path), path.is_dir())
            if path.is_dir():
                yield from _walk_bucket(path)


def _list(folder: str) -> list[Entry]:
    with os.scandir(folder) as entries:
        return [
            Entry(entry.path, _is_folder(entry))
            for entry in entries
            if not is_hidden(entry.name)
        ]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself
