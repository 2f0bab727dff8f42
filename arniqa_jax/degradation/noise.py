"""The four noise distortions, with independent noise for every image.

Images are RGB float32 (..., H, W, 3) in [0, 1]. Results are not clipped. The Gaussian
noises are differentiable in the image. The gradient of impulse noise is 1 for the
values that it leaves alone and 0 for the others.
"""

import jax
import jax.numpy as jnp

from arniqa_jax.degradation import color, randomness

# The number of draws of `impulse_noise` is fixed by this density, level 5 of the
# catalogue.
MAX_IMPULSE_DENSITY = 0.03
# Weight of a pepper hit, where a salt hit weighs 1. It exceeds the number of salt hits
# that one value can get.
_PEPPER = 2.0**16


def white_noise(key, images, *, value):
    """Return images plus Gaussian noise of variance `value`."""
    return images + jnp.sqrt(value) * randomness.image_noise(key, images)


def white_noise_color_component(key, images, *, value):
    """Return images plus Gaussian noise of variance `value` in Y, Cb and Cr (BT.601).

    The transform is linear, so only the noise is transformed. In RGB its variance is
    2.97, 1.63 and 4.14 times `value`.
    """
    noise = jnp.sqrt(value) * randomness.image_noise(key, images)
    return images + color.rgb_from_ycbcr_difference(jnp.moveaxis(noise, -1, 0))


@randomness.per_image
def impulse_noise(key, images, *, value):
    """Return images with int(value * size) values drawn, and set to 1 or 0.

    A position is a single channel of a pixel, and positions are drawn with replacement.
    The first half of the draws sets its positions to 1, the second half to 0. Where
    both halves meet, the result is 0. `value` is at most `MAX_IMPULSE_DENSITY`.
    """
    size = images.size
    max_draws = int(size * MAX_IMPULSE_DENSITY)
    count = jnp.floor(value * size + 1e-3).astype(jnp.int32)
    draw = jnp.arange(max_draws)
    position = (randomness.uniform(key, (max_draws,)) * size).astype(jnp.int32)
    salt, pepper = draw < count // 2, (draw >= count // 2) & (draw < count)
    return jax.lax.platform_dependent(
        *(images, position, salt, pepper), tpu=_set_by_product, default=_set_by_scatter
    )


def _set_by_scatter(image, position, salt, pepper):
    # A position past the end is dropped.
    flat = image.reshape(-1)
    flat = flat.at[jnp.where(salt, position, image.size)].set(1, mode="drop")
    flat = flat.at[jnp.where(pepper, position, image.size)].set(0, mode="drop")
    return flat.reshape(image.shape)


def _set_by_product(image, position, salt, pepper):
    """Return the result of `_set_by_scatter`, with one-hot matrices.

    Their product counts the hits of each value. A TPU scatters one value at a time and
    is slow at splitting a flat image into its axes. Zeros, ones and `_PEPPER` are exact
    in bfloat16, and so is their sum in float32.
    """
    height, width, _ = image.shape
    pixel, plane = position // 3, position % 3
    row = plane * height + pixel // width
    weight = jnp.where(salt, 1.0, jnp.where(pepper, _PEPPER, 0.0))
    rows = jnp.where(row[None] == jnp.arange(3 * height)[:, None], weight[None], 0.0)
    columns = pixel[None] % width == jnp.arange(width)[:, None]
    hits = jnp.einsum(
        "rk,xk->rx",
        rows.astype(jnp.bfloat16),
        columns.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    hits = jnp.moveaxis(hits.reshape(3, height, width), 0, -1)
    return jnp.where(hits >= _PEPPER, 0.0, jnp.where(hits > 0, 1.0, image))


def multiplicative_noise(key, images, *, value):
    """Return images times 1 + Gaussian noise of variance `value`."""
    noise = jnp.sqrt(value) * randomness.image_noise(key, images)
    return images + images * noise
