"""Features of the images of a dataset: decoded, embedded, kept on disk.

An image is seen as five crops at full and half scale, or whole at both scales; the
features of the two scales are concatenated. Crops have one size, so one compilation
serves images of every size; batches have one size, so that a result does not depend on
what else is extracted.

Shapes: R rows (images) to extract, C crops (5 or 1), D features of both scales, B
images in a batch over all devices, S scales (2).
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import logging

from arniqa_jax import errors, sharding
from arniqa_jax.data import crops as image_crops
from arniqa_jax.data.labelled import Benchmark, Images
from arniqa_jax.evaluation import feature_store
from arniqa_jax.evaluation.feature_store import Features

CROPS = ("five", "whole")
# Part of every cache key; raised when the protocol or the file format changes.
_FORMAT = 1
# Images of ten crops each that a device takes at once.
_IMAGES_PER_DEVICE = {"cpu": 4, "gpu": 32, "tpu": 32}
_PADDING = -1  # a row of a batch that is no image


class Encoder(Protocol):
    """What evaluation needs of an encoder; `model.encoder.Encoder` is one.

    It is a frozen dataclass that is hashable once `variables` is left out, so that all
    encoders of one architecture share a compilation.
    """

    name: str
    variables: Any
    patch_size: int  # side of its crops in pixels

    @property
    def feature_dim(self) -> int:
        """Width of the features of one scale."""

    def apply(self, variables: Any, images_BHWC: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) to float32 (B, feature_dim); pure."""

    @property
    def fingerprint(self) -> str:
        """Changes with any bit of the parameters and with the architecture."""


@dataclasses.dataclass(frozen=True)
class Extractor:
    """How features are obtained; the same for all datasets of an evaluation.

    Attributes:
      encoder: the encoder.
      cache_dir: where features are kept, below the fingerprint of the encoder.
      crops: `five` or `whole`.
      mesh: devices to use; None for one.
      workers: threads that decode images.
    """

    encoder: Encoder
    cache_dir: pathlib.Path
    crops: str = "five"
    mesh: jax.sharding.Mesh | None = None
    workers: int = 2

    def __post_init__(self):
        if self.crops not in CROPS:
            raise errors.UsageError(
                f"evaluation.crops={self.crops!r}: expected one of {', '.join(CROPS)}"
            )

    @functools.cached_property
    def directory(self) -> pathlib.Path:
        """The features of this encoder, below `cache_dir`."""
        return pathlib.Path(self.cache_dir) / self.encoder.fingerprint[:16]

    def dataset(
        self,
        benchmark: Benchmark,
        rows: np.ndarray | None = None,
        *,
        full_reference: bool = False,
    ) -> Features:
        """Extracts, or finds, the features of some or all images of a dataset.

        Args:
          benchmark: the dataset.
          rows: sorted indices of the images; None for all.
          full_reference: with the features of the pristine references.

        Raises:
          ImageError: an image cannot be decoded and the dataset has to be complete.
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
        """Returns float32 (R, C, D), memory-mapped.

        Args:
          images: the images.
          rows: indices of those to extract.
          title: of the dataset, for progress and the name on disk.
          skip_unreadable: NaN and a warning, instead of an error.
        """
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in title.lower())
        key = self._key(images, rows, skip_unreadable)
        directory = self.directory / f"{name}-{key[:16]}"
        values = feature_store.find(directory)
        if values is not None:
            logging.info("%s: features of %d images from the cache", title, len(rows))
            return values
        views = _Views(
            images, self.encoder.patch_size, self.crops == "whole", skip_unreadable
        )
        crops = 1 if self.crops == "whole" else 5
        width = 2 * self.encoder.feature_dim
        terminal = sys.stderr.isatty()
        bar = tqdm.tqdm(
            total=len(rows),
            desc=f"features of {title}",
            unit="img",
            disable=not terminal,
        )
        logging.info("%s: extracting the features of %d images", title, len(rows))
        shape = (len(rows), crops, width)
        with bar, feature_store.Writer(directory, shape) as writer:
            bar.update(writer.done)
            embed = self._embed_whole if self.crops == "whole" else self._embed_crops
            for batch_BCD in embed(views, rows[writer.done :]):
                writer.append(batch_BCD)
                bar.update(len(batch_BCD))
                if not terminal:
                    # A file of lines, in place of the bar.
                    logging.log_every_n_seconds(
                        logging.INFO,
                        "%s: %d of %d images",
                        60,
                        title,
                        writer.done,
                        len(rows),
                    )
        return feature_store.find(directory)

    def _embed_crops(self, views: "_Views", rows: np.ndarray) -> Iterator[np.ndarray]:
        size = self._batch_size
        mine = self._positions_of_this_process
        padded = np.pad(rows, (0, -len(rows) % size), constant_values=_PADDING)
        # One batch is computed while the next is being put on the devices.
        waiting = collections.deque()
        left = len(rows)
        for views_of_batch in self._load(views, padded.reshape(-1, size)[:, mine]):
            batch = {
                name: np.zeros((size, *values.shape[1:]), values.dtype)
                for name, values in views_of_batch.items()
            }
            for name, values in views_of_batch.items():
                batch[name][mine] = values
            waiting.append(self._embed(**self._put(batch)))
            if len(waiting) > 1:
                yield np.asarray(waiting.popleft())[:left]
                left -= size
        for features_BCD in waiting:
            yield np.asarray(features_BCD)[:left]

    def _load(self, views: "_Views", rows_KB: np.ndarray) -> Iterator[dict]:
        # Threads, not processes: decoding, resizing and copying release the interpreter
        # lock, while a process takes seconds to start, at every validation again.
        threads = max(1, self.workers)
        return iter(
            grain.MapDataset.source(rows_KB.ravel())
            .map(views.load)
            .batch(rows_KB.shape[1])
            .to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
            )
        )

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        if self.mesh is None:
            return batch
        over_batch = sharding.over_batch(self.mesh)
        return {
            name: jax.make_array_from_callback(
                values.shape, over_batch, values.__getitem__
            )
            for name, values in batch.items()
        }

    def _embed_whole(self, views: "_Views", rows: np.ndarray) -> Iterator[np.ndarray]:
        # One compilation per size of image: a dataset usually has few.
        for row in rows:
            scales = views.load(row)
            features = [
                self._embed(crops=scale[None, None, None], good=scales["good"][None])
                for scale in scales["crops"]
            ]
            yield np.concatenate([np.asarray(f) for f in features], axis=-1)

    def _embed(self, crops, good) -> jax.Array:
        stateless = dataclasses.replace(self.encoder, variables=None, name="")
        output = None if self.mesh is None else sharding.replicated(self.mesh)
        return _embed(self._placed_variables, crops, good, stateless, output)

    @functools.cached_property
    def _placed_variables(self) -> Any:
        if self.mesh is None:
            return self.encoder.variables
        return sharding.replicate(self.encoder.variables, self.mesh)

    @property
    def _batch_size(self) -> int:
        devices = 1 if self.mesh is None else self.mesh.size
        return devices * _IMAGES_PER_DEVICE[jax.default_backend()]

    @property
    def _positions_of_this_process(self) -> np.ndarray:
        """Which images of a batch this process has to decode."""
        everything = np.arange(self._batch_size)
        if self.mesh is None:
            return everything
        parts = sharding.over_batch(self.mesh).addressable_devices_indices_map(
            everything.shape
        )
        return np.unique(
            np.concatenate([everything[index] for index in parts.values()])
        )

    def _key(self, images: Images, rows: np.ndarray, skip_unreadable: bool) -> str:
        stamps = images.stamps()
        content = [[images.names[row], stamps[row]] for row in rows]
        protocol = [_FORMAT, self.crops, self.encoder.patch_size, skip_unreadable]
        described = json.dumps([self.encoder.fingerprint, protocol, content])
        return hashlib.sha256(described.encode()).hexdigest()


@functools.partial(jax.jit, static_argnames=("encoder", "output_sharding"))
def _embed(variables, crops_BCSHW3, good_B, encoder, output_sharding) -> jax.Array:
    """Features (B, C, D) of all crops; NaN where an image is not good."""
    # Rows are ordered image, crop, scale; so one reshape concatenates the scales.
    images, crops = crops_BCSHW3.shape[:2]
    features = encoder.apply(
        variables, crops_BCSHW3.reshape(-1, *crops_BCSHW3.shape[3:])
    )
    features_BCD = features.reshape(images, crops, -1)
    features_BCD = jnp.where(good_B[:, None, None], features_BCD, jnp.nan)
    if output_sharding is not None:
        features_BCD = jax.lax.with_sharding_constraint(features_BCD, output_sharding)
    return features_BCD


@dataclasses.dataclass(frozen=True)
class _Views:
    """What the encoder sees of an image: its crops, or the whole image twice."""

    images: Images
    patch_size: int
    whole: bool
    skip_unreadable: bool

    def load(self, row: int) -> dict[str, Any]:
        """`crops` uint8 (5, 2, size, size, 3), or a pair of images; `good`."""
        image = self._decode(int(row)) if row != _PADDING else None
        good = np.asarray(image is not None)
        if image is None:
            # One pixel in a crop of zeros: whatever it gives becomes NaN.
            image = np.zeros((1, 1, 3), np.uint8)
        if self.whole:
            return {"crops": (image, image_crops.half_scale(image)), "good": good}
        crops = image_crops.evaluation_crops(image, self.patch_size)
        return {"crops": crops, "good": good}

    def _decode(self, row: int) -> np.ndarray | None:
        try:
            return self.images[row]
        except errors.ImageError as error:
            if not self.skip_unreadable:
                raise
            logging.warning("left out: %s", error)
            return None
