"""Random numbers for images: one key per image, and a cheap stream under each key.

Every random distortion draws under a key of its own image, so that what an image gets
does not depend on which images are beside it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def per_image(function):
    """Lifts `function(key, image_HWC, *, value)` to images (..., H, W, 3).

    Leading axes are independent images; image i, by its flat index, gets the key
    `fold_in(key, i)`. `value` and further options are shared by all of them.
    """

    @functools.wraps(function)
    def lifted(key, images, *, value, **options):
        flat_NHWC = images.reshape(-1, *images.shape[-3:])
        keys_N = jax.vmap(jax.random.fold_in, (None, 0))(
            key, jnp.arange(flat_NHWC.shape[0])
        )
        out_NHWC = jax.vmap(lambda k, x: function(k, x, value=value, **options))(
            keys_N, flat_NHWC
        )
        return out_NHWC.reshape(images.shape)

    return lifted


def bits(key, shape):
    """Random 32-bit words of the given shape, by hashing a counter.

    `jax.random.bits` costs 12 ns a word on a CPU core, more than most distortions do
    for all the rest. Noise needs no cryptographic stream: here threefry makes two
    seed words from the key, and each counter goes through two rounds of a 32-bit
    finaliser (multiply, xor-shift; constants of the `lowbias32` hash by Ch. Wellons),
    with a seed word before each. The words are the same on every backend.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    counter = jnp.arange(np.prod(shape, dtype=np.int64), dtype=jnp.uint32)
    return _finalise(_finalise(counter + first) ^ second).reshape(shape)


def _finalise(x):
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniform(key, shape):
    """Uniform float32 in (0, 1), both ends excluded."""
    # 23 bits and a half step: the largest value, 1 - 2^-24, is still below 1.
    return (bits(key, shape) >> 9).astype(jnp.float32) * 2**-23 + 2**-24


def normal(key, shape):
    """Standard normal float32, from one uniform each; |z| is below 5.5."""
    z = jax.lax.erf_inv(2 * uniform(key, shape) - 1)
    return float(np.sqrt(2)) * z
