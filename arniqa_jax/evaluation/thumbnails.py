"""Small JPEG images for a page: the choice of images, and their encoding."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from absl import logging
from PIL import Image

from arniqa_jax import errors
from arniqa_jax.datasets.labelled import Benchmark

LIMIT = 600  # maximum number on one page, over all datasets: about 4 MB
_SIDE = 128  # the shorter side has at least 128 and less than 256 pixels
_QUALITY = 70


def choose(wanted: Iterable[int], others: np.ndarray, limit: int, seed: int) -> list:
    """Return the images of a dataset that get a thumbnail.

    Args:
      wanted: images in the order of their importance; they are chosen first.
      others: images from which the rest is drawn.
      limit: maximum number of images.
      seed: seed of the draw.

    Returns:
      At most `limit` indices.
    """
    order = np.random.default_rng(seed).permutation(others)
    return list(dict.fromkeys([*map(int, wanted), *map(int, order)]))[:limit]


def encode(benchmark: Benchmark, indices: Iterable[int]) -> dict[int, str]:
    """Return a JPEG of each image, in base64, without the unreadable images.

    Pixels are skipped and not averaged, because an average would hide the distortion.
    """
    encoded = {}
    for index in indices:
        try:
            image = benchmark.images[index]
        except errors.ImageError as error:
            logging.warning("no thumbnail: %s", error)
            continue
        step = max(1, min(image.shape[:2]) // _SIDE)
        buffer = io.BytesIO()
        small = np.ascontiguousarray(image[::step, ::step])
        Image.fromarray(small).save(buffer, "JPEG", quality=_QUALITY)
        encoded[index] = base64.b64encode(buffer.getvalue()).decode("ascii")
    return encoded
