"""The correlation of images with a small square kernel, in the form for the platform.

Images are (..., H, W, 3), kernels (K, K) with K odd. Borders are replicated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Columns of the result per product on a matrix unit. With the margins of the largest
# kernel, that of the lens blur, they are 128, the width of the unit.
_COLUMNS = 128 - 2 * 8
# Products in float32. At a lower precision, a GPU computes in TF32, whose error here is
# 7e-4 (measured on an H200), and a TPU computes in passes of bfloat16.
PRECISION = jax.lax.Precision.HIGHEST


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def correlate(images, kernel, reach, mirrored):
    """Return the correlation of images (..., H, W, 3) with one kernel (K, K), K odd.

    Rows of the kernel farther than `reach` from its middle must be zero. They are
    skipped, so the number of iterations is dynamic. `mirrored` says that the kernel is
    symmetric upside down; then two rows at equal distance share their weights.
    """
    return jax.lax.platform_dependent(
        images,
        kernel,
        reach,
        cpu=of_mirrored if mirrored else by_rows,
        default=functools.partial(by_products, mirrored=mirrored),
    )


@correlate.defjvp
def _correlate_jvp(mirrored, primals, tangents):
    """Differentiate a loop over all rows; one of dynamic length has no gradient."""
    images, kernel, reach = primals
    images_dot, kernel_dot, _ = tangents

    def whole(images, kernel):
        form = of_mirrored if mirrored else by_rows
        return form(images, kernel, kernel.shape[0] // 2)

    _, out_dot = jax.jvp(whole, (images, kernel), (images_dot, kernel_dot))
    return correlate(images, kernel, reach, mirrored), out_dot


def _half(kernel, mirrored):
    """Return the kernel's rows below and above the middle, (2, K // 2 + 1, K).

    Row d of each has distance d from the middle. The middle row is in both, halved.
    """
    radius = kernel.shape[0] // 2
    fold = jnp.ones((radius + 1, 1)).at[0].set(0.5)
    below = kernel[radius:] * fold
    above = below if mirrored else kernel[radius::-1] * fold
    return jnp.stack([below, above])


def by_products(images, kernel, reach, mirrored):
    """Return the correlation as matrix products, for a matrix unit.

    Planes (3, ..., H, W) are cut into blocks of columns. A row of the kernel is a
    banded matrix, the same for all blocks, from the padded columns of a block to those
    of its result. An iteration applies the two rows at one distance from the middle.
    """
    height, width, _ = images.shape[-3:]
    radius = kernel.shape[0] // 2
    half = _half(kernel, mirrored)
    blocks = -(-width // _COLUMNS)
    planes = jnp.moveaxis(images, -1, 0)
    extra = blocks * _COLUMNS - width
    margins = [(0, 0)] * (planes.ndim - 2) + [
        (radius, radius),
        (radius, radius + extra),
    ]
    padded = jnp.pad(planes, margins, "edge")
    size = _COLUMNS + 2 * radius
    parts = jnp.stack(
        [padded[..., i * _COLUMNS : i * _COLUMNS + size] for i in range(blocks)]
    )
    # band[..., k, w] = half[..., k - w], for 0 <= k - w <= 2 radius. The offsets are a
    # numpy constant, because XLA would compute each of the comparisons below
    # separately.
    offset = np.arange(size)[:, None] - np.arange(_COLUMNS)[None, :]
    band = sum(
        jnp.where(offset == k, half[..., k, None, None], 0.0)
        for k in range(2 * radius + 1)
    )

    def add_pair(distance, total):
        for side, start in enumerate((radius + distance, radius - distance)):
            rows = jax.lax.dynamic_slice_in_dim(parts, start, height, axis=-2)
            total += jnp.einsum(
                "...hk,kw->...hw",
                rows,
                band[side, distance],
                precision=PRECISION,
            )
        return total

    total = jnp.zeros_like(parts[..., :height, :_COLUMNS])
    total = jax.lax.fori_loop(0, reach + 1, add_pair, total)
    total = jnp.concatenate(list(total), axis=-1)[..., :width]
    return jnp.moveaxis(total, 0, -1)


def by_rows(images, kernel, reach):
    """Return the correlation as shifted sums, two rows of the kernel per iteration.

    XLA:CPU vectorises a loop body with this many terms, but not the body with a single
    row. All rows are used, because skipping some does not save time.
    """
    del reach
    height = images.shape[-3]
    size = kernel.shape[0]
    padded = _padded_rows(images, size // 2, extra=1)
    kernel = jnp.pad(kernel, ((0, 1), (0, 0)))  # a last row of zeros

    def add_rows(index, total):
        band = jax.lax.dynamic_slice_in_dim(padded, 2 * index, height + 1, axis=-2)
        for row in range(2):
            part = band[..., row : row + height, :]
            total += _correlate_rows(part, kernel[2 * index + row])
        return total

    total = jnp.zeros_like(images).reshape(*images.shape[:-2], -1)
    total = jax.lax.fori_loop(0, (size + 1) // 2, add_rows, total)
    return total.reshape(images.shape)


def of_mirrored(images, kernel, reach):
    """Return the correlation as shifted sums, for a mirrored kernel."""
    height = images.shape[-3]
    radius = kernel.shape[0] // 2
    padded = _padded_rows(images, radius)
    half = _half(kernel, mirrored=True)[0]

    def add_pair(distance, total):
        below, above = (
            jax.lax.dynamic_slice_in_dim(padded, start, height, axis=-2)
            for start in (radius + distance, radius - distance)
        )
        return total + _correlate_rows(above + below, half[distance])

    total = jnp.zeros_like(images).reshape(*images.shape[:-2], -1)
    total = jax.lax.fori_loop(0, reach + 1, add_pair, total)
    return total.reshape(images.shape)


def _padded_rows(images, radius, *, extra=0):
    """Return rows (..., H + 2 radius + extra, 3 (W + 2 radius)), borders replicated.

    Channels are interleaved, so a shift by one pixel is a shift by three values.
    """
    lead = [(0, 0)] * (images.ndim - 3)
    margins = [*lead, (radius, radius + extra), (radius, radius), (0, 0)]
    padded = jnp.pad(images, margins, "edge")
    return padded.reshape(*padded.shape[:-2], -1)


def _correlate_rows(rows, weights):
    """Return padded rows (..., 3 (W + K - 1)) correlated with weights (K,)."""
    size = weights.shape[0]
    length = rows.shape[-1] - 3 * (size - 1)
    return sum(
        weights[column] * rows[..., 3 * column : 3 * column + length]
        for column in range(size)
    )
