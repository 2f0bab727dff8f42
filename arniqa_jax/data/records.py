"""Photographs that are records of ArrayRecord files, as TFDS writes them or bare.

The files may be on disk or in a bucket of Google Cloud.
"""

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from arniqa_jax.data.images import decode_image
from arniqa_jax.errors import (
    BucketError,
    DatasetError,
    ImageError,
    UsageError,
    one_line,
)
from arniqa_jax.storage import buckets

# Seconds after which opening a file in a bucket counts as hanging.
_DEADLINE = 60.0


@dataclasses.dataclass(frozen=True)
class Records:
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


def open_shards(root: str, shards: list[str]) -> Records:
    """Return the photographs of ArrayRecord files.

    Args:
      root: a folder or one file, on disk or in a bucket.
      shards: names of the files, relative to `root`.

    Raises:
      UsageError: the files are in a bucket of another provider than Google.
      DatasetError: a file cannot be read, or the folder holds several datasets.
      BucketError: the bucket does not answer.
    """
    _check_provider(root)
    paths = [os.path.join(root, shard) if shard else root for shard in shards]
    parents = {os.path.dirname(path) for path in paths}
    described = [
        folder for folder in parents if _exists(os.path.join(folder, "features.json"))
    ]
    if described:
        # TFDS wrote these files, so a record is not an image but a dictionary with one.
        if len(parents) > 1:
            raise DatasetError(
                f"{root} holds more than one ArrayRecord dataset; give the folder of "
                f"one of {', '.join(sorted(parents))}"
            )
        import tensorflow_datasets as tfds

        folder = described[0]
        return _of_tfds(tfds.builder_from_directory(folder), folder)
    import grain

    _probe(paths[0])
    try:
        return Records(root, grain.sources.ArrayRecordDataSource(paths))
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(
            f"{root}: not a readable ArrayRecord file: {one_line(error)}"
        ) from error


def open_tfds(name: str, root: str) -> Records:
    """Return the photographs of a prepared TFDS dataset.

    Args:
      name: name of the dataset.
      root: the `data_dir`, on disk or in a bucket; empty for the default of TFDS.

    Raises:
      UsageError: the root is in a bucket of another provider than Google.
      DatasetError: there is no such dataset, or it has no images.
      BucketError: the bucket does not answer.
    """
    _check_provider(root)
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
    return _of_tfds(builder, f"tfds:{name}")


def _of_tfds(builder, title: str) -> Records:
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
    for file in builder.info.splits[split].filepaths[:1]:
        _probe(str(file))
    try:
        records = builder.as_data_source(
            split, decoders={feature: tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise DatasetError(
            f"{title}: expected the format array_record: {one_line(error)}"
        ) from error
    return Records(title, records, feature)


# --- Buckets ------------------------------------------------------------------------


def _check_provider(root: str) -> None:
    if buckets.is_url(root) and buckets.scheme(root) != "gs":
        raise UsageError(
            f"data.root={root}: ArrayRecord files are read from gs:// and from local "
            "disks only; copy them, or give a folder of images"
        )


def _exists(path: str) -> bool:
    return buckets.exists(path) if buckets.is_url(path) else os.path.isfile(path)


def _probe(file: str) -> None:
    """Open an ArrayRecord file in a process of its own, which is killed if it hangs.

    The library for ArrayRecord waits forever if its address or its credentials are
    wrong. It reads other variables than gcsfs, which has listed the files before.

    Raises:
      BucketError: the file is in a bucket and is not open within a minute.
    """
    if not buckets.is_url(file):
        return
    program = (
        "import sys; from array_record.python import array_record_module as library; "
        "library.ArrayRecordReader(sys.argv[1])"
    )
    try:
        # What it says of a damaged file, this process finds out too.
        subprocess.run(
            [sys.executable, "-c", program, file],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_DEADLINE,
        )
    except subprocess.TimeoutExpired:
        raise BucketError(
            f"{file} is listed, but the library that reads ArrayRecord did not open it "
            f"within {_DEADLINE:g} s: check the application default credentials, and "
            "CLOUD_STORAGE_EMULATOR_ENDPOINT if it is set"
        ) from None
