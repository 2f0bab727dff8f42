"""Find the images that a command line names, and decode each image.

No file may end a run: an error in a file becomes the reason in its row.
"""

import collections
import dataclasses
import glob
import importlib.util
import itertools
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.data.photos import EXTENSIONS
from arniqa_jax.scoring import archives, pictures, shards
from arniqa_jax.storage import buckets

# Suffixes of images in a folder. A file that is named explicitly is tried with any
# suffix.
SUFFIXES = (
    *EXTENSIONS,
    *(".avif", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".mpo", ".pgm", ".ppm", ".tga"),
)
# Formats that need an optional package: their suffixes, the package, our extra.
_EXTRA_FORMATS = (
    (pictures.HEIF_SUFFIXES, "pillow_heif", "heif"),
    (pictures.RAW_SUFFIXES, "rawpy", "raw"),
)
# Formats that are not supported.
_UNKNOWN_FORMATS = (".eps", ".exr", ".hdr", ".jxl", ".psd", ".svg", ".xcf")
# Requests for files behind URLs that are in flight.
REQUESTS = 16
_A_DIRECTORY = "a directory with the name of an image"
_NO_IMAGES = "a folder without images"
_NO_MATCH = "no file matches this pattern"


@dataclasses.dataclass(frozen=True)
class Input:
    """An image to score.

    Attributes:
      path: its path, or what to call it.
      reason: why it cannot be scored, where that is known without reading it.
      content: the image itself; None to read it from the path.
      in_archive: whether the path is a name in an archive, where names may repeat.
    """

    path: str
    reason: str | None = None
    content: pictures.Picture | None = dataclasses.field(default=None, repr=False)
    in_archive: bool = False

    @property
    def shown(self) -> str:
        """The path as text: bytes that are not UTF-8 as `\\xff`."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


class Skipped:
    """Counts the images in folders that cannot be decoded here, by suffix."""

    def __init__(self):
        self._counts = collections.Counter()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def clear(self) -> None:
        """Forget what was counted."""
        self._counts.clear()

    def note(self, name: str) -> None:
        """Count a file if its name is that of an image."""
        suffix = os.path.splitext(name)[1].lower()
        known = (s for suffixes, _, _ in _EXTRA_FORMATS for s in suffixes)
        if suffix in (*known, *_UNKNOWN_FORMATS):
            self._counts[suffix] += 1

    def __str__(self) -> str:
        counted = ", ".join(
            f"{n} {suffix}" for suffix, n in sorted(self._counts.items())
        )
        extras = [
            f"'arniqa_jax[{extra}]'"
            for suffixes, _, extra in _EXTRA_FORMATS
            if any(suffix in self._counts for suffix in suffixes)
        ]
        hint = f"; for some of them: pip install {' '.join(extras)}" if extras else ""
        return f"skipped files of formats that cannot be decoded here: {counted}{hint}"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The outcome of loading an image.

    Attributes:
      input: the path.
      reason: why it cannot be scored, or None.
      height, width: size in pixels after EXIF orientation.
      seconds: time to read, decode, resize and cut it.
    """

    input: Input
    reason: str | None = None
    height: int | None = None
    width: int | None = None
    seconds: float | None = None


def find(
    arguments: Iterable[str], stdin: BinaryIO, skipped: Skipped
) -> Iterator[Input]:
    """Yield what the arguments name, lazily, folders in the order of their names.

    Args:
      arguments: files, folders (searched recursively), patterns, or `-` for a list of
        files, one per line. Each may be a URL. A `.tar` or Parquet file names the
        images in it, as `FILE/NAME`.
      stdin: read for `-`.
      skipped: counts the files in folders that look like images but cannot be decoded.
    """
    suffixes = image_suffixes()
    for argument in arguments:
        if argument == "-":
            lines = (line.rstrip(b"\r\n") for line in stdin)
            for line in lines:
                if line:
                    yield from _file(os.fsdecode(line), suffixes)
        elif buckets.is_url(argument):
            yield from _url(argument, suffixes, skipped)
        elif os.path.lexists(argument) or not buckets.is_pattern(argument):
            yield from _file_or_folder(argument, suffixes, skipped)
        else:
            matches = sorted(glob.iglob(argument, recursive=True))
            for match in matches:
                yield from _file_or_folder(match, suffixes, skipped)
            if not matches:
                yield Input(argument, _NO_MATCH)


def is_listed_fast(argument: str) -> bool:
    """Return whether the images of an argument can be counted without reading them."""
    return not (
        argument == "-" or buckets.is_url(argument) or archives.is_archive(argument)
    )


def find_once(
    arguments: Sequence[str],
    stdin: BinaryIO,
    skipped: Skipped,
    shard: shards.Shard = shards.ALL,
) -> Iterator[Input]:
    """List the images of a shard as `find` does, each path once.

    A file that patterns, lists or several arguments name twice is given out once.
    Two images of one name in an archive are two images: the second is called `NAME#2`.
    It takes about 100 bytes of memory per path to know, except for a single folder.
    """
    arguments = list(dict.fromkeys(arguments))
    once = len(arguments) == 1 and os.path.isdir(arguments[0])
    times: dict[int, int] = {}
    for item in find(arguments, stdin, skipped):
        if not once:
            number = int(shards.digest(item.shown))
            times[number] = times.get(number, 0) + 1
            if times[number] > 1 and not item.in_archive:
                continue
            if times[number] > 1:
                path = f"{item.path}#{times[number]}"
                item = dataclasses.replace(item, path=path)
        if shard.has(item.shown):
            yield item


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of images that can be decoded here, in lower case."""
    extra = (
        suffixes
        for suffixes, package, _ in _EXTRA_FORMATS
        if importlib.util.find_spec(package)
    )
    return (*SUFFIXES, *itertools.chain.from_iterable(extra))


def _file_or_folder(
    path: str, suffixes: tuple[str, ...], skipped: Skipped
) -> Iterator[Input]:
    if not os.path.isdir(path) or _ends_in(path, suffixes):
        yield from _file(path, suffixes)
        return
    found = False
    for entry in folders.walk(path):
        if entry.reason:
            item = Input(entry.path, entry.reason)
        elif _ends_in(entry.path, suffixes):
            item = Input(entry.path, _A_DIRECTORY if entry.is_folder else None)
        else:
            if not entry.is_folder:
                skipped.note(entry.path)
            continue
        found = True
        yield item
    if not found:
        yield Input(path, _NO_IMAGES)


def _file(path: str, suffixes: tuple[str, ...]) -> Iterator[Input]:
    """Yield the inputs of a file: itself, or all images in it."""
    if not archives.is_archive(path) or os.path.isdir(path):
        yield Input(path, _A_DIRECTORY if os.path.isdir(path) else None)
        return
    found = False
    try:
        for member in archives.read(path, suffixes):
            found = True
            name = f"{path}/{member.name}"
            yield Input(name, member.reason, member.content, in_archive=True)
    except errors.ImageError as error:
        yield Input(path, str(error).removeprefix(f"{path}: "))
    else:
        if not found:
            yield Input(path, "a file without images")


def _url(url: str, suffixes: tuple[str, ...], skipped: Skipped) -> Iterator[Input]:
    """Yield the images that a URL names, by the rules for folders on disk."""
    try:
        found = buckets.list_urls(url)
    except errors.BucketError as error:
        yield Input(url, str(error).removeprefix(f"{url}: "))
        return
    if found == [url]:
        yield from _file(url, suffixes)
        return
    is_pattern = buckets.is_pattern(url)
    # The folder may be hidden itself.
    root = re.split(r"[*?[]", url)[0].rpartition("/")[0] if is_pattern else url
    empty = True
    for one in found:
        below = one.removeprefix(root).split("/")
        if any(map(folders.is_hidden, filter(None, below))):
            continue
        if _ends_in(one, suffixes) or (is_pattern and archives.is_archive(one)):
            empty = False
            yield from _file(one, suffixes)
        else:
            skipped.note(one)
    if empty:
        yield Input(url, _NO_MATCH if is_pattern else _NO_IMAGES)


def _ends_in(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.rstrip(os.sep).lower().endswith(suffixes)


def fetch(item: Input) -> Input:
    """Return an image behind a URL with its content, or with the reason; never raise.

    The encoded images are requested by more threads than there are to decode them,
    because a request mostly waits.
    """
    if item.reason or item.content is not None or not buckets.is_url(item.path):
        return item
    try:
        return dataclasses.replace(item, content=buckets.read(item.path))
    except errors.BucketError as error:
        reason = str(error).removeprefix(f"{item.path}: ")
        return dataclasses.replace(item, reason=reason)


def decode(model, item: Input) -> np.ndarray:
    """Return the pixels of an image by the colour rules of a `Scorer`.

    Raises:
      ImageError: the image cannot be decoded.
    """
    if item.content is None:
        return pictures.decode(item.path, background=model.background)
    return pictures.to_array(item.content, item.path, model.background)


def load(model, item: Input) -> tuple[Loaded, tuple | None]:
    """Decode an image and take the view of a `Scorer`; never raise for a file."""
    start = time.perf_counter()
    reason = item.reason
    if reason is None and item.content is None and not buckets.is_url(item.path):
        reason = _obstacle(item.path)
    if reason:
        return Loaded(item, reason), None
    try:
        image = decode(model, item)
        height, width, _ = image.shape
        taken = model.extractor.view(image)
    except errors.ImageError as error:
        return Loaded(item, str(error).removeprefix(f"{item.path}: ")), None
    except MemoryError:
        return Loaded(item, "not enough memory for it"), None
    return Loaded(item, None, height, width, time.perf_counter() - start), taken


def _obstacle(path: str) -> str | None:
    """Return why a path cannot be opened at all, or None.

    Opening a pipe would wait forever, so only regular files are opened.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return f"unreadable: {getattr(error, 'strerror', None) or error}"
    return None if stat.S_ISREG(mode) else "not a regular file"
