"""Distortions that change each pixel by its own value alone.

Images are RGB float32 (..., H, W, 3) in [0, 1]; results are not clipped here unless
said. `key` is unused: nothing in this module is random.
"""

import jax.numpy as jnp

from arniqa_jax.degradation import color


def floor_to_8_bits(images):
    """The next lower of the 256 levels, as float32 in [0, 1]; no gradient."""
    return jnp.floor(255 * images) / 255


def color_saturation_1(key, images, *, value):
    """Multiplies the HSV saturation by `value`; a negative one inverts the hue.

    In HSV a channel is x = v (1 - s h), with h of the hue alone and v the maximum of
    the channels; so the new one is v - value * (v - x).
    """
    del key
    red, green, blue = (images[..., c : c + 1] for c in range(3))
    brightest = jnp.maximum(jnp.maximum(red, green), blue)
    return brightest - value * (brightest - images)


def color_saturation_2(key, images, *, value):
    """Multiplies a and b of Lab by `value`, floors to 8 bits; no gradient."""
    del key
    roots = color.lab_roots(images)
    # a and b are differences to fy, so scaling these is enough.
    roots = roots[1:2] + value * (roots - roots[1:2])
    return floor_to_8_bits(color.rgb_from_lab_roots(roots))


def _curve(x, centre):
    """The parabola through (0, 0), (0.5, centre) and (1, 1), clipped to [0, 1]."""
    bend = 2 * (1 - 2 * centre)
    return jnp.clip(bend * x**2 + (1 - bend) * x, 0, 1)


def brighten(key, images, *, value):
    """Raises the middle of the tone curve to 0.5 + value / 2.

    Two parts the curve on RGB, one part the curve on the lightness of Lab.
    """
    del key
    centre = 0.5 + value / 2
    roots = color.lab_roots(images)
    lightness = (116 * roots[1:2] - 16) / 100
    # a and b stay, so the three roots move together.
    moved = (_curve(lightness, centre) - lightness) * (100 / 116)
    by_lightness = color.rgb_from_lab_roots(roots + moved)
    return (2 * _curve(images, centre) + by_lightness) / 3


def darken(key, images, *, value):
    """Lowers the middle of the tone curve to 0.5 - value / 2."""
    del key
    return _curve(images, 0.5 - value / 2)


def mean_shift(key, images, *, value):
    """Adds `value`."""
    del key
    return images + value


def quantization(key, images, *, value):
    """Uniform quantization into `value` bins, then stretched to [0, 1]; no gradient.

    The thresholds on 255 x are floor(255 k / value), k = 0..value-1, and the bin is the
    number of them strictly below. An image of one bin keeps its number, clipped to 1.
    """
    del key
    # XLA may be one ulp off the 8-bit value, hence the 1e-3. An integer threshold is
    # below y exactly if below ceil(y) = c; and floor(255 k / n) < c is k < n c / 255,
    # which ceil(n c / 255) values of k satisfy.
    above = jnp.ceil(255 * images - 1e-3).astype(jnp.int32)
    bins = (jnp.maximum(above, 0) * value + 254) // 255
    low = jnp.min(bins, axis=(-3, -2, -1), keepdims=True)
    high = jnp.max(bins, axis=(-3, -2, -1), keepdims=True)
    stretched = (bins - low) / jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, jnp.minimum(bins, 1).astype(jnp.float32))


def linear_contrast_change(key, images, *, value):
    """The not-a-knot cubic spline through (.3, .25 - value/4), (.7, .75 + value/4).

    Its further points are (0, 0), (.5, .5) and (1, 1). Not-a-knot leaves two cubics
    that meet at .5, and the points are symmetric about it, so both are one odd cubic
    a t + c t^3 in t = x - .5, with a / 2 + c / 8 = 1/2 and a / 5 + c / 125 = 1/4 +
    value / 4.
    """
    del key
    cubic = -(0.05 + value / 4) / 0.042
    t = images - 0.5
    return 0.5 + (1 - cubic / 4) * t + cubic * t**3


def non_linear_contrast_change(key, images, *, value):
    """2 value x + 0.5 - value: linear, whatever its name."""
    del key
    return 2 * value * images + 0.5 - value
