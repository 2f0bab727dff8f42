"""Train, validation and test parts of a labelled dataset.

The official splits are the files `train.npy`, `val.npy` and `test.npy` of (splits, n)
indices into the rows of the label file, padded with -1. If they are missing, splits are
drawn by reference content from a seed, so that distorted versions of one photograph are
always in the same part.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage.bucket_paths import AnyPath

PARTS = ("train", "validation", "test")
_OFFICIAL_FILES = {"train": "train.npy", "validation": "val.npy", "test": "test.npy"}


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices of the images of each part, int64."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in PARTS}


def find_official(folder: AnyPath) -> AnyPath | None:
    """Return the `splits` folder of a dataset, in any letter case, or None."""
    for candidate in folder.iterdir():
        if candidate.is_dir() and candidate.name.lower() == "splits":
            return candidate
    return None


def read_official(folder: AnyPath, contents: Sequence[str]) -> tuple[Split, ...]:
    """Return the splits in the three split files in `folder`, after validation.

    Args:
      folder: contains `train.npy`, `val.npy` and `test.npy`.
      contents: the reference content of every row of the label file.

    Raises:
      DatasetError: a file is missing or is not an integer array; the numbers of splits
        differ; an index is out of range, occurs twice in a split, or has a content that
        is also in another part. The message names the first such index.
    """
    arrays = {}
    for part, file in _OFFICIAL_FILES.items():
        path = folder / file
        try:
            array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except FileNotFoundError:
            raise errors.DatasetError(
                f"{path}: missing; expected train.npy, val.npy and test.npy (or no "
                f"splits folder, for splits drawn from the seed)"
            ) from None
        except (ValueError, EOFError) as error:
            raise errors.DatasetError(f"{path}: not a .npy array: {error}") from error
        if array.ndim not in (1, 2) or array.dtype.kind not in "iu":
            raise errors.DatasetError(
                f"{path}: expected integers of shape (splits, n) or (n,), found "
                f"{array.dtype} {array.shape}"
            )
        arrays[part] = np.atleast_2d(array).astype(np.int64)
    lengths = {part: len(array) for part, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise errors.DatasetError(f"{folder}: the numbers of splits differ: {lengths}")
    splits = []
    for number in range(lengths["train"]):
        rows = {part: array[number] for part, array in arrays.items()}
        # -1 is padding.
        split = Split(
            **{part: indices[indices != -1] for part, indices in rows.items()}
        )
        _validate(folder, number, split, contents)
        splits.append(split)
    return tuple(splits)


def _validate(folder, number: int, split: Split, contents: Sequence[str]) -> None:
    part_of_index: dict[int, str] = {}
    part_of_content: dict[str, str] = {}
    for part, indices in split.parts().items():
        where = f"{folder / _OFFICIAL_FILES[part]}: split {number}"
        for index in indices.tolist():
            if not 0 <= index < len(contents):
                raise errors.DatasetError(
                    f"{where}: index {index} is out of range, the label file has "
                    f"{len(contents)} rows"
                )
            if index in part_of_index:
                raise errors.DatasetError(
                    f"{where}: index {index} is also in the {part_of_index[index]} part"
                )
            part_of_index[index] = part
            content = contents[index]
            if part_of_content.setdefault(content, part) != part:
                raise errors.DatasetError(
                    f"{where}: index {index} shows {content!r}, which is also in the "
                    f"{part_of_content[content]} part"
                )
        if not len(indices):
            raise errors.DatasetError(f"{where}: the part is empty")


def draw(contents: Sequence[str], seed: int, *, count: int = 10) -> tuple[Split, ...]:
    """Return `count` random splits, 70/10/20 by content.

    Raises:
      DatasetError: there are fewer than three contents.
    """
    unique, content_of_image = np.unique(np.asarray(contents), return_inverse=True)
    if len(unique) < 3:
        raise errors.DatasetError(
            f"a split needs at least 3 different images or references, found "
            f"{len(unique)}"
        )
    held_out = max(1, round(0.1 * len(unique)))
    tested = max(1, round(0.2 * len(unique)))
    splits = []
    for number in range(count):
        order = np.random.default_rng([seed, number]).permutation(len(unique))
        parts = {
            "test": order[:tested],
            "validation": order[tested : tested + held_out],
            "train": order[tested + held_out :],
        }
        splits.append(
            Split(
                **{
                    p: np.flatnonzero(np.isin(content_of_image, c))
                    for p, c in parts.items()
                }
            )
        )
    return tuple(splits)


def from_parts(parts: Sequence[str], seed: int) -> Split:
    """Return the one split of a dataset that names the part of each image.

    If no image is in the validation part, the last tenth of the training part, in an
    order drawn from `seed`, becomes the validation part.

    Raises:
      DatasetError: the training or test part is empty.
    """
    indices = {part: np.flatnonzero(np.asarray(parts) == part) for part in PARTS}
    for part in ("train", "test"):
        if not len(indices[part]):
            raise errors.DatasetError(f"the {part} part of the split is empty")
    if not len(indices["validation"]):
        order = np.random.default_rng(seed).permutation(indices["train"])
        kept = len(order) - max(1, round(0.1 * len(order)))
        indices["train"] = np.sort(order[:kept])
        indices["validation"] = np.sort(order[kept:])
    return Split(**indices)


def restrict(split: Split, new_index: np.ndarray) -> Split:
    """Return a split after rows were dropped or moved.

    Args:
      split: indices into the label file.
      new_index: the new index of each row of the label file, or -1 if it was dropped.
    """
    moved = {part: new_index[indices] for part, indices in split.parts().items()}
    return Split(**{part: indices[indices >= 0] for part, indices in moved.items()})


def attach(
    title: str,
    folder: AnyPath,
    part_of_rows: Sequence[str],
    contents_of_rows: Sequence[str],
    new_index: np.ndarray,
    *,
    seed: int,
    owners_order: bool = True,
) -> tuple[tuple[Split, ...], str]:
    """Return the splits of a dataset: prescribed, from official files, or drawn.

    Args:
      title: title of the dataset, for messages.
      folder: folder of the dataset; official files are in its folder `splits`.
      part_of_rows: the part that the label file prescribes for each row, or empty.
      contents_of_rows: the content of each row.
      new_index: the index of each row in the dataset, -1 if it was left out.
      seed: seed of drawn splits.
      owners_order: whether the rows are in the order that official files refer to.

    Returns:
      The splits, as indices into the dataset, and a short text on their origin.

    Raises:
      DatasetError: a split file is invalid, or no image of a part is left.
    """
    official = find_official(folder)
    if any(part_of_rows):
        found, origin = (from_parts(part_of_rows, seed),), "official"
        if "validation" not in part_of_rows:
            origin += f", validation drawn by seed {seed}"
    elif official is not None and owners_order:
        found, origin = read_official(official, contents_of_rows), "official"
    else:
        if official is not None:
            logging.warning(
                "%s: the split files are not used: they refer to the order of the "
                "owner's label file, which is missing",
                title,
            )
        origin = f"drawn by seed {seed}"
        logging.info("%s: 10 splits by content, %s", title, origin)
        usable = np.flatnonzero(new_index >= 0)
        return draw([contents_of_rows[row] for row in usable], seed), origin
    restricted = tuple(restrict(split, new_index) for split in found)
    for number, split in enumerate(restricted):
        for part, indices in split.parts().items():
            if not len(indices):
                raise errors.DatasetError(
                    f"{title}: no image of the {part} part of split {number} exists"
                )
    return restricted, origin
