"""The four noises, drawn for every image by itself.

Images are RGB float32 (..., H, W, 3) in [0, 1]; results are not clipped here. The
Gaussian noises are differentiable in the image; impulse noise passes the gradient
where it leaves the value alone.
"""

import jax
import jax.numpy as jnp

from arniqa_jax.degradation import color, randomness

# The largest density that `impulse_noise` has room for; the level 5 of the catalogue.
MAX_IMPULSE_DENSITY = 0.03
# How much more than a salt hit a pepper hit counts: more than the salt hits of a value.
_PEPPER = 2.0**16


def white_noise(key, images, *, value):
    """Adds Gaussian noise of variance `value` to every value."""
    return images + jnp.sqrt(value) * randomness.image_noise(key, images)


def white_noise_color_component(key, images, *, value):
    """Adds Gaussian noise of variance `value` to Y, Cb and Cr (BT.601).

    The transform is linear, so the noise alone goes through it; in RGB its variance is
    2.97, 1.63 and 4.14 times `value`.
    """
    noise = jnp.sqrt(value) * randomness.image_noise(key, images)
    return images + color.rgb_from_ycbcr_difference(jnp.moveaxis(noise, -1, 0))


@randomness.per_image
def impulse_noise(key, images, *, value):
    """Sets int(value * size) values, drawn with replacement: first to 1, then to 0.

    The positions are single channel values; the first half becomes 1, the second half
    0 and wins where both meet. `value` is at most `MAX_IMPULSE_DENSITY`.
    """
    size = images.size
    room = int(size * MAX_IMPULSE_DENSITY)
    count = jnp.floor(value * size + 1e-3).astype(jnp.int32)
    draw = jnp.arange(room)
    position = (randomness.uniform(key, (room,)) * size).astype(jnp.int32)
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
    """Counts the hits of each value by a product of one-hot matrices.

    A TPU scatters one value at a time, and splits a flat image slowly into its axes.
    Zeros, ones and `_PEPPER` are exact in bfloat16, and so is their sum in float32.
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
    """Adds to every value itself times Gaussian noise of variance `value`."""
    noise = jnp.sqrt(value) * randomness.image_noise(key, images)
    return images + images * noise
