"""Finding the images that a label file names, and checking its rows.

Label files name images by their own idea of a path: with or without folders, in upper
or lower case, with the name of somebody else's folder in front. An image is matched by
the last components of its path, whatever their letter case.
"""

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.datasets.distortion_names import Distortion
from arniqa_jax.datasets.labels import Label


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The usable rows of a label file. Shapes: N images.

    Attributes:
      images: paths relative to the folder of the dataset.
      scores_N: float64.
      contents: what each image shows: the name of its reference, or its own.
      contents_of_rows: the same for every row of the label file.
      new_index: for every row of the label file its index here, or -1.
      types, groups, levels_N: of the distortions; empty, or None.
      references: relative paths of the references, each once; empty without.
      reference_N: index of each image's reference.
      note: `1,500 of 12,000 images`, or empty where nothing is missing.
    """

    images: tuple[str, ...]
    scores_N: np.ndarray
    contents: tuple[str, ...]
    contents_of_rows: tuple[str, ...]
    new_index: np.ndarray
    types: tuple[str, ...]
    groups: tuple[str, ...]
    levels_N: np.ndarray | None
    references: tuple[str, ...]
    reference_N: np.ndarray | None
    note: str


def find_path(folder: pathlib.Path, relative: str) -> pathlib.Path | None:
    """The entry at a relative path, each component in any letter case."""
    for component in pathlib.PurePosixPath(relative).parts:
        if not folder.is_dir():
            return None
        entries = {entry.name: entry for entry in folder.iterdir()}
        same = [name for name in entries if name.lower() == component.lower()]
        if not same:
            return None
        folder = entries[component if component in entries else min(same)]
    return folder


def find_folder(root: pathlib.Path, title: str) -> pathlib.Path:
    """The folder of a dataset.

    Raises:
      DatasetError: there is none.
    """
    folder = find_path(root, title) if root.is_dir() else None
    if folder is None or not folder.is_dir():
        raise errors.DatasetError(
            f"{title}: expected a folder of this name (in any letter case) in "
            f"evaluation.root={root}, found "
            + ("none" if root.is_dir() else "no such root")
        )
    return folder


class _FileIndex:
    """Files of a folder by the last components of their paths, in lower case."""

    def __init__(self, folder: pathlib.Path, preferred: Sequence[str]):
        self._by_name = collections.defaultdict(list)
        self._preferred = [name.lower() for name in preferred]
        for entry in folders.walk(folder):
            if entry.reason:
                logging.warning("%s: left out: %s", entry.path, entry.reason)
            if not entry.is_folder:
                path = pathlib.PurePath(os.path.relpath(entry.path, folder))
                self._by_name[path.name.lower()].append(path.as_posix())

    def find(self, path: str, components: int | None) -> list[str]:
        """All files that fit, or the one in the first of the preferred folders."""
        wanted = tuple(part.lower() for part in pathlib.PurePosixPath(path).parts)
        if not wanted:
            return []
        if components is not None:
            wanted = wanted[-components:]
        found = []
        for candidate in self._by_name.get(wanted[-1], ()):
            parts = tuple(p.lower() for p in pathlib.PurePosixPath(candidate).parts)
            whole = parts == wanted if components is None else True
            if whole and parts[-len(wanted) :] == wanted:
                found.append((candidate, parts))
        for folder in self._preferred:
            inside = [candidate for candidate, parts in found if folder in parts[:-1]]
            if inside:
                return inside
        return [candidate for candidate, _ in found]


def resolve(
    rows: Sequence[Label],
    folder: pathlib.Path,
    *,
    title: str,
    file: str,
    published: int,
    source: str,
    components: int | None,
    folders: Sequence[str] = (),
    distortion: Callable[[str], Distortion | None] | None = None,
    allow_partial: bool,
) -> Resolved:
    """Finds the image of every row and checks the rows.

    Args:
      rows: of the label file.
      folder: of the dataset.
      title, file, source: of the dataset and the label file, for messages.
      published: number of rows that are expected.
      components: how many last components identify an image; None: the whole path.
      folders: where several files fit, those in the first of these folders count.
      distortion: type, group and level from the path of an image.
      allow_partial: leave out what cannot be used, instead of raising.

    Raises:
      DatasetError: see `benchmarks.open_benchmark`.
    """
    where = f"{title}: {file}"

    def complain(problem: str) -> None:
        # Everything but a hopeless case goes through here.
        if not allow_partial:
            raise errors.DatasetError(
                f"{problem}. The file is {source}; evaluation.allow_partial=true goes "
                f"on with what is there"
            )

    if len(rows) != published:
        complain(f"{where}: expected {published:,} rows, found {len(rows):,}")
    index = _FileIndex(folder, folders)
    images, scores, kept, names = [], [], [], {}
    for number, row in enumerate(rows):
        problem = _problem_of_score(row.score)
        found = index.find(row.image, components)
        if problem:
            complain(f"{where}: row {number + 1}, {row.image}: {problem}")
        elif not found:
            complain(f"{where}: row {number + 1}: no image {row.image} in {folder}")
        elif len(found) > 1:
            complain(
                f"{where}: row {number + 1}: {row.image} may be any of "
                f"{', '.join(sorted(found))}"
            )
        elif found[0] in names:
            complain(
                f"{where}: rows {names[found[0]] + 1} and {number + 1} are of the same "
                f"image {row.image}"
            )
        elif distortion and distortion(found[0]) is None:
            complain(
                f"{where}: row {number + 1}: {row.image} names no known distortion"
            )
        else:
            names[found[0]] = number
            images.append(found[0])
            scores.append(float(row.score))
            kept.append(number)
    if not images:
        raise errors.DatasetError(f"{where}: no usable image of {len(rows):,} rows")
    new_index = np.full(len(rows), -1, np.int64)
    new_index[kept] = np.arange(len(kept))
    distortions = [distortion(image) for image in images] if distortion else []
    references, reference_N = _resolve_references(
        [rows[number].reference for number in kept],
        lambda path: index.find(path, components and 1),
        where,
        # In a table of one's own a reference may be no more than a name.
        complain if components is not None else lambda problem: None,
    )
    contents = tuple(_content(row) for row in rows)
    return Resolved(
        images=tuple(images),
        scores_N=np.array(scores, np.float64),
        contents=tuple(contents[number] for number in kept),
        contents_of_rows=contents,
        new_index=new_index,
        types=tuple(d[0] for d in distortions),
        groups=tuple(d[1] for d in distortions),
        levels_N=np.array([d[2] for d in distortions], np.int32)
        if distortions
        else None,
        references=references,
        reference_N=reference_N,
        note=""
        if len(images) == published
        else f"{len(images):,} of {published:,} images",
    )


def _problem_of_score(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return f"the score {text!r} is not a number"
    return "" if math.isfinite(value) else f"the score {text!r} is not finite"


def _content(row: Label) -> str:
    # Two files of one reference in different letter case are one content.
    return (row.reference or row.image).lower()


def _resolve_references(paths, find, where, complain):
    """Each reference once, and which one each image has; nothing if one is missing."""
    if not all(paths):
        return (), None
    position, reference_N = {}, []
    for path in paths:
        found = find(path)
        if len(found) != 1:
            complain(f"{where}: expected one reference {path}, found {len(found)}")
            return (), None
        reference_N.append(position.setdefault(found[0], len(position)))
    return tuple(position), np.array(reference_N, np.int64)
