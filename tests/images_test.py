"""Decoding: every mode becomes RGB, and every kind of damage gives a reason."""

import concurrent.futures
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from arniqa_jax.data import images
from arniqa_jax.errors import ImageError


def _encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _photo(height=24, width=40):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _decode(data):
    return images.decode_image(data, apply_orientation=True)


def _png_header(width, height):
    """A PNG that declares its size and holds no pixels."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", size), (b"IDAT", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_path_bytes_and_file_object_give_the_same_pixels(tmp_path):
    photo = _photo()
    data = _encode(Image.fromarray(photo))
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for file in (path, str(path), data, io.BytesIO(data)):
        decoded = _decode(file)
        assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, photo)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_by_its_range(kind):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    decoded = _decode(_encode(Image.fromarray(values), kind))
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoded, np.repeat(expected[..., None], 3, -1))


def test_16_bit_pgm_is_scaled_by_its_range():
    data = b"P5 3 1 65535\n" + struct.pack(">HHH", 65535, 257, 0)
    np.testing.assert_array_equal(_decode(data)[0, :, 0], [255, 1, 0])


@pytest.mark.parametrize(("scale", "top"), [(1.0, 1.0), (255.0, 255.0)])
def test_floating_point_is_read_by_0_to_1_or_0_to_255(scale, top):
    values = np.array([[0, 0.2, 1.0]], np.float32) * scale
    decoded = _decode(_encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 51, 255])
    assert values.max() == top


@pytest.mark.parametrize(
    "values",
    [np.float32([[-0.1, 1]]), np.float32([[0, np.nan]]), np.int32([[0, 70000]])],
)
def test_values_without_a_known_range_are_refused(values):
    with pytest.raises(ImageError, match="no known range"):
        _decode(_encode(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
    ],
)
def test_other_modes_are_pillows_conversion_to_rgb(mode, kind):
    image = Image.fromarray(_photo())
    if mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    else:
        image = image.convert(mode)
    decoded = _decode(_encode(image, kind))
    assert decoded.shape == (24, 40, 3)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_jpeg_of_inverted_cmyk_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    decoded = _decode(_encode(red, "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - (200, 30, 30)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_lies_over_black(mode):
    if mode == "P":  # palette with one transparent entry
        image = Image.new("P", (2, 1))
        image.putpalette([90, 90, 90, 200, 200, 200])
        image.putpixel((1, 0), 1)
        data, expected = _encode(image, transparency=1), [90, 0]
    else:
        gray = Image.fromarray(np.uint8([[90, 200]]))
        image = gray.convert("RGB").convert("RGBA")
        image.putalpha(Image.fromarray(np.uint8([[255, 0]])))
        kind = "TIFF" if mode == "PA" else "PNG"
        data, expected = _encode(image.convert(mode), kind), [90, 0]
    np.testing.assert_array_equal(_decode(data)[0, :, 1], expected)


def test_half_transparent_is_half_as_bright():
    data = _encode(Image.new("RGBA", (1, 1), (200, 100, 50, 128)))
    np.testing.assert_allclose(_decode(data)[0, 0], [100, 50, 25], atol=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), (level,) * 3) for level in (40, 120, 250)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(_decode(data), np.full((8, 8, 3), 40))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_where_asked_for(orientation):
    image = Image.fromarray(_photo())
    image.getexif()[0x0112] = orientation
    data = _encode(image, exif=image.getexif())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(_decode(data), upright)
    stored = images.decode_image(data, apply_orientation=False)
    np.testing.assert_array_equal(stored, _photo())


def test_damaged_exif_does_not_cost_the_photograph():
    photo = Image.fromarray(_photo())
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0"
    data = _encode(photo, "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"):  # which a command hides
        assert _decode(data).shape == (24, 40, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused(kind, share):
    data = _encode(Image.fromarray(_photo(64, 64)), kind)
    with pytest.raises(ImageError, match=r"^photo: (truncated|not an)"):
        images.decode_image(
            data[: int(len(data) * share)], apply_orientation=True, name="photo"
        )


def test_reasons_name_the_file(tmp_path):
    truncated = _encode(Image.fromarray(_photo(64, 64)))[:5000]
    cases = {
        "empty.png": (b"", "empty file"),
        "text.jpg": (b"this is not a picture", "not an image"),
        "cut.png": (truncated, "truncated: image file is truncated"),
        "huge.png": (_png_header(20_000, 10_001), "more than 200 million pixels"),
    }
    for file, (data, reason) in cases.items():
        path = tmp_path / file
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            _decode(path)
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)
        with pytest.raises(ImageError, match=reason):
            _decode(data)
    with pytest.raises(ImageError, match=r"missing\.png: unreadable: No such file"):
        _decode(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="unreadable: Is a directory"):
        _decode(tmp_path)


def test_as_many_pixels_as_allowed_and_not_one_more(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert _decode(_encode(Image.new("RGB", (10, 10)))).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="million pixels"):
        _decode(_encode(Image.new("RGB", (3, 34))))


def test_random_damage_raises_nothing_but_image_errors():
    rng = np.random.default_rng(0)
    originals = [
        _encode(Image.fromarray(_photo()), kind)
        for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
    ]
    refused = 0
    for data in originals * 50:
        damaged = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(data), 8)
        damaged[places] = rng.integers(0, 256, 8)
        damaged[rng.integers(0, min(64, len(data)))] ^= 255
        try:
            decoded = _decode(damaged.tobytes())
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert decoded.ndim == 3 and decoded.shape[2] == 3
    assert refused > 100


def test_decoding_in_threads_changes_no_setting_of_the_process(monkeypatch):
    """Not for a moment either: other threads decode and warn meanwhile."""
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    seen = []
    convert = images.from_pillow

    def look_and_convert(image, **options):
        seen.append((Image.MAX_IMAGE_PIXELS, list(warnings.filters)))
        return convert(image, **options)

    monkeypatch.setattr(images, "from_pillow", look_and_convert)
    data = _encode(Image.fromarray(_photo(200, 200)), "BMP")
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(_decode, [data] * 20))) == 20
    assert seen == [before] * 20


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "TGA"])
def test_opening_is_that_of_pillow(kind, tmp_path):
    data = _encode(Image.fromarray(_photo()), kind)
    (tmp_path / "photo").write_bytes(data)
    for file in (io.BytesIO(data), tmp_path / "photo"):
        with images.open_image(file) as ours, Image.open(io.BytesIO(data)) as theirs:
            assert ours.format == theirs.format == kind
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_the_limit_is_ours(monkeypatch):
    data = _encode(Image.fromarray(_photo()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert _decode(data).shape == (24, 40, 3)  # Pillow alone would refuse it
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 40 - 1)
    with pytest.raises(ImageError, match="million pixels"):
        _decode(data)
