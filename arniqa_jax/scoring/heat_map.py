"""Maps of local quality: scores of a window that slides over the image."""

import hashlib
import io
import itertools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from arniqa_jax.data import crops as image_crops
from arniqa_jax.inference import preprocessing
from arniqa_jax.storage.files import write_atomically

_WINDOWS = len(preprocessing.CROPS["five"])
# Number of image rows that are coloured at a time.
_STRIP = 128
# Characters of a map's name before a digest replaces the rest. File systems allow 255
# bytes, and a temporary file needs a few more than its target.
_LONGEST_NAME = 200


def quality_map(scorer, image: np.ndarray, stride: int) -> np.ndarray:
    """Return the scores of windows at full scale.

    Each window at full scale is scored together with the half-scale window that has the
    same centre. Windows are cut and scored in batches, so that memory does not grow
    with their number.

    Args:
      scorer: a `Scorer`.
      image: uint8 (H, W, 3).
      stride: pixels from one window to the next; the last window ends with the image.

    Returns:
      float32 (rows, columns), on the scale of `Scorer.score`.
    """
    size = scorer.encoder.patch_size
    tops, lefts = (_starts(side, size, stride) for side in image.shape[:2])
    pairs = _window_pairs(image, tops, lefts, size)
    # Group five windows like the five crops of an image, so that they use the same
    # compiled program.
    views = ((None, (group,)) for group in _groups(pairs, _WINDOWS))
    scores = [
        scorer.scores_of(features_CD[None])[0]
        for _, features_CD in scorer.extractor.embed(views)
    ]
    scores = np.concatenate(scores)[: len(tops) * len(lefts)]
    return scores.reshape(len(tops), len(lefts))


def _starts(side: int, size: int, stride: int) -> list[int]:
    if side <= size:
        return [side // 2 - size // 2]
    return [*range(0, side - size, stride), side - size]


def _window_pairs(
    image: np.ndarray, tops: list[int], lefts: list[int], size: int
) -> Iterator[np.ndarray]:
    """Yield uint8 (2, size, size, 3): a window at full and at half scale."""
    half = image_crops.half_scale(image)
    for top, left in itertools.product(tops, lefts):
        corner = ((start + size // 2) // 2 - size // 2 for start in (top, left))
        yield np.stack(
            [
                image_crops.window(image, top, left, size),
                image_crops.window(half, *corner, size),
            ]
        )


def _groups(items: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield stacks of `size` items; zeros fill the last one."""
    while group := list(itertools.islice(items, size)):
        group += [np.zeros_like(group[0])] * (size - len(group))
        yield np.stack(group)


def overlay(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the gray image under the map: red for 0 and below, green for 1 and above.

    Args:
      image: uint8 (H, W, 3).
      scores: the result of `quality_map`; stretched over the image.

    Returns:
      uint8 (H, W, 3).
    """
    import matplotlib

    height, width, _ = image.shape
    stretched = Image.fromarray(scores.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    stretched = np.asarray(stretched)
    drawn = np.empty_like(image)
    for top in range(0, height, _STRIP):
        rows = slice(top, top + _STRIP)
        colors = matplotlib.colormaps["RdYlGn"](np.clip(stretched[rows], 0, 1))[..., :3]
        gray = np.asarray(Image.fromarray(image[rows]).convert("L"))[..., None]
        drawn[rows] = np.rint(0.5 * gray + 127.5 * colors)
    return drawn


def write(scorer, image: np.ndarray, path: str | os.PathLike) -> None:
    """Write the overlay of an image as PNG, atomically.

    Raises:
      OSError: the file cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    Image.fromarray(overlay(image, scorer.quality_map(image))).save(png, "PNG")
    write_atomically(path, png.getvalue())


def file_name(path: str) -> str:
    """Return the file name of an image's map, unique for each path of any length.

    The name is the whole path with `__` for each separator, because two folders may
    contain files with the same name. If this is too long or not unique, a digest
    follows.
    """
    path = path if "://" in path else os.path.abspath(path)
    name = path.strip(os.sep).replace("://", "__").replace(os.sep, "__")
    encoded = os.fsencode(name)
    if len(encoded) > _LONGEST_NAME or "__" in path:
        digest = hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
        kept = encoded[-_LONGEST_NAME:].decode("utf-8", "ignore")
        name = f"{kept}-{digest}"
    return f"{name}.png"
