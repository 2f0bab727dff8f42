"""The table of the distortions: name, group, five levels, function.

Images are RGB float32 (..., H, W, 3) in [0, 1] in the whole package. A result has the
shape of its input. `Distortion.__call__` clips it to [0, 1], and nothing else does
unless its docstring says so. Leading axes are independent images. Levels and their
meaning are those of the official code; the docstring of each function says what `value`
means.
"""

import dataclasses
import difflib
import functools
import inspect
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax import errors
from arniqa_jax.degradation import (
    codecs,
    filters,
    jitter,
    noise,
    photometric,
    spatial,
)

NUM_LEVELS = 5


@dataclasses.dataclass(frozen=True)
class Distortion:
    """A row of the catalogue.

    Attributes:
      name: the name in the official code; also the name of the function.
      group: one of seven groups; a chain has at most one distortion of each group.
      levels: the value of the parameter at levels 1 to 5.
      function: `function(key, images, *, value)`; does not clip its result.
      min_size: the smallest height and width of an image, in pixels.
    """

    name: str
    group: str
    levels: tuple[float, ...]
    function: Callable[..., jax.Array]
    min_size: int = 1

    def __call__(self, key, images, level_index, **options) -> jax.Array:
        """Return `images` distorted at a level index of 0 to 4, clipped to [0, 1].

        The index may be traced, so that one compiled function serves all levels.
        """
        whole = all(isinstance(level, int) for level in self.levels)
        table = jnp.array(self.levels, jnp.int32 if whole else jnp.float32)
        out = self.function(key, images, value=table[level_index], **options)
        return jnp.clip(out, 0, 1)


def _group(group, *rows):
    for function, levels, *min_size in rows:
        yield Distortion(function.__name__, group, levels, function, *min_size)


CATALOGUE: dict[str, Distortion] = {
    distortion.name: distortion
    for distortion in (
        *_group(
            "blur",
            (filters.gaussian_blur, (0.1, 0.5, 1.0, 2.0, 5.0)),
            (filters.lens_blur, (1, 2, 4, 6, 8)),
            (filters.motion_blur, (1, 2, 4, 6, 10)),
        ),
        *_group(
            "color_distortion",
            (filters.color_diffusion, (1, 3, 6, 8, 12)),
            (spatial.color_shift, (1, 3, 6, 8, 12)),
            (photometric.color_saturation_1, (0.4, 0.2, 0.1, 0.0, -0.4)),
            (photometric.color_saturation_2, (1, 2, 3, 6, 9)),
        ),
        *_group(
            "jpeg",
            (codecs.jpeg2000, (16, 32, 45, 120, 170)),
            (codecs.jpeg, (43, 36, 24, 7, 4)),
        ),
        *_group(
            "noise",
            (noise.white_noise, (0.001, 0.002, 0.003, 0.005, 0.01)),
            (
                noise.white_noise_color_component,
                (0.0001, 0.0005, 0.001, 0.002, 0.003),
            ),
            (noise.impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03)),
            (noise.multiplicative_noise, (0.001, 0.005, 0.01, 0.02, 0.05)),
        ),
        *_group(
            "brightness_change",
            (photometric.brighten, (0.1, 0.2, 0.4, 0.7, 1.1)),
            (photometric.darken, (0.05, 0.1, 0.2, 0.4, 0.8)),
            (photometric.mean_shift, (0.0, 0.08, -0.08, 0.15, -0.15)),
        ),
        *_group(
            "spatial_distortion",
            (jitter.jitter, (0.05, 0.1, 0.2, 0.5, 1.0)),
            (
                spatial.non_eccentricity_patch,
                (20, 40, 60, 80, 100),
                spatial.PATCH_MIN_SIZE,
            ),
            (spatial.pixelate, (0.01, 0.05, 0.1, 0.2, 0.5)),
            (photometric.quantization, (20, 16, 13, 10, 7)),
            (spatial.color_block, (2, 4, 6, 8, 10), spatial.BLOCK_SIZE),
        ),
        *_group(
            "sharpness_contrast",
            (filters.high_sharpen, (1, 2, 3, 6, 12)),
            (photometric.linear_contrast_change, (0.0, 0.15, -0.4, 0.3, -0.6)),
            (photometric.non_linear_contrast_change, (0.4, 0.3, 0.2, 0.1, 0.05)),
        ),
    )
}


def distort(key, images, *, name: str, level: int, **options) -> jax.Array:
    """Return images with one distortion applied.

    Args:
      key: a JAX random key. Image i, by its flat index over the leading axes, draws
        under `fold_in(key, i)`, so its result does not depend on the other images.
      images: float32 (..., H, W, 3), RGB in [0, 1].
      name: a name in `CATALOGUE`.
      level: an integer from 1 (weakest) to 5.
      **options: further parameters of the function, such as motion blur's `angle`.

    Returns:
      Distorted images of the same shape, in [0, 1].

    Raises:
      UsageError: at trace time, if the name or an option is unknown, if the level is
        outside 1..5, or if the shape or dtype of the images is wrong. If the images
        are concrete (not traced), also for values outside [0, 1].

    >>> import jax
    >>> from arniqa_jax import degradation
    >>> image = jax.random.uniform(jax.random.key(1), (32, 48, 3))
    >>> degradation.distort(jax.random.key(0), image, name="darken", level=3).shape
    (32, 48, 3)
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1, cutoff=0)[0]
        raise errors.UsageError(
            f"there is no distortion {name!r}; did you mean {near!r}? The names are "
            + ", ".join(CATALOGUE)
        )
    try:
        index = operator.index(level) - 1
    except TypeError:
        index = -1
    if not 0 <= index < NUM_LEVELS:
        raise errors.UsageError(f"level must be an integer in 1..5, got {level!r}")
    unknown = set(options) - set(inspect.signature(CATALOGUE[name].function).parameters)
    if unknown:
        raise errors.UsageError(f"{name} has no option {min(unknown)!r}")
    check_images(images, [CATALOGUE[name]])
    return _distort(key, images, index, options, name=name)


@functools.partial(jax.jit, static_argnames="name")
def _distort(key, images, index, options, *, name):
    return CATALOGUE[name](key, images, index, **options)


def check_images(images, distortions) -> None:
    """Raise `UsageError` if any of `distortions` is not defined on these images."""
    shape = np.shape(images)
    if len(shape) < 3 or shape[-1] != 3:
        raise errors.UsageError(
            f"images must have shape (..., height, width, 3), got {shape}"
        )
    dtype = jnp.result_type(images)
    if dtype != jnp.float32:
        raise errors.UsageError(
            f"images must be float32 in [0, 1], got {dtype}; divide 8-bit images by 255"
        )
    largest = max(distortions, key=lambda distortion: distortion.min_size)
    if min(shape[-3:-1]) < largest.min_size:
        raise errors.UsageError(
            f"{largest.name} needs images of at least {largest.min_size}x"
            f"{largest.min_size} pixels, got {shape[-3]}x{shape[-2]}"
        )
    if isinstance(images, jax.core.Tracer) or not images.size:
        return
    low, high = float(images.min()), float(images.max())
    # A comparison with NaN is false, so this form also rejects NaN.
    if not (low >= 0 and high <= 1):
        raise errors.UsageError(
            f"images must lie in [0, 1], got values from {low:g} to {high:g}"
        )
