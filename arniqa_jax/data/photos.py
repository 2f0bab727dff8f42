"""Access to photographs by index: folders, ArrayRecord, TFDS and built-in samples.

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
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from absl import logging

from arniqa_jax.data import folders
from arniqa_jax.data.images import decode_image, one_line
from arniqa_jax.errors import DatasetError, ImageError, UsageError
from arniqa_jax.storage.files import local_path

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


def open_photos(root: str, source: str = "auto") -> PhotoSource:
    """Return the photographs that a config names.

    Args:
      root: a folder. For `array_record` it may also be one file. For `tfds:NAME` it is
        the `data_dir`; if empty, TFDS's default.
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
      UsageError: the source is unknown or does not fit the root, or the root is not
        a local path.
      DatasetError: the root has no photographs, or fewer than two.
    """
    root = os.fspath(local_path(root, "data.root")) if root else ""
    if source.startswith("tfds:"):
        photos = _open_tfds(source.removeprefix("tfds:"), root)
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


@dataclasses.dataclass(frozen=True)
class _Records:
    """Encoded images of a data source.

    If `feature` is set, the records are dictionaries and the image is under this key.
    """

    title: str
    records: Sequence
    feature: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            record = self.records[index]
        except (OSError, RuntimeError, ValueError) as error:
            # ArrayRecord raises these errors for a damaged chunk.
            reason = one_line(error)
            raise ImageError(f"{self.name(index)}: unreadable: {reason}") from error
        data = record[self.feature] if self.feature else record
        return decode_image(data, apply_orientation=True, name=self.name(index))

    def name(self, index: int) -> str:
        return f"{self.title}: record {index}"


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


# --- Files, ArrayRecord, TFDS -------------------------------------------------------


def _open_files(root: str, source: str) -> PhotoSource:
    if not root:
        raise UsageError(f"data.source={source} needs data.root, found it empty")
    if not os.path.exists(root):
        raise DatasetError(f"data.root={root}: there is no such file or folder")
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
        return _open_shards(root, shards)
    if not images:
        kinds = ", ".join(EXTENSIONS)
        raise DatasetError(f"{root}: expected images ({kinds}), found none")
    return _Folder(root, tuple(images))


def _list_files(root: str) -> tuple[list[str], list[str]]:
    """Return images and ArrayRecord files under the root, relative to it and sorted."""
    if os.path.isfile(root):
        return [], [""]
    inside = "ref_imgs" if os.path.isdir(os.path.join(root, "ref_imgs")) else ""
    images, shards = [], []
    skipped: collections.Counter[str] = collections.Counter()
    for entry in folders.walk(os.path.join(root, inside)):
        if entry.reason:
            logging.warning("%s: skipped: %s", entry.path, entry.reason)
        if entry.is_folder:
            continue
        path = os.path.relpath(entry.path, root)
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


def _open_shards(root: str, shards: list[str]) -> PhotoSource:
    paths = [os.path.join(root, shard) if shard else root for shard in shards]
    parents = {os.path.dirname(path) for path in paths}
    described = [
        folder
        for folder in parents
        if os.path.isfile(os.path.join(folder, "features.json"))
    ]
    if described:
        # TFDS wrote these files, so a record is not an image but a dictionary with one.
        if len(parents) > 1:
            raise DatasetError(
                f"{root} holds more than one ArrayRecord dataset; give the folder of "
                f"one of {', '.join(sorted(parents))}"
            )
        import tensorflow_datasets as tfds

        return _tfds_records(tfds.builder_from_directory(described[0]), described[0])
    import grain

    try:
        return _Records(root, grain.sources.ArrayRecordDataSource(paths))
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(
            f"{root}: not a readable ArrayRecord file: {one_line(error)}"
        ) from error


def _open_tfds(name: str, root: str) -> PhotoSource:
    import tensorflow_datasets as tfds

    # Importing a builder registers it with TFDS.
    importlib.import_module("arniqa_jax.data.kadis700k_builder")
    try:
        builder = tfds.builder(name, data_dir=root or None)
    except tfds.core.DatasetNotFoundError as error:
        raise DatasetError(
            f"data.source=tfds:{name}: TFDS knows no dataset of that name, and there "
            f"is none under {root or 'its default data_dir'}"
        ) from error
    return _tfds_records(builder, f"tfds:{name}")


def _tfds_records(builder, title: str) -> PhotoSource:
    """Return the images of a prepared TFDS dataset, still encoded."""
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        raise DatasetError(
            f"{title}: not prepared under {builder.data_dir}; prepare it with TFDS in "
            "the format array_record, or give its data_dir as data.root"
        )
    features = [
        name
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    ]
    if not features:
        raise DatasetError(f"{title}: expected a feature that is an image, found none")
    feature = "image" if "image" in features else features[0]
    split = "train" if "train" in builder.info.splits else min(builder.info.splits)
    try:
        records = builder.as_data_source(
            split, decoders={feature: tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise DatasetError(
            f"{title}: expected the format array_record: {one_line(error)}"
        ) from error
    return _Records(title, records, feature)
