"""Kernels and linear filters: the three blurs, colour diffusion and sharpening.

Images are RGB float32 (..., H, W, 3) in [0, 1]. Results are not clipped unless the
docstring says so. All filters are cross-correlations with replicated borders. They are
differentiable in the image unless the docstring says otherwise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation import color, photometric, randomness

# Radii of the largest kernels of the catalogue. Every kernel is computed on the largest
# grid and is zero outside its own size, so that one compiled filter serves every level.
GAUSSIAN_RADIUS = 10
DIFFUSION_RADIUS = 40
LENS_RADIUS = 8
MOTION_RADIUS = 5
# Rows or columns of the result per matrix product. Wider blocks multiply more zeros,
# narrower ones underuse a matrix unit. On a CPU 32 and 64 take equally long, 224 twice.
_BLOCK = 64
# Columns of the result per product on a matrix unit. With the margins of the lens blur
# they are 128, the width of the unit.
_COLUMNS = 128 - 2 * LENS_RADIUS
# Products in float32. At a lower precision, a GPU computes in TF32, whose error here is
# 7e-4 (measured on an H200), and a TPU computes in passes of bfloat16.
_PRECISION = jax.lax.Precision.HIGHEST


def gaussian_band(size, sigma, *, max_radius, radius=None):
    """Return the (size, size) matrix that filters a column of values by a Gaussian.

    The kernel is cut at `radius`, by default ceil(2 sigma), and normalised. Replicated
    borders are weights beyond the ends, added to the weights of the end values.
    """
    if radius is None:
        radius = jnp.ceil(2 * sigma)
    source = jnp.arange(size + 2 * max_radius, dtype=jnp.float32) - max_radius
    offset = source[None, :] - jnp.arange(size, dtype=jnp.float32)[:, None]
    kernel = jnp.exp(-jnp.square(offset / sigma) / 2)
    kernel = jnp.where(jnp.abs(offset) <= radius, kernel, 0.0)
    kernel /= jnp.sum(kernel, axis=1, keepdims=True)
    inside = kernel[:, max_radius : max_radius + size]
    inside = inside.at[:, 0].add(jnp.sum(kernel[:, :max_radius], axis=1))
    return inside.at[:, -1].add(jnp.sum(kernel[:, max_radius + size :], axis=1))


def filter_planes(planes, rows, columns, *, reach):
    """Return rows @ plane @ columns.T for every plane (..., H, W).

    The matrices are zero farther than `reach` from the diagonal.
    """
    return jax.lax.platform_dependent(
        planes,
        rows,
        columns,
        cpu=functools.partial(_filter_by_blocks, reach=reach),
        default=_filter_whole,
    )


def _filter_whole(planes, rows, columns):
    """Return rows @ plane @ columns.T by two large products, few kernel launches."""
    across = jnp.einsum("...hk,wk->...hw", planes, columns, precision=_PRECISION)
    return jnp.einsum("hk,...kw->...hw", rows, across, precision=_PRECISION)


def _filter_by_blocks(planes, rows, columns, *, reach):
    """Return the result of `_filter_whole`, computed without most of the zeros.

    Each block of the result needs few columns: at radius 10, 0.4 of the work.
    """
    across = jnp.zeros_like(planes)
    for block, source in _blocks(planes.shape[-1], reach):
        band, part = columns[block, source], planes[..., source]
        product = jnp.einsum("...hk,wk->...hw", part, band, precision=_PRECISION)
        across = across.at[..., block].set(product)
    down = jnp.zeros_like(planes)
    for block, source in _blocks(planes.shape[-2], reach):
        band, part = rows[block, source], across[..., source, :]
        product = jnp.einsum("hk,...kw->...hw", band, part, precision=_PRECISION)
        down = down.at[..., block, :].set(product)
    return down


def _blocks(size, reach):
    """Yield the slices of a result, each with the slice of the input that it needs."""
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        yield slice(start, stop), slice(max(start - reach, 0), min(stop + reach, size))


def gaussian_planes(planes, sigma, *, max_radius, radius=None):
    """Return planes (..., H, W) filtered by a Gaussian; see `gaussian_band`."""
    rows, columns = (
        gaussian_band(size, sigma, max_radius=max_radius, radius=radius)
        for size in planes.shape[-2:]
    )
    return filter_planes(planes, rows, columns, reach=max_radius)


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
        cpu=_correlate_mirrored if mirrored else _correlate_by_rows,
        default=functools.partial(_correlate_by_products, mirrored=mirrored),
    )


@correlate.defjvp
def _correlate_jvp(mirrored, primals, tangents):
    """Differentiate a loop over all rows; one of dynamic length has no gradient."""
    images, kernel, reach = primals
    images_dot, kernel_dot, _ = tangents

    def whole(images, kernel):
        form = _correlate_mirrored if mirrored else _correlate_by_rows
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


def _correlate_by_products(images, kernel, reach, mirrored):
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
                precision=_PRECISION,
            )
        return total

    total = jnp.zeros_like(parts[..., :height, :_COLUMNS])
    total = jax.lax.fori_loop(0, reach + 1, add_pair, total)
    total = jnp.concatenate(list(total), axis=-1)[..., :width]
    return jnp.moveaxis(total, 0, -1)


def _correlate_by_rows(images, kernel, reach):
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


def _correlate_mirrored(images, kernel, reach):
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


def gaussian_blur(key, images, *, value):
    """Return images blurred by a Gaussian, cut at 2 sigma.

    `value` is the standard deviation in pixels, at most 5.
    """
    del key
    planes = jnp.moveaxis(images, -1, -3)
    planes = gaussian_planes(planes, value, max_radius=GAUSSIAN_RADIUS)
    return jnp.moveaxis(planes, -3, -1)


def disk_kernel(radius, *, max_radius=LENS_RADIUS):
    """Return the fraction of a disk's area that lies in each pixel.

    This is MATLAB's `fspecial('disk', radius)`. In the first quadrant, the area of the
    disk between x0 and x1 and below y is the integral of min(h(x), y), with h(x) =
    sqrt(radius^2 - x^2). The integrand is y up to the crossing c = h(y). Beyond it the
    integral follows from the antiderivative of h.
    """
    edges = jnp.arange(max_radius + 2) - 0.5
    edges = jnp.clip(edges, 0, radius)  # keeps only half of the centre pixel, see below

    def integral(x):
        ratio = jnp.clip(x / radius, 0, 1)
        return radius**2 / 2 * (ratio * jnp.sqrt(1 - ratio**2) + jnp.arcsin(ratio))

    crossing = jnp.sqrt(jnp.square(radius) - jnp.square(edges))[:, None]
    flat = jnp.minimum(edges[None, :], crossing)
    below = edges[:, None] * flat + integral(jnp.maximum(edges[None, :], crossing))
    below -= integral(crossing)
    area = jnp.maximum(jnp.diff(jnp.diff(below, axis=0), axis=1), 0)
    # A pixel on an axis straddles it, and only half of the pixel lies in the quadrant.
    fold = jnp.ones(max_radius + 1).at[0].set(2)
    area *= jnp.outer(fold, fold)
    half = jnp.concatenate([area[:0:-1], area])
    kernel = jnp.concatenate([half[:, :0:-1], half], axis=1)
    return kernel / jnp.sum(kernel)


def lens_blur(key, images, *, value):
    """Return images blurred by an antialiased disk of radius `value` <= 8 pixels."""
    del key
    # A pixel extends half a pixel beyond its centre.
    reach = jnp.floor(value + 0.5).astype(jnp.int32)
    return correlate(images, disk_kernel(value), reach, True)


def motion_kernel(length, angle, *, max_radius=MOTION_RADIUS):
    """Return MATLAB's `fspecial('motion', length, angle)`, with the angle in degrees.

    The segment of the given length and angle passes through the centre. The weight of a
    pixel is 1 minus its distance to the segment, at least 0. For a pixel farther from
    the centre than the segment's end, the distance is that to the end.
    """
    half = (jnp.maximum(length, 1) - 1) / 2
    radians = jnp.mod(angle, 180) * (jnp.pi / 180)
    cosine, sine = jnp.cos(radians), jnp.sin(radians)
    x = jnp.arange(-max_radius, max_radius + 1).astype(jnp.float32)[None, :]
    y = -x.T  # rows run downwards
    across = y * cosine - x * sine
    beyond = half - jnp.abs(x * cosine + y * sine)
    to_end = jnp.sqrt(jnp.square(across) + jnp.square(beyond))
    past_end = x**2 + y**2 >= jnp.square(half)
    weight = 1 - jnp.where(past_end, to_end, jnp.abs(across))
    weight = jnp.maximum(weight, 0)
    return weight / jnp.sum(weight)


def motion_blur(key, images, *, value, angle=None):
    """Return images blurred along a line of `value` pixels (at most 10).

    `angle` is in degrees. If it is None, each image draws its own angle, an integer
    uniform in 0..180.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    if angle is None:
        keys = randomness.image_keys(key, images).reshape(-1)
        angles = jax.vmap(lambda key: jax.random.randint(key, (), 0, 181))(keys)
    else:
        angles = jnp.broadcast_to(angle, len(flat))
    kernels = jax.vmap(motion_kernel, (None, 0))(value, angles)
    # The line's end and pixels closer than 1 to it; 1e-3 covers rounding. All images
    # share the largest reach: under vmap, every loop runs as often as the longest.
    half = (jnp.maximum(value, 1) - 1) / 2
    rise = half * jnp.max(jnp.abs(jnp.sin(angles * (jnp.pi / 180))), initial=0)
    reach = jnp.minimum(jnp.ceil(rise + 1e-3), MOTION_RADIUS).astype(jnp.int32)
    out = jax.vmap(lambda image, kernel: correlate(image, kernel, reach, False))(
        flat, kernels
    )
    return out.reshape(images.shape)


def color_diffusion(key, images, *, value):
    """Return images with a and b of Lab blurred and multiplied by `value`, at most 12.

    The standard deviation of the blur is 1.5 value + 2 pixels. The result is rounded
    down to 8 bits, so it has no gradient.
    """
    del key
    roots = color.lab_roots(images)
    # a and b are differences of fx and fz to fy. They are blurred and scaled; fy stays.
    difference = value * gaussian_planes(
        roots[::2] - roots[1:2], 1.5 * value + 2, max_radius=DIFFUSION_RADIUS
    )
    zero = jnp.zeros_like(roots[1:2])
    difference = jnp.concatenate([difference[:1], zero, difference[1:]])
    return photometric.floor_to_8_bits(
        color.rgb_from_lab_roots(roots[1:2] + difference)
    )


def high_sharpen(key, images, *, value):
    """Return sharpened images, clipped to [0, 1].

    The lightness of Lab increases by `value` times its difference to a blurred copy.
    """
    del key
    roots = color.lab_roots(images)
    # Lightness is affine in fy. a and b stay, so all three roots move equally.
    blurred = gaussian_planes(roots[1:2], 6.0, max_radius=6, radius=6)
    return color.rgb_from_lab_roots(roots + value * (roots[1:2] - blurred))
