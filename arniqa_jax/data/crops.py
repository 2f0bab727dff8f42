"""Half-scale images, random crops and windows.

Images are uint8 NumPy arrays of shape (H, W, 3). A crop is always `size` x `size`
pixels; whatever of it lies outside the image is zero. Sections 2 and 3 of the method
define the offsets; both stem from the official PyTorch implementation.
"""

import numpy as np
from PIL import Image


def half_scale(image: np.ndarray) -> np.ndarray:
    """The whole image at half its size, bicubic with antialiasing.

    Args:
      image: uint8 (H, W, 3).

    Returns:
      uint8 (H // 2, W // 2, 3), each side at least 1.
    """
    height, width = image.shape[:2]
    size = (max(1, width // 2), max(1, height // 2))
    # Pillow widens the filter when it shrinks, which is the antialiasing.
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def random_crop(rng: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    """A crop at a uniformly drawn place.

    Where a side is shorter than the crop the offset is 0, so that the zeros lie at
    the bottom or at the right. Two numbers are drawn whatever the image's size.

    Args:
      rng: the source of the two offsets.
      image: uint8 (H, W, 3).
      size: side of the crop in pixels.

    Returns:
      uint8 (size, size, 3).
    """
    top, left = (int(rng.integers(max(0, side - size) + 1)) for side in image.shape[:2])
    return window(image, top, left, size)


def window(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The square at (top, left), either of which may be negative; zeros outside."""
    height, width = image.shape[:2]
    crop = np.zeros((size, size, 3), image.dtype)
    rows = slice(max(0, top), min(height, top + size))
    columns = slice(max(0, left), min(width, left + size))
    crop[
        rows.start - top : rows.stop - top,
        columns.start - left : columns.stop - left,
    ] = image[rows, columns]
    return crop
