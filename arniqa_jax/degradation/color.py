"""Colour spaces: gray, HSV by dm_pix, CIE Lab, YCbCr.

Images are RGB (..., H, W, 3) in [0, 1]; Lab and XYZ are tuples of three planes
(..., H, W), which XLA fuses without a stack in between. The numbers are those of
kornia 0.9, which the official code uses: sRGB transfer curve, D65 white.
"""

import jax.numpy as jnp

# Rows X, Y, Z of linear sRGB, and back (kornia `rgb_to_xyz`, `xyz_to_rgb`).
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_RGB_FROM_XYZ = (
    (3.2404813432005266, -1.5371515162713185, -0.4985363261688878),
    (-0.9692549499965682, 1.8759900014898907, 0.0415559265582928),
    (0.0556466391351772, -0.2040413383665112, 1.0573110696453443),
)
_WHITE = (0.95047, 1.0, 1.08883)
# From (Y, Cb, Cr) differences to RGB (kornia `ycbcr_to_rgb`, ITU-R BT.601).
_RGB_FROM_YCBCR = (
    (1.0, 0.0, 1.403),
    (1.0, -0.344, -0.714),
    (1.0, 1.773, 0.0),
)


def _power(x, exponent):
    """x ** exponent for x > 0; as exp and log, which XLA:CPU vectorises, unlike pow."""
    return jnp.exp(exponent * jnp.log(x))


def _mix(matrix, planes):
    a, b, c = planes
    return tuple(row[0] * a + row[1] * b + row[2] * c for row in matrix)


def linear_from_srgb(x):
    """Undoes the sRGB transfer curve; x in [0, 1]."""
    # The maximum keeps the unused branch, and so the gradient, finite.
    curved = _power((jnp.maximum(x, 0.04045) + 0.055) / 1.055, 2.4)
    return jnp.where(x > 0.04045, curved, x / 12.92)


def srgb_from_linear(x):
    """Applies the sRGB transfer curve; x may leave [0, 1]."""
    curved = 1.055 * _power(jnp.maximum(x, 0.0031308), 1 / 2.4) - 0.055
    return jnp.where(x > 0.0031308, curved, 12.92 * x)


def lab_roots(images, *, bgr=False):
    """RGB images to the three roots (f(X/Xn), f(Y/Yn), f(Z/Zn)) that Lab is linear in.

    `bgr` swaps red and blue first, as the official code does.
    """
    planes = [
        linear_from_srgb(images[..., c]) for c in ((2, 1, 0) if bgr else range(3))
    ]
    roots = []
    for xyz, white in zip(_mix(_XYZ_FROM_RGB, planes), _WHITE, strict=True):
        ratio = xyz / white
        root = _power(jnp.maximum(ratio, 0.008856), 1 / 3)
        roots.append(jnp.where(ratio > 0.008856, root, 7.787 * ratio + 4 / 29))
    return tuple(roots)


def rgb_from_lab_roots(roots, *, bgr=False):
    """Undoes `lab_roots`; the result is clipped to [0, 1]."""
    fx, fy, fz = roots
    planes = []
    for root, white in zip((fx, fy, jnp.maximum(fz, 0.0)), _WHITE, strict=True):
        ratio = jnp.where(root > 0.2068966, root**3, (root - 4 / 29) / 7.787)
        planes.append(ratio * white)
    rgb = [jnp.clip(srgb_from_linear(x), 0, 1) for x in _mix(_RGB_FROM_XYZ, planes)]
    return jnp.stack(rgb[::-1] if bgr else rgb, axis=-1)


def lab_from_roots(roots):
    """(L in 0..100, a, b) of the roots."""
    fx, fy, fz = roots
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def roots_from_lab(lab):
    """Undoes `lab_from_roots`."""
    lightness, a, b = lab
    fy = (lightness + 16) / 116
    return a / 500 + fy, fy, fy - b / 200


def rgb_from_ycbcr_difference(difference):
    """A difference in (Y, Cb, Cr), last axis, as a difference in RGB."""
    y, cb, cr = (difference[..., c] for c in range(3))
    return jnp.stack(_mix(_RGB_FROM_YCBCR, (y, cb, cr)), axis=-1)
