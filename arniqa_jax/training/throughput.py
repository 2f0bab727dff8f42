"""How much of the hardware a training step uses: its FLOPs, and the peaks of devices.

The FLOPs are those of the model, a product and a sum counting as two: three times the
forward pass, as the gradient of each product is two more. What a program does besides
(degradation, rematerialisation) is no use of the hardware, and is not counted.
"""

import functools
import math

import jax
import jax.numpy as jnp

from arniqa_jax.model import simclr

# TFLOP/s of matrix products, dense, by the makers' data sheets, for the `dtype` of the
# computation. JAX computes float32 products in TF32 on NVIDIA's GPUs since Ampere, and
# in one pass of bfloat16 on TPUs. The first name that `device_kind` starts with counts.
_PEAKS = {
    "NVIDIA H100 PCIe": {"bfloat16": 756, "float32": 378},
    "NVIDIA H200": {"bfloat16": 989, "float32": 495},
    "NVIDIA H100": {"bfloat16": 989, "float32": 495},
    "NVIDIA A100": {"bfloat16": 312, "float32": 156},
    "Tesla V100": {"float32": 15.7},
    "TPU v4": {"bfloat16": 275, "float32": 275},
    "TPU v5 lite": {"bfloat16": 197, "float32": 197},
    "TPU v5": {"bfloat16": 459, "float32": 459},
    "TPU v6 lite": {"bfloat16": 918, "float32": 918},
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """FLOP/s that a device has for matrix products; None where it is not known."""
    for name, peaks in _PEAKS.items():
        if device_kind.startswith(name):
            return peaks[dtype] * 1e12 if dtype in peaks else None
    return None


def model_flops(model: simclr.SimCLR, size: int) -> float:
    """Return the FLOPs of the forward pass of one image.

    Counted are the convolutions and matrix products, a product and a sum as two, and
    the zeros of the padding as pixels. The compiler's own count is not to be had on
    every backend.

    Args:
      model: encoder and projector.
      size: height and width of the image.
    """
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros(image.shape), train=False)
    )
    forward = functools.partial(model.apply, train=False)
    return _flops(jax.make_jaxpr(forward)(variables, image).jaxpr)


def _flops(jaxpr) -> float:
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        shapes = [operand.aval.shape for operand in equation.invars]
        results = math.prod(equation.outvars[0].aval.shape)
        if name == "conv_general_dilated":
            outputs = shapes[1][parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * results * math.prod(shapes[1]) // outputs
        elif name == "dot_general":
            (over, _), _ = parameters["dimension_numbers"]
            total += 2 * results * math.prod(shapes[0][axis] for axis in over)
        elif name == "cond":
            # A choice by platform: the plain form is the last one.
            total += _flops(parameters["branches"][-1].jaxpr)
        else:
            inner = (getattr(value, "jaxpr", value) for value in parameters.values())
            total += sum(_flops(value) for value in inner if hasattr(value, "eqns"))
    return total


class Throughput:
    """Images per second of training, and the share of the devices' peak."""

    def __init__(
        self, model: simclr.SimCLR, size: int, images: int, mesh: jax.sharding.Mesh
    ):
        """Counts the FLOPs, where the devices are in the table.

        Args:
          model: encoder and projector.
          size: height and width of an image.
          images: in a step, on all devices.
          mesh: of the devices, all of one kind.
        """
        self._images = images
        peak = peak_flops(mesh.devices.flat[0].device_kind, model.dtype)
        self._shortest = None  # seconds of a step at the peak
        if peak:
            flops = 3 * model_flops(model, size) * images
            self._shortest = flops / (peak * mesh.size)

    def of(self, seconds: float) -> dict[str, float]:
        """The fields for the log of a step that took so many seconds, these included.

        `share_of_peak` is left out where the peak of the devices is not known.
        """
        fields = {"seconds": seconds, "images_per_second": self._images / seconds}
        if self._shortest is not None:
            fields["share_of_peak"] = self._shortest / seconds
        return fields
