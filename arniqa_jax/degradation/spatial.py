"""Distortions that move pixels, or cover them.

Images are RGB float32 (..., H, W, 3) in [0, 1]. Each image draws its own shifts and
positions.
"""

import dm_pix
import jax
import jax.numpy as jnp

from arniqa_jax.degradation import filters, randomness

PATCH_SIZE = 16
PATCH_MIN_SIZE = 3 * PATCH_SIZE
BLOCK_SIZE = 32
MAX_SHIFT = 12
JITTER_ROUNDS = 5
PIXELATE_REACH = 5


@randomness.per_image
def color_shift(key, images, *, value):
    """Moves the green channel by up to `value` (at most 12) pixels, along edges.

    The shift is round(value * u / |u|) rows and columns, u uniform in the unit square;
    it is blended in by a mask: the blurred gradient magnitude of the gray image,
    scaled to [0, 1]. The shift is a step function of u; the image has a gradient.
    """
    height, width, _ = images.shape
    u = randomness.uniform(key, (2,))
    shift = jnp.round(value * u / jnp.sqrt(jnp.sum(u**2))).astype(jnp.int32)
    green = images[..., 1]
    padded = jnp.pad(green, ((MAX_SHIFT, 0), (MAX_SHIFT, 0)), "edge")
    moved = jax.lax.dynamic_slice(padded, MAX_SHIFT - shift, (height, width))
    mask = _edge_mask(dm_pix.rgb_to_grayscale(images)[..., 0])
    return images.at[..., 1].set(green + mask * (moved - green))


def _edge_mask(gray):
    """Where the gray image (H, W) has edges: in [0, 1], smooth, 0 if it has none."""
    padded = jnp.pad(gray, 1, "edge")
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    square = down**2 + right**2
    # The square root has no gradient at 0, where flat areas lie.
    flat = square == 0
    magnitude = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square)))
    mask = filters.gaussian_planes(
        magnitude, 4.0, max_radius=8, radius=8, precision=jax.lax.Precision.DEFAULT
    )
    low, high = jnp.min(mask), jnp.max(mask)
    return (mask - low) / jnp.where(high > low, high - low, 1.0)


@randomness.per_image
def jitter(key, images, *, value):
    """Five rounds in which each pixel reads at its own normal(0, value^2) offset.

    Bilinear, replicated borders, the same offset for the three channels.
    """
    height, width, _ = images.shape
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :]

    keys = jax.random.split(key, JITTER_ROUNDS)
    offsets = value * randomness.normals(keys, (2, height, width))
    # Unrolled: in a loop, XLA:CPU takes the offsets apart for every value it gathers.
    for offset in offsets:
        images = _bilinear(images, rows + offset[0], columns + offset[1])
    return images


def _bilinear(image, y, x):
    """Reads image (H, W, 3) at rows y (H, W) and columns x, clamped to its borders.

    One gather brings the four neighbours of a pixel with all their channels; dm_pix
    gathers each channel of each neighbour by itself, at ten times the cost.
    """
    height, width, _ = image.shape
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    corners = jax.lax.gather(
        jnp.pad(image, ((0, 1), (0, 1), (0, 0)), "edge"),
        jnp.stack([top, left], axis=-1).astype(jnp.int32),
        jax.lax.GatherDimensionNumbers(
            offset_dims=(2, 3, 4), collapsed_slice_dims=(), start_index_map=(0, 1)
        ),
        slice_sizes=(2, 2, 3),
        mode="promise_in_bounds",
    )
    rows = (1 - down[..., None]) * corners[:, :, 0] + down[..., None] * corners[:, :, 1]
    return (1 - right) * rows[:, :, 0] + right * rows[:, :, 1]


@randomness.per_image
def non_eccentricity_patch(key, images, *, value):
    """Copies `value` patches of 16x16 to places up to 8 px away, one after another.

    Needs 48x48 pixels at least. No gradient: the number of copies is dynamic.
    """
    room = jnp.array(images.shape[:2]) - PATCH_MIN_SIZE

    def copy(index, image):
        u = randomness.uniform(jax.random.fold_in(key, index), (2, 2))
        start = jnp.round(u[0] * room).astype(jnp.int32) + PATCH_SIZE
        target = jnp.round(PATCH_SIZE * (u[1] - 0.5) + start).astype(jnp.int32)
        patch = jax.lax.dynamic_slice(image, (*start, 0), (PATCH_SIZE, PATCH_SIZE, 3))
        return jax.lax.dynamic_update_slice(image, patch, (*target, 0))

    return jax.lax.fori_loop(0, value, copy, images)


def pixelate(key, images, *, value):
    """Nearest neighbour down to int(size * (0.95 - value^0.6)) and up again.

    `value` is at most 0.5, so that no pixel's source is farther than 5 pixels.
    """
    del key
    planes = jnp.moveaxis(images, -1, -3)
    rows, columns = (_pick_matrix(size, value) for size in images.shape[-3:-1])
    planes = filters.filter_planes(planes, rows, columns, reach=PIXELATE_REACH)
    return jnp.moveaxis(planes, -3, -1)


def _pick_matrix(size, value):
    """The (size, size) 0/1 matrix that goes to a smaller size and back by nearest.

    The index is floor(i * ratio), the ratio of the sizes in float32, as in PyTorch.
    """
    small = jnp.maximum(jnp.floor(size * (0.95 - value**0.6)), 1)
    index = jnp.arange(size, dtype=jnp.float32)
    at_small = jnp.minimum(jnp.floor(index * (small / size)), small - 1)
    at_full = jnp.minimum(jnp.floor(at_small * (size / small)), size - 1)
    return (at_full[:, None] == index[None, :]).astype(jnp.float32)


@randomness.per_image
def color_block(key, images, *, value):
    """Covers `value` squares of 32x32, each with one random colour.

    Needs 32x32 pixels at least. No gradient: the number of blocks is dynamic.
    """
    room = jnp.array(images.shape[:2]) - BLOCK_SIZE

    def cover(index, image):
        u = randomness.uniform(jax.random.fold_in(key, index), (5,))
        corner = jnp.floor(u[:2] * room).astype(jnp.int32)
        block = jnp.broadcast_to(u[2:], (BLOCK_SIZE, BLOCK_SIZE, 3))
        return jax.lax.dynamic_update_slice(image, block, (*corner, 0))

    return jax.lax.fori_loop(0, value, cover, images)
