"""From an image to the pixels that the encoder sees.

The encoder sees an image as five crops at full and half scale, or whole at both scales.
The crops are those of the official implementation. Its last map is pooled over the
positions by the mean, or, for `whole_std`, by the standard deviation.

Shapes: C crops (5, or 1 for a whole image), S scales (2: full, half), P the side of a
crop in pixels, H and W the sides of an image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax import errors
from arniqa_jax.data import crops

# The ways to crop an image, and the names of the crops.
CROPS = {
    "five": ("center", "top_left", "bottom_left", "top_right", "bottom_right"),
    "whole": ("whole",),
    "whole_std": ("whole",),
}
# The pixels that the encoder sees of an image, uint8. Five crops are one array, (C, S,
# P, P, 3). A whole image is two arrays, one per scale, (1, 1, H, W, 3).
View = tuple[np.ndarray, ...]


def check_crops(name: str, *, field: str) -> str:
    """Return `name`, a key of `CROPS`.

    Raises:
      UsageError: `CROPS` has no such key; the message names the `field`.
    """
    if name not in CROPS:
        raise errors.UsageError(f"{field}={name!r}: expected one of {', '.join(CROPS)}")
    return name


def pooling(crops_name: str) -> str:
    """Return how the positions of the last map become one vector: `mean` or `std`."""
    return "std" if crops_name == "whole_std" else "mean"


def view(image: np.ndarray, crops_name: str, size: int) -> View:
    """Return the pixels that the encoder sees of an image.

    Args:
      image: uint8 (H, W, 3).
      crops_name: a key of `CROPS`.
      size: side of a crop in pixels.
    """
    if crops_name == "five":
        return (evaluation_crops(image, size),)
    return image[None, None], crops.half_scale(image)[None, None]


def five_crops(image: np.ndarray, size: int) -> np.ndarray:
    """Return the centre and corner crops of an image; see `five_offsets`.

    Args:
      image: uint8 (H, W, 3).
      size: side of a crop in pixels.

    Returns:
      uint8 (5, size, size, 3).
    """
    offsets = five_offsets(*image.shape[:2], size)
    return np.stack([crops.window(image, top, left, size) for top, left in offsets])


def five_offsets(height: int, width: int, size: int) -> tuple[tuple[int, int], ...]:
    """Return the top and left offsets of the five crops of an image.

    The order is centre, top left, bottom left, top right, bottom right. The centre crop
    starts at side // 2 - size // 2, the others at 0 or side - size. If the image is
    smaller than the crop, these offsets are negative, and the zeros come before the
    image.
    """
    bottom, right = height - size, width - size
    middle = (height // 2 - size // 2, width // 2 - size // 2)
    return middle, (0, 0), (bottom, 0), (0, right), (bottom, right)


def evaluation_crops(image: np.ndarray, size: int) -> np.ndarray:
    """Return the five crops at full scale and at half scale.

    Args:
      image: uint8 (H, W, 3).
      size: side of a crop in pixels.

    Returns:
      uint8 (5, 2, size, size, 3); the second axis is full scale, half scale.
    """
    scales = (image, crops.half_scale(image))
    return np.stack([five_crops(scale, size) for scale in scales], axis=1)


def differentiable_scales(images_NHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return float images (N, H, W, 3) at full and half scale.

    The half-scale image is not rounded to 8 bits.
    """
    images, height, width, channels = images_NHWC.shape
    halved = (images, max(1, height // 2), max(1, width // 2), channels)
    half = jax.image.resize(
        images_NHWC, halved, "cubic", precision=jax.lax.Precision.HIGHEST
    )
    return images_NHWC, jnp.clip(half, 0, 1)


def differentiable_crops(images_NHWC: jax.Array, size: int) -> jax.Array:
    """Return the `evaluation_crops` of float images, (N, 5, 2, size, size, 3).

    The half-scale image is not rounded to 8 bits.
    """
    scales = []
    for scale in differentiable_scales(images_NHWC):
        _, height, width, _ = scale.shape
        margin = max(0, size - height, size - width)
        border = (0, 0), (margin, margin), (margin, margin), (0, 0)
        padded = jnp.pad(scale, border)
        windows = [
            padded[:, top + margin :, left + margin :][:, :size, :size]
            for top, left in five_offsets(height, width, size)
        ]
        scales.append(jnp.stack(windows, axis=1))
    return jnp.stack(scales, axis=2)
