"""Distortions that move or cover pixels.

Images are RGB float32 (..., H, W, 3) in [0, 1]. Each image draws its own shifts and
positions.
"""

import functools

import dm_pix
import jax
import jax.numpy as jnp

from arniqa_jax.degradation import filters, patches, randomness

PATCH_SIZE = 16
PATCH_MIN_SIZE = 3 * PATCH_SIZE
BLOCK_SIZE = 32
MAX_BLOCKS = 10
MAX_SHIFT = 12
MAX_PATCHES = 100
PIXELATE_REACH = 5


@randomness.per_image
def color_shift(key, images, *, value):
    """Return images with the green channel moved, along edges only.

    The shift is `round(value * u / |u|)` rows and columns, u uniform in the unit
    square; `value` is at most 12 pixels. A mask blends the moved channel in: the
    blurred gradient magnitude of the gray image, scaled to [0, 1]. The shift is a step
    function of u. The result is differentiable in the image.
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
    """Return a smooth mask in [0, 1], large at the edges of the gray image (H, W).

    It is 0 if the image has no edges.
    """
    padded = jnp.pad(gray, 1, "edge")
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    square = down**2 + right**2
    # The gradient of the square root is infinite at 0, the value of flat areas.
    flat = square == 0
    magnitude = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square)))
    mask = filters.gaussian_planes(magnitude, 4.0, max_radius=8, radius=8)
    low, high = jnp.min(mask), jnp.max(mask)
    return (mask - low) / jnp.where(high > low, high - low, 1.0)


def non_eccentricity_patch(key, images, *, value):
    """Return images after `value` copies of 16x16 patches, one after another.

    A patch is copied to a place up to 8 pixels away. Images have at least 48x48 pixels,
    and `value` is at most `MAX_PATCHES`. There is no gradient, because the number of
    copies is dynamic.
    """
    flat_NHWC = images.reshape(-1, *images.shape[-3:])
    keys = randomness.image_keys(key, images).reshape(-1)
    out_NHWC = jax.lax.platform_dependent(
        *(keys, flat_NHWC, value), tpu=_patches_in_one_kernel, default=_patches_in_loop
    )
    return out_NHWC.reshape(images.shape)


def _patch_corners(key, index, shape):
    """Return the upper left corners of source and target of a patch, int32 (2,)."""
    free = jnp.array(shape) - PATCH_MIN_SIZE
    u = randomness.uniform(jax.random.fold_in(key, index), (2, 2))
    start = jnp.round(u[0] * free).astype(jnp.int32) + PATCH_SIZE
    return start, jnp.round(PATCH_SIZE * (u[1] - 0.5) + start).astype(jnp.int32)


def _patches_in_loop(keys, images_NHWC, value):
    def one(key, image):
        def copy(index, image):
            start, target = _patch_corners(key, index, image.shape[:2])
            size = (PATCH_SIZE, PATCH_SIZE, 3)
            patch = jax.lax.dynamic_slice(image, (*start, 0), size)
            return jax.lax.dynamic_update_slice(image, patch, (*target, 0))

        return jax.lax.fori_loop(0, value, copy, image)

    return jax.vmap(one)(keys, images_NHWC)


def _patches_in_one_kernel(keys, images_NHWC, value):
    def corners(key):
        draw = functools.partial(_patch_corners, key, shape=images_NHWC.shape[1:3])
        return jax.vmap(draw)(jnp.arange(MAX_PATCHES))

    sources, targets = jax.vmap(corners)(keys)
    return patches.copy_patches(images_NHWC, sources, targets, value, size=PATCH_SIZE)


def pixelate(key, images, *, value):
    """Return images resized to int(size * (0.95 - value^0.6)) and back.

    Both resizes take the nearest neighbour. `value` is at most 0.5, so that the source
    of a pixel is at most 5 pixels away.
    """
    del key
    planes = jnp.moveaxis(images, -1, -3)
    rows, columns = (_pick_matrix(size, value) for size in images.shape[-3:-1])
    planes = filters.filter_planes(planes, rows, columns, reach=PIXELATE_REACH)
    return jnp.moveaxis(planes, -3, -1)


def _pick_matrix(size, value):
    """Return the 0/1 matrix (size, size) that resizes to a smaller size and back.

    The nearest neighbour has index floor(i * ratio), with the ratio of the sizes in
    float32, as in PyTorch.
    """
    small = jnp.maximum(jnp.floor(size * (0.95 - value**0.6)), 1)
    index = jnp.arange(size, dtype=jnp.float32)
    at_small = jnp.minimum(jnp.floor(index * (small / size)), small - 1)
    at_full = jnp.minimum(jnp.floor(at_small * (size / small)), size - 1)
    return (at_full[:, None] == index[None, :]).astype(jnp.float32)


@randomness.per_image
def color_block(key, images, *, value):
    """Return images with `value` squares of 32x32 covered, each by one random colour.

    Images have at least 32x32 pixels, and `value` is at most `MAX_BLOCKS`. There is no
    gradient, because the number of blocks is dynamic.
    """
    return jax.lax.platform_dependent(
        *(key, images, value), tpu=_blocks_by_selection, default=_blocks_in_loop
    )


def _block(key, index, shape):
    """Return the upper left corner (2,) and the colour (3,) of one block."""
    u = randomness.uniform(jax.random.fold_in(key, index), (5,))
    return jnp.floor(u[:2] * (jnp.array(shape) - BLOCK_SIZE)).astype(jnp.int32), u[2:]


def _blocks_in_loop(key, image, value):
    def cover(index, image):
        corner, colour = _block(key, index, image.shape[:2])
        block = jnp.broadcast_to(colour, (BLOCK_SIZE, BLOCK_SIZE, 3))
        return jax.lax.dynamic_update_slice(image, block, (*corner, 0))

    return jax.lax.fori_loop(0, value, cover, image)


def _blocks_by_selection(key, image, value):
    """Return the image with all blocks drawn in one pass.

    This takes one kernel launch, but it is slow on a CPU.
    """
    draw = functools.partial(_block, key, shape=image.shape[:2])
    corners, colours = jax.vmap(draw)(jnp.arange(MAX_BLOCKS))
    rows, columns, _ = (
        jax.lax.broadcasted_iota(jnp.int32, image.shape, axis) for axis in range(3)
    )
    for index in range(MAX_BLOCKS):
        below, beside = rows - corners[index, 0], columns - corners[index, 1]
        inside = (below >= 0) & (below < BLOCK_SIZE)
        inside &= (beside >= 0) & (beside < BLOCK_SIZE) & (index < value)
        colour = jnp.broadcast_to(colours[index], image.shape)
        image = jnp.where(inside, colour, image)
    return image
