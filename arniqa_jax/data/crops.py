"""Half-scale images, random crops and windows.

Images are uint8 NumPy arrays of shape (H, W, 3). A crop always has `size` x `size`
pixels; pixels outside the image are zero. The offsets are drawn as in the official
PyTorch implementation.
"""

import numpy as np
from PIL import Image


def half_scale(image: np.ndarray) -> np.ndarray:
    """Return the whole image at half its size, resized bicubically with antialiasing.

    Args:
      image: uint8 (H, W, 3).

    Returns:
      uint8 (H // 2, W // 2, 3), each side at least 1.
    """
    height, width = image.shape[:2]
    size = (max(1, width // 2), max(1, height // 2))
    # Pillow widens the filter when it reduces an image, which is the antialiasing.
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def random_crop(rng: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    """Return a crop at a uniformly drawn position.

    If a side of the image is shorter than the crop, the offset is 0, so the zeros are
    at the bottom or on the right. Two numbers are drawn for an image of any size.

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
    """Return the square of the image at (top, left), zero outside the image.

    `top` and `left` may be negative.
    """
    height, width = image.shape[:2]
    crop = np.zeros((size, size, 3), image.dtype)
    rows = slice(max(0, top), min(height, top + size))
    columns = slice(max(0, left), min(width, left + size))
    crop[
        rows.start - top : rows.stop - top,
        columns.start - left : columns.stop - left,
    ] = image[rows, columns]
    return crop
