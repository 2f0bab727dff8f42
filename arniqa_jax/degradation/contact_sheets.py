"""Figures of the distortions of a photograph, for people to look at."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from arniqa_jax import errors
from arniqa_jax.degradation import chain
from arniqa_jax.degradation.catalogue import CATALOGUE, distort

CROP = 224
CHAINS = 12


def load_crop(path: str | None):
    """Return the middle of a photograph, float32 (CROP, CROP, 3) in [0, 1]."""
    if path is None:
        from skimage import data

        image = Image.fromarray(data.astronaut()).crop((80, 0, 380, 300))
    else:
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except FileNotFoundError:
            raise errors.ImageError(f"{path}: there is no such file") from None
        except (OSError, UnidentifiedImageError) as error:
            raise errors.ImageError(f"{path} cannot be read: {error}") from error
    image = ImageOps.fit(image, (CROP, CROP), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / 255


def draw_distortions(image, *, seed: int = 0):
    """Return a figure of every distortion of `image` (H, W, 3) at every level."""
    figure, axes = _figure(len(CATALOGUE), 6, width=1.3)
    for row, distortion in zip(axes, CATALOGUE.values(), strict=True):
        title = textwrap.fill(distortion.name.replace("_", " "), 18)
        _show(row[0], image, title, size=5.5)
        for level, value in enumerate(distortion.levels, 1):
            key = jax.random.fold_in(jax.random.key(seed), level)
            out = distort(key, image, name=distortion.name, level=level)
            _show(row[level], np.asarray(out), f"{level}: {value:g}", size=5.5)
    return figure


def draw_chains(image, *, seed: int = 0, count: int = CHAINS):
    """Return a figure of random chains applied to `image` (H, W, 3).

    Each panel has the description of its chain above it.
    """
    keys = jax.random.split(jax.random.key(seed), count)
    chains = chain.draw_chains(keys)
    images = jnp.broadcast_to(image, (count, 1, *image.shape))
    degraded = np.asarray(chain.apply_chains(keys, images, chains))[:, 0]
    ops, levels = np.asarray(chains.ops), np.asarray(chains.levels)
    figure, axes = _figure(-(-count // 4), 4, width=2.2, text=0.55)
    for index, axis in enumerate(axes.flat):
        if index < count:
            recipe = chain.describe(ops[index], levels[index])
            _show(axis, degraded[index], recipe.replace(", ", "\n"), size=6)
    return figure


def _figure(rows: int, columns: int, *, width: float, text: float = 0.28):
    """Return a figure of square axes `width` inches wide, with `text` inches above."""
    from matplotlib.figure import Figure

    height = width + text
    figure = Figure(figsize=(columns * width, rows * height), dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.01,
        right=0.99,
        bottom=0.002,
        top=1 - text / (rows * height),
        wspace=0.03,
        hspace=text / width,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _show(axis, image, title: str, *, size: float) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_title(title, fontsize=size, pad=2)
