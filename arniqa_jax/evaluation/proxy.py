"""The built-in proxy: a labelled dataset made from the built-in photographs.

Seven photographs x 24 distortions x 5 levels = 840 images of 256 x 256 pixels, scored
by SSIM to the original. The proxy replaces human opinions if no labelled dataset is
available. It is called a proxy wherever it is printed, because SSIM is not an opinion.
It has one split by content, given by the roles in `photos.BUILTIN`. The regressor is
fitted on the contents that pre-training may see. Penalty and checkpoint are chosen on
one content. The figures are those of two contents that neither has seen.
"""

import dataclasses
import functools
import hashlib
import pathlib
import secrets
import shutil

import numpy as np
from absl import logging
from PIL import Image

from arniqa_jax import degradation
from arniqa_jax.data.photos import BUILTIN, builtin_photo
from arniqa_jax.datasets.labelled import PROXY, Benchmark
from arniqa_jax.datasets.splits import from_parts

# The size is larger than the crops of the paper, so that the five crops differ a
# little. It is small enough that the whole set is made in a minute, and that a small
# encoder embeds it in seconds.
SIZE = 256
_SEED = 27
_IMAGES, _SCORES = "images.npy", "scores.npy"


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """Images of one size in a .npy file."""

    path: pathlib.Path
    names: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(np.load(self.path, mmap_mode="r")[index])

    def stamps(self) -> list[str]:
        return [self.digest] * len(self)


def open_proxy(cache_dir: pathlib.Path) -> Benchmark:
    """Return the proxy; the first call makes it in `cache_dir`."""
    contents = {name: _square(builtin_photo(name)) for name in BUILTIN}
    digest = _digest(contents)
    directory = pathlib.Path(cache_dir) / f"proxy-{digest[:16]}"
    if not _is_complete(directory):
        _make(contents, directory)
    kinds = [
        (d.name, d.group, level)
        for d in degradation.CATALOGUE.values()
        for level in range(1, len(d.levels) + 1)
    ]
    of_image = [(content, *kind) for content in BUILTIN for kind in kinds]
    names = tuple(f"{content}/{name}/{level}" for content, name, _, level in of_image)
    roles = [BUILTIN[content].role for content, *_ in of_image]
    return Benchmark(
        name="builtin",
        title="proxy",
        kind=PROXY,
        images=StoredImages(directory / _IMAGES, names, digest),
        scores_N=np.load(directory / _SCORES),
        higher_is_better=True,
        score_range=(0.0, 1.0),
        contents=tuple(content for content, *_ in of_image),
        splits=(from_parts(roles, seed=_SEED),),
        split_origin="by the role of the photographs",
        types=tuple(name for _, name, _, _ in of_image),
        groups=tuple(group for _, _, group, _ in of_image),
        levels_N=np.array([level for *_, level in of_image], np.int32),
        references=_Originals(tuple(BUILTIN)),
        reference_N=np.repeat(np.arange(len(BUILTIN)), len(kinds)),
    )


@dataclasses.dataclass(frozen=True)
class _Originals:
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return _square(builtin_photo(self.names[index]))

    def stamps(self) -> list[str]:
        return [hashlib.sha256(self[i].tobytes()).hexdigest() for i in range(len(self))]


def _square(photo: np.ndarray) -> np.ndarray:
    """Return the largest centred square, resized to SIZE pixels."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return np.array(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _digest(contents: dict[str, np.ndarray]) -> str:
    """Return a digest of all pixels, levels, roles and the code of the degradations."""
    digest = hashlib.sha256(f"{SIZE} {_SEED}".encode())
    for name, image in contents.items():
        digest.update(f"{name} {BUILTIN[name].role}".encode() + image.tobytes())
    for source in sorted(pathlib.Path(degradation.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _ssim_window():
    """Return dm_pix's Gaussian window (11 pixels, sigma 1.5) as two matrix products.

    dm_pix's own convolution takes a second for seven images, a hundred times as long.
    """
    import jax
    import jax.numpy as jnp

    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    rows = np.arange(SIZE - 10)
    band = np.zeros((SIZE - 10, SIZE), np.float32)
    for offset, tap in enumerate(taps / taps.sum()):
        band[rows, rows + offset] = tap
    window = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return lambda z_NHWC: window("yh,xw,nhwc->nyxc", band, band, z_NHWC)


def _is_complete(directory: pathlib.Path) -> bool:
    """Return whether the proxy exists; remove one that a crash has damaged."""
    if not directory.is_dir():
        return False
    try:
        images = np.load(directory / _IMAGES, mmap_mode="r")
        if len(images) == len(np.load(directory / _SCORES)):
            return True
        reason = "fewer images than scores"
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    logging.warning("%s is damaged (%s): making it again", directory, reason)
    shutil.rmtree(directory)
    return False


def _make(contents: dict[str, np.ndarray], directory: pathlib.Path) -> None:
    import dm_pix
    import jax
    import jax.numpy as jnp

    logging.info("making the proxy: %d photographs, every distortion", len(contents))
    photos_NHWC = np.stack(list(contents.values()))
    originals = jnp.asarray(photos_NHWC, jnp.float32) / 255
    key = jax.random.key(_SEED)
    images, scores = [], []
    ssim = jax.jit(functools.partial(dm_pix.ssim, filter_fn=_ssim_window()))
    for i, distortion in enumerate(degradation.CATALOGUE.values()):
        for level in range(1, len(distortion.levels) + 1):
            level_key = jax.random.fold_in(jax.random.fold_in(key, i), level)
            distorted = degradation.distort(
                level_key, originals, name=distortion.name, level=level
            )
            rounded = jnp.round(distorted * 255)
            images.append(np.asarray(rounded, np.uint8))
            scores.append(np.asarray(ssim(originals, rounded / 255), np.float64))
    # (distortion and level, content) to (content, distortion and level).
    images = np.stack(images, axis=1).reshape(-1, *photos_NHWC.shape[1:])
    aside = directory.with_name(f"{directory.name}.{secrets.token_hex(4)}")
    aside.mkdir(parents=True)
    np.save(aside / _IMAGES, images)
    np.save(aside / _SCORES, np.stack(scores, axis=1).ravel())
    try:
        aside.rename(directory)
    except OSError:
        # Another process has made the same set in the meantime.
        if not directory.is_dir():
            raise
        shutil.rmtree(aside)
