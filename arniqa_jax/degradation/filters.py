"""Kernels and linear filters: the three blurs, colour diffusion and sharpening.

Images are RGB float32 (..., H, W, 3) in [0, 1]; results are not clipped here unless
said. All filters are cross-correlations with replicated borders, and differentiable
in the image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation import color, photometric, randomness

# The largest kernels of the catalogue; a kernel is computed on this grid and is zero
# outside its own size, so that one compiled filter serves every level.
GAUSSIAN_RADIUS = 10
DIFFUSION_RADIUS = 40
LENS_RADIUS = 8
MOTION_RADIUS = 5
# Rows or columns of a result that one matmul gives. Wider ones multiply more zeros,
# narrower ones are too small for a matrix unit (CPU: 32 and 64 alike, 224 twice that).
_BLOCK = 64
# Columns of a result that one product on a matrix unit gives: with the margins of the
# lens blur, 128, its width.
_COLUMNS = 128 - 2 * LENS_RADIUS
# Products in float32. With less, a GPU computes in TF32, whose error is 7e-4 here (seen
# on an H200), and a TPU computes in passes of bfloat16.
_PRECISION = jax.lax.Precision.HIGHEST


def gaussian_band(size, sigma, *, max_radius, radius=None):
    """The (size, size) matrix that filters a column of `size` values by a Gaussian.

    The kernel is cut at `radius`, by default ceil(2 sigma), and normalised; what it
    reaches beyond the ends falls on the end values, which is the replicated border.
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
    """Return the two products as they are: few launches, and large ones."""
    across = jnp.einsum("...hk,wk->...hw", planes, columns, precision=_PRECISION)
    return jnp.einsum("hk,...kw->...hw", rows, across, precision=_PRECISION)


def _filter_by_blocks(planes, rows, columns, *, reach):
    """As `_filter_whole`, without most of the zeros.

    Each block of the result is a product with a few columns alone: at radius 10, 0.4
    of the whole.
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
    """Slices of a result, and of the values that each needs."""
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        yield slice(start, stop), slice(max(start - reach, 0), min(stop + reach, size))


def gaussian_planes(planes, sigma, *, max_radius, radius=None):
    """Filters planes (..., H, W) by a Gaussian; see `gaussian_band`."""
    rows, columns = (
        gaussian_band(size, sigma, max_radius=max_radius, radius=radius)
        for size in planes.shape[-2:]
    )
    return filter_planes(planes, rows, columns, reach=max_radius)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def correlate(images, kernel, reach, mirrored):
    """Correlate images (..., H, W, 3) with one odd square kernel (K, K).

    Rows of the kernel farther than `reach` from its middle are zero and are skipped,
    which makes the number of rounds dynamic. If `mirrored`, the kernel is equal upside
    down, and rows at equal distance share their weights.
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
    """A loop of a dynamic number of rounds has no gradient; that of all rows has."""
    images, kernel, reach = primals
    images_dot, kernel_dot, _ = tangents

    def whole(images, kernel):
        form = _correlate_mirrored if mirrored else _correlate_by_rows
        return form(images, kernel, kernel.shape[0] // 2)

    _, out_dot = jax.jvp(whole, (images, kernel), (images_dot, kernel_dot))
    return correlate(images, kernel, reach, mirrored), out_dot


def _half(kernel, mirrored):
    """Return the kernel's rows below and above the middle (2, K // 2 + 1, K).

    Row d of each has distance d from the middle, which is shared by both.
    """
    radius = kernel.shape[0] // 2
    fold = jnp.ones((radius + 1, 1)).at[0].set(0.5)
    below = kernel[radius:] * fold
    above = below if mirrored else kernel[radius::-1] * fold
    return jnp.stack([below, above])


def _correlate_by_products(images, kernel, reach, mirrored):
    """Return the correlation as matrix products, for a matrix unit.

    Planes (3, ..., H, W) are cut into blocks of columns. A row of the kernel is a
    banded matrix, the same for all blocks, from the padded columns of a block to its
    own. A round takes the two rows of the kernel at one distance from the middle.
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
    # constant: XLA would compute each of the comparisons below by itself.
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
    """Return the correlation by shifted sums, two rows of the kernel at a time.

    XLA:CPU vectorises a loop body of this many terms, and not one of a single row. All
    rows take their turn: skipping some brings nothing.
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
    """Return the correlation by shifted sums, for a mirrored kernel."""
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
    """Rows (..., H + 2 radius + extra, 3 (W + 2 radius)), borders replicated.

    Channels are interleaved, so a shift by a pixel is a shift by three.
    """
    lead = [(0, 0)] * (images.ndim - 3)
    margins = [*lead, (radius, radius + extra), (radius, radius), (0, 0)]
    padded = jnp.pad(images, margins, "edge")
    return padded.reshape(*padded.shape[:-2], -1)


def _correlate_rows(rows, weights):
    """Correlates padded rows (..., 3 (W + K - 1)) with weights (K,)."""
    size = weights.shape[0]
    length = rows.shape[-1] - 3 * (size - 1)
    return sum(
        weights[column] * rows[..., 3 * column : 3 * column + length]
        for column in range(size)
    )


def gaussian_blur(key, images, *, value):
    """Gaussian of standard deviation `value` pixels (at most 5), cut at 2 sigma."""
    del key
    planes = jnp.moveaxis(images, -1, -3)
    planes = gaussian_planes(planes, value, max_radius=GAUSSIAN_RADIUS)
    return jnp.moveaxis(planes, -3, -1)


def disk_kernel(radius, *, max_radius=LENS_RADIUS):
    """The share of a disk's area in each pixel: MATLAB's `fspecial('disk', radius)`.

    In the first quadrant, the area of the disk between x0 and x1 and below y is the
    integral of min(h(x), y), h(x) = sqrt(radius^2 - x^2): y up to the crossing
    c = h(y), and from there on the antiderivative of h.
    """
    edges = jnp.arange(max_radius + 2) - 0.5
    edges = jnp.clip(edges, 0, radius)  # the centre pixel counts half, see below

    def integral(x):
        ratio = jnp.clip(x / radius, 0, 1)
        return radius**2 / 2 * (ratio * jnp.sqrt(1 - ratio**2) + jnp.arcsin(ratio))

    crossing = jnp.sqrt(jnp.square(radius) - jnp.square(edges))[:, None]
    flat = jnp.minimum(edges[None, :], crossing)
    below = edges[:, None] * flat + integral(jnp.maximum(edges[None, :], crossing))
    below -= integral(crossing)
    area = jnp.maximum(jnp.diff(jnp.diff(below, axis=0), axis=1), 0)
    # Pixels on an axis straddle it: only one half of them lies in the quadrant.
    fold = jnp.ones(max_radius + 1).at[0].set(2)
    area *= jnp.outer(fold, fold)
    half = jnp.concatenate([area[:0:-1], area])
    kernel = jnp.concatenate([half[:, :0:-1], half], axis=1)
    return kernel / jnp.sum(kernel)


def lens_blur(key, images, *, value):
    """An antialiased disk of radius `value` pixels, at most 8."""
    del key
    # Pixels reach half a pixel beyond their centres.
    reach = jnp.floor(value + 0.5).astype(jnp.int32)
    return correlate(images, disk_kernel(value), reach, True)


def motion_kernel(length, angle, *, max_radius=MOTION_RADIUS):
    """MATLAB's `fspecial('motion', length, angle)`, angle in degrees.

    A pixel's weight is 1 minus its distance to the segment of the given length through
    the centre, at least 0; a pixel farther from the centre than the segment's end
    counts its distance to that end.
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
    """A line of `value` pixels (at most 10) at `angle` degrees.

    Without an angle, each image draws an integer one, uniform in 0..180.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    if angle is None:
        keys = randomness.image_keys(key, images).reshape(-1)
        angles = jax.vmap(lambda key: jax.random.randint(key, (), 0, 181))(keys)
    else:
        angles = jnp.broadcast_to(angle, len(flat))
    kernels = jax.vmap(motion_kernel, (None, 0))(value, angles)
    # The line's end, and what is nearer than 1 to it; 1e-3 covers rounding. The
    # largest of all images, as a loop of a number for each runs that often, too.
    half = (jnp.maximum(value, 1) - 1) / 2
    rise = half * jnp.max(jnp.abs(jnp.sin(angles * (jnp.pi / 180))), initial=0)
    reach = jnp.minimum(jnp.ceil(rise + 1e-3), MOTION_RADIUS).astype(jnp.int32)
    out = jax.vmap(lambda image, kernel: correlate(image, kernel, reach, False))(
        flat, kernels
    )
    return out.reshape(images.shape)


def color_diffusion(key, images, *, value):
    """Blurs a and b of Lab by sigma 1.5 value + 2 and multiplies them by `value`.

    The result is floored to 8 bits, so it has no gradient; `value` is at most 12.
    """
    del key
    roots = color.lab_roots(images)
    # a and b are differences to fy, so these are blurred and scaled; fy keeps its own.
    difference = value * gaussian_planes(
        roots[::2] - roots[1:2], 1.5 * value + 2, max_radius=DIFFUSION_RADIUS
    )
    zero = jnp.zeros_like(roots[1:2])
    difference = jnp.concatenate([difference[:1], zero, difference[1:]])
    return photometric.floor_to_8_bits(
        color.rgb_from_lab_roots(roots[1:2] + difference)
    )


def high_sharpen(key, images, *, value):
    """Adds to the lightness of Lab `value` times its difference to a blurred copy."""
    del key
    roots = color.lab_roots(images)
    # Lightness is affine in fy, and a and b stay, so the three roots move together.
    blurred = gaussian_planes(roots[1:2], 6.0, max_radius=6, radius=6)
    return color.rgb_from_lab_roots(roots + value * (roots[1:2] - blurred))
