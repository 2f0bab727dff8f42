"""3x3 convolution with few products, for processors that arithmetic bounds.

Winograd's F(2 x 2, 3 x 3): Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016). Tiles of 4 x 4 pixels, which overlap by 2, and the kernel are
transformed, multiplied point by point and transformed back into 2 x 2 results: 16
products instead of 36. Summed over the channels, those of a point are a matrix product.
"""

import jax
import jax.numpy as jnp
from jax import lax


def convolve(x_NHWC: jax.Array, kernel_HWIO: jax.Array) -> jax.Array:
    """A 3x3 convolution of stride 1 and padding 1."""
    count, height, width, _ = x_NHWC.shape
    # One pixel around, and one more where the last tile is not full.
    padding = [(1, 1 + height % 2), (1, 1 + width % 2)]
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), *padding, (0, 0)))
    # Kept, as each of its rows would be computed again for each of its columns.
    rows = lax.optimization_barrier(_transform_pixels(*_every_second(x_NHWC, 1)))
    kernels = _transform_kernel(*kernel_HWIO)
    products = []
    for row, kernel in zip(rows, kernels, strict=True):
        pairs = zip(
            _transform_pixels(*_every_second(row, 2)),
            _transform_kernel(*kernel),
            strict=True,
        )
        products.append([pixels @ kernel_IO for pixels, kernel_IO in pairs])
    y = jnp.stack(
        [
            jnp.stack(_transform_products(*row), axis=3)
            for row in zip(*map(_transform_products, *products), strict=True)
        ],
        axis=2,
    )
    y_NHWO = y.reshape(count, height + height % 2, width + width % 2, -1)
    return y_NHWO[:, :height, :width]


def _every_second(x: jax.Array, axis: int) -> list[jax.Array]:
    """The first to fourth pixels of all tiles along an axis."""
    last = x.shape[axis] - 3
    return [lax.slice_in_dim(x, start, start + last, 2, axis) for start in range(4)]


# Lavin and Gray's B^T, G and A^T, applied along one axis.


def _transform_pixels(a, b, c, d) -> list[jax.Array]:
    return [a - c, b + c, c - b, b - d]


def _transform_kernel(a, b, c) -> list[jax.Array]:
    return [a, (a + b + c) / 2, (a - b + c) / 2, c]


def _transform_products(a, b, c, d) -> list[jax.Array]:
    return [a + b + c, b - c - d]
