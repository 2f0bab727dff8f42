"""Convolution and max-pooling of the ResNets, forward and backward as they run fastest.

Images are NHWC, kernels HWIO. What XLA makes of the plain forms on a CPU is several
times slower than it has to be (benchmarks/step.py); the values and the gradients are
those of the plain forms, up to the order of the sums.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arniqa_jax.model import winograd

# torchvision's: He et al. 2015, by the fan out.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """A square convolution with PyTorch's symmetric padding and without bias.

    Its one parameter has the name, the shape and the initial values that `nn.Conv`
    would give it.

    Attributes:
      channels: of the result.
      size: side of the kernel, odd.
      stride: of both axes.
      dtype: of the computation; the kernel is float32.
    """

    channels: int
    size: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """Returns (N, H / stride, W / stride, channels), rounded up."""
        shape = (self.size, self.size, x_NHWC.shape[-1], self.channels)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        return convolve(
            x_NHWC.astype(self.dtype), kernel.astype(self.dtype), self.stride
        )


def convolve(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> jax.Array:
    """Convolves with a square kernel of odd size and symmetric padding, no bias."""
    if kernel_HWIO.shape[0] == 1:
        return _pointwise(x_NHWC, kernel_HWIO[0, 0], stride)
    return _spatial(x_NHWC, kernel_HWIO, stride)


def _windows(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> jax.Array:
    return lax.conv_general_dilated(
        x_NHWC,
        kernel_HWIO,
        (stride, stride),
        [(kernel_HWIO.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _suits_products(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> bool:
    """Whether matrix products pay on a CPU: wide ones, over many results.

    The batch is left out: it may be symbolic.
    """
    _, height, width, _ = x_NHWC.shape
    return (
        x_NHWC.dtype == jnp.float32
        and kernel_HWIO.shape[3] >= 64
        and height * width >= 49 * stride**2  # the last stage at 224 px
    )


def _suits_winograd(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> bool:
    """Whether Winograd's form exists, and pays on a CPU.

    What it adds is outweighed where there are also many channels to sum over.
    """
    size, _, channels, _ = kernel_HWIO.shape
    exists = size == 3 and stride <= 2
    return exists and channels >= 64 and _suits_products(x_NHWC, kernel_HWIO, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spatial(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int) -> jax.Array:
    """A convolution whose kernel is wider than a pixel; on a CPU with few products.

    The core's arithmetic bounds the plain form there; accelerators have matrix units,
    and libraries that choose by themselves.
    """
    plain = functools.partial(_windows, stride=stride)
    if not _suits_winograd(x_NHWC, kernel_HWIO, stride):
        return plain(x_NHWC, kernel_HWIO)
    few = functools.partial(winograd.convolve, stride=stride)
    return lax.platform_dependent(x_NHWC, kernel_HWIO, cpu=few, default=plain)


def _spatial_forward(x_NHWC, kernel_HWIO, stride):
    return _spatial(x_NHWC, kernel_HWIO, stride), (x_NHWC, kernel_HWIO)


def _spatial_backward(stride, residuals, dy_NHWO):
    def plain(x_NHWC, kernel_HWIO, dy_NHWO):
        form = functools.partial(_windows, stride=stride)
        return jax.vjp(form, x_NHWC, kernel_HWIO)[1](dy_NHWO)

    def on_cpu(x_NHWC, kernel_HWIO, dy_NHWO):
        # What is not used of the plain gradients is not computed.
        dx_NHWC, dkernel_HWIO = plain(x_NHWC, kernel_HWIO, dy_NHWO)
        if stride == 1 and _suits_winograd(x_NHWC, kernel_HWIO, stride):
            dx_NHWC = winograd.gradient_of_input(dy_NHWO, kernel_HWIO)
        if _suits_products(x_NHWC, kernel_HWIO, stride):
            size = kernel_HWIO.shape[0]
            dkernel_HWIO = _gradient_of_kernel(x_NHWC, dy_NHWO, size, stride)
        return dx_NHWC, dkernel_HWIO

    return lax.platform_dependent(*residuals, dy_NHWO, cpu=on_cpu, default=plain)


_spatial.defvjp(_spatial_forward, _spatial_backward)


def _gradient_of_kernel(
    x_NHWC: jax.Array, dy_NHWO: jax.Array, size: int, stride: int
) -> jax.Array:
    """A matrix product for each row of the kernel, HWIO.

    The convolution that XLA would compute instead, with a kernel as large as the image,
    takes two to four times as long on a CPU.
    """
    _, height, width, _ = dy_NHWO.shape
    around = (size // 2, size // 2)
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), around, around, (0, 0)))
    pixels = (0, 1, 2)

    def of_row(row: jax.Array) -> jax.Array:
        # What the elements of this row of the kernel are multiplied with.
        across = lax.dynamic_slice_in_dim(x_NHWC, row, (height - 1) * stride + 1, 1)
        across = across[:, ::stride]
        last = (width - 1) * stride
        taps = [across[:, :, c : c + last + 1 : stride] for c in range(size)]
        # As in `_pointwise_backward`: the first operand is transposed, so not the wide.
        return _product(dy_NHWO, jnp.concatenate(taps, 3), pixels, pixels)

    # A loop, as XLA would gather the pixels of all rows long before they are needed.
    # Several CPU devices reduce each row by itself, inside the loop.
    dkernel_HOWI = lax.map(of_row, jnp.arange(size))
    dkernel_HOWI = dkernel_HOWI.reshape(size, -1, size, x_NHWC.shape[3])
    return dkernel_HOWI.transpose(0, 2, 3, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(x_NHWC: jax.Array, kernel_IO: jax.Array, stride: int) -> jax.Array:
    """A 1x1 convolution, as a matrix product.

    XLA:CPU takes several times as long for the convolution. On an accelerator a
    product is at least as good: no window, and the whole choice of matrix kernels.
    """
    return _product(x_NHWC[:, ::stride, ::stride], kernel_IO, (3,), (0,))


def _pointwise_forward(x_NHWC, kernel_IO, stride):
    return _pointwise(x_NHWC, kernel_IO, stride), (x_NHWC, kernel_IO)


def _pointwise_backward(stride, residuals, dy_NHWO):
    x_NHWC, kernel_IO = residuals
    dx_NHWC = _product(dy_NHWO, kernel_IO, (3,), (1,))
    if stride > 1:
        zero = jnp.zeros((), dx_NHWC.dtype)
        sizes = x_NHWC.shape[1:3]
        spread = [(0, (size - 1) % stride, stride - 1) for size in sizes]
        dx_NHWC = lax.pad(dx_NHWC, zero, [(0, 0, 0), *spread, (0, 0, 0)])
        x_NHWC = x_NHWC[:, ::stride, ::stride]
    # A product that contracts the leading axes is computed, on a CPU, from a transposed
    # copy of its first operand, which costs as much as the product where that is the
    # wide one. The slices of a strided convolution are worse still to transpose.
    pixels = (0, 1, 2)
    if stride > 1 or kernel_IO.shape[0] > kernel_IO.shape[1]:
        dkernel_OI = _product(dy_NHWO, x_NHWC, pixels, pixels)
        # Or XLA would fold the transpose into the product, and swap the operands back.
        return dx_NHWC, lax.optimization_barrier(dkernel_OI).T
    return dx_NHWC, _product(x_NHWC, dy_NHWO, pixels, pixels)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _product(a: jax.Array, b: jax.Array, over_a: tuple, over_b: tuple) -> jax.Array:
    return lax.dot_general(a, b, ((over_a, over_b), ((), ())))


@jax.custom_vjp
def max_pool(x_NHWC: jax.Array) -> jax.Array:
    """The maxima of 3x3 windows, stride 2, padding 1.

    The gradient of a window goes to its first maximum in row-major order, as that of
    `lax.reduce_window` does. On a CPU, maxima of shifted slices have a third of the
    cost of the windows forward and backward; other backends keep the windows.
    """
    return lax.platform_dependent(x_NHWC, cpu=_shifted_maxima, default=_window_maxima)


def _max_pool_forward(x_NHWC):
    return max_pool(x_NHWC), x_NHWC


def _max_pool_backward(x_NHWC, dy_NHWC):
    def gradient_of(form: Callable) -> Callable:
        return lambda x, dy: jax.vjp(form, x)[1](dy)

    (dx_NHWC,) = lax.platform_dependent(
        x_NHWC,
        dy_NHWC,
        cpu=gradient_of(_shifted_maxima),
        default=gradient_of(_window_maxima),
    )
    return (dx_NHWC,)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _window_maxima(x_NHWC: jax.Array) -> jax.Array:
    return nn.max_pool(x_NHWC, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _shifted_maxima(x_NHWC: jax.Array) -> jax.Array:
    lowest = jnp.array(-jnp.inf, x_NHWC.dtype)
    x_NHWC = lax.pad(x_NHWC, lowest, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    # Along a row first, so that the first row wins a tie between rows.
    return _max_of_three(_max_of_three(x_NHWC, 2), 1)


def _max_of_three(x: jax.Array, axis: int) -> jax.Array:
    last = x.shape[axis] - 2
    first, second, third = (
        lax.slice_in_dim(x, start, last + start, 2, axis) for start in range(3)
    )
    return _first_max(_first_max(first, second), third)


def _first_max(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not jnp.maximum, which divides the gradient of a tie between both. A NaN of
    # either operand is passed on, as by the windows.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
