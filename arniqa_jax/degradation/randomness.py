"""Random numbers for images: one key per image, and a cheap stream under each key.

Every random distortion draws under the key of its image, so the result for an image
does not depend on the other images of a batch.
"""

import functools
import math

import jax
import jax.numpy as jnp

# An upper bound of |normal|: its 23 random bits reach 5.3.
MAX_NORMAL = 5.5


def image_keys(key, images):
    """Return keys of the shape of the leading axes of images (..., H, W, 3).

    Image i, by its flat index, gets `fold_in(key, i)`.
    """
    shape = images.shape[:-3]
    indices = jnp.arange(math.prod(shape))
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices).reshape(shape)


def per_image(function):
    """Return `function(key, image_HWC, *, value)` lifted to images (..., H, W, 3).

    All images share `value` and further options.
    """

    @functools.wraps(function)
    def lifted(key, images, *, value, **options):
        keys = image_keys(key, images)
        flat_NHWC = images.reshape(-1, *images.shape[-3:])
        out_NHWC = jax.vmap(lambda k, x: function(k, x, value=value, **options))(
            keys.reshape(-1), flat_NHWC
        )
        return out_NHWC.reshape(images.shape)

    return lifted


def image_noise(key, images):
    """Return standard normal values of the shape of images (..., H, W, 3)."""
    keys = image_keys(key, images).reshape(-1)
    return normals(keys, images.shape[-3:]).reshape(images.shape)


def normals(keys, shape):
    """Return standard normal float32 (N, *shape) from keys (N,), computed once.

    On a CPU the keys are processed in a loop. XLA:CPU would fuse the result of `vmap`
    into each of its consumers, and a consumer that reads in another order would compute
    the values again, unvectorised. On an accelerator each iteration of a loop costs
    kernel launches, so `vmap` is used.
    """

    def one(key):
        return normal(key, shape)

    return jax.lax.platform_dependent(
        keys, cpu=functools.partial(jax.lax.map, one), default=jax.vmap(one)
    )


def bits(key, shape):
    """Return random 32-bit words of the given shape, by hashing a counter.

    `jax.random.bits` takes 12 ns a word on a CPU core, more than the rest of most
    distortions. Noise needs no cryptographic stream. So threefry makes only two seed
    words from the key. Each counter then goes through two rounds of a 32-bit finaliser
    (multiply and xor-shift, with the constants of the `lowbias32` hash by Ch. Wellons),
    and each round is preceded by mixing in a seed word. The words are the same on every
    backend.
    """
    counter = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return _hash(seeds(key), counter).reshape(shape)


def seeds(key):
    """Return the two uint32 seed words (2,) of the stream under a key."""
    return jax.random.bits(key, (2,), jnp.uint32)


def _hash(seeds, counter):
    first, second = seeds
    return _finalise(_finalise(counter + first) ^ second)


def _finalise(x):
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniform(key, shape):
    """Return uniform float32 in (0, 1), both ends excluded."""
    return _uniform(bits(key, shape))


def _uniform(words):
    # 23 bits and half a step: the largest value, 1 - 2^-24, is still below 1.
    return (words >> 9).astype(jnp.float32) * 2**-23 + 2**-24


def normal(key, shape):
    """Return standard normal float32, each made from one uniform number.

    Absolute values are below `MAX_NORMAL`.
    """
    return _normal(bits(key, shape))


def normal_at(seeds, counter):
    """Return the values that `normal` has at the given flat indices.

    Args:
      seeds: the two words of `seeds(key)`, each of a shape that broadcasts to that of
        `counter`.
      counter: uint32, of any shape.
    """
    return _normal(_hash(seeds, counter))


def _normal(words):
    z = jax.lax.erf_inv(2 * _uniform(words) - 1)
    return math.sqrt(2) * z
