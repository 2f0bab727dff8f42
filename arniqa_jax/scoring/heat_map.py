"""Where in an image the quality is good or bad: scores of a sliding window."""

import os
import pathlib

import numpy as np
from PIL import Image

from arniqa_jax.data import crops as image_crops
from arniqa_jax.inference import preprocessing

_WINDOWS = len(preprocessing.CROPS["five"])


def quality_map(scorer, image: np.ndarray, stride: int) -> np.ndarray:
    """Scores of windows at full scale, each beside the half-scale one about its centre.

    Args:
      scorer: a `Scorer`.
      image: uint8 (H, W, 3).
      stride: pixels from one window to the next; the last one ends with the image.

    Returns:
      float32 (rows, columns), as `Scorer.score`.
    """
    size = scorer.encoder.patch_size
    half = image_crops.half_scale(image)
    tops, lefts = (_starts(side, size, stride) for side in image.shape[:2])
    windows = [
        np.stack(
            [
                image_crops.window(image, top, left, size),
                image_crops.window(
                    half,
                    (top + size // 2) // 2 - size // 2,
                    (left + size // 2) // 2 - size // 2,
                    size,
                ),
            ]
        )
        for top in tops
        for left in lefts
    ]
    # By fives, as the crops of an image: the program for these serves here too.
    fives = [windows[i : i + _WINDOWS] for i in range(0, len(windows), _WINDOWS)]
    fives[-1] += [np.zeros_like(windows[0])] * (_WINDOWS - len(fives[-1]))
    views = ((None, (np.stack(five),)) for five in fives)
    features = np.stack([features for _, features in scorer.extractor.embed(views)])
    scores = scorer.scores_of(features).ravel()[: len(windows)]
    return scores.reshape(len(tops), len(lefts))


def _starts(side: int, size: int, stride: int) -> list[int]:
    if side <= size:
        return [side // 2 - size // 2]
    return [*range(0, side - size, stride), side - size]


def overlay(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The gray image under the map, red for 0 and below, green for 1 and above.

    Args:
      image: uint8 (H, W, 3).
      scores: of `quality_map`; stretched over the image.

    Returns:
      uint8 (H, W, 3).
    """
    import matplotlib

    height, width, _ = image.shape
    stretched = Image.fromarray(scores.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    colors = matplotlib.colormaps["RdYlGn"](np.clip(stretched, 0, 1))[..., :3]
    gray = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return np.rint(0.5 * gray + 127.5 * colors).astype(np.uint8)


def write(scorer, image: np.ndarray, path: str | os.PathLike) -> None:
    """Writes the overlay of an image as PNG."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(overlay(image, scorer.quality_map(image))).save(path)
