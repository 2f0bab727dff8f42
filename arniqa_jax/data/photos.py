"""Access to photographs by index: folders, ArrayRecord, TFDS and built-in samples.

All but the built-in ones may lie in a bucket.

Every source returns uint8 RGB of shape (H, W, 3) with the EXIF orientation applied. It
can be pickled for worker processes, and it opens its files lazily.
"""

import collections
import dataclasses
import functools
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
from absl import logging

from arniqa_jax.data import folders, records
from arniqa_jax.data.images import decode_image, read_url
from arniqa_jax.data.read_ahead import ReadAhead
from arniqa_jax.errors import DatasetError, UsageError
from arniqa_jax.storage import buckets
from arniqa_jax.storage.files import local_path

_KADIS = "ref_imgs"  # the folder of the pristine photographs of KADIS-700k
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class PhotoSource(Protocol):
    """Random access to photographs; picklable."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return uint8 (H, W, 3); raise ImageError if the photograph is unreadable."""
        ...

    def name(self, index: int) -> str:
        """Return the name of the photograph for messages, without reading it."""
        ...

    # A source may also have `request(indices)`, which begins to read the photographs
    # that are needed next.


def open_photos(root: str, source: str = "auto") -> PhotoSource:
    """Return the photographs that a config names.

    Args:
      root: a folder, on disk or in a bucket (`gs://`; `s3://` for image files). For
        `array_record` it may also be one file. For `tfds:NAME` it is the `data_dir`; if
        empty, TFDS's default.
      source: one of the five below.

    Sources:

    - `folder`: image files, searched recursively as `folders.walk` lists them. Of a
      KADIS-700k root, only `ref_imgs` is used.
    - `array_record`: ArrayRecord files whose records are encoded images, or files
      written by TFDS.
    - `tfds:NAME`: a prepared TFDS dataset. The split is `train` if there is one.
    - `builtin`: the photographs of role `train` in `BUILTIN`.
    - `auto`: by what is under the root; `builtin` if the root is empty.

    Raises:
      UsageError: the source is unknown or does not fit the root.
      DatasetError: the root has no photographs, or fewer than two.
      BucketError: the bucket does not exist, is forbidden or does not answer.
    """
    if root and not buckets.is_url(root):
        root = os.fspath(local_path(root, "data.root"))
    elif root:
        buckets.check_listable(root, "data.root")
    if source.startswith("tfds:"):
        photos = records.open_tfds(source.removeprefix("tfds:"), root)
    elif source == "builtin" or (source == "auto" and not root):
        if root:
            raise UsageError(
                f"data.source=builtin takes no data.root, found {root!r}; leave one out"
            )
        photos = _open_builtin()
    elif source in ("auto", "folder", "array_record"):
        photos = _open_files(root, source)
    else:
        raise UsageError(
            f"data.source={source!r} is unknown: expected auto, folder, array_record, "
            "tfds:NAME or builtin"
        )
    if len(photos) < 2:
        raise DatasetError(
            f"{root or source}: expected at least two photographs to form pairs, "
            f"found {len(photos)}"
        )
    return photos


@dataclasses.dataclass(frozen=True)
class _Folder:
    root: str
    files: tuple[str, ...]  # relative to root, sorted

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return decode_image(self.name(index), apply_orientation=True)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index])


class _BucketFolder:
    """Image files below a URL, whose files are requested ahead."""

    def __init__(self, root: str, files: tuple[str, ...]):
        self._root, self._files, self._ahead = root, files, ReadAhead()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray:
        url = self.name(index)
        content = read_url(url, self._ahead.read)
        return decode_image(content, apply_orientation=True, name=url)

    def name(self, index: int) -> str:
        return buckets.join(self._root, self._files[index])

    def request(self, indices: Iterable[int]) -> None:
        self._ahead.request(map(self.name, indices))


@dataclasses.dataclass(frozen=True)
class _Builtin:
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return builtin_photo(self.names[index])

    def name(self, index: int) -> str:
        return self.names[index]


# --- Built-in photographs -----------------------------------------------------------


class BuiltinPhoto(NamedTuple):
    """The file of a photograph, as PACKAGE/PATH, and what it may be used for."""

    file: str
    role: Literal["train", "validation", "test"]


# Pre-training uses only the `train` photographs. So the built-in evaluation compares
# encoders on content that neither pre-training nor the regressor has seen.
BUILTIN = {
    "astronaut": BuiltinPhoto("skimage/data/astronaut.png", "train"),
    "coffee": BuiltinPhoto("skimage/data/coffee.png", "train"),
    "rocket": BuiltinPhoto("skimage/data/rocket.jpg", "train"),
    "china": BuiltinPhoto("sklearn/datasets/images/china.jpg", "train"),
    "flower": BuiltinPhoto("sklearn/datasets/images/flower.jpg", "validation"),
    "chelsea": BuiltinPhoto("skimage/data/chelsea.png", "test"),
    "stereo_motorcycle": BuiltinPhoto("skimage/data/motorcycle_left.png", "test"),
}


@functools.cache
def builtin_photo(name: str) -> np.ndarray:
    """Return a photograph of `BUILTIN`, read from the installed package, offline.

    Returns:
      uint8 (H, W, 3), read-only, because it is decoded once per process and shared.

    Raises:
      DatasetError: the package that contains the file is not installed.
    """
    package, path = BUILTIN[name].file.split("/", 1)
    # `find_spec` does not import the package, which would take a second.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DatasetError(
            f"the built-in photograph {name!r} is part of {package}: install it"
        )
    file = pathlib.Path(spec.origin).parent / path
    image = decode_image(file, apply_orientation=True)
    image.flags.writeable = False
    return image


def _open_builtin() -> _Builtin:
    names = tuple(name for name, photo in BUILTIN.items() if photo.role == "train")
    kept = ", ".join(name for name, photo in BUILTIN.items() if photo.role != "train")
    logging.warning(
        "NO PHOTOGRAPHS GIVEN: pre-training on the %d built-in photographs (%s). They "
        "are enough to try the program and no more. %s are kept for the built-in "
        "evaluation. To use your own photographs: --config.data.root=FOLDER.",
        len(names),
        ", ".join(names),
        kept,
    )
    return _Builtin(names)


# --- Files --------------------------------------------------------------------------


def _open_files(root: str, source: str) -> PhotoSource:
    if not root:
        raise UsageError(f"data.source={source} needs data.root, found it empty")
    images, shards = _list_files(root)
    if source == "auto":
        if images and shards:
            raise DatasetError(
                f"{root} holds both images and ArrayRecord files; choose "
                "data.source=folder or data.source=array_record"
            )
        source = "array_record" if shards else "folder"
    if source == "array_record":
        if not shards:
            raise DatasetError(f"{root}: expected ArrayRecord files, found none")
        return records.open_shards(root, shards)
    if not images:
        kinds = ", ".join(EXTENSIONS)
        raise DatasetError(f"{root}: expected images ({kinds}), found none")
    make = _BucketFolder if buckets.is_url(root) else _Folder
    return make(root, tuple(images))


def _list_files(root: str) -> tuple[list[str], list[str]]:
    """Return images and ArrayRecord files under the root, relative to it and sorted."""
    names = _names_in_bucket(root) if buckets.is_url(root) else _names_on_disk(root)
    images, shards = [], []
    skipped: collections.Counter[str] = collections.Counter()
    for path in names:
        if not path:
            return [], [""]
        if path.lower().endswith(EXTENSIONS):
            images.append(path)
        elif ".array_record" in os.path.basename(path):
            shards.append(path)
        else:
            skipped[os.path.splitext(path)[1].lower() or "no suffix"] += 1
    if skipped and images:
        kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())
        logging.info(
            "%s: %d photographs; %d files skipped, as they are no images by their "
            "suffix: %s (hidden files are not counted)",
            root,
            len(images),
            skipped.total(),
            kinds,
        )
    return sorted(images), sorted(shards)


def _names_on_disk(root: str) -> Iterator[str]:
    """Yield the files below a folder, relative to it; an empty name for a file."""
    if not os.path.exists(root):
        raise DatasetError(f"data.root={root}: there is no such file or folder")
    if os.path.isfile(root):
        yield ""
        return
    inside = _KADIS if os.path.isdir(os.path.join(root, _KADIS)) else ""
    for entry in folders.walk(os.path.join(root, inside)):
        if entry.reason:
            logging.warning("%s: skipped: %s", entry.path, entry.reason)
        if not entry.is_folder:
            yield os.path.relpath(entry.path, root)


def _names_in_bucket(root: str) -> Iterator[str]:
    """Yield what `_names_on_disk` yields for a copy of the files on disk."""
    names = buckets.find(root)
    if not names:
        if not buckets.exists(root):
            raise DatasetError(f"data.root={root}: there is no such file or folder")
        yield ""
        return
    inside = f"{_KADIS}/"
    if not any(name.startswith(inside) for name in names):
        inside = ""
    for name in names:
        if name.startswith(inside) and not any(map(folders.is_hidden, name.split("/"))):
            yield name
