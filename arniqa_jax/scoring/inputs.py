"""Which images a command line names, and decoding them in threads, in order.

No file may end a run: whatever is wrong with one becomes its reason.
"""

import dataclasses
import glob
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.data.images import decode_image
from arniqa_jax.data.photos import EXTENSIONS

# What counts as an image in a folder; a file that is named is tried whatever its name.
SUFFIXES = (*EXTENSIONS, ".avif", ".gif", ".j2k", ".jp2", ".pgm", ".ppm", ".tga")
_A_DIRECTORY = "a directory with the name of an image"


@dataclasses.dataclass(frozen=True)
class Input:
    """A path to be scored; with a `reason` where it is known to be impossible."""

    path: str
    reason: str | None = None

    @property
    def shown(self) -> str:
        """The path as text: bytes that are not UTF-8 as `\\xff`."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An image that was tried.

    Attributes:
      input: which one.
      reason: why it cannot be scored, or None.
      height, width: in pixels, as shown (after EXIF orientation).
      seconds: taken to read, decode, resize and cut it.
    """

    input: Input
    reason: str | None = None
    height: int | None = None
    width: int | None = None
    seconds: float | None = None


def find(arguments: Iterable[str], stdin: BinaryIO) -> Iterator[Input]:
    """Lists what the arguments name, lazily, folders in the order of their names.

    Args:
      arguments: files, folders (with all below them), patterns, or `-` for a list of
        files, one a line.
      stdin: read for `-`.
    """
    for argument in arguments:
        if argument == "-":
            lines = (line.rstrip(b"\r\n") for line in stdin)
            yield from (_file(os.fsdecode(line)) for line in lines if line)
        elif os.path.lexists(argument) or not any(c in argument for c in "*?["):
            yield from _file_or_folder(argument)
        else:
            matches = sorted(glob.iglob(argument, recursive=True))
            for match in matches:
                yield from _file_or_folder(match)
            if not matches:
                yield Input(argument, "no file matches this pattern")


def _file_or_folder(path: str) -> Iterator[Input]:
    if not os.path.isdir(path) or _has_image_name(path):
        yield _file(path)
        return
    found = False
    for entry in folders.walk(path):
        item = _from_folder(entry)
        if item:
            found = True
            yield item
    if not found:
        yield Input(path, "a folder without images")


def _from_folder(entry: folders.Entry) -> Input | None:
    """Return what an entry of a folder is to the scorer; None for what is no image."""
    if entry.reason:
        return Input(entry.path, entry.reason)
    if not _has_image_name(entry.path):
        return None
    return Input(entry.path, _A_DIRECTORY if entry.is_folder else None)


def _file(path: str) -> Input:
    return Input(path, _A_DIRECTORY if os.path.isdir(path) else None)


def _has_image_name(path: str) -> bool:
    return path.rstrip(os.sep).lower().endswith(SUFFIXES)


def load(view: Callable, item: Input) -> tuple[Loaded, tuple | None]:
    """Decodes an image and takes its view; never raises for what is in a file."""
    start = time.perf_counter()
    reason = item.reason or _obstacle(item.path)
    if reason:
        return Loaded(item, reason), None
    try:
        image = decode_image(item.path, apply_orientation=True)
        height, width, _ = image.shape
        taken = view(image)
    except errors.ImageError as error:
        return Loaded(item, str(error).removeprefix(f"{item.path}: ")), None
    except MemoryError:
        return Loaded(item, "not enough memory for it"), None
    return Loaded(item, None, height, width, time.perf_counter() - start), taken


def _obstacle(path: str) -> str | None:
    """What stands against opening a file at all; a pipe would wait for ever."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return f"unreadable: {getattr(error, 'strerror', None) or error}"
    return None if stat.S_ISREG(mode) else "not a regular file"
