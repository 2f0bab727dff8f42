"""The five crops of images at full and half scale as ONNX operators.

The half-scale image is that of Pillow's bicubic filter, equal to the last bit. (The
operator `Resize` computes the scale in float32, so it differs from Pillow by 1 of 255
in some pixels if a side is odd.) Positions and weights are float64, weights are rounded
to 22 bits, and sums are integers, as in Pillow's Resample.c. Only the pixels of the
crops are computed, so the time hardly depends on the size of the image.

Names of values end in their axes: N images, C channels, H and W pixels of an image, P
pixels of a side of a crop, T taps of the filter.
"""

from typing import Any

import numpy as np

# The filter is 2 samples wide on each side. A side is reduced by a factor of at most 3,
# from 3 pixels to 1, so that at most this many pixels have a weight.
_SUPPORT, _TAPS = 2, 13
_BITS = 22


def crops(graph: Any, images_NHWC: str, size: int) -> str:
    """Add the nodes that crop uint8 images; return uint8 (2 * 5 * N, C, P, P).

    The scale is the first axis, and the crop is the second, in the order of
    `preprocessing.five_offsets`.

    Args:
      graph: an `onnx_graph` graph.
      images_NHWC: name of the images.
      size: side of a crop in pixels.
    """
    add = graph.add
    full_NCHW = add("Transpose", images_NHWC, perm=[0, 3, 1, 2])
    sides = add("Shape", full_NCHW, start=2, end=4)
    half_sides = add("Max", add("Div", sides, np.array(2)), np.array(1))
    found = []
    for scale in (sides, half_sides):
        rows, columns = (_Places(graph, sides, scale, axis, size) for axis in range(2))
        for row, column in zip(rows.starts, columns.starts, strict=True):
            if scale == sides:
                crop = add("Gather", full_NCHW, rows.inner[row], axis=2)
                crop = add("Gather", crop, columns.inner[column], axis=3)
            else:
                crop = _half(graph, full_NCHW, rows.taps(row), columns.taps(column))
            visible = add(
                "And",
                add("Unsqueeze", rows.visible[row], np.array([1])),
                columns.visible[column],
            )
            found.append(add("Where", visible, crop, np.uint8(0)))
    return add("Concat", *found, axis=0)


class _Places:
    """Where the crops lie along one axis: in the middle, at the start and at the end.

    Attributes:
      starts: which of the three each of the five crops has.
      inner: for each, positions in the image, int64 (P,); those outside are moved to
        the border.
      visible: for each, bool (P,), False where a position is outside.
    """

    def __init__(self, graph: Any, sides: str, scaled_sides: str, axis: int, size: int):
        self._graph, add = graph, graph.add
        part = np.array([axis]), np.array([axis + 1])
        self._old = add("Slice", sides, *part)
        self._new = side = add("Slice", scaled_sides, *part)
        center = add("Sub", add("Div", side, np.array(2)), np.array(size // 2))
        self.starts = (0, 1, 2, 1, 2) if axis == 0 else (0, 1, 1, 2, 2)
        self.inner, self.visible, self._taps = [], [], {}
        for start in (center, np.array(0), add("Sub", side, np.array(size))):
            places = add("Add", start, np.arange(size))
            last = add("Sub", side, np.array(1))
            inner = add("Min", add("Max", places, np.array(0)), last)
            self.inner.append(inner)
            self.visible.append(add("Equal", places, inner))

    def taps(self, which: int) -> tuple[str, str]:
        """Return the taps of a start, see `_taps`; its nodes are added once."""
        if which not in self._taps:
            self._taps[which] = _taps(
                self._graph, self._old, self._new, self.inner[which]
            )
        return self._taps[which]


def _half(graph: Any, full_NCHW: str, rows: tuple, columns: tuple) -> str:
    """Return a crop of the half-scale images, uint8 (N, C, P, P).

    Args:
      graph: the graph.
      full_NCHW: the images at full scale.
      rows, columns: taps of the rows and columns of the crop.
    """
    add = graph.add
    row_indices_TP, row_weights_TP = rows
    # Only the rows that the crop needs; columns come first, as Pillow does it.
    first = add("ReduceMin", row_indices_TP, keepdims=0)
    end = add("Add", add("ReduceMax", row_indices_TP, keepdims=0), np.array(1))
    bounds = (add("Unsqueeze", bound, np.array([0])) for bound in (first, end))
    x = add("Slice", full_NCHW, *bounds, np.array([2]))
    x = _weighted_sum(graph, x, *columns, axis=3)
    row_weights_TP1 = add("Unsqueeze", row_weights_TP, np.array([2]))
    row_indices_TP = add("Sub", row_indices_TP, first)
    return _weighted_sum(graph, x, row_indices_TP, row_weights_TP1, axis=2)


def _weighted_sum(graph: Any, x: str, indices: str, weights: str, axis: int) -> str:
    """Return uint8 sums over the taps, rounded and clipped as Pillow does."""
    add = graph.add
    values = graph.cast(add("Gather", x, indices, axis=axis), "int32")
    weighted = add("Mul", values, weights)
    total = add("ReduceSum", weighted, np.array([axis]), keepdims=0)
    total = add("Add", total, np.int32(1 << (_BITS - 1)))  # one half, to round
    rounded = add("Div", total, np.int32(1 << _BITS))
    clipped = add("Clip", rounded, np.int32(0), np.int32(255))
    return graph.cast(clipped, "uint8")


def _taps(graph: Any, old: str, new: str, places: str) -> tuple[str, str]:
    """Return the source pixels in a row of each new pixel, and their weights.

    Args:
      graph: the graph.
      old: int64 (1,), number of pixels of a row.
      new: int64 (1,), number of pixels of the new row.
      places: int64 (P,), positions of the wanted pixels in the new row.

    Returns:
      int64 and int32 (T, P).
    """
    add = graph.add
    scale = add("Div", graph.cast(old, "float64"), graph.cast(new, "float64"))
    support = add("Mul", scale, np.float64(_SUPPORT))
    places = graph.cast(places, "float64")
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
