"""Kernels and linear filters: the three blurs, colour diffusion and sharpening.

Images are RGB float32 (..., H, W, 3) in [0, 1]; results are not clipped here unless
said. All filters are cross-correlations with replicated borders, and differentiable
in the image.
"""

import jax
import jax.numpy as jnp

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


def filter_planes(planes, rows, columns, *, reach, precision=jax.lax.Precision.HIGHEST):
    """rows @ plane @ columns.T for every plane (..., H, W).

    The matrices are zero farther than `reach` from the diagonal, so each block of the
    result is a product with a few columns alone: at radius 10, 0.4 of the whole.
    """
    across = jnp.zeros_like(planes)
    for block, source in _blocks(planes.shape[-1], reach):
        band, part = columns[block, source], planes[..., source]
        product = jnp.einsum("...hk,wk->...hw", part, band, precision=precision)
        across = across.at[..., block].set(product)
    down = jnp.zeros_like(planes)
    for block, source in _blocks(planes.shape[-2], reach):
        band, part = rows[block, source], across[..., source, :]
        product = jnp.einsum("hk,...kw->...hw", band, part, precision=precision)
        down = down.at[..., block, :].set(product)
    return down


def _blocks(size, reach):
    """Slices of a result, and of the values that each needs."""
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        yield slice(start, stop), slice(max(start - reach, 0), min(stop + reach, size))


def gaussian_planes(planes, sigma, *, max_radius, radius=None, **options):
    """Filters planes (..., H, W) by a Gaussian; see `gaussian_band`."""
    rows, columns = (
        gaussian_band(size, sigma, max_radius=max_radius, radius=radius)
        for size in planes.shape[-2:]
    )
    return filter_planes(planes, rows, columns, reach=max_radius, **options)


def correlate(images, kernel):
    """Correlates images (..., H, W, 3) with one odd square kernel (K, K)."""
    height = images.shape[-3]
    size = kernel.shape[0]
    padded = _padded_rows(images, size // 2, extra=1)
    # Two rows of the kernel at a time, the last one zero: XLA:CPU vectorises a loop
    # body of this many terms (and not one of 11).
    kernel = jnp.pad(kernel, ((0, 1), (0, 0)))

    def add_rows(index, total):
        band = jax.lax.dynamic_slice_in_dim(padded, 2 * index, height + 1, axis=-2)
        for row in range(2):
            part = band[..., row : row + height, :]
            total += _correlate_rows(part, kernel[2 * index + row])
        return total

    total = jnp.zeros_like(images).reshape(*images.shape[:-2], -1)
    total = jax.lax.fori_loop(0, (size + 1) // 2, add_rows, total)
    return total.reshape(images.shape)


def correlate_mirrored(images, kernel):
    """As `correlate`, for a kernel that is equal upside down, at half the cost."""
    height = images.shape[-3]
    radius = kernel.shape[0] // 2
    padded = _padded_rows(images, radius)
    # Rows at equal distance share their weights; the middle one is its own partner.
    half = kernel[radius:].at[0].multiply(0.5)

    def add_pair(distance, total):
        above, below = (
            jax.lax.dynamic_slice_in_dim(padded, start, height, axis=-2)
            for start in (radius - distance, radius + distance)
        )
        return total + _correlate_rows(above + below, half[distance])

    total = jnp.zeros_like(images).reshape(*images.shape[:-2], -1)
    total = jax.lax.fori_loop(0, radius + 1, add_pair, total)
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
    return correlate_mirrored(images, disk_kernel(value))


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


@randomness.per_image
def motion_blur(key, images, *, value, angle=None):
    """A line of `value` pixels (at most 10) at `angle` degrees.

    Without an angle, each image draws an integer one, uniform in 0..180.
    """
    if angle is None:
        angle = jax.random.randint(key, (), 0, 181)
    return correlate(images, motion_kernel(value, angle))


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
