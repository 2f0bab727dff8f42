"""Kernels and linear filters: the three blurs, colour diffusion and sharpening.

Images are RGB float32 (..., H, W, 3) in [0, 1]. Results are not clipped unless the
docstring says so. All filters are cross-correlations with replicated borders. They are
differentiable in the image unless the docstring says otherwise.
"""

import functools

import jax
import jax.numpy as jnp

from arniqa_jax.degradation import color, photometric, randomness
from arniqa_jax.degradation.correlation import PRECISION, correlate

# Radii of the largest kernels of the catalogue. Every kernel is computed on the largest
# grid and is zero outside its own size, so that one compiled filter serves every level.
GAUSSIAN_RADIUS = 10
DIFFUSION_RADIUS = 40
LENS_RADIUS = 8
MOTION_RADIUS = 5
# Rows or columns of the result per matrix product. Wider blocks multiply more zeros,
# narrower ones underuse a matrix unit. On a CPU 32 and 64 take equally long, 224 twice.
_BLOCK = 64


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
    across = jnp.einsum("...hk,wk->...hw", planes, columns, precision=PRECISION)
    return jnp.einsum("hk,...kw->...hw", rows, across, precision=PRECISION)


def _filter_by_blocks(planes, rows, columns, *, reach):
    """Return the result of `_filter_whole`, computed without most of the zeros.

    Each block of the result needs few columns: at radius 10, 0.4 of the work.
    """
    across = jnp.zeros_like(planes)
    for block, source in _blocks(planes.shape[-1], reach):
        band, part = columns[block, source], planes[..., source]
        product = jnp.einsum("...hk,wk->...hw", part, band, precision=PRECISION)
        across = across.at[..., block].set(product)
    down = jnp.zeros_like(planes)
    for block, source in _blocks(planes.shape[-2], reach):
        band, part = rows[block, source], across[..., source, :]
        product = jnp.einsum("hk,...kw->...hw", band, part, precision=PRECISION)
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
