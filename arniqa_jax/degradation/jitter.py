"""Jitter: in each of five rounds, every pixel reads at its own random offset.

The offsets are the same on every platform. The form of a round differs.

A gather can read at any offset. It is the fastest form on a GPU, and on a CPU for wide
offsets. A TPU gathers one pixel at a time, so there each round is a sum over shifted
copies of the image. Bilinear interpolation at an offset (y, x) is

    sum over dx of hat(x - dx) * sum over dy of hat(y - dy) * image shifted by (dy, dx)

with hat(t) = max(1 - |t|, 0). The sum is exact if the shifts cover the largest offset,
`randomness.MAX_NORMAL * value`. Each level therefore needs only the shifts within one
of `WINDOWS`.

Shapes: N images, H rows, W columns. For a TPU an image is cut into blocks of R rows and
C columns. The last two axes, S sublanes of 128 lanes, hold the blocks of all images in
flat order. A shift by a pixel then moves data along a major axis, which costs nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation import randomness

ROUNDS = 5
# The largest offset, in pixels, of each compiled form of the sum.
WINDOWS = (1, 2, 3, 6)
MAX_VALUE = WINDOWS[-1] / randomness.MAX_NORMAL
# Number of blocks along each side of a large image. The 8 x 32 blocks of each of 4
# images fill the 8 x 128 elements of a TPU register.
_DOWN, _ACROSS = 8, 32
# A TPU multiplies matrices faster than it transposes small axes. A product with a
# matrix of zeros and ones is exact at the highest precision.
_EXACT = jax.lax.Precision.HIGHEST


def jitter(key, images, *, value):
    """Return images after five rounds of per-pixel normal(0, value^2) offsets.

    In each round, every pixel reads at its own offset, by bilinear interpolation, with
    replicated borders and the same offset for the three channels. `value` is at most
    `MAX_VALUE`, 1.09; for a larger one, the result is NaN.
    """
    flat_NHWC = images.reshape(-1, *images.shape[-3:])
    keys = randomness.image_keys(key, images).reshape(-1)
    keys = jax.vmap(lambda key: jax.random.split(key, ROUNDS))(keys)
    value = jnp.where(value <= MAX_VALUE, value, jnp.nan)
    out_NHWC = jax.lax.platform_dependent(
        *(keys, flat_NHWC, value),
        tpu=_by_blocks,
        default=_by_gather,
    )
    return out_NHWC.reshape(images.shape)


def _by_window(value, make_branch, *arguments):
    """Return `make_branch(window)(*arguments)` for the smallest exact window."""
    reach = jnp.array(WINDOWS) / randomness.MAX_NORMAL
    index = jnp.sum(value > reach[:-1])
    return jax.lax.switch(index, [make_branch(w) for w in WINDOWS], *arguments)


def _by_gather(keys, images_NHWC, value):
    height, width = images_NHWC.shape[1:3]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :]

    def one(keys, image):
        offsets = value * randomness.normals(keys, (2, height, width))
        # This loop is unrolled. In a compiled loop, XLA:CPU unpacks the offsets again
        # for every value it gathers.
        for offset in offsets:
            image = _bilinear(image, rows + offset[0], columns + offset[1])
        return image

    return jax.vmap(one)(keys, images_NHWC)


def _bilinear(image, y, x):
    """Return image (H, W, 3) read at rows y (H, W) and columns x (H, W).

    Positions are clamped to the borders of the image.

    One gather reads the four neighbours of a pixel with all their channels. dm_pix uses
    a separate gather for each channel of each neighbour, which takes ten times as long.
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


def _hat_sum(padded, y, x, window):
    """Return the planes `padded` (3, R + 2 window, C + 2 window, ...) read at offsets.

    The offsets y, x (R, C, ...) are at most `window` pixels.
    """
    rows, columns = y.shape[:2]

    def hat(offset, shift):
        return jnp.maximum(1 - jnp.abs(offset - shift), 0)[None]

    down = [hat(y, shift) for shift in range(-window, window + 1)]

    def add_column(index, total):
        near = jax.lax.dynamic_slice_in_dim(padded, index, columns, 2)
        read = sum(h * near[:, row : row + rows] for row, h in enumerate(down))
        return total + hat(x, index - window) * read

    # The widest sum, fully unrolled, takes long to compile and runs out of registers.
    unroll = window < WINDOWS[-1]
    size = 2 * window + 1
    total = jnp.zeros_like(padded[:, :rows, :columns])
    return jax.lax.fori_loop(0, size, add_column, total, unroll=size if unroll else 1)


class _Blocks:
    """How `count` images of height x width pixels are cut into blocks.

    Attributes:
      rows, columns: R and C, the size of a block in pixels. The last block of an image
        may extend beyond its border.
      down, across: number of blocks of an image along its height and width.
      shape: (R, C, down, count * across), the shape of a plane in blocks.
    """

    def __init__(self, count, height, width):
        self.count, self.height, self.width = count, height, width
        # All that a pixel may read must lie in its block or an adjacent one.
        self.rows = max(-(-height // _DOWN), WINDOWS[-1])
        self.columns = max(-(-width // _ACROSS), WINDOWS[-1])
        self.down, self.across = -(-height // self.rows), -(-width // self.columns)
        self.shape = (self.rows, self.columns, self.down, count * self.across)

    def split(self, images_NHWC):
        """Return the planes (3, R, C, down, count * across) of images (N, H, W, 3)."""
        rows = _order(self.height, self.rows, self.down)
        columns = _order(self.width, self.columns, self.across)
        planes = _permute(jnp.moveaxis(images_NHWC, -1, 0), rows, columns)
        planes = planes.reshape(3, self.count, self.rows, self.down, -1)
        blocks = [
            [
                planes[:, image, ..., column : column + self.across]
                for image in range(self.count)
            ]
            for column in range(0, planes.shape[-1], self.across)
        ]
        return jnp.stack([jnp.concatenate(row, -1) for row in blocks], 2)

    def join(self, planes):
        """Return the images (N, H, W, 3) of the planes: the inverse of `split`."""
        rows = _order(self.height, self.rows, self.down).T
        columns = _order(self.width, self.columns, self.across)
        columns = columns.reshape(self.columns, self.across, -1)
        images = [
            jnp.einsum(
                "crkds,ksw->crdw",
                planes[..., start : start + self.across],
                columns,
                precision=_EXACT,
            ).reshape(3, -1, self.width)
            for start in range(0, planes.shape[-1], self.across)
        ]
        images = [
            jnp.einsum("ha,caw->chw", rows, image, precision=_EXACT) for image in images
        ]
        return jnp.moveaxis(jnp.stack(images), 1, -1)

    def normals(self, keys_N):
        """Return offsets (ROUNDS, 2, *shape), the values of `randomness.normal`.

        They are those that `randomness.normal` returns for the shape (2, H, W).
        All rounds are drawn at once, because a loop would cost kernel launches per
        round.
        """
        seeds = jax.vmap(jax.vmap(randomness.seeds))(keys_N)
        seeds = jnp.repeat(seeds, self.across, 0).T
        seeds = seeds[:, :, None, None, None, None]
        plane, i, j, row, column = (
            jax.lax.broadcasted_iota(jnp.uint32, (2, *self.shape), axis)
            for axis in range(5)
        )
        row = row * self.rows + i
        column = column % self.across * self.columns + j
        # Positions beyond the border get the counter of another pixel; `join` cuts them
        # off.
        counter = (plane * self.height + row) * self.width + column
        return randomness.normal_at(seeds, counter[None])

    def surround(self, planes, window):
        """Return the blocks with `window` more pixels on each side.

        They come from the adjacent blocks, or repeat the border of the image.
        """
        row, column = np.indices(self.shape[2:])
        column %= self.across
        last_pixel = (self.width - 1) % self.columns
        first, last = column == 0, column == self.across - 1
        planes = _surround(planes, 2, window, first, last, last_pixel)
        last_pixel = (self.height - 1) % self.rows
        return _surround(planes, 1, window, row == 0, row == self.down - 1, last_pixel)


def _order(size, pixels, blocks):
    """Return the 0/1 matrix (pixels * blocks, size) that makes the block minor."""
    index = jnp.arange(blocks)[None] * pixels + jnp.arange(pixels)[:, None]
    return (index.reshape(-1, 1) == jnp.arange(size)[None]).astype(jnp.float32)


def _permute(planes, rows, columns):
    """Return `planes` (..., H, W) with 0/1 matrices applied to its last two axes."""
    planes = jnp.einsum("ah,...hw->...aw", rows, planes, precision=_EXACT)
    return jnp.einsum("...hw,bw->...hb", planes, columns, precision=_EXACT)


def _surround(planes, axis, window, first, last, last_pixel):
    """Return the blocks with more pixels on both sides of one axis.

    Args:
      planes: (3, R, C, down, count * across).
      axis: 1 for rows, 2 for columns.
      window: the number of pixels to add on each side.
      first, last: (down, count * across), whether a block lies at the image's border.
      last_pixel: index, in a last block, of the last pixel that is inside the image.
    """
    size, blocks_axis = planes.shape[axis], axis + 2

    def part(start, stop):
        return jax.lax.slice_in_dim(planes, start, stop, axis=axis)

    edge = part(last_pixel, last_pixel + 1)
    if last_pixel < size - 1:
        over = _where(last, edge, part(last_pixel + 1, size))
        planes = jnp.concatenate([part(0, last_pixel + 1), over], axis)
    before = jnp.roll(part(size - window, size), 1, blocks_axis)
    after = jnp.roll(part(0, window), -1, blocks_axis)
    before, after = _where(first, part(0, 1), before), _where(last, edge, after)
    return jnp.concatenate([before, planes, after], axis)


def _where(mask, chosen, other):
    mask = jnp.broadcast_to(mask[None, None, None], other.shape)
    return jnp.where(mask, jnp.broadcast_to(chosen, other.shape), other)


def _by_blocks(keys, images_NHWC, value):
    blocks = _Blocks(*images_NHWC.shape[:3])

    def make_branch(window):
        def run(planes, offsets):
            def one_round(planes, offset):
                y, x = offset
                return _hat_sum(blocks.surround(planes, window), y, x, window), None

            return jax.lax.scan(one_round, planes, offsets)[0]

        return run

    planes = blocks.split(images_NHWC)
    offsets = value * blocks.normals(keys)
    planes = _by_window(value, make_branch, planes, offsets)
    return blocks.join(planes)
