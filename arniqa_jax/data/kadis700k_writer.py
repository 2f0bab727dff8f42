"""Writes the TFDS dataset of KADIS-700k's pristine photographs, to disk or a bucket."""

import contextlib
import os
import pathlib
import sys
import tempfile

from absl import logging

from arniqa_jax.errors import DatasetError
from arniqa_jax.storage import buckets
from arniqa_jax.storage.files import local_path

_COMPLETE = "dataset_info.json"  # TFDS writes it last


def write(source: str, output: str, *, shards: int = 0) -> tuple[str, int]:
    """Write the TFDS dataset `kadis700k`, unless it exists already.

    Args:
      source: folder that contains `ref_imgs`.
      output: data_dir of TFDS, a folder or `gs://BUCKET/DIR`.
      shards: number of files; 0 lets TFDS choose.

    Returns:
      The folder of the dataset and the number of photographs in it.

    Raises:
      UsageError: `source` is not local, or `output` is a URL of another kind.
      DatasetError: `ref_imgs` has no PNG files, or fewer than two are readable.
      BucketError: the bucket cannot be read or written.
    """
    from arniqa_jax.data import kadis700k_builder

    source = os.fspath(local_path(source, "--source"))
    in_bucket = buckets.is_url(output) and buckets.scheme(output) == "gs"
    if in_bucket:
        buckets.check(output)
    else:
        output = os.fspath(local_path(output, "--output"))
    pristine = os.path.join(source, "ref_imgs")
    if not os.path.isdir(pristine) or not kadis700k_builder.list_files(pristine):
        raise DatasetError(f"{source}: expected a folder ref_imgs with PNG files")
    return (_upload if in_bucket else _write)(source, output, shards)


def _write(source: str, output: str, shards: int) -> tuple[str, int]:
    import tensorflow_datasets as tfds

    from arniqa_jax.data import kadis700k_builder

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = kadis700k_builder.Kadis700k(data_dir=output, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=source, num_shards=shards or None)
    # TFDS prints its progress. Standard output is only for results.
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare(download_config=config)
    return str(builder.data_path), builder.info.splits["train"].num_examples


def _upload(source: str, output: str, shards: int) -> tuple[str, int]:
    """Write the dataset to a temporary folder, and copy it to a bucket."""
    from arniqa_jax.data import kadis700k_builder

    there = kadis700k_builder.Kadis700k(data_dir=output, file_format="array_record")
    if there.is_prepared():
        return str(there.data_path), there.info.splits["train"].num_examples
    with tempfile.TemporaryDirectory(prefix="kadis700k-") as temporary:
        logging.info(
            "writing to %s first, which needs as much space as the photographs (the "
            "variable TMPDIR chooses another disk), and then to %s",
            temporary,
            output,
        )
        folder, number = _write(source, temporary, shards)
        target = buckets.join(output, os.path.relpath(folder, temporary))
        # Without this file, TFDS takes the dataset for incomplete: it comes last.
        names = sorted(os.listdir(folder), key=lambda name: name == _COMPLETE)
        for name in names:
            logging.info("uploading %s", name)
            buckets.upload_files(pathlib.Path(folder), target, [name])
    return target, number
