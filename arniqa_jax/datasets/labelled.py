"""A labelled dataset once it is open: its images, scores, contents and splits."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from arniqa_jax.data.images import decode_image
from arniqa_jax.datasets.splits import Split
from arniqa_jax.storage.bucket_paths import AnyPath, BucketPath

# Kinds of dataset; the tables average over the datasets of a kind.
SYNTHETIC, AUTHENTIC, CUSTOM, PROXY = "synthetic", "authentic", "custom", "proxy"


class Images(Protocol):
    """Random access to decoded images, uint8 (H, W, 3) of any size."""

    names: Sequence[str]  # relative paths, unique

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    def stamps(self) -> list[str]:
        """Return one string per image, which changes if the image changes."""


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Images decoded from files; EXIF orientation is not applied, as in the paper."""

    root: AnyPath
    names: tuple[str, ...]
    shorter_side: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        path = str(self.root / self.names[index])
        image = decode_image(path, apply_orientation=False)
        if not self.shorter_side:
            return image
        height, width = image.shape[:2]
        scale = self.shorter_side / min(height, width)
        size = (
            max(self.shorter_side, int(width * scale)),
            max(self.shorter_side, int(height * scale)),
        )
        return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def stamps(self) -> list[str]:
        return [_stamp(self.root / name) for name in self.names]


def _stamp(path: AnyPath) -> str:
    if isinstance(path, BucketPath):
        return path.stamp()
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An open labelled dataset.

    Shapes: N images.

    Attributes:
      name: key in `catalogue.DATASETS`, `builtin`, or the name of a custom dataset's
        folder.
      title: name in tables.
      kind: synthetic, authentic, custom or proxy.
      images: the images, in the order of all other attributes.
      scores_N: float64, as published, in their original unit and direction.
      higher_is_better: direction of the scores.
      score_range: scores at which the public score is 0 and 1 (or 1 and 0).
      contents: the name of the photograph that each image shows.
      types: distortion type of each image; empty for authentic images.
      groups: distortion group of each image.
      levels_N: distortion level, 0 if not known.
      references: pristine photographs, or None.
      reference_N: index of each image's reference in `references`.
      splits: train, validation and test parts.
      split_origin: `official`, or how they were drawn.
      note: what is missing compared with the published dataset; empty if nothing.
      remark: how the scores were obtained; empty if there is nothing to say.
      averaged: whether the published averages include this dataset.
      allow_partial: whether images that cannot be decoded are left out.
    """

    name: str
    title: str
    kind: str
    images: Images
    scores_N: np.ndarray
    higher_is_better: bool
    score_range: tuple[float, float]
    contents: tuple[str, ...]
    splits: tuple[Split, ...]
    split_origin: str
    types: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    levels_N: np.ndarray | None = None
    references: Images | None = None
    reference_N: np.ndarray | None = None
    note: str = ""
    remark: str = ""
    averaged: bool = False
    allow_partial: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, scores and splits, equal on every machine."""
        digest = hashlib.sha256(self.name.encode())
        for name, score in zip(self.images.names, self.scores_N, strict=True):
            digest.update(f"{name}\0{score!r}\n".encode())
        for split in self.splits:
            for part, indices in split.parts().items():
                digest.update(part.encode() + indices.astype("<i8").tobytes())
        return digest.hexdigest()
