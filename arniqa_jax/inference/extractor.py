"""From a stream of images to their features, on the devices of this process.

Shapes: B images in a batch over all devices, C crops (5, or 1 for a whole image), S
scales (2), P the side of a crop in pixels, D features of both scales.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.distributed import cpus, sharding
from arniqa_jax.inference import preprocessing, tiles
from arniqa_jax.inference.preprocessing import View

# Number of images per batch and device, each with ten crops. More do not speed up a
# CPU, and they delay the first result.
_IMAGES_PER_DEVICE = {"cpu": 1, "gpu": 32, "tpu": 32}
# The maximum number of batches of images that wait for more images of the same size.
WAITING_BATCHES = 16
# Whole images: at most this many pixels per batch and device, as many as those of the
# crops above. Larger batches have fewer images.
PIXELS_PER_DEVICE = 2**24
# Whole images: the maximum number of bytes that wait.
_WAITING_BYTES = 2**28
# Each size of a whole image compiles a program. At most this many programs are kept.
_KEPT_PROGRAMS = 64


class Encoder(Protocol):
    """The interface that an extractor needs; `inference.encoder.Encoder` implements it.

    It is a frozen dataclass that is hashable without its `variables`, so that all
    encoders of one architecture share a compilation.
    """

    name: str
    variables: Any
    patch_size: int  # side of a crop in pixels
    pooling: str  # statistic of the map over its positions: mean or std

    @property
    def feature_dim(self) -> int:
        """Width of the features of one scale."""

    def fold(self, variables: Any) -> Any:
        """Return the weights for `embed`; pure."""

    def embed(self, weights: Any, images_BHWC: jax.Array) -> jax.Array:
        """Return float32 features (B, feature_dim) of images in [0, 1]; pure."""

    def feature_map(self, weights: Any, images_BHWC: jax.Array) -> jax.Array:
        """Return the map whose statistic, of length 1, is the features; pure.

        Whole images of more than `tiles.SIDE`**2 pixels need it.
        """

    def receptive_radius(self, weights: Any) -> int:
        """Return how many pixels beyond its own a position of the map depends on."""

    @property
    def fingerprint(self) -> str:
        """A string that changes with any bit of the parameters."""


class Extractor:
    """Computes the features of images by one encoder.

    Attributes:
      encoder: the encoder.
      crops: a key of `preprocessing.CROPS`.
      weights: the folded weights of the encoder, on all devices.
      batch_size: number of images in a batch.
      shape: (C, D), the shape of the features of one image.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        crops: str = "five",
        batch_size: int = 0,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Put the encoder on the devices.

        Args:
          encoder: the encoder.
          crops: a key of `preprocessing.CROPS`.
          batch_size: number of images in a batch, rounded up to a multiple of the
            number of devices; 0 chooses a number that suits the devices.
          devices: by default the devices of this process only, because under
            `jax.distributed` each process has its own images.
        """
        devices = devices or jax.local_devices()
        self._mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        self.encoder = encoder
        self.crops = crops
        self.shape = (len(preprocessing.CROPS[crops]), 2 * encoder.feature_dim)
        per_device = _IMAGES_PER_DEVICE.get(devices[0].platform, 1)
        count = len(devices)
        self.batch_size = -(-batch_size // count) * count or per_device * count
        # The compiled functions get the encoder without its variables.
        self._stateless = dataclasses.replace(
            encoder, variables=None, name="", pooling=preprocessing.pooling(crops)
        )
        self.weights = jax.device_put(
            jax.jit(encoder.fold)(jax.tree.map(_of_this_process, encoder.variables)),
            sharding.replicated(self._mesh),
        )
        self._sizes: set[tuple[int, ...]] = set()

    def view(self, image: np.ndarray) -> View:
        """Return the pixels that the encoder sees of an image, uint8 (H, W, 3)."""
        return preprocessing.view(image, self.crops, self.encoder.patch_size)

    def crop_features(self, weights: Any, crops_BCSHW3: jax.Array) -> jax.Array:
        """Return the features (B, C, D) of crops, uint8 or float in [0, 1]; pure."""
        return _crop_features(self._stateless, weights, crops_BCSHW3)

    def embed(
        self, views: Iterable[tuple[Any, View | None]]
    ) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Yield the features of a stream of images, in bounded memory.

        Images of one size share a batch. Five crops always have the same size.

        Args:
          views: pairs of a tag and a view. A tag may be any object; a view may be None.

        Yields:
          Pairs of the tag and float32 (C, D), or None for a view that is None, in the
          order of `views`.
        """
        ready: dict[int, tuple[Any, np.ndarray | None]] = {}
        groups: dict[tuple[int, ...], list] = {}
        computing: collections.deque = collections.deque()
        emitted = 0
        at_a_time = self._batches_at_a_time()
        waiting = (WAITING_BATCHES + at_a_time) * self.batch_size
        pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="embed")

        def start(group: list) -> None:
            scales = [view for _, _, view in group]
            computing.append((group, pool.submit(self.embed_batch, scales)))

        def in_order(still_computing: int) -> Iterator:
            nonlocal emitted
            while True:
                while emitted in ready:
                    yield ready.pop(emitted)
                    emitted += 1
                if len(computing) <= still_computing:
                    return
                group, future = computing.popleft()
                for (index, tag, _), features in zip(
                    group, future.result(), strict=True
                ):
                    ready[index] = tag, features

        try:
            for index, (tag, view) in enumerate(views):
                if view is None:
                    ready[index] = tag, None
                else:
                    size = view[0].shape
                    groups.setdefault(size, []).append((index, tag, view))
                    if len(groups[size]) == self._images_in_batch(size):
                        start(groups.pop(size))
                if groups and (index - emitted >= waiting or self._many_bytes(groups)):
                    start(groups.pop(next(iter(groups))))
                # Allow as many batches as run at once, and wait for the others.
                yield from in_order(at_a_time)
            for group in groups.values():
                start(group)
            yield from in_order(0)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _batches_at_a_time(self) -> int:
        if self._mesh.devices.flat[0].platform != "cpu":
            return 2  # one batch is computed while the next one is transferred
        if self.crops != "five":
            return 1  # a batch may be so large that only one fits into memory
        # One program leaves cores idle between its parallel parts, so there are as many
        # programs as cores.
        return -(-cpus.available_cpus() // self.batch_size)

    def _images_in_batch(self, shape: tuple[int, ...]) -> int:
        """Return how many images of one size go into a batch.

        Args:
          shape: of the first array of a view.
        """
        if self.crops == "five":
            return self.batch_size
        height, width = shape[2:4]
        devices = self._mesh.size
        fitting = devices * max(1, PIXELS_PER_DEVICE // (height * width))
        return min(self.batch_size, fitting)

    def _many_bytes(self, groups: dict[tuple[int, ...], list]) -> bool:
        if self.crops == "five":
            return False
        sizes = (len(group) * np.prod(shape) for shape, group in groups.items())
        return sum(sizes) > _WAITING_BYTES

    def embed_batch(self, views: list[View]) -> np.ndarray:
        """Return features (B, C, D) of views of one size, at most one batch."""
        outputs = []
        images = self._images_in_batch(views[0][0].shape)
        for scale in zip(*views, strict=True):
            if self.crops != "five" and tiles.needed(*scale[0].shape[2:4]):
                outputs.append(self._embed_in_tiles(scale))
                continue
            batch = np.zeros((images, *scale[0].shape), np.uint8)
            for row, pixels in enumerate(scale):
                batch[row] = pixels
            self._sizes.add(batch.shape)
            if len(self._sizes) > _KEPT_PROGRAMS:
                _embed.clear_cache()
                self._sizes = {batch.shape}
            batch = jax.device_put(batch, sharding.over_batch(self._mesh))
            outputs.append(_embed(self._stateless, self.weights, batch))
        features = [np.asarray(x)[: len(views)] for x in outputs]
        return np.concatenate(features, axis=-1)

    def _embed_in_tiles(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return features (B, 1, D of one scale) of whole images, one at a time."""
        return np.stack(
            [
                tiles.embed(self._stateless, self.weights, image[0, 0], self._mesh)[
                    None
                ]
                for image in images
            ]
        )


def _of_this_process(value: Any) -> Any:
    """Return this process's copy of a value that is replicated over all processes."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value.addressable_data(0)
    return value


@functools.partial(jax.jit, static_argnums=0)
def _embed(encoder: Encoder, weights: Any, crops_BCSHW3: jax.Array) -> jax.Array:
    return _crop_features(encoder, weights, crops_BCSHW3)


def _crop_features(
    encoder: Encoder, weights: Any, crops_BCSHW3: jax.Array
) -> jax.Array:
    # The order of the rows is image, crop, scale, so one reshape joins the scales.
    images, crops = crops_BCSHW3.shape[:2]
    pixels = crops_BCSHW3.reshape(-1, *crops_BCSHW3.shape[3:])
    if pixels.dtype == jnp.uint8:
        pixels = pixels.astype(jnp.float32) / 255
    return encoder.embed(weights, pixels).reshape(images, crops, -1)


def map_in_threads(function: Callable, items: Iterable, threads: int) -> Iterator[Any]:
    """Yield `function(item)` in the order of the items, computed by threads.

    Decoding, resizing and copying release the interpreter lock. At most `2 * threads`
    items are in flight.
    """
    waiting: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
