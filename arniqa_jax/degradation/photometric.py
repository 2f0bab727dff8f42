"""Distortions that change each pixel by its own value only.

Images are RGB float32 (..., H, W, 3) in [0, 1]. Results are not clipped unless the
docstring says so. `key` is unused, because nothing in this module is random.
"""

import jax.numpy as jnp

from arniqa_jax.degradation import color


def floor_to_8_bits(images):
    """Return images rounded down to multiples of 1/255; the result has no gradient."""
    return jnp.floor(255 * images) / 255


def color_saturation_1(key, images, *, value):
    """Return images with the HSV saturation multiplied by `value`.

    A negative value inverts the hue. In HSV a channel is x = v (1 - s h), where h
    depends on the hue only and v is the maximum of the channels, so the new channel is
    v - value * (v - x).
    """
    del key
    red, green, blue = (images[..., c : c + 1] for c in range(3))
    brightest = jnp.maximum(jnp.maximum(red, green), blue)
    return brightest - value * (brightest - images)


def color_saturation_2(key, images, *, value):
    """Return images with a and b of Lab multiplied by `value`.

    The result is rounded down to 8 bits, so it has no gradient.
    """
    del key
    roots = color.lab_roots(images)
    # a and b are differences of fx and fz to fy, so scaling the differences is enough.
    roots = roots[1:2] + value * (roots - roots[1:2])
    return floor_to_8_bits(color.rgb_from_lab_roots(roots))


def _curve(x, centre):
    """Return the parabola through (0, 0), (0.5, centre) and (1, 1) at x, in [0, 1]."""
    bend = 2 * (1 - 2 * centre)
    return jnp.clip(bend * x**2 + (1 - bend) * x, 0, 1)


def brighten(key, images, *, value):
    """Return images with the middle of the tone curve raised to 0.5 + value / 2.

    The result is 2/3 of the curve applied to RGB and 1/3 of the curve applied to the
    lightness of Lab.
    """
    del key
    centre = 0.5 + value / 2
    roots = color.lab_roots(images)
    lightness = (116 * roots[1:2] - 16) / 100
    # a and b do not change, so all three roots move by the same amount.
    moved = (_curve(lightness, centre) - lightness) * (100 / 116)
    by_lightness = color.rgb_from_lab_roots(roots + moved)
    return (2 * _curve(images, centre) + by_lightness) / 3


def darken(key, images, *, value):
    """Return images with the middle of the tone curve lowered to 0.5 - value / 2."""
    del key
    return _curve(images, 0.5 - value / 2)


def mean_shift(key, images, *, value):
    """Return images plus `value`."""
    del key
    return images + value


def quantization(key, images, *, value):
    """Return images quantized uniformly into `value` bins and stretched to [0, 1].

    The thresholds on 255 x are floor(255 k / value), k = 0..value-1. The bin of x is
    the number of thresholds strictly below it. If the whole image falls into one bin,
    the result is the number of that bin, at most 1. There is no gradient.
    """
    del key
    # XLA may be one ulp off the 8-bit value, hence the 1e-3. An integer threshold is
    # below y if and only if it is below ceil(y) = c. floor(255 k / n) < c is equivalent
    # to k < n c / 255, which ceil(n c / 255) values of k satisfy.
    above = jnp.ceil(255 * images - 1e-3).astype(jnp.int32)
    bins = (jnp.maximum(above, 0) * value + 254) // 255
    low = jnp.min(bins, axis=(-3, -2, -1), keepdims=True)
    high = jnp.max(bins, axis=(-3, -2, -1), keepdims=True)
    stretched = (bins - low) / jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, jnp.minimum(bins, 1).astype(jnp.float32))


def linear_contrast_change(key, images, *, value):
    """Return images after a tone curve that is a cubic not-a-knot spline.

    The curve passes through (0, 0), (.3, .25 - value/4), (.5, .5), (.7, .75 + value/4)
    and (1, 1). A not-a-knot spline through five points is two cubics that meet at .5.
    The points are symmetric about (.5, .5), so both cubics are the same odd one,
    a t + c t^3 in t = x - .5, with a / 2 + c / 8 = 1/2 and
    a / 5 + c / 125 = 1/4 + value / 4.
    """
    del key
    cubic = -(0.05 + value / 4) / 0.042
    t = images - 0.5
    return 0.5 + (1 - cubic / 4) * t + cubic * t**3


def non_linear_contrast_change(key, images, *, value):
    """Return 2 value x + 0.5 - value, which is linear despite the official name."""
    del key
    return 2 * value * images + 0.5 - value
