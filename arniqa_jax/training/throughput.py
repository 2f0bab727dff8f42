"""Model FLOPs utilization: the FLOPs of a training step, and the peaks of devices.

The FLOPs are those of the model; a multiplication and an addition count as two. A
training step takes three times the FLOPs of the forward pass, because the gradient of
each product is two more products. Other work (degradation, rematerialisation) is not
counted.
"""

import functools
import math

import jax
import jax.numpy as jnp

from arniqa_jax.model import simclr

# Peak TFLOP/s of dense matrix products by the `dtype` of the computation, from the
# manufacturers' data sheets. JAX computes float32 products in TF32 on NVIDIA GPUs since
# Ampere, and in one pass of bfloat16 on TPUs. The first name that is a prefix of
# `device_kind` applies.
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
    """Return a device's peak FLOP/s of matrix products, or None if unknown."""
    for name, peaks in _PEAKS.items():
        if device_kind.startswith(name):
            return peaks[dtype] * 1e12 if dtype in peaks else None
    return None


def model_flops(model: simclr.SimCLR, size: int) -> float:
    """Return the FLOPs of the forward pass of one image.

    The count includes convolutions and matrix products. A multiplication and an
    addition count as two, and zeros of the padding count as pixels. The compiler's own
    count is not available on every backend.

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
            # For a choice by platform, the plain form is the last branch.
            total += _flops(parameters["branches"][-1].jaxpr)
        else:
            inner = (getattr(value, "jaxpr", value) for value in parameters.values())
            total += sum(_flops(value) for value in inner if hasattr(value, "eqns"))
    return total


class Throughput:
    """Training throughput: images per second and model FLOPs utilization."""

    def __init__(
        self, model: simclr.SimCLR, size: int, images: int, mesh: jax.sharding.Mesh
    ):
        """Count the FLOPs, if the peak of the devices is known.

        Args:
          model: encoder and projector.
          size: height and width of an image.
          images: number of images in a step, on all devices.
          mesh: the mesh of the devices, all of one kind.
        """
        self._images = images
        peak = peak_flops(mesh.devices.flat[0].device_kind, model.dtype)
        self._shortest = None  # seconds of a step at the peak
        if peak:
            flops = 3 * model_flops(model, size) * images
            self._shortest = flops / (peak * mesh.size)

    def of(self, seconds: float) -> dict[str, float]:
        """Return the log fields of a step that took this many seconds.

        They are `seconds`, `images_per_second` and, if the peak of the devices is
        known, `share_of_peak` (the model FLOPs utilization).
        """
        fields = {"seconds": seconds, "images_per_second": self._images / seconds}
        if self._shortest is not None:
            fields["share_of_peak"] = self._shortest / seconds
        return fields
