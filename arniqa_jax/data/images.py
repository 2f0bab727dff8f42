"""Decoding of image files. No other module of the package decodes images."""

import contextlib
import io
import os
import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from arniqa_jax.errors import BucketError, ImageError, one_line
from arniqa_jax.storage import buckets

MAX_PIXELS = 200_000_000

_ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> whether to transpose, then to reverse rows, to reverse columns.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def decode_image(
    file: str | os.PathLike | bytes | BinaryIO,
    *,
    apply_orientation: bool,
    name: str | None = None,
    opener: Callable | None = None,
    to_rgb: Callable[[Image.Image], np.ndarray] | None = None,
) -> np.ndarray:
    """Return one image of any mode that Pillow reads, as RGB.

    16-bit gray is scaled from 0..65535 to 0..255. Floating point is scaled from 0..1,
    or from 0..255 if it has values above 1. Transparent images are composed over black.
    Of an animation, the first frame is decoded.

    Args:
      file: a path, a URL, the encoded bytes or an open binary file.
      apply_orientation: whether to turn the image as its EXIF tag says.
      name: the name of the image in an error; by default the path or URL.
      opener: a function from a path or stream to a Pillow image; by default
        `open_image`.
      to_rgb: a function from the loaded image to uint8 (H, W, 3); by default the rules
        above.

    Returns:
      uint8 (H, W, 3), RGB.

    Raises:
      ImageError: the file is empty, not an image, truncated, larger than `MAX_PIXELS`
        or unreadable; the message begins with the name.
      ArniqaError: the package for this kind of URL is not installed.
    """
    if name is None:
        is_path = isinstance(file, str | os.PathLike)
        name = os.fspath(file) if is_path else getattr(file, "name", "image")
    if buckets.is_url(file):
        file = read_url(file)
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with (opener or open_image)(stream) as image:
            return from_pillow(
                image, apply_orientation=apply_orientation, to_rgb=to_rgb
            )
    except Exception as error:
        # Decoders raise many types of error for damaged files (OSError, SyntaxError,
        # struct.error, IndexError ...). All become an ImageError, because one bad file
        # must not end a long run.
        raise ImageError(f"{name}: {_reason(error, stream)}") from error


def read_url(url: str, read: Callable[[str], bytes] = buckets.read) -> bytes:
    """Return the content of a file behind a URL, read by `read`.

    Raises:
      ImageError: it cannot be read; the message begins with the URL.
    """
    try:
        return read(url)
    except BucketError as error:
        raise ImageError(str(error)) from error


def from_pillow(
    image: Image.Image,
    *,
    apply_orientation: bool,
    to_rgb: Callable[[Image.Image], np.ndarray] | None = None,
) -> np.ndarray:
    """Return an open image as `decode_image` does; raise what Pillow raises."""
    image.load()
    pixels = (to_rgb or _to_rgb)(image)
    orientation = image.getexif().get(_ORIENTATION, 1)
    if apply_orientation and orientation in _TURNS:
        exchange, *reverse = _TURNS[orientation]
        pixels = pixels.swapaxes(0, 1) if exchange else pixels
        pixels = np.flip(pixels, np.flatnonzero(reverse))
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        limit = 65535 if image.mode != "F" else 1 if values.max() <= 1 else 255
        if not (values.min() >= 0 and values.max() <= limit):
            raise ValueError(
                f"values from {values.min():g} to {values.max():g} have no known range"
            )
        gray = np.rint(values * (255 / limit)).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _reason(error: Exception, stream: str | os.PathLike | BinaryIO) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} million pixels"
    if isinstance(error, UnidentifiedImageError):
        is_path = isinstance(stream, str | os.PathLike)
        empty = not (
            os.path.getsize(stream) if is_path else stream.seek(0, io.SEEK_END)
        )
        return "empty file" if empty else "not an image, or of an unknown format"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return f"unreadable: {error.strerror}"
    if "truncated" in str(error).lower():
        return f"truncated: {one_line(error)}"
    if "decoder object" in str(error):
        # Pillow gives no other reason for a WebP whose data do not match its header.
        return "truncated or damaged"
    return f"unreadable: {one_line(error)}"


def open_image(file: str | os.PathLike | BinaryIO) -> Image.Image:
    """Open an image as `Image.open` does, but with `MAX_PIXELS` as its limit.

    `Image.open` takes its limit from a setting of the whole process, and warns of half
    of it.
    """
    if isinstance(file, str | os.PathLike):
        with contextlib.ExitStack() as stack:
            image = open_image(stack.enter_context(open(file, "rb")))
            image._exclusive_fp = True  # closing the image closes the file
            stack.pop_all()
            return image
    file.seek(0)
    start = file.read(16)
    seen = set()
    # First the common formats, then all.
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for kind in [kind for kind in Image.ID if kind not in seen]:
            seen.add(kind)
            make, accepts = Image.OPEN[kind]
            try:
                accepted = not accepts or accepts(start)
                # A string says why a file of this format cannot be read.
                if not accepted or isinstance(accepted, str):
                    continue
                file.seek(0)
                image = make(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # of another format after all
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return image
    raise UnidentifiedImageError
