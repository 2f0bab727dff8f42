"""Decode a file, bytes, a Pillow image or an array to the sRGB pixels that are scored.

Pre-training and labelled datasets use pixels as they are stored. A score predicts what
a person sees, so scoring also applies what the file says about its colours. All results
are uint8 (H, W, 3).
"""

import contextlib
import functools
import io
import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from arniqa_jax import errors
from arniqa_jax.data import images

# The types of image that `Scorer.score` accepts.
Picture = str | os.PathLike | bytes | Image.Image | np.ndarray
RGB = tuple[int, int, int]

BLACK: RGB = (0, 0, 0)
_NAMED_COLORS = {"black": BLACK, "white": (255, 255, 255)}
_TIFF_BITS_PER_SAMPLE, _TIFF_SAMPLE_FORMAT = 258, 339
_UNSIGNED = 1


def parse_background(text: str) -> RGB:
    """Return the colour that `black`, `white` or `R,G,B` (each 0..255) names.

    Raises:
      UsageError: the text is none of these.
    """
    if text in _NAMED_COLORS:
        return _NAMED_COLORS[text]
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() for p in parts):
        values = ()
    else:
        values = tuple(int(part) for part in parts)
    if not values or max(values) > 255:
        raise errors.UsageError(
            f"background={text!r}: expected black, white, or R,G,B from 0 to 255, for "
            "example 128,128,128"
        )
    return values


def decode(
    file: str | os.PathLike | bytes, *, background: RGB = BLACK, name: str | None = None
) -> np.ndarray:
    """Decode an image as people see it.

    Rules beyond those of `images.decode_image`: the EXIF orientation is applied, an
    embedded colour profile is converted to sRGB, gray of 12 and of 32 bits is scaled by
    its range, and transparent pixels show the background.

    Args:
      file: a path, a URL or the encoded bytes.
      background: shown by transparent pixels.
      name: what to call the image in an error; a path by default.

    Returns:
      uint8 (H, W, 3), sRGB.

    Raises:
      ImageError: the file cannot be decoded; the message begins with the name.
    """
    return images.decode_image(
        file,
        apply_orientation=True,
        name=name,
        opener=_opener_of(name or file),
        to_rgb=functools.partial(to_srgb, background=background),
    )


def to_array(image: Picture, name: str, background: RGB = BLACK) -> np.ndarray:
    """Return the pixels of an image, uint8 (H, W, 3), sRGB.

    Args:
      image: a path, encoded bytes, a Pillow image, or an array (H, W, 3) of uint8 or of
        float in [0, 1].
      name: what to call the image in an error; a path has its own name.
      background: shown by transparent pixels.

    Raises:
      ImageError: the image cannot be read, or the array has another form.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), background=background, name=name)
    if isinstance(image, str | os.PathLike):
        return decode(image, background=background)
    if isinstance(image, Image.Image):
        to_rgb = functools.partial(to_srgb, background=background)
        try:
            return images.from_pillow(image, apply_orientation=True, to_rgb=to_rgb)
        except Exception as error:  # of many types if Pillow decodes only now
            reason = errors.one_line(error)
            raise errors.ImageError(f"{name}: {reason}") from error
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise errors.ImageError(
            f"{name}: expected an array (H, W, 3), found {array.shape}"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise errors.ImageError(
            f"{name}: expected uint8, or floating point in [0, 1], found "
            f"{array.dtype} from {array.min():g} to {array.max():g}"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


# --- Colours ------------------------------------------------------------------------


def to_srgb(image: Image.Image, *, background: RGB = BLACK) -> np.ndarray:
    """Return a loaded Pillow image of any mode as sRGB, uint8 (H, W, 3).

    Raises:
      ValueError: the gray values fit no known range.
    """
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_gray_to_8_bits(image))
    if not image.has_transparency_data:
        return np.array(_apply_profile(image, profile))
    rgba = image.convert("RGBA")
    visible = _apply_profile(rgba.convert("RGB"), profile)
    visible.putalpha(rgba.getchannel("A"))
    behind = Image.new("RGBA", image.size, (*background, 255))
    return np.array(Image.alpha_composite(behind, visible).convert("RGB"))


def _gray_to_8_bits(image: Image.Image) -> np.ndarray:
    """Return gray values scaled to 0..255.

    Integers are scaled by the range of their bits, floats by 0..1 or 0..255.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})  # tags of a TIFF
    if image.mode == "F":
        limit = 1 if values.max() <= 1 else 255
    elif image.mode == "I":
        unsigned = tags and tags.get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
        if unsigned:
            values = values.view(np.uint32)  # Pillow reads them as signed
        # Pillow also uses this mode for 16 bits, and writes them as 32.
        limit = 65535 if values.max() <= 65535 else 2 ** (32 if unsigned else 31) - 1
    else:
        bits = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]
        limit = 2**bits - 1 if 8 < bits < 16 else 65535
    if not (values.min() >= 0 and values.max() <= limit):
        raise ValueError(
            f"values from {values.min():g} to {values.max():g} have no known range"
        )
    return np.rint(values.astype(np.float64) * (255 / limit)).astype(np.uint8)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image in sRGB; without a usable profile it is assumed to be sRGB."""
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image.convert(transform.input_mode), transform)


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None for no conversion.

    There is no conversion if the profile is damaged or has another colour model than
    the image (browsers ignore such a profile too). There is none either if the profile
    is so close to sRGB that no value changes by more than 1 of 255.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and mode != "CMYK":
            input_mode = "RGB"
        elif (space, mode) in (("GRAY", "L"), ("CMYK", "CMYK")):
            input_mode = mode
        else:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            input_mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if input_mode != "CMYK":
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 18, 3)
        grid = Image.fromarray(grid).convert(input_mode)
        change = np.asarray(ImageCms.applyTransform(grid, transform)).astype(int)
        change -= np.asarray(grid.convert("RGB"))
        if np.abs(change).max() <= 1:
            return None
    return transform


# --- Formats that need an extra -----------------------------------------------------

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
RAW_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw"),
    *(".rw2", ".srw"),
)


# The codecs that a HEIF file names in its first bytes.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")


def _opener_of(name: object):
    """Return the function that opens a file of this name, given a path or a stream."""
    suffix = ""
    if isinstance(name, str | os.PathLike):
        suffix = os.path.splitext(os.fspath(name))[1].lower()
    if suffix in RAW_SUFFIXES:
        return _open_raw
    return functools.partial(_open_by_content, is_named_heif=suffix in HEIF_SUFFIXES)


def _open_by_content(
    file: str | os.PathLike | BinaryIO, *, is_named_heif: bool
) -> Image.Image:
    """Open a file by what is in it: telephones name JPEG and HEIF like each other."""
    if not _is_heif(file):
        try:
            return images.open_image(file)
        except UnidentifiedImageError:
            if not is_named_heif:
                raise
    return _open_heif(file)


def _is_heif(file: str | os.PathLike | BinaryIO) -> bool:
    with contextlib.ExitStack() as stack:
        if isinstance(file, str | os.PathLike):
            file = stack.enter_context(open(file, "rb"))
        file.seek(0)
        start = file.read(64)
        file.seek(0)
    # A list of brands follows the length, `ftyp`, the main brand and its version.
    return start[4:8] == b"ftyp" and any(brand in start[8:] for brand in _HEIF_BRANDS)


def _open_heif(file: str | os.PathLike | BinaryIO) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise OSError("HEIF needs pip install 'arniqa_jax[heif]'") from error
    # Registering the opener with Pillow would change the whole process.
    opened = pillow_heif.open_heif(file)
    _check_size(*opened.size)
    return opened.to_pillow()


def _open_raw(file: str | os.PathLike | BinaryIO) -> Image.Image:
    try:
        import rawpy
    except ImportError as error:
        raise OSError(
            "a camera's raw file needs pip install 'arniqa_jax[raw]'"
        ) from error
    file = os.fspath(file) if isinstance(file, os.PathLike) else file
    try:
        with rawpy.imread(file) as raw:
            _check_size(raw.sizes.width, raw.sizes.height)
            return Image.fromarray(raw.postprocess(use_camera_wb=True))
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else "damaged"
        raise OSError(
            reason.decode() if isinstance(reason, bytes) else reason
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > images.MAX_PIXELS:
        raise Image.DecompressionBombError
