"""The codecs against the libjpeg-turbo and OpenJPEG of the installed Pillow."""

import io

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data

from arniqa_jax.degradation import jpeg as jpeg_module
from arniqa_jax.degradation import jpeg2000 as jpeg2000_module
from arniqa_jax.degradation import jpeg2000_products, passes, wavelet, wavelet_products
from arniqa_jax.degradation.codecs import jpeg, jpeg2000

QUALITIES = (43, 36, 24, 7, 4)
RATIOS = (16, 32, 45, 120, 170)


def through_file(image, **options):
    """A uint8 image (H, W, 3) after saving and loading it with Pillow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return np.asarray(Image.open(io.BytesIO(file.getvalue())))


def through_jpeg2000(image, ratio):
    levels = min(7, int(np.log2(min(image.shape[:2]))))
    return through_file(
        image,
        format="JPEG2000",
        quality_mode="rates",
        quality_layers=[ratio],
        irreversible=False,
        mct=0,
        num_resolutions=levels + 1,
    )


def to_float(images):
    return np.asarray(images, np.float32) / 255


def to_bytes(images):
    """Asserts that the images are multiples of 1/255, and returns them as uint8."""
    scaled = np.asarray(images) * 255
    np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-4)
    return np.round(scaled).astype(np.uint8)


def photographs(size, count):
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        row, column = (rng.integers(n - size + 1) for n in photo.shape[:2])
        crops.append(photo[row : row + size, column : column + size])
    return np.stack(crops)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


vmapped_jpeg = jax.jit(jax.vmap(lambda x, value: jpeg(None, x, value=value)))
jitted_jpeg2000 = jax.jit(lambda x, value: jpeg2000(None, x, value=value))


def test_every_8_bit_value_survives_the_floor():
    values = np.arange(256)
    for images in (to_float(values), jnp.asarray(values, jnp.float32) / 255):
        np.testing.assert_array_equal(jpeg_module.to_bytes(images), values)
    below = to_float(values[1:]) - np.float32(1e-5)
    np.testing.assert_array_equal(jpeg_module.to_bytes(below), values[:-1])


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(64, 96, marks=pytest.mark.slow),
        (33, 50),
        pytest.param(17, 31, marks=pytest.mark.slow),
        (18, 20),
    ],
)
def test_jpeg_equals_libjpeg_turbo_bit_for_bit(height, width):
    rng = np.random.default_rng(height)
    shape = (height, width, 3)
    crop = data.astronaut()[100 : 100 + height, 180 : 180 + width]
    images = [
        crop,
        rng.integers(0, 256, shape),
        255 * rng.integers(0, 2, shape),  # the largest coefficients
        np.broadcast_to(rng.integers(0, 256, 3), shape),
    ]
    images = np.stack(images).astype(np.uint8)
    # Every image at every quality, in one batch.
    batch = np.repeat(images, len(QUALITIES), 0)
    values = np.tile(np.float32(QUALITIES), len(images))
    outputs = to_bytes(vmapped_jpeg(to_float(batch), values))
    for image, value, output in zip(batch, values, outputs, strict=True):
        expected = through_file(image, format="JPEG", quality=int(value))
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(224, 224, marks=pytest.mark.slow),
        pytest.param(97, 131, marks=pytest.mark.slow),
        (48, 48),
        (17, 31),
    ],
)
def test_jpeg_by_products_equals_jpeg_by_planes(height, width):
    rng = np.random.default_rng(width)
    shape = (height, width, 3)
    crop = data.astronaut()[100 : 100 + height, 180 : 180 + width]
    images = [crop, rng.integers(0, 256, shape), 255 * rng.integers(0, 2, shape)]
    pixels = np.stack(images).astype(np.int32)
    for value in (100, 43, 4):
        expected = jax.jit(jpeg_module._by_planes)(pixels, value)
        outputs = jax.jit(jpeg_module._by_products)(pixels, value)
        np.testing.assert_array_equal(outputs, expected)


@pytest.mark.slow
@pytest.mark.shared
def test_official_outputs(shared_data):
    with np.load(shared_data / "distortion_reference.npz") as file:
        images = file["images"]
        for level, (quality, ratio) in enumerate(zip(QUALITIES, RATIOS, strict=True)):
            ours = to_bytes(jpeg(None, to_float(images), value=quality))
            np.testing.assert_array_equal(ours, file[f"jpeg/{level + 1}"])
            official = file[f"jpeg2000/{level + 1}"]
            ours = to_bytes(jitted_jpeg2000(to_float(images), np.float32(ratio)))
            for ours_one, official_one, image in zip(
                ours, official, images, strict=True
            ):
                difference = psnr(ours_one, image) - psnr(official_one, image)
                assert abs(difference) <= 0.5


def test_jpeg2000_is_close_to_openjpeg():
    images = photographs(224, 8)
    for ratio in RATIOS:
        pairs = to_float(images).reshape(4, 2, 224, 224, 3)
        ours = np.concatenate([jitted_jpeg2000(x, np.float32(ratio)) for x in pairs])
        theirs = np.stack([through_jpeg2000(image, ratio) for image in images])
        differences = [
            psnr(a, image) - psnr(b, image)
            for a, b, image in zip(to_bytes(ours), theirs, images, strict=True)
        ]
        assert abs(np.mean(differences)) <= 0.2, (ratio, differences)
        assert np.max(np.abs(differences)) <= 1, (ratio, differences)
        assert np.mean(dm_pix.ssim(ours, to_float(theirs))) >= 0.96, ratio


def test_jpeg2000_at_an_odd_size():
    image = data.coffee()[50:115, 200:290]
    quality = []
    for ratio in (6, 8, 16, 32, 45):
        ours = to_bytes(jitted_jpeg2000(to_float(image), np.float32(ratio)))
        quality.append(psnr(ours, image))
        theirs = through_jpeg2000(image, ratio)
        assert abs(quality[-1] - psnr(theirs, image)) <= 0.75
    assert np.all(np.diff(quality) < -0.5)  # a larger budget is used
    # With a budget for all passes the codec is lossless; flat images need little.
    output = jitted_jpeg2000(to_float(image), np.float32(1))
    np.testing.assert_array_equal(to_bytes(output), image)
    flat = np.full_like(image, (3, 77, 250))
    output = jitted_jpeg2000(to_float(flat), np.float32(45))
    np.testing.assert_array_equal(to_bytes(output), flat)


@pytest.mark.parametrize(
    ("height", "width"),
    [pytest.param(66, 75, marks=pytest.mark.slow), (48, 48), (2, 9)],
)
def test_jpeg2000_by_products_equals_jpeg2000_by_bands(height, width):
    """Where rounding moves the slope past a block, one more bit-plane differs."""
    rng = np.random.default_rng(width)
    shape = (height, width, 3)
    crop = data.astronaut()[100 : 100 + height, 180 : 180 + width]
    images = [crop, rng.integers(0, 256, shape), 255 * rng.integers(0, 2, shape)]
    planes = np.moveaxis(np.stack(images).astype(np.int32) - 128, -1, 1)
    by_products = jax.jit(jpeg2000_products.by_products)
    by_bands = jax.jit(jpeg2000_module._by_bands)
    for value in (1, 16, 45, 170):
        value = np.float32(value)
        found, expected = by_products(planes, value), by_bands(planes, value)
        np.testing.assert_array_equal(found[0], expected[0])
        assert np.abs(found - expected).mean() < 0.2


def test_cuts_in_two_steps_equal_the_bisection():
    rng = np.random.default_rng(0)
    n, blocks = 40, 31
    rates = 8 * np.cumsum(rng.integers(1, 60, (24, n, blocks)), 0, dtype=np.float32)
    gains = np.cumsum(rng.exponential(size=rates.shape), 0, dtype=np.float32)
    gains *= np.float32(1000)
    budget = rng.uniform(0, 1.2, n).astype(np.float32) * rates[-1].sum(-1)
    budget[0] = 0
    found = np.asarray(jax.jit(passes.cuts_in_two_steps)(rates, gains, budget))
    expected = np.asarray(jax.jit(passes.cuts)(rates, gains, budget))
    # Rounding may move a slope past one block of an image.
    assert (found != expected).mean() < 1e-3
    assert (found[0] == passes.NOTHING).all()


@pytest.mark.parametrize(
    ("codec", "values"),
    [(jpeg, (43, 4)), pytest.param(jpeg2000, (16, 45), marks=pytest.mark.slow)],
)
def test_a_crop_does_not_depend_on_its_company(codec, values):
    images = to_float(photographs(48, 8)).reshape(4, 2, 48, 48, 3)
    by_itself = jax.jit(lambda x, value: codec(None, x, value=value))
    alone = [
        by_itself(images[i, j], value) for i, value in enumerate(values) for j in (0, 1)
    ]
    alone = np.stack(alone).reshape(2, 2, 48, 48, 3)

    def one(x, index):  # as a chain calls it
        value = jnp.asarray(values)[index]
        branches = [lambda x, v: codec(None, x, value=v), lambda x, v: x]
        return jax.lax.switch(jnp.zeros_like(index), branches, x, value)

    def scan(x, index):
        return jax.lax.map(lambda pair: one(*pair), (x, index))

    mesh = jax.make_mesh(
        (2,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:2],
    )
    spec = jax.sharding.PartitionSpec("data")
    sharded = jax.shard_map(scan, mesh=mesh, in_specs=spec, out_specs=spec)
    for function in (jax.vmap(one), sharded):
        outputs = jax.jit(function)(images, jnp.array([0, 1, 0, 1]))
        np.testing.assert_array_equal(outputs[:2], alone)


def test_gradient_is_zero():
    image = to_float(photographs(16, 1)[0])
    gradient = jax.jit(jax.grad(lambda x: jpeg(None, x, value=24).sum()))(image)
    np.testing.assert_array_equal(gradient, 0)


def test_wavelet_is_reversible_and_has_the_norms_of_the_standard_filters():
    x = np.random.default_rng(0).integers(-128, 128, (2, 66, 75), np.int32)
    sheets = jax.jit(wavelet.analyse, static_argnums=1)(x, 5)
    values = [sheet.values_mRbC for sheet in sheets]
    restored = jax.jit(wavelet.synthesise, static_argnums=(1, 2, 3))(values, 66, 75, 5)
    np.testing.assert_array_equal(restored, x)
    # The tables of OpenJPEG for HL, LH, HH and, at the end, LL.
    norms = [norm for sheet in sheets for norm in sheet.norms]
    expected = [1.038, 1.038, 0.7186, 1.592, 1.592, 0.9218, 2.919, 2.919, 1.586]
    np.testing.assert_allclose(norms[:9], expected, rtol=1e-3)
    np.testing.assert_allclose(norms[-1], 21.34, rtol=1e-3)


@pytest.mark.parametrize(
    "shape", [pytest.param((66, 75), marks=pytest.mark.slow), (33, 64), (5, 9)]
)
def test_wavelet_by_products_equals_the_slices_and_is_reversible(shape):
    levels = min(shape).bit_length() - 1
    x = np.random.default_rng(0).integers(-128, 128, (2, *shape), np.int32)
    plane = jax.jit(wavelet_products.analyse, static_argnums=1)(x, levels)
    synthesise = jax.jit(wavelet_products.synthesise, static_argnums=(1, 2, 3))
    restored = synthesise(plane, *shape, levels)
    np.testing.assert_array_equal(restored, x)
    sheets = jax.jit(wavelet.analyse, static_argnums=1)(x, levels)
    rows, columns = wavelet_products.layout(*shape, levels)
    high = plane[
        :,
        rows.start[1] : rows.start[1] + rows.high[1],
        columns.start[1] : columns.start[1] + columns.high[1],
    ]
    expected = sheets[0].values_mRbC[:, : rows.high[1], 2, : columns.high[1]]
    np.testing.assert_array_equal(high, expected)
    # The same coefficients in all, with zeros between them.
    total = sum(np.abs(sheet.values_mRbC).sum() for sheet in sheets)
    assert np.abs(plane).sum() == total


def test_wavelet_equals_the_lifting_of_the_standard():
    x = np.random.default_rng(1).integers(-128, 128, 9)

    def at(signal, i):  # symmetric extension
        i = abs(i) % 16
        return int(signal[min(i, 16 - i)])

    y = x.copy()
    for i in range(1, 9, 2):
        y[i] = x[i] - (at(x, i - 1) + at(x, i + 1)) // 2
    for i in range(0, 9, 2):
        y[i] = x[i] + (at(y, i - 1) + at(y, i + 1) + 2) // 4
    plane = jnp.asarray(np.outer(np.ones(9, int), x)[None], jnp.int32)
    (sheet,) = jax.jit(wavelet.analyse, static_argnums=1)(
        plane, 1
    )  # HL, LH, HH and LL, all small
    np.testing.assert_array_equal(
        sheet.values_mRbC[0, :, 0, :4], np.tile(y[1::2], (5, 1))
    )
    np.testing.assert_array_equal(sheet.values_mRbC[0, :, 3], np.tile(y[::2], (5, 1)))
    np.testing.assert_array_equal(sheet.values_mRbC[0, :, 1:3], 0)
