"""Compare JPEG and JPEG 2000 with Pillow's round trip: agreement and cost.

    taskset -c 0 python benchmarks/codecs.py [--photos=DIR]

Each photograph in DIR gives one crop; the default is scikit-image's photographs. The
table has a row per level: the fraction of values that differ from Pillow's; the PSNR to
the original (ours minus Pillow's: mean, minimum, maximum); the mean SSIM between the
two outputs; the time per crop divided by that of Pillow's JPEG 2000 round trip of the
same crops at 16:1 in this run; and the peak of temporary memory.
"""

import io
import pathlib
import time

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image
from skimage import data

from arniqa_jax.degradation.codecs import jpeg, jpeg2000

PHOTOS = flags.DEFINE_string("photos", "", "Folder of photographs, searched for PNG.")
CROPS = flags.DEFINE_integer("crops", 48, "Number of crops, a multiple of 4.")
SIZE = flags.DEFINE_integer("size", 224, "Height and width of a crop.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed passes; the fastest counts.")

LEVELS = {jpeg: (43, 36, 24, 7, 4), jpeg2000: (16, 32, 45, 120, 170)}


def photographs() -> list[np.ndarray]:
    if not PHOTOS.value:
        return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    paths = sorted(pathlib.Path(PHOTOS.value).rglob("*.png"))
    if not paths:
        raise app.UsageError(f"--photos: no PNG under {PHOTOS.value}")
    paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    return [np.asarray(Image.open(p).convert("RGB")) for p in paths[: CROPS.value]]


def crops() -> np.ndarray:
    """Return the crops, (CROPS, SIZE, SIZE, 3) uint8."""
    photos = photographs()
    rng = np.random.default_rng(1)
    size = SIZE.value
    chosen = []
    for index in range(CROPS.value):
        photo = photos[index % len(photos)]
        row, column = (rng.integers(n - size + 1) for n in photo.shape[:2])
        chosen.append(photo[row : row + size, column : column + size])
    return np.stack(chosen)


def pillow(codec, image: np.ndarray, value: int) -> np.ndarray:
    options = {"format": "JPEG", "quality": value}
    if codec is jpeg2000:
        options = {
            "format": "JPEG2000",
            "quality_mode": "rates",
            "quality_layers": [value],
            "irreversible": False,
            "mct": 0,
            "num_resolutions": min(7, min(image.shape[:2]).bit_length() - 1) + 1,
        }
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return np.asarray(Image.open(io.BytesIO(file.getvalue())))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def main(argv):
    del argv
    images = crops()
    batches = jnp.asarray(images, jnp.float32).reshape(-1, 4, *images.shape[1:]) / 255
    yardstick = min(
        sum(seconds(pillow, jpeg2000, image, 16) for image in images)
        for _ in range(REPEATS.value)
    )
    print(
        f"{len(images)} crops of {SIZE.value}x{SIZE.value}; Pillow's JPEG 2000 at 16:1"
        f" takes {1e3 * yardstick / len(images):.1f} ms a crop on this machine"
    )
    print(
        "codec     value  unequal  PSNR mean    min    max    SSIM   cost  MB per crop"
    )
    for codec, values in LEVELS.items():
        function = jax.jit(lambda x, value, codec=codec: codec(None, x, value=value))
        memory = function.lower(batches[0], 1.0).compile().memory_analysis()
        for value in values:
            ours = np.concatenate([function(x, float(value)) for x in batches])
            theirs = np.stack([pillow(codec, image, value) for image in images])
            unequal = np.mean(np.round(255 * ours) != theirs)
            error, reference = (
                np.mean((255.0 * x - images) ** 2, (1, 2, 3))
                for x in (ours, theirs / 255)
            )
            difference = 10 * np.log10(
                np.maximum(reference, 1e-3) / np.maximum(error, 1e-3)
            )
            ssim = np.mean(dm_pix.ssim(ours, np.float32(theirs) / 255))
            cost = min(
                sum(seconds(function, x, float(value)) for x in batches)
                for _ in range(REPEATS.value)
            )
            print(
                f"{codec.__name__:8}  {value:5}  {unequal:7.2%}"
                f"  {difference.mean():+9.2f}"
                f"  {difference.min():+.2f}  {difference.max():+.2f}  {ssim:.4f}"
                f"  {cost / yardstick:.3f}  {memory.temp_size_in_bytes / 4e6:11.1f}"
            )


if __name__ == "__main__":
    app.run(main)
