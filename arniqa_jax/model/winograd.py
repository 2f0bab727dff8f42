"""3x3 convolution with few products, for processors that arithmetic bounds.

Winograd's F(2 x 2, 3 x 3): Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016). Tiles of pixels, which overlap, and the kernel are transformed,
multiplied point by point and transformed back into 2 x 2 results: at stride 1 by 16
products instead of 36. At stride 2 the even pixels along an axis meet two taps of the
kernel and the odd ones the third; F(2, 2) for the former leaves 25. Summed over the
channels, the products of a point are a matrix product.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class _Form(NamedTuple):
    """How two results are computed along one axis; each function gives a list.

    Attributes:
      step: pixels from one tile to the next.
      extent: pixels of a tile.
      pixels: transforms them.
      kernel: transforms the three taps.
      results: transforms the products back.
    """

    step: int
    extent: int
    pixels: Callable[..., list[jax.Array]]
    kernel: Callable[..., list[jax.Array]]
    results: Callable[..., list[jax.Array]]


_FORMS = {
    # Lavin and Gray's B^T, G and A^T.
    1: _Form(
        step=2,
        extent=4,
        pixels=lambda a, b, c, d: [a - c, b + c, c - b, b - d],
        kernel=lambda a, b, c: [a, (a + b + c) / 2, (a - b + c) / 2, c],
        results=lambda a, b, c, d: [a + b + c, b - c - d],
    ),
    2: _Form(
        step=4,
        extent=5,
        pixels=lambda a, b, c, d, e: [a - c, c, c - e, b, d],
        kernel=lambda a, b, c: [a, a + c, c, b, b],
        results=lambda a, b, c, d, e: [a + b + d, b - c + e],
    ),
}


def convolve(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> jax.Array:
    """A 3x3 convolution of stride 1 or 2 and padding 1."""
    return _convolve(x_NHWC, kernel_HWIO, stride, channels=0)


def gradient_of_input(dy_NHWO: jax.Array, kernel_HWIO: jax.Array) -> jax.Array:
    """Of `convolve` with stride 1: convolves backwards, from results to inputs."""
    return _convolve(dy_NHWO, kernel_HWIO[::-1, ::-1], 1, channels=1)


def _convolve(
    x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int, channels: int
) -> jax.Array:
    """Sums over the channels of x, which are I (0) or O (1) of the kernel."""
    form = _FORMS[stride]
    count, height, width, _ = x_NHWC.shape
    height, width = -(-height // stride), -(-width // stride)
    down, across = -(-height // 2), -(-width // 2)  # tiles
    # One pixel before, and behind what the last tile takes.
    padding = [
        (1, (tiles - 1) * form.step + form.extent - 1 - size)
        for tiles, size in zip((down, across), x_NHWC.shape[1:3], strict=True)
    ]
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), *padding, (0, 0)))
    # Kept, as each of its rows would be computed again for each of its columns.
    rows = lax.optimization_barrier(form.pixels(*_of_tiles(x_NHWC, 1, down, form)))
    products = []
    for row, kernel in zip(rows, form.kernel(*kernel_HWIO), strict=True):
        pairs = zip(
            form.pixels(*_of_tiles(row, 2, across, form)),
            form.kernel(*kernel),
            strict=True,
        )
        over = ((3,), (channels,)), ((), ())
        products.append([lax.dot_general(*pair, over) for pair in pairs])
    rows = zip(*map(form.results, *products), strict=True)
    y = jnp.stack([jnp.stack(form.results(*row), axis=3) for row in rows], axis=2)
    y_NHWO = y.reshape(count, 2 * down, 2 * across, -1)
    return y_NHWO[:, :height, :width]


def _of_tiles(x: jax.Array, axis: int, tiles: int, form: _Form) -> list[jax.Array]:
    """The first, second, ... pixels of all tiles along an axis."""
    last = (tiles - 1) * form.step + 1
    return [
        lax.slice_in_dim(x, start, start + last, form.step, axis)
        for start in range(form.extent)
    ]
