"""Decoding for scores: colour profiles, deep gray, transparency, other formats."""

import io
import struct

import numpy as np
import pytest
import small_model
from PIL import Image, ImageCms

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.data import images
from arniqa_jax.scoring import pictures


def _encode(image, format="PNG", **options):
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _wide_gamut():
    """Returns an RGB profile (v2, gamma 2.2) whose green lies outside of sRGB."""
    # The matrix of Adobe RGB (1998), adapted to D50, by columns.
    primaries = {
        b"rXYZ": (0.60974, 0.31111, 0.01947),
        b"gXYZ": (0.20528, 0.62567, 0.06087),
        b"bXYZ": (0.14919, 0.06322, 0.74457),
        b"wtpt": (0.9642, 1.0, 0.8249),
    }

    def fixed(value):
        return round(value * 65536).to_bytes(4, "big", signed=True)

    tags = {
        name: b"XYZ \0\0\0\0" + b"".join(map(fixed, xyz))
        for name, xyz in primaries.items()
    }
    curve = b"curv\0\0\0\0" + (1).to_bytes(4, "big") + int(2.2 * 256).to_bytes(2, "big")
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve + b"\0\0")
    tags[b"desc"] = b"desc\0\0\0\0" + (2).to_bytes(4, "big") + b"w\0" + b"\0" * 80
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, body = len(tags).to_bytes(4, "big"), b""
    for name, content in tags.items():
        start = 128 + 4 + 12 * len(tags) + len(body)
        table += name + start.to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content + b"\0" * (-len(content) % 4)
    header = bytearray(128)
    header[8:12] = b"\x02\x10\0\0"
    header[12:24] = b"mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = b"".join(map(fixed, primaries[b"wtpt"]))
    header[0:4] = (len(header) + len(table) + len(body)).to_bytes(4, "big")
    return bytes(header) + table + body


def test_an_embedded_profile_is_converted_to_srgb():
    image = np.full((4, 4, 3), (100, 150, 200), np.uint8)
    data = _encode(Image.fromarray(image), icc_profile=_wide_gamut())
    found = pictures.decode(data)
    # By hand: to linear light by gamma 2.2, to XYZ by the profile's matrix, to linear
    # sRGB by the inverse of sRGB's (D50), to sRGB by its curve.
    linear = (image[0, 0] / 255) ** (int(2.2 * 256) / 256)
    matrix = np.array(
        [
            [0.60974, 0.20528, 0.14919],
            [0.31111, 0.62567, 0.06322],
            [0.01947, 0.06087, 0.74457],
        ]
    )
    srgb = np.array(
        [
            [0.43607, 0.38515, 0.14307],
            [0.22249, 0.71687, 0.06061],
            [0.01392, 0.09708, 0.71410],
        ]
    )
    rgb = np.clip(np.linalg.solve(srgb, matrix @ linear), 0, 1)
    curved = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(found[0, 0], 255 * curved, atol=1.5)
    assert np.abs(found[0, 0].astype(int) - image[0, 0]).max() > 20
    # Pre-training reads what is stored.
    stored = images.decode_image(data, apply_orientation=True)
    np.testing.assert_array_equal(stored, image)


def test_srgb_and_unusable_profiles_change_nothing():
    image = Image.fromarray(_noise(20, 20, 3))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = bytearray(_wide_gamut())
    gray[16:20] = b"GRAY"
    for profile in (srgb, b"no profile", srgb[:200], bytes(gray)):
        found = pictures.decode(_encode(image, icc_profile=profile))
        np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("size", [(9, 7)])
def test_deep_gray_is_scaled_by_its_range(size):
    width, height = size
    ramp = np.linspace(0, 1, width * height).reshape(height, width)
    expected = np.rint(ramp * 255)

    def check(data):
        found = pictures.decode(data)
        assert found.shape == (height, width, 3)
        np.testing.assert_allclose(found[..., 0], expected, atol=1)
        assert found.max() == 255

    check(_encode(Image.fromarray(np.rint(ramp * 65535).astype(np.uint16)), "PNG"))
    check(_tiff(np.rint(ramp * 4095).astype(np.uint16), bits=12))
    check(_tiff(np.rint(ramp * (2**32 - 1)).astype(np.uint32), bits=32))
    check(_encode(Image.fromarray((ramp * (2**31 - 1)).astype(np.int32)), "TIFF"))
    # Pillow keeps 16 bits in 32.
    check(_encode(Image.fromarray(np.rint(ramp * 65535).astype(np.int32)), "TIFF"))
    check(_encode(Image.fromarray(ramp.astype(np.float32)), "TIFF"))


def _tiff(gray, bits):
    """Returns an uncompressed TIFF of unsigned gray with 12 or 32 bits a sample."""
    height, width = gray.shape
    if bits == 12:
        rows = []
        for row in gray:
            text = "".join(f"{value:012b}" for value in row)
            text += "0" * (-len(text) % 8)
            rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
        pixels = b"".join(rows)
    else:
        pixels = gray.astype("<u4").tobytes()
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 1)]
    entries += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, height), (279, len(pixels))]
    directory = len(entries).to_bytes(2, "little")
    for tag, value in entries:
        directory += tag.to_bytes(2, "little") + b"\x04\0\x01\0\0\0"
        directory += value.to_bytes(4, "little")
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + pixels


def test_transparency_shows_the_background():
    pixels = _noise(6, 6, 4)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 255
    data = _encode(Image.fromarray(pixels))
    for text, color in (("white", 255), ("10, 20,30", (10, 20, 30)), ("black", 0)):
        background = pictures.parse_background(text)
        found = pictures.decode(data, background=background)
        np.testing.assert_array_equal(found[0, 0], np.broadcast_to(color, 3))
        np.testing.assert_array_equal(found[0, 1], pixels[0, 1, :3])
    # Over black the pixels are those of pre-training.
    stored = images.decode_image(data, apply_orientation=True)
    np.testing.assert_array_equal(pictures.decode(data), stored)


@pytest.mark.parametrize("text", ["red", "1,2", "1,2,256", "1,2,-3", ""])
def test_a_background_that_is_none(text):
    with pytest.raises(errors.UsageError, match="expected black, white, or R,G,B"):
        pictures.parse_background(text)


def test_the_api_takes_bytes_and_a_background(tmp_path):
    directory = small_model.write(tmp_path / "model", "live")
    pixels = _noise(40, 40, 4)
    data = _encode(Image.fromarray(pixels))
    model = arniqa_jax.load(directory, background="white")
    plain = pictures.decode(data, background=(255, 255, 255))
    np.testing.assert_array_equal(model.score([data]), model.score([plain]))
    assert model.score([data]) != arniqa_jax.load(directory).score([data])
    with pytest.raises(errors.ImageError, match="image 1: not an image"):
        model.score([data, b"text"])
    with pytest.raises(errors.UsageError, match="expected a list of images"):
        model.score(data)


def test_a_pillow_image_that_is_damaged_is_one_error():
    """Pillow decodes when the pixels are first needed; its plugins raise many types."""

    class Damaged(Image.Image):
        def load(self):
            raise struct.error("unpack requires a buffer of 4 bytes")

    with pytest.raises(errors.ImageError, match="image 3: unpack requires a buffer"):
        pictures.to_array(Damaged(), "image 3")


def test_formats_of_an_extra_say_what_is_missing(tmp_path, monkeypatch):
    for package in ("pillow_heif", "rawpy"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    for name, extra in (("a.heic", "heif"), ("a.DNG", "raw")):
        path = tmp_path / name
        path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
        with pytest.raises(errors.ImageError, match=rf"arniqa_jax\[{extra}\]"):
            pictures.decode(path)
    with pytest.raises(errors.ImageError, match=r"image 0: .*arniqa_jax\[heif\]"):
        pictures.to_array((tmp_path / "a.heic").read_bytes(), "image 0")


def test_an_image_with_the_name_of_another_format_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    image = _noise(4, 4, 3)
    (tmp_path / "a.heic").write_bytes(_encode(Image.fromarray(image)))
    np.testing.assert_array_equal(pictures.decode(tmp_path / "a.heic"), image)


def test_heif_is_decoded_where_its_package_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    y, x = np.mgrid[:64, :96] * 2
    image = np.stack([x, y, x], axis=-1).astype(np.uint8)
    path = tmp_path / "a.heic"
    heif.from_pillow(Image.fromarray(image)).save(path, quality=100)
    # Another library in this process may have registered HEIF with Pillow; we do not.
    registered = dict(Image.registered_extensions())
    found = pictures.decode(path).astype(int)
    assert np.abs(found - image).mean() < 3
    assert Image.registered_extensions() == registered
    path.rename(tmp_path / "a.jpg")
    for other in (tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes()):
        np.testing.assert_array_equal(pictures.to_array(other, "image 0"), found)


def _dng(height, width):
    """Returns a raw file (DNG): a sensor with a Bayer pattern that sees equal gray."""
    sensor = np.full((height, width), 30_000, "<u2").tobytes()
    short, long, byte, text, pair, signed = 3, 4, 1, 2, 5, 10
    one = struct.pack("<II", 1, 1)
    eye = [one if k % 4 == 0 else struct.pack("<II", 0, 1) for k in range(9)]
    tags = [(256, long, [width]), (257, long, [height]), (258, short, [16])]
    tags += [(259, short, [1]), (262, short, [32803]), (271, text, b"Test\0")]
    tags += [(272, text, b"Test\0"), (273, long, None), (277, short, [1])]
    tags += [(278, long, [height]), (279, long, [len(sensor)])]
    tags += [(33421, short, [2, 2]), (33422, byte, bytes([0, 1, 1, 2]))]
    tags += [(50706, byte, bytes([1, 4, 0, 0])), (50708, text, b"Test\0")]
    tags += [(50717, short, [65535]), (50721, signed, eye), (50728, pair, [one] * 3)]
    tags += [(50778, short, [21])]
    start = 8 + 2 + 12 * len(tags) + 4
    directory, rest = struct.pack("<H", len(tags)), b""
    size = sum(8 * len(v) for _, kind, v in tags if kind in (pair, signed))
    size += sum(
        len(v) + len(v) % 2 for _, _, v in tags if isinstance(v, bytes) and v[4:]
    )
    for tag, kind, values in tags:
        if values is None:
            values = [start + size]
        if kind in (short, long):
            content = struct.pack(f"<{len(values)}{'HI'[kind == long]}", *values)
        else:
            content = values if isinstance(values, bytes) else b"".join(values)
        directory += struct.pack("<HHI", tag, kind, len(values))
        if len(content) > 4:
            directory += struct.pack("<I", start + len(rest))
            rest += content + b"\0" * (len(content) % 2)
        else:
            directory += content.ljust(4, b"\0")
    assert len(rest) == size
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + rest + sensor


def test_raw_files_are_developed_where_the_package_is_installed(tmp_path):
    pytest.importorskip("rawpy", reason="the extra raw is not installed")
    path = tmp_path / "a.dng"
    path.write_bytes(b"damaged")
    with pytest.raises(errors.ImageError, match=r"a\.dng: unreadable: [A-Z]"):
        pictures.decode(path)
    path.write_bytes(_dng(48, 64))
    found = pictures.decode(path)
    assert found.shape == (48, 64, 3) and found.dtype == np.uint8
    inside = found[4:-4, 4:-4].astype(int)
    assert inside.std() < 2 and 100 < inside.mean() < 256  # gray
    np.testing.assert_array_equal(
        pictures.decode(path.read_bytes(), name="a.DNG"), found
    )
