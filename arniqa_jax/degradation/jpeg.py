"""The JPEG round trip of libjpeg-turbo, bit-exact, in integer arithmetic.

Images are RGB, float32 (..., H, W, 3), in [0, 1]. The steps are those of the baseline
process of ITU-T T.81 with the defaults of libjpeg-turbo: BT.601 full-range YCbCr,
chroma at half the width and height (4:2:0), the "islow" integer DCT and its inverse,
the tables of T.81 annex K scaled by the quality, and triangular ("fancy") chroma
upsampling. The entropy coder is left out, because it is lossless. Without it no shape
depends on the data.

Every intermediate value fits int32, and no step depends on the order of a
floating-point sum, so the result is the same on every backend.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation.products import across, down

# Quantisation tables of T.81, annex K, for luma and chroma, as quality 50 uses them.
_LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA_TABLE = np.full((8, 8), 99)
_CHROMA_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]

# The 8-point DCT times sqrt(8) 2^13. Each row holds the left half of one output; the
# right half of row k mirrors it with the sign (-1)^k. libjpeg's islow DCT computes the
# same sums by the butterflies of Loeffler, Ligtenberg and Moschytz with 13-bit
# constants. It rounds only at the end of a pass, so a pass is exactly this matrix and
# one rounding shift. For that, the entries must be sums of the *rounded* constants:
# nine of them differ by one from the rounded cosine. The inverse DCT is the transpose.
_DCT_LEFT = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ]
)
_DCT_SIGN = np.array([1, -1] * 4)[:, None]
_DCT = np.concatenate([_DCT_LEFT, _DCT_SIGN * _DCT_LEFT[:, ::-1]], axis=1)
_DCT_BITS = 13
_EXTRA_BITS = 2  # kept after the first pass, dropped by the second


def _pass(lines, matrix, shift, axis, finish=None):
    """Return the one-dimensional transform of 8 arrays, stacked along `axis`.

    Output k is the sum of matrix[k, j] lines[j], divided by 2^shift and rounded (half
    up), and then passed through `finish(k, output)`.
    """
    outputs = []
    for k, row in enumerate(matrix):
        total = sum(int(m) * line for m, line in zip(row, lines, strict=True))
        output = (total + (1 << (shift - 1))) >> shift
        outputs.append(finish(k, output) if finish else output)
    return jnp.stack(outputs, axis)


def _tables(quality: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the luma and chroma tables for one quality, (8, 8) int32 in 1..255."""
    quality = jnp.clip(jnp.asarray(quality).astype(jnp.int32), 1, 100)
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return tuple(
        jnp.clip((table.astype(np.int32) * percent + 50) // 100, 1, 255)
        for table in (_LUMA_TABLE, _CHROMA_TABLE)
    )


def _quantise(x: jax.Array, table: jax.Array) -> jax.Array:
    """Return x / 8, rounded half away from zero to a multiple of the table.

    The forward DCT leaves a factor of 8, so the divisor is d = 8 table. float32 is
    exact with any rounding of 1/d: (n + 1/2) / d is at least 1 / (2 d) away from any
    integer, and n < 2^15, so a relative error of 2^-17 cannot change the floor.
    """
    n = (jnp.abs(x) + 4 * table).astype(jnp.float32)
    level = jnp.floor((n + 0.5) * (0.125 / table.astype(jnp.float32)))
    return jnp.sign(x) * table * level.astype(jnp.int32)


def _round_trip(sheet: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return (n, 3/2 H, W) in 0..255 after DCT, quantisation and inverse DCT.

    H and W are multiples of 16. The first H rows use the first table, the others the
    second.
    """
    n, height, width = sheet.shape
    rows, columns = height // 8, width // 8
    # (v, u, 1, rows, 1), with v the vertical and u the horizontal frequency.
    is_luma = jax.lax.broadcasted_iota(jnp.int32, (1, 1, 1, rows, 1), 3) < rows * 2 // 3
    table = jnp.where(is_luma, *(t[..., None, None, None] for t in tables))

    def quantise(v, x):
        return _quantise(x, jnp.broadcast_to(table[v], x.shape))

    def to_samples(_, x):
        return jnp.clip(x, -128, 127) + 128

    def lines_down(x):
        """Return the lines v of (u, n, rows, v, columns), from a reshaped array.

        XLA simplifies a slice of a stack along the same axis, and then computes each of
        the 8 stacked arrays 8 times. The reshape keeps the stack.
        """
        x = x.reshape(8, n, rows, width)
        return [x[..., v * columns : (v + 1) * columns] for v in range(8)]

    # The order is forward horizontally, forward vertically, back vertically, back
    # horizontally. Between the horizontal passes u is the leading axis, so that the
    # slices of the vertical passes are contiguous.
    x = sheet.reshape(n, rows, 8, columns, 8) - 128
    x = _pass([x[..., u] for u in range(8)], _DCT, _DCT_BITS - _EXTRA_BITS, 0)
    x = _pass(lines_down(x), _DCT, _DCT_BITS + _EXTRA_BITS, 3, quantise)
    x = _pass(lines_down(x), _DCT.T, _DCT_BITS - _EXTRA_BITS, 3)
    x = _pass(list(x), _DCT.T, _DCT_BITS + _EXTRA_BITS + 3, -1, to_samples)
    return x.reshape(sheet.shape)


def _pad_to(plane: jax.Array, height: int, width: int) -> jax.Array:
    """Return (N, h, w) padded to (N, height, width) by its last row and column."""
    missing = ((0, 0), (0, height - plane.shape[1]), (0, width - plane.shape[2]))
    return jnp.pad(plane, missing, mode="edge")


def _ycc_from_rgb(r, g, b):
    """Return Y, Cb, Cr of BT.601 full range, in 16-bit fixed point.

    Halves are rounded up for luma and down for chroma.
    """
    chroma = (128 << 16) + (1 << 15) - 1
    return (
        (19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16,
        (-11059 * r - 21709 * g + 32768 * b + chroma) >> 16,
        (32768 * r - 27439 * g - 5329 * b + chroma) >> 16,
    )


def _rgb_from_ycc(y, cb, cr):
    """Return R, G, B, given chroma centred on 0; the results may leave 0..255."""
    half = 1 << 15
    return (
        y + ((91881 * cr + half) >> 16),
        y + ((-22554 * cb - 46802 * cr + half) >> 16),
        y + ((116130 * cb + half) >> 16),
    )


def _downsample(plane: jax.Array) -> jax.Array:
    """Return the means of 2x2 pixels of a plane with even sides.

    Halves are rounded down and up in alternate columns.
    """
    rows = plane[:, 0::2] + plane[:, 1::2]
    total = rows[..., 0::2] + rows[..., 1::2]
    column = jax.lax.broadcasted_iota(jnp.int32, total.shape, 2)
    return (total + 1 + column % 2) >> 2


def _upsample(planes: jax.Array) -> jax.Array:
    """Return planes (n, h, 2, w) at twice the size, (n, 2h, 2, 2w).

    Along each axis, an output is 3/4 of the nearer and 1/4 of the farther sample. The
    outermost samples are repeated.
    """
    n, height, _, width = planes.shape
    padded = jnp.pad(planes, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    rows = [3 * planes + padded[:, :-2], 3 * planes + padded[:, 2:]]
    rows = jnp.stack(rows, 2).reshape(n, 2 * height, 2, width)
    padded = jnp.pad(rows, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
    left = (3 * rows + padded[..., :-2] + 8) >> 4
    right = (3 * rows + padded[..., 2:] + 7) >> 4
    return jnp.stack([left, right], -1).reshape(n, 2 * height, 2, 2 * width)


def _by_planes(pixels: jax.Array, value: jax.Array) -> jax.Array:
    """Return the codec's result by slices and sums, (n, H, W, 3) int32 -> float32.

    This form is the fastest on a CPU.
    """
    n, height, width, _ = pixels.shape
    # libjpeg repeats the last column before it downsamples, and the last row
    # afterwards.
    half, full = _sizes(height, width)
    pixels = jnp.pad(
        pixels,
        ((0, 0), (0, 2 * half[0] - height), (0, full[1] - width), (0, 0)),
        mode="edge",
    )
    y, cb, cr = _ycc_from_rgb(*(pixels[..., c] for c in range(3)))
    chroma = [
        _pad_to(_downsample(plane), full[0] // 2, full[1] // 2) for plane in (cb, cr)
    ]
    # One sheet (n, 3/2 H, W): luma on top, the two chroma planes side by side below.
    sheet = jnp.concatenate([_pad_to(y, *full), jnp.concatenate(chroma, 2)], 1)
    sheet = _round_trip(sheet, _tables(value))

    chroma = sheet[:, full[0] :].reshape(n, full[0] // 2, 2, full[1] // 2)
    chroma = _upsample(chroma[:, : half[0], :, : half[1]])[:, :height, :, :width]
    rgb = _rgb_from_ycc(
        sheet[:, :height, :width], chroma[:, :, 0] - 128, chroma[:, :, 1] - 128
    )
    return _to_images(rgb)


def _sizes(height, width):
    """Return half the size, rounded up, and the size in whole blocks of chroma."""
    half = -(-height // 2), -(-width // 2)
    full = -(-height // 16) * 16, -(-width // 16) * 16
    return half, full


def _to_images(rgb):
    rgb = [jnp.clip(plane, 0, 255).astype(jnp.float32) / 255 for plane in rgb]
    return jnp.stack(rgb, -1)


def _round_trip_by_products(sheet, tables):
    """Return `_round_trip` by products with block-diagonal matrices.

    The entries of the matrices have 14 bits. Each is split into 128 coarse + fine,
    which doubles the number of columns or rows. Each of the two sums stays below 2^22.
    """
    n, height, width = sheet.shape

    def transform(x, product, matrix, blocks, axis, shift):
        matrix = np.kron(np.eye(blocks, dtype=int), matrix)
        coarse = (matrix + 64) >> 7
        parts = np.concatenate([coarse, matrix - 128 * coarse], axis - 1)
        coarse, fine = jnp.split(product(x, parts), 2, axis)
        return (128 * coarse + fine + (1 << (shift - 1))) >> shift

    first, second = _DCT_BITS - _EXTRA_BITS, _DCT_BITS + _EXTRA_BITS
    x = transform(sheet - 128, across, _DCT.T, width // 8, 2, first)
    x = transform(x, down, _DCT, height // 8, 1, second)

    luma, chroma = (jnp.tile(table, (1, width // 8)) for table in tables)
    is_luma = (np.arange(height // 8) < height // 8 * 2 // 3)[:, None, None]
    table = jnp.where(is_luma, luma[None], chroma[None])[None]
    x = x.reshape(n, height // 8, 8, width)
    x = _quantise(x, jnp.broadcast_to(table, x.shape)).reshape(sheet.shape)

    x = transform(x, down, _DCT.T, height // 8, 1, first)
    x = transform(x, across, _DCT, width // 8, 2, second + 3)
    return jnp.clip(x, -128, 127) + 128


def _downsampling(size, padded):
    """Return the matrix (padded / 2, size) that sums pairs, with the edge repeated."""
    pairs = np.arange(padded).reshape(-1, 2)
    pairs = np.minimum(pairs, size - 1)
    return (pairs[..., None] == np.arange(size)).sum(1)


def _upsampling(size, padded):
    """Return the matrix (size, padded / 2) of `_upsample` along one axis, times 4.

    Samples beyond half the size are padding and have no weight.
    """
    places = np.arange(size)
    nearer = places // 2
    farther = np.clip(nearer + places % 2 * 2 - 1, 0, -(-size // 2) - 1)
    samples = np.arange(padded // 2)
    return 3 * (nearer[:, None] == samples) + (farther[:, None] == samples)


def _by_products(pixels: jax.Array, value: jax.Array) -> jax.Array:
    """Return the result of `_by_planes` by matrix products.

    This form is the fastest on a TPU, where slices are slow.
    """
    _, height, width, _ = pixels.shape
    half, full = _sizes(height, width)
    y, cb, cr = _ycc_from_rgb(*(pixels[..., c] for c in range(3)))
    side = np.eye(2, dtype=int)  # puts both chroma planes side by side, in one product
    # Rows beyond half the height repeat the last mean of two rows, not the last row.
    rows = _downsampling(height, 2 * half[0])
    rows = np.pad(rows, ((0, full[0] // 2 - half[0]), (0, 0)), mode="edge")
    columns = np.kron(side, _downsampling(width, full[1]).T)
    total = down(across(jnp.concatenate([cb, cr], 2), columns), rows)
    column = jax.lax.broadcasted_iota(jnp.int32, total.shape, 2)
    chroma = (total + 1 + column % (full[1] // 2) % 2) >> 2
    sheet = jnp.concatenate([_pad_to(y, *full), chroma], 1)
    sheet = _round_trip_by_products(sheet, _tables(value))

    # Each plane starts at a multiple of the 128 lanes of a register.
    start = -(-width // 128) * 128
    columns = np.pad(_upsampling(width, full[1]), ((0, start - width), (0, 0)))
    chroma = across(sheet[:, full[0] :], np.kron(side, columns.T))
    chroma = down(chroma, _upsampling(height, full[0]))
    column = jax.lax.broadcasted_iota(jnp.int32, chroma.shape, 2)
    chroma = ((chroma + 8 - column % 2) >> 4) - 128
    return _to_images(
        _rgb_from_ycc(
            sheet[:, :height, :width],
            chroma[..., :width],
            chroma[..., start : start + width],
        )
    )


def jpeg(key, images: jax.Array, *, value) -> jax.Array:
    """Return images after JPEG compression at `quality=value`.

    The result equals that of libjpeg-turbo, and therefore of Pillow, in every bit.
    There is no gradient: the result is piecewise constant in the image, and the
    derivative is zero everywhere.

    Args:
      key: not used.
      images: (..., H, W, 3) float32 in [0, 1], converted to 8 bits by floor(255 x). W
        must be above 4, because libjpeg does not smooth narrower chroma.
      value: quality, an integer in 1..100 (43, 36, 24, 7, 4 in the method); a Python
        number or a scalar array, traced or not.

    Returns:
      Images of the same shape; values are multiples of 1/255 in [0, 1].
    """
    del key
    height, width, _ = images.shape[-3:]
    pixels = to_bytes(images).reshape(-1, height, width, 3)
    value = jnp.asarray(value)
    outputs = jax.lax.platform_dependent(
        pixels, value, tpu=_by_products, default=_by_planes
    )
    return outputs.reshape(images.shape)


def to_bytes(images: jax.Array) -> jax.Array:
    """Return floor(255 x) as int32, so that k/255 gives k.

    The float32 product has an error below 4e-5, in either direction and different on
    each backend, so 1e-4 is added before the floor.
    """
    return jnp.floor(255 * images + 1e-4).astype(jnp.int32)
