"""JPEG 2000 (ITU-T T.800) compressed to a rate as OpenJPEG does it, in fixed shapes.

Images are RGB, float32 (..., H, W, 3), in [0, 1]. These parts are exact: the reversible
5/3 wavelet, no colour transform, 64x64 code-blocks coded by bit-planes in three passes
each, and decoding of a block that is cut after a pass. The decoder takes the middle of
the values that are still possible. The length of each pass is an estimate, and so is
the place where OpenJPEG cuts a block (`passes.py`).

This module has the form for a CPU, `jpeg2000_products.py` that for a TPU.

Arrays are named by their axes: m = images x 3 channels, R rows, b bands side by side, C
columns of a band (`wavelet.py` says why side by side).
"""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation import passes
from arniqa_jax.degradation.coefficients import (
    BLOCK,
    PLANES,
    around,
    bit_length,
    continues,
    decode,
    digits,
    visited,
)
from arniqa_jax.degradation.jpeg import to_bytes
from arniqa_jax.degradation.jpeg2000_products import by_products
from arniqa_jax.degradation.wavelet import (
    Sheet,
    analyse,
    levels_of,
    pad_end,
    side_by_side,
    span,
    synthesise,
)


def _map_bands(function, x_mRbC, *others):
    """Return `function` of arrays (m, R, b, C), materialised.

    The bands are processed in parts, because this compiles to the fastest loops: up to
    three bands one by one, more bands in two halves.
    """
    b = x_mRbC.shape[2]
    starts = range(b) if b <= 3 else (0, b // 2)
    stops = [*starts[1:], b]
    return side_by_side(
        [
            function(*(span(x, start, stop, 2) for x in (x_mRbC, *others)))
            for start, stop in zip(starts, stops, strict=True)
        ]
    )


def _counts(values_mRbC, inside_RbC):
    """Return the five counts of each block that the docstring of `digits` defines.

    Planes are counted in parallel as digits of one int32: 4 bits each while 8 rows are
    summed, then 8 bits for the 64 rows and 16 bits for the 64 columns of a block.

    Returns:
      float32 (plane, 5, m, rows of blocks, b, columns of blocks).
    """

    def features(x):
        """Return three bit lengths and two line flags of each value in one int.

        The lengths are those of the value, of the longest value around it and of the
        longest one visited before it.
        """
        magnitude = jnp.abs(x)
        lines = continues(x, 1, 0) | continues(x, 0, 1) << 1
        parts = magnitude, around(magnitude), visited(magnitude)
        parts = [bit_length(part) for part in parts]
        return parts[0] | parts[1] << 4 | parts[2] << 8 | lines << 12

    packed = _map_bands(features, values_mRbC)
    packed = pad_end(packed, -(-packed.shape[1] // 8) * 8, 1)
    inside = np.pad(
        inside_RbC, ((0, packed.shape[1] - len(inside_RbC)), (0, 0), (0, 0))
    )
    m, rows, b, columns = packed.shape
    lengths = [packed >> shift & 15 for shift in (0, 4, 8)]
    # Lines are horizontal in LH, the second of three bands, and vertical in the others.
    is_across = (np.arange(b) % 3 == 1)[:, None] & np.ones(columns, bool)
    is_line = jnp.where(is_across, packed >> 13, packed >> 12 & 1) == 1

    kinds = digits(*lengths, is_line, inside)
    n = jnp.stack([kind.reshape(m, rows // 8, 8, b, columns).sum(2) for kind in kinds])
    n = jnp.stack([n & 0x0F0F0F0F, (n >> 4) & 0x0F0F0F0F])
    starts = range(0, rows // 8, 8)
    n = [span(n, start, min(start + 8, rows // 8), 3).sum(3) for start in starts]
    n = jnp.stack(n, 3)
    n = jnp.stack([n & 0x00FF00FF, (n >> 8) & 0x00FF00FF])
    starts = range(0, columns, BLOCK)
    n = [span(n, start, min(start + BLOCK, columns), 6).sum(6) for start in starts]
    n = jnp.stack(n, 6)
    n = jnp.stack([n & 0xFFFF, (n >> 16) & 0xFFFF])
    return n.reshape(PLANES, *n.shape[3:]).astype(jnp.float32)


def _statistics(sheet: Sheet):
    """Return `_counts` of a sheet, and the size and weight of each block.

    The weight is the squared error in the image for an error of 1 in a coefficient, the
    square of its norm. Number and weight are numpy arrays (rows of blocks, b, columns
    of blocks).
    """
    _, rows, _, columns = sheet.values_mRbC.shape
    inside = [
        (np.arange(rows) < height)[:, None] & (np.arange(columns) < width)
        for height, width in sheet.sizes
    ]
    inside = np.stack(inside, 1)
    number = np.add.reduceat(inside, range(0, rows, BLOCK), 0, int)
    number = np.add.reduceat(number, range(0, columns, BLOCK), 2)
    weight = np.square(sheet.norms)[:, None] + 0 * number
    return _counts(sheet.values_mRbC, inside), number, weight


def _truncate(values_mRbC, cuts):
    """Return the decoder's coefficients.

    Args:
      values_mRbC: int32 coefficients.
      cuts: (m, rows of blocks, b, columns of blocks), where each block is cut.
    """

    def part(x, cut):
        block_rows, block_columns = cut.shape[1], cut.shape[3]
        m, rows, b, columns = x.shape
        if (block_rows, block_columns) == (1, 1):
            cut = jnp.broadcast_to(cut, x.shape)
        else:
            shape = (m, block_rows, BLOCK, b, block_columns, BLOCK)
            cut = jnp.broadcast_to(cut[:, :, None, :, :, None], shape)
            cut = cut.reshape(m, block_rows * BLOCK, b, block_columns * BLOCK)
            cut = cut[:, :rows, :, :columns]
        return decode(x, cut)

    return _map_bands(part, values_mRbC, cuts)


def _by_bands(planes, value):
    """Return the planes (n, 3, H, W), int32, after encoding and decoding."""
    n, _, height, width = planes.shape
    levels = levels_of(height, width)
    sheets = analyse(planes.reshape(3 * n, height, width), levels)

    def per_image(x):
        return x.reshape(*x.shape[:-4], n, -1)

    def per_channel(x):
        return np.broadcast_to(x, (3 * n, *x.shape))

    statistics = [_statistics(sheet) for sheet in sheets]
    counts = jnp.concatenate([per_image(c) for c, _, _ in statistics], -1)
    number, weight = (
        np.concatenate([per_image(per_channel(s[i])) for s in statistics], -1)
        for i in (1, 2)
    )
    budget = passes.budget(height, width, levels, value)
    budget = jnp.broadcast_to(budget, (n,))
    cuts = passes.cuts(*passes.rates_and_gains(counts, number, weight), budget)

    decoded, start = [], 0
    for sheet, (count, _, _) in zip(sheets, statistics, strict=True):
        shape = count.shape[2:]
        stop = start + int(np.prod(shape)) // n
        decoded.append(_truncate(sheet.values_mRbC, cuts[:, start:stop].reshape(shape)))
        start = stop
    planes = synthesise(decoded, height, width, levels)
    return planes.reshape(n, 3, height, width)


def jpeg2000(key, images: jax.Array, *, value) -> jax.Array:
    """Return images after JPEG 2000 compression to a rate, close to OpenJPEG's.

    The reference is Pillow with `quality_mode="rates", quality_layers=[value],
    irreversible=False, mct=0` and min(7, floor(log2(min(H, W)))) decompositions. On
    photographs of 224x224 the PSNR to the original is within 0.1 dB of the reference on
    average and 1 dB at most. The SSIM between the two outputs is above 0.96 on average.
    There is no gradient: the result is piecewise constant in the image, and the
    derivative is zero everywhere.

    Args:
      key: not used.
      images: (..., H, W, 3) float32 in [0, 1], converted to 8 bits by floor(255 x); H
        and W at least 2.
      value: compression ratio, 24 bits per pixel over bits per pixel (16, 32, 45, 120,
        170 in the method); a Python number or a scalar array, traced or not.

    Returns:
      Images of the same shape; values are multiples of 1/255 in [0, 1].
    """
    del key
    height, width, _ = images.shape[-3:]
    pixels = to_bytes(images).reshape(-1, height, width, 3)
    planes = jnp.stack([pixels[..., c] - 128 for c in range(3)], 1)
    outputs = jax.lax.platform_dependent(
        planes, jnp.asarray(value), tpu=by_products, default=_by_bands
    )
    outputs = jnp.clip(outputs + 128, 0, 255).astype(jnp.float32) / 255
    return jnp.stack([outputs[:, c] for c in range(3)], -1).reshape(images.shape)
