"""Pillow's bicubic halving of an image as ONNX operators, equal to the last bit.

The operator `Resize` computes the scale in float32, so it differs from Pillow by 1 of
255 in some pixels if a side is odd. Here positions and weights are float64, weights are
rounded to 22 bits, and sums are integers, as in Pillow's Resample.c.
"""

from typing import Any

import numpy as np

# The filter is 2 samples wide on each side. A side is reduced by a factor of at most 3,
# from 3 pixels to 1, so that at most this many pixels have a weight.
_SUPPORT, _TAPS = 2, 13
_BITS = 22


def halve(graph: Any, pixels_NCHW: str, sides: str, half_sides: str) -> str:
    """Add the nodes that halve images; return the name of the result.

    Args:
      graph: an `onnx_graph` graph.
      pixels_NCHW: uint8 images.
      sides: int64 (2,), their height and width.
      half_sides: int64 (2,), height and width of the result.
    """
    for axis, first in ((3, 1), (2, 0)):  # columns first, as Pillow does
        part = np.array([first]), np.array([first + 1])
        old, new = (graph.add("Slice", x, *part) for x in (sides, half_sides))
        indices, weights = _taps(graph, old, new)
        total = graph.constant(np.int32(1 << (_BITS - 1)))  # one half, to round
        for tap in range(_TAPS):
            index = graph.add("Gather", indices, np.array(tap))
            weight = graph.add("Gather", weights, np.array(tap))
            if axis == 2:
                weight = graph.add("Unsqueeze", weight, np.array([1]))
            values = graph.add("Gather", pixels_NCHW, index, axis=axis)
            values = graph.cast(values, "int32")
            total = graph.add("Add", total, graph.add("Mul", values, weight))
        rounded = graph.add("Div", total, np.int32(1 << _BITS))
        clipped = graph.add("Clip", rounded, np.int32(0), np.int32(255))
        pixels_NCHW = graph.cast(clipped, "uint8")
    return pixels_NCHW


def _taps(graph: Any, old: str, new: str) -> tuple[str, str]:
    """Return the source pixels in a row of each new pixel, and their weights.

    Args:
      graph: the graph.
      old: int64 (1,), number of pixels of a row.
      new: int64 (1,), number of pixels of the new row.

    Returns:
      int64 and int32 (_TAPS, new).
    """
    add = graph.add
    scale = add("Div", graph.cast(old, "float64"), graph.cast(new, "float64"))
    support = add("Mul", scale, np.float64(_SUPPORT))
    count = add("Squeeze", new, np.array([0]))
    places = graph.cast(add("Range", np.array(0), count, np.array(1)), "float64")
    center = add("Mul", add("Add", places, np.float64(0.5)), scale)
    first = add("Add", add("Sub", center, support), np.float64(0.5))
    first = add("Max", graph.cast(first, "int64"), np.array(0))
    end = add("Add", add("Add", center, support), np.float64(0.5))
    end = add("Min", graph.cast(end, "int64"), old)
    indices = add("Add", first, np.arange(_TAPS)[:, None])
    distance = add("Sub", graph.cast(indices, "float64"), center)
    distance = add("Add", distance, np.float64(0.5))
    distance = add("Mul", distance, add("Div", np.float64(1), scale))
    weights = _bicubic(graph, add("Abs", distance))
    weights = add("Where", add("Less", indices, end), weights, np.float64(0))
    weights = add("Div", weights, add("ReduceSum", weights, np.array([0]), keepdims=1))
    weights = add("Mul", weights, np.float64(1 << _BITS))
    half = add("Mul", add("Sign", weights), np.float64(0.5))
    rounded = graph.cast(add("Add", weights, half), "int32")
    last = add("Sub", old, np.array(1))
    return add("Min", indices, last), rounded


def _bicubic(graph: Any, x: str) -> str:
    """Return the cubic filter with a = -0.5 at distances x >= 0, by Horner's rule."""

    def polynomial(*coefficients: float) -> str:
        value, *rest = (np.float64(c) for c in coefficients)
        for coefficient in rest:
            value = graph.add("Add", graph.add("Mul", value, x), coefficient)
        return value

    near = polynomial(1.5, -2.5, 0, 1)
    far = polynomial(-0.5, 2.5, -4, 2)
    far = graph.add("Where", graph.add("Less", x, np.float64(2)), far, np.float64(0))
    return graph.add("Where", graph.add("Less", x, np.float64(1)), near, far)
