"""Convolution and max-pooling of the ResNets, in the form that suits the platform.

A program for a CPU uses the forms of `cpu_kernels`, every other program those of
`plain`. Images are NHWC, kernels HWIO.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arniqa_jax.model import cpu_kernels, plain

# torchvision's initial values: He et al. 2015, by the fan-out.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """A square convolution with PyTorch's symmetric padding and without bias.

    Its only parameter has the name, shape and initial values of `nn.Conv`'s kernel.

    Attributes:
      channels: number of channels of the result.
      size: side of the kernel, odd.
      stride: stride along both axes.
      dtype: dtype of the computation; the kernel is float32.
      precision: precision of float32 products on an accelerator, see `simclr.SimCLR`.
    """

    channels: int
    size: int
    stride: int
    dtype: jnp.dtype = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """Return (N, H / stride, W / stride, channels), sides rounded up."""
        shape = (self.size, self.size, x_NHWC.shape[-1], self.channels)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        return convolve(
            x_NHWC.astype(self.dtype),
            kernel.astype(self.dtype),
            self.stride,
            precision=self.precision,
            reverse_only=True,
        )


def convolve(
    x_NHWC: jax.Array,
    kernel_HWIO: jax.Array,
    stride: int,
    *,
    precision: str = "default",
    reverse_only: bool = False,
) -> jax.Array:
    """Return the convolution with a square kernel of odd size K, padded by K // 2.

    Args:
      x_NHWC: (N, H, W, I).
      kernel_HWIO: (K, K, I, O), of the same dtype.
      stride: stride along both axes.
      precision: precision of float32 products on an accelerator, see `simclr.SimCLR`.
      reverse_only: True if only reverse-mode derivatives are needed. Gradients are then
        faster on a CPU, and JAX cannot differentiate in forward mode.
    """
    fast = cpu_kernels.convolve_reverse_only if reverse_only else cpu_kernels.convolve
    return lax.platform_dependent(
        x_NHWC,
        kernel_HWIO,
        # A function with custom_vjp takes positional arguments only.
        cpu=lambda x, kernel: fast(x, kernel, stride),
        default=functools.partial(plain.convolve, stride=stride, precision=precision),
    )


def max_pool(x_NHWC: jax.Array) -> jax.Array:
    """Return the maxima of 3x3 windows with stride 2 and padding 1.

    The gradient of a window goes to its first maximum in row-major order.
    """
    return lax.platform_dependent(
        x_NHWC, cpu=cpu_kernels.max_pool, default=plain.max_pool
    )
