"""Colour spaces: CIE Lab and YCbCr (dm_pix has gray and HSV).

Images are RGB (..., H, W, 3) in [0, 1]. Internally, colours are planes (3, ..., H, W),
so that a colour matrix is one matrix product on long rows. The constants are those of
kornia 0.9, which the official code uses: sRGB transfer curve, D65 white.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Linear sRGB to X, Y, Z, and back (kornia `rgb_to_xyz`, `xyz_to_rgb`).
_XYZ_FROM_RGB = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_RGB_FROM_XYZ = np.array(
    [
        [3.2404813432005266, -1.5371515162713185, -0.4985363261688878],
        [-0.9692549499965682, 1.8759900014898907, 0.0415559265582928],
        [0.0556466391351772, -0.2040413383665112, 1.0573110696453443],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
# XYZ divided by white. The official code swaps red and blue on the way to Lab and back;
# the reversed axis does the same.
_RATIOS_FROM_RGB = (_XYZ_FROM_RGB / _WHITE[:, None])[:, ::-1]
_RGB_FROM_RATIOS = (_RGB_FROM_XYZ * _WHITE)[::-1]
# Differences in (Y, Cb, Cr) to RGB (kornia `ycbcr_to_rgb`, ITU-R BT.601).
_RGB_FROM_YCBCR = np.array(
    [
        [1.0, 0.0, 1.403],
        [1.0, -0.344, -0.714],
        [1.0, 1.773, 0.0],
    ]
)


def _power(x, exponent):
    """Return x ** exponent for x > 0.

    It is computed by exp and log, because XLA:CPU does not vectorise pow.
    """
    return jnp.exp(exponent * jnp.log(x))


def _mix(matrix, planes):
    """Return the colour matrix (3, 3) times planes (3, ...).

    The compiler must not fuse the powers that precede this product into each of the
    three sums, because it would compute the powers three times. For accelerators, an
    optimization barrier prevents it. XLA:CPU drops barriers, so the CPU form is a
    matrix product. On a TPU a matrix product with 3 columns would leave the matrix unit
    idle.
    """

    def product(planes):
        precision = jax.lax.Precision.HIGHEST
        return jnp.tensordot(jnp.float32(matrix), planes, (1, 0), precision=precision)

    def sums(planes):
        red, green, blue = jax.lax.optimization_barrier(planes)
        rows = [a * red + b * green + c * blue for a, b, c in matrix.tolist()]
        return jnp.stack(rows)

    return jax.lax.platform_dependent(planes, cpu=product, default=sums)


def _once(planes):
    """Return planes (3, ...), computed only once.

    XLA:CPU would compute the planes again in each consumer that reads them in another
    order, for example in one that subtracts the second plane from all three. A matrix
    product makes it store them, and the product with the identity is exact.
    """
    return jax.lax.platform_dependent(
        planes,
        cpu=lambda planes: jnp.tensordot(jnp.eye(3), planes, (1, 0)),
        default=lambda planes: planes,
    )


def linear_from_srgb(x):
    """Return linear values: invert the sRGB transfer curve; x in [0, 1]."""
    # The maximum keeps the unused branch finite, and therefore the gradient.
    curved = _power((jnp.maximum(x, 0.04045) + 0.055) / 1.055, 2.4)
    return jnp.where(x > 0.04045, curved, x / 12.92)


def srgb_from_linear(x):
    """Return sRGB values: apply the sRGB transfer curve; x may leave [0, 1]."""
    curved = 1.055 * _power(jnp.maximum(x, 0.0031308), 1 / 2.4) - 0.055
    return jnp.where(x > 0.0031308, curved, 12.92 * x)


def lab_roots(images):
    """Return the roots f(X/Xn), f(Y/Yn), f(Z/Zn), of which Lab is a linear function.

    L = 116 fy - 16 in 0..100, a = 500 (fx - fy), b = 200 (fy - fz), with red and blue
    swapped.

    Args:
      images: (..., H, W, 3).

    Returns:
      Planes (3, ..., H, W).
    """
    planes = linear_from_srgb(jnp.moveaxis(images, -1, 0))
    ratios = _mix(_RATIOS_FROM_RGB, planes)
    roots = _power(jnp.maximum(ratios, 0.008856), 1 / 3)
    return _once(jnp.where(ratios > 0.008856, roots, 7.787 * ratios + 4 / 29))


def rgb_from_lab_roots(roots):
    """Return RGB (..., H, W, 3), clipped to [0, 1]: the inverse of `lab_roots`."""
    # Like kornia, clip only fz.
    lowest = jnp.array([-jnp.inf, -jnp.inf, 0.0]).reshape(3, *[1] * (roots.ndim - 1))
    roots = jnp.maximum(roots, lowest)
    ratios = jnp.where(roots > 0.2068966, roots**3, (roots - 4 / 29) / 7.787)
    rgb = srgb_from_linear(_mix(_RGB_FROM_RATIOS, ratios))
    return jnp.moveaxis(jnp.clip(rgb, 0, 1), 0, -1)


def rgb_from_ycbcr_difference(difference):
    """Return a difference (3, ..., H, W) in Y, Cb, Cr as one in RGB (..., H, W, 3)."""
    return jnp.moveaxis(_mix(_RGB_FROM_YCBCR, difference), 0, -1)
