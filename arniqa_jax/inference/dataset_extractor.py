"""Features of the images of a labelled dataset, extracted once and cached on disk.

Shapes: R rows (images) to extract, C crops (5 or 1), D features of both scales; P
processes, B images of a process in a block.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
import tqdm
from absl import logging
from jax.experimental import multihost_utils

from arniqa_jax import errors
from arniqa_jax.datasets.labelled import Benchmark, Images
from arniqa_jax.distributed import agreement
from arniqa_jax.inference import feature_store, preprocessing
from arniqa_jax.inference.extractor import Encoder, Extractor, map_in_threads
from arniqa_jax.inference.feature_store import Features
from arniqa_jax.inference.preprocessing import View

# The format is part of every cache key. Increase it when the protocol or the file
# format changes.
_FORMAT = 2
# Number of images that each process embeds between two exchanges of features.
_IMAGES_PER_EXCHANGE = 64


@dataclasses.dataclass(frozen=True)
class DatasetExtractor:
    """Extracts features in the same way for all datasets of an evaluation.

    With several processes, all of them call `extract`. Each process decodes and embeds
    a part of the images, and all processes receive all features.

    Attributes:
      encoder: the encoder.
      cache_dir: parent directory of the features; they are in a subdirectory named by
        the fingerprint of the encoder.
      crops: a key of `preprocessing.CROPS`.
      workers: number of threads that decode images.
    """

    encoder: Encoder
    cache_dir: pathlib.Path
    crops: str = "five"
    workers: int = 2

    def __post_init__(self):
        preprocessing.check_crops(self.crops, field="evaluation.crops")

    @functools.cached_property
    def directory(self) -> pathlib.Path:
        """The directory of this encoder's features, under `cache_dir`."""
        return pathlib.Path(self.cache_dir) / self.encoder.fingerprint[:16]

    @functools.cached_property
    def _extractor(self) -> Extractor:
        return Extractor(self.encoder, crops=self.crops)

    def dataset(
        self,
        benchmark: Benchmark,
        rows: np.ndarray | None = None,
        *,
        full_reference: bool = False,
    ) -> Features:
        """Return the features of some or all images of a dataset.

        They come from the cache if it has them; otherwise they are extracted.

        Args:
          benchmark: the dataset.
          rows: sorted indices of the images; None for all.
          full_reference: whether to also extract the features of the pristine
            references.

        Raises:
          ImageError: an image cannot be decoded, and the dataset must be complete.
          ArniqaError: there is not enough space on the disk.
        """
        rows = np.arange(len(benchmark)) if rows is None else rows
        values = self.extract(
            benchmark.images,
            rows,
            benchmark.title,
            skip_unreadable=benchmark.allow_partial,
        )
        position_N = np.full(len(benchmark), -1, np.int64)
        position_N[rows] = np.arange(len(rows))
        if not full_reference:
            return Features(values, position_N)
        references = benchmark.references
        title = f"{benchmark.title} references"
        reference_MCD = self.extract(references, np.arange(len(references)), title)
        return Features(values, position_N, reference_MCD, benchmark.reference_N)

    def extract(
        self,
        images: Images,
        rows: np.ndarray,
        title: str,
        *,
        skip_unreadable: bool = False,
    ) -> np.ndarray:
        """Return the features of images, float32 (R, C, D), memory-mapped.

        Args:
          images: the images.
          rows: indices of the images to extract.
          title: name of the dataset, for progress messages and the directory.
          skip_unreadable: whether an unreadable image gives NaN and a warning instead
            of an error.

        Raises:
          ImageError: an image cannot be decoded.
          ArniqaError: an image cannot be decoded on another process.
        """
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in title.lower())
        key = self._key(images, rows, skip_unreadable)
        # The times of the files differ if each machine has its own copy of the dataset.
        directory = self.directory / agreement.agree_text(f"{name}-{key[:16]}")
        shape = (len(rows), *self._extractor.shape)
        values = feature_store.find(directory, shape)
        if values is not None:
            logging.info("%s: features of %d images from the cache", title, len(rows))
            return values
        logging.info("%s: extracting the features of %d images", title, len(rows))
        terminal = sys.stderr.isatty()
        bar = tqdm.tqdm(
            total=len(rows),
            desc=f"features of {title}",
            unit="img",
            disable=not terminal,
        )
        with bar, feature_store.Writer(directory, shape) as writer:
            bar.update(writer.done)
            for block_BCD in self._blocks(images, rows[writer.done :], skip_unreadable):
                writer.append(block_BCD)
                bar.update(len(block_BCD))
                if not terminal:
                    # In a log file, progress is a line per minute instead of the bar.
                    logging.log_every_n_seconds(
                        logging.INFO,
                        "%s: %d of %d images",
                        60,
                        title,
                        writer.done,
                        len(rows),
                    )
        return feature_store.find(directory, shape)

    def _blocks(
        self, images: Images, rows: np.ndarray, skip_unreadable: bool
    ) -> Iterator[np.ndarray]:
        """Yield the features of consecutive rows, the same on all processes."""
        processes, process = jax.process_count(), jax.process_index()
        views = map_in_threads(
            functools.partial(self._view, images, skip_unreadable),
            rows[process::processes],
            max(1, self.workers),
        )
        features = self._extractor.embed((None, view) for view in views)
        if processes == 1:
            for _, features_CD in features:
                yield self._or_nan(features_CD)[None]
            return
        block = processes * _IMAGES_PER_EXCHANGE
        for start in range(0, len(rows), block):
            left = len(rows) - start
            # Process i has the rows i, i + processes, .... The last row of a process
            # may be missing.
            mine = itertools.islice(features, _IMAGES_PER_EXCHANGE)
            shared_PBCD = self._exchange(mine, -(-min(left, block) // processes))
            yield np.concatenate(shared_PBCD.swapaxes(0, 1))[:left]

    def _exchange(self, features: Iterator, count: int) -> np.ndarray:
        """Return the features of all processes, (processes, count, C, D)."""
        mine_BCD = np.full((count, *self._extractor.shape), np.nan, np.float32)
        error = None
        try:
            for row, (_, features_CD) in enumerate(features):
                mine_BCD[row] = self._or_nan(features_CD)
        except errors.ImageError as raised:
            error = raised
        failed = multihost_utils.process_allgather(np.asarray(error is not None))
        if error:
            raise error
        if failed.any():
            raise errors.ArniqaError(
                f"process {int(np.argmax(failed))} could not read an image; its own "
                "output has the error"
            )
        return np.asarray(multihost_utils.process_allgather(mine_BCD))

    def _or_nan(self, features_CD: np.ndarray | None) -> np.ndarray:
        if features_CD is None:
            return np.full(self._extractor.shape, np.nan, np.float32)
        return features_CD

    def _view(self, images: Images, skip_unreadable: bool, row: int) -> View | None:
        try:
            return self._extractor.view(images[int(row)])
        except errors.ImageError as error:
            if not skip_unreadable:
                raise
            logging.warning("skipped: %s", error)
            return None

    def _key(self, images: Images, rows: np.ndarray, skip_unreadable: bool) -> str:
        stamps = images.stamps()
        content = [[images.names[row], stamps[row]] for row in rows]
        protocol = [_FORMAT, self.crops, self.encoder.patch_size, skip_unreadable]
        described = json.dumps([self.encoder.fingerprint, protocol, content])
        return hashlib.sha256(described.encode()).hexdigest()
