"""What a `Scorer` takes as an image, and the pixels of it."""

import os

import numpy as np
from PIL import Image

from arniqa_jax import errors
from arniqa_jax.data import images as image_files

Picture = str | os.PathLike | Image.Image | np.ndarray


def to_array(image: Picture, index: int) -> np.ndarray:
    """uint8 (H, W, 3) of whatever `Scorer.score` takes; `index` is for errors."""
    if isinstance(image, str | os.PathLike):
        return image_files.decode_image(image, apply_orientation=True)
    if isinstance(image, Image.Image):
        try:
            return image_files.from_pillow(image, apply_orientation=True)
        except (OSError, ValueError, SyntaxError) as error:
            reason = image_files.one_line(error)
            raise errors.ImageError(f"image {index}: {reason}") from error
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise errors.ImageError(
            f"image {index}: expected an array (H, W, 3), found {array.shape}"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise errors.ImageError(
            f"image {index}: expected uint8, or floating point in [0, 1], found "
            f"{array.dtype} from {array.min():g} to {array.max():g}"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
