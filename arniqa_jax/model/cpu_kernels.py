"""Forms of the encoder's layers that are fast under XLA:CPU.

No program for a TPU or a GPU contains them: the modules `convolution` and `batch_norm`
choose between these forms and the plain ones by `lax.platform_dependent`, which follows
the platform that a program is compiled for. Values and gradients are those of the plain
forms, up to the order of sums. `benchmarks/encoder.py` measures the speed-up.

Images are NHWC, kernels HWIO.

Winograd's F(2 x 2, 3 x 3) is from Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks" (2016). Overlapping tiles of pixels and the kernel are transformed,
multiplied element by element, and transformed back into 2 x 2 results. At stride 1 this
takes 16 multiplications instead of 36. At stride 2, even pixels along an axis are
multiplied with two taps of the kernel, odd pixels with the third tap; F(2, 2) for the
even pixels leaves 25 multiplications. Summed over the channels, the multiplications of
one element are a matrix product.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arniqa_jax.model import plain


def convolve(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> jax.Array:
    """Return `plain.convolve` in the fastest form for a CPU."""
    if kernel_HWIO.shape[0] == 1:
        return _product(x_NHWC[:, ::stride, ::stride], kernel_HWIO[0, 0], (3,), (0,))
    if _suits_winograd(x_NHWC, kernel_HWIO, stride):
        return winograd(x_NHWC, kernel_HWIO, stride)
    return plain.convolve(x_NHWC, kernel_HWIO, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_reverse_only(
    x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int
) -> jax.Array:
    """Return `convolve`, with gradients in hand-written forms.

    These gradients are faster than the ones that JAX derives from `convolve`. JAX has
    no forward-mode derivative of a function with a custom reverse-mode derivative.
    """
    return convolve(x_NHWC, kernel_HWIO, stride)


def _forward(x_NHWC, kernel_HWIO, stride):
    return convolve(x_NHWC, kernel_HWIO, stride), (x_NHWC, kernel_HWIO)


def _backward(stride, residuals, dy_NHWO):
    x_NHWC, kernel_HWIO = residuals
    if kernel_HWIO.shape[0] == 1:
        dx_NHWC, dkernel_IO = _pointwise_backward(
            x_NHWC, kernel_HWIO[0, 0], dy_NHWO, stride
        )
        return dx_NHWC, dkernel_IO[None, None]
    # XLA removes the gradients that are not used.
    form = functools.partial(plain.convolve, stride=stride)
    dx_NHWC, dkernel_HWIO = jax.vjp(form, x_NHWC, kernel_HWIO)[1](dy_NHWO)
    if stride == 1 and _suits_winograd(x_NHWC, kernel_HWIO, stride):
        # The gradient is a convolution with the kernel turned by 180 degrees that sums
        # over the output channels. Swapping the axes of the kernel instead would make
        # XLA transpose each of the 16 transformed kernels.
        dx_NHWC = winograd(dy_NHWO, kernel_HWIO[::-1, ::-1], 1, over=1)
    if _suits_products(x_NHWC, kernel_HWIO, stride):
        size = kernel_HWIO.shape[0]
        dkernel_HWIO = _gradient_of_kernel(x_NHWC, dy_NHWO, size, stride)
    return dx_NHWC, dkernel_HWIO


convolve_reverse_only.defvjp(_forward, _backward)


def _suits_products(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> bool:
    """Return whether matrix products are faster: for wide products over many results.

    The batch size cannot decide, because it may be symbolic.
    """
    _, height, width, _ = x_NHWC.shape
    # The last stage at 224 px has 49 pixels.
    return kernel_HWIO.shape[3] >= 64 and height * width >= 49 * stride**2


def _suits_winograd(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> bool:
    """Return whether Winograd's form exists and is faster.

    Its transforms pay off where there are many channels to sum over.
    """
    size, _, channels, _ = kernel_HWIO.shape
    exists = size == 3 and stride <= 2
    return exists and channels >= 64 and _suits_products(x_NHWC, kernel_HWIO, stride)


def _pointwise_backward(x_NHWC, kernel_IO, dy_NHWO, stride):
    """Return the gradients of the image and of the kernel of a 1x1 convolution."""
    dx_NHWC = _product(dy_NHWO, kernel_IO, (3,), (1,))
    if stride > 1:
        zero = jnp.zeros((), dx_NHWC.dtype)
        sizes = x_NHWC.shape[1:3]
        spread = [(0, (size - 1) % stride, stride - 1) for size in sizes]
        dx_NHWC = lax.pad(dx_NHWC, zero, [(0, 0, 0), *spread, (0, 0, 0)])
        x_NHWC = x_NHWC[:, ::stride, ::stride]
    # XLA:CPU computes a product over the leading axes from a transposed copy of its
    # first operand. The copy takes as long as the product if the first operand is the
    # wider one, and longer if it consists of the slices of a strided convolution.
    pixels = (0, 1, 2)
    if stride > 1 or kernel_IO.shape[0] > kernel_IO.shape[1]:
        dkernel_OI = _product(dy_NHWO, x_NHWC, pixels, pixels)
        # Without the barrier XLA folds the transpose into the product and swaps the
        # operands back.
        return dx_NHWC, lax.optimization_barrier(dkernel_OI).T
    return dx_NHWC, _product(x_NHWC, dy_NHWO, pixels, pixels)


def _gradient_of_kernel(
    x_NHWC: jax.Array, dy_NHWO: jax.Array, size: int, stride: int
) -> jax.Array:
    """Return the gradient of a kernel, HWIO, by one matrix product per kernel row.

    Otherwise XLA would compute a convolution with a kernel as large as the image, which
    takes two to four times as long.
    """
    _, height, width, _ = dy_NHWO.shape
    around = (size // 2, size // 2)
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), around, around, (0, 0)))
    pixels = (0, 1, 2)

    def of_row(row: jax.Array) -> jax.Array:
        # The pixels that the elements of this row of the kernel are multiplied with.
        across = lax.dynamic_slice_in_dim(x_NHWC, row, (height - 1) * stride + 1, 1)
        across = across[:, ::stride]
        last = (width - 1) * stride
        taps = [across[:, :, c : c + last + 1 : stride] for c in range(size)]
        # The narrow operand comes first for the reason given in `_pointwise_backward`.
        return _product(dy_NHWO, jnp.concatenate(taps, 3), pixels, pixels)

    # This is a loop, because XLA would otherwise gather the pixels of all rows long
    # before they are needed. With several CPU devices, the all-reduce of each row is
    # inside the loop.
    dkernel_HOWI = lax.map(of_row, jnp.arange(size))
    dkernel_HOWI = dkernel_HOWI.reshape(size, -1, size, x_NHWC.shape[3])
    return dkernel_HOWI.transpose(0, 2, 3, 1)


def _product(a: jax.Array, b: jax.Array, over_a: tuple, over_b: tuple) -> jax.Array:
    return _wide_product(a, b, over_a, over_b).astype(a.dtype)


def _wide_product(a: jax.Array, b: jax.Array, over_a: tuple, over_b: tuple):
    """Return a product with a float32 result.

    A bfloat16 product with a bfloat16 result would be computed in float32. This one
    uses the bfloat16 instructions of the CPU, if it has them, which takes half the
    time.
    """
    return lax.dot_general(
        a,
        b,
        ((over_a, over_b), ((), ())),
        preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
    )


class _Form(NamedTuple):
    """How two results are computed along one axis; each function returns a list.

    Attributes:
      step: pixels from one tile to the next.
      extent: pixels of a tile.
      pixels: transforms the pixels.
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


def winograd(
    x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int, over: int = 0
) -> jax.Array:
    """Return a 3x3 convolution of stride 1 or 2 and padding 1, in Winograd's form.

    The transforms are computed in float32, and the products in the type of the image.

    Args:
      x_NHWC: (N, H, W, I), or (N, H, W, O) if `over` is 1.
      kernel_HWIO: (3, 3, I, O).
      stride: stride along both axes.
      over: the channels of the kernel that are summed over: 0 for I, 1 for O.
    """
    form = _FORMS[stride]
    dtype, wide = x_NHWC.dtype, jnp.promote_types(x_NHWC.dtype, jnp.float32)
    count, height, width, _ = x_NHWC.shape
    height, width = -(-height // stride), -(-width // stride)
    down, across = -(-height // 2), -(-width // 2)  # tiles
    # Pad one pixel before the image, and after it as many as the last tile needs.
    padding = [
        (1, (tiles - 1) * form.step + form.extent - 1 - size)
        for tiles, size in zip((down, across), x_NHWC.shape[1:3], strict=True)
    ]
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), *padding, (0, 0))).astype(wide)
    # The barrier makes XLA store the rows. Without it XLA computes each row again for
    # each of its columns.
    rows = lax.optimization_barrier(form.pixels(*_of_tiles(x_NHWC, 1, down, form)))
    products = []
    kernels = form.kernel(*kernel_HWIO.astype(wide))
    for row, kernel in zip(rows, kernels, strict=True):
        pairs = zip(
            form.pixels(*_of_tiles(row, 2, across, form)),
            form.kernel(*kernel),
            strict=True,
        )
        products.append(
            [
                _wide_product(pixels.astype(dtype), taps.astype(dtype), (3,), (over,))
                for pixels, taps in pairs
            ]
        )
    rows = zip(*map(form.results, *products), strict=True)
    y = jnp.stack([jnp.stack(form.results(*row), axis=3) for row in rows], axis=2)
    y_NHWO = y.reshape(count, 2 * down, 2 * across, -1)
    return y_NHWO[:, :height, :width].astype(dtype)


def _of_tiles(x: jax.Array, axis: int, tiles: int, form: _Form) -> list[jax.Array]:
    """Return the first, second, ... pixels of all tiles along an axis."""
    last = (tiles - 1) * form.step + 1
    return [
        lax.slice_in_dim(x, start, start + last, form.step, axis)
        for start in range(form.extent)
    ]


def max_pool(x_NHWC: jax.Array) -> jax.Array:
    """Return `plain.max_pool`, computed as maxima of shifted slices.

    This takes a third of the time, forward and backward.
    """
    lowest = jnp.array(-jnp.inf, x_NHWC.dtype)
    x_NHWC = lax.pad(x_NHWC, lowest, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    # The maximum along a row comes first, so that the first row wins a tie between
    # rows.
    return _max_of_three(_max_of_three(x_NHWC, 2), 1)


def _max_of_three(x: jax.Array, axis: int) -> jax.Array:
    last = x.shape[axis] - 2
    first, second, third = (
        lax.slice_in_dim(x, start, last + start, 2, axis) for start in range(3)
    )
    return _first_max(_first_max(first, second), third)


def _first_max(a: jax.Array, b: jax.Array) -> jax.Array:
    # `jnp.maximum` would divide the gradient of a tie between both operands. A NaN in
    # either operand gives NaN, as in `plain.max_pool`.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def one_by_one(function: Callable, x: jax.Array, weights: Any) -> jax.Array:
    """Return function(x, weights), computed for one row of x at a time.

    The large feature maps of one image fit into the caches, those of a batch do not.
    """
    return lax.map(lambda row: function(row[None], weights)[0], x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(x, scale_C, bias_C, within, epsilon):
    """Return `plain.normalize`, with a gradient that stores little and reads little.

    The backward pass needs only x and values per channel. Automatic differentiation
    would also store `x - mean` and `x^2`. The gradient ignores the cotangents of the
    mean and the variance.
    """
    return plain.normalize(x, scale_C, bias_C, within, epsilon)


def _normalize_forward(x, scale_C, bias_C, within, epsilon):
    y, mean, var = plain.normalize(x, scale_C, bias_C, within, epsilon)
    return (y, mean, var), (x, scale_C, mean, lax.rsqrt(var + epsilon))


def _normalize_backward(within, epsilon, residuals, cotangents):
    # Let n be the number of values per channel, r = (var + epsilon)^-1/2, h = (x -
    # mean) r and y = scale h + bias. Then dbias = sum dy, dscale = sum dy h = r (sum dy
    # x - mean sum dy) and dx = scale r (dy - dbias / n - h dscale / n). Only two sums
    # and the last line of this function process whole arrays; everything else is per
    # channel.
    del epsilon
    x, scale_C, mean, deviation = residuals
    dy = cotangents[0]
    count = x.size // mean.size
    wide = x.astype(jnp.float32)
    dbias = dy.sum(within)
    dscale = deviation * ((dy * wide).sum(within) - mean * dbias)
    factor = scale_C.reshape((1,) * (mean.ndim - 1) + (-1,)) * deviation
    slope = -factor * deviation * dscale / count
    shift = -factor * dbias / count - slope * mean
    factor, slope, shift = (jnp.expand_dims(v, within) for v in (factor, slope, shift))
    dx = dy * factor + wide * slope + shift
    others = tuple(range(mean.ndim - 1))
    return dx.astype(x.dtype), dscale.sum(others), dbias.sum(others)


normalize.defvjp(_normalize_forward, _normalize_backward)
