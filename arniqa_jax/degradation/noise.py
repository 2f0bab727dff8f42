"""The four noises, drawn for every image by itself.

Images are RGB float32 (..., H, W, 3) in [0, 1]; results are not clipped here. The
Gaussian noises are differentiable in the image; impulse noise passes the gradient
where it leaves the value alone.
"""

import jax.numpy as jnp

from arniqa_jax.degradation import color, randomness

# The largest density that `impulse_noise` has room for; the level 5 of the catalogue.
MAX_IMPULSE_DENSITY = 0.03


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
    # A position past the end is dropped.
    salt = jnp.where(draw < count // 2, position, size)
    pepper = jnp.where((draw >= count // 2) & (draw < count), position, size)
    flat = images.reshape(-1).at[salt].set(1, mode="drop")
    return flat.at[pepper].set(0, mode="drop").reshape(images.shape)


def multiplicative_noise(key, images, *, value):
    """Adds to every value itself times Gaussian noise of variance `value`."""
    noise = jnp.sqrt(value) * randomness.image_noise(key, images)
    return images + images * noise
