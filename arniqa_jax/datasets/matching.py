"""Find the images that a label file names, and check its rows.

Label files name images in many ways: with or without folders, in upper or lower case,
or with the name of somebody else's folder in front. An image is matched by the last
components of its path, in any letter case.
"""

import collections
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.datasets.distortion_names import Distortion
from arniqa_jax.datasets.labelled import ImageFiles
from arniqa_jax.datasets.labels import Label
from arniqa_jax.storage.bucket_paths import AnyPath, BucketPath


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The usable rows of a label file. Shapes: N images.

    Attributes:
      images: paths relative to the folder of the dataset.
      scores_N: float64.
      contents: the content of each image: the name of its reference, or its own name.
      contents_of_rows: the same for every row of the label file.
      new_index: for every row of the label file its index here, or -1.
      types, groups, levels_N: those of the distortions; empty or None without
        distortions.
      references: relative paths of the references, each once; empty without references.
      reference_N: index of each image's reference.
      note: `1,500 of 12,000 images`, or empty if nothing is missing.
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

    @property
    def score_range(self) -> tuple[float, float]:
        """The smallest and the largest score."""
        return float(self.scores_N.min()), float(self.scores_N.max())

    def benchmark_fields(
        self, folder: AnyPath, shorter_side: int | None = None
    ) -> dict[str, Any]:
        """Return the fields of a `Benchmark` that follow from the rows.

        Args:
          folder: the folder of the dataset.
          shorter_side: see `ImageFiles`.
        """
        references = None
        if self.references:
            references = ImageFiles(folder, self.references, shorter_side)
        return {
            "images": ImageFiles(folder, self.images, shorter_side),
            "scores_N": self.scores_N,
            "contents": self.contents,
            "types": self.types,
            "groups": self.groups,
            "levels_N": self.levels_N,
            "references": references,
            "reference_N": self.reference_N,
            "note": self.note,
        }


def find_path(folder: AnyPath, relative: str) -> AnyPath | None:
    """Return the entry at a relative path, each component in any letter case."""
    for component in pathlib.PurePosixPath(relative).parts:
        if not folder.is_dir():
            return None
        entries = {entry.name: entry for entry in folder.iterdir()}
        same = [name for name in entries if name.lower() == component.lower()]
        if not same:
            return None
        folder = entries[component if component in entries else min(same)]
    return folder


def find_folder(root: AnyPath, title: str) -> AnyPath:
    """Return the folder of a dataset.

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
    """The files of a folder, found by the last components of their paths."""

    def __init__(self, folder: AnyPath, preferred: Sequence[str]):
        self._folder = folder
        self._preferred = [name.lower() for name in preferred]

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The files by their names in lower case.

        The folder is searched when it is first needed: a table in a large folder may
        name every image by a path that exists.
        """
        by_name = collections.defaultdict(list)
        for entry in folders.walk(self._folder):
            if entry.reason:
                logging.warning("%s: skipped: %s", entry.path, entry.reason)
            if not entry.is_folder:
                relative = os.path.relpath(entry.path, str(self._folder))
                path = pathlib.PurePath(relative)
                by_name[path.name.lower()].append(path.as_posix())
        return by_name

    def find(self, path: str, components: int | None) -> list[str]:
        """Return the files that a path in a table may refer to; one if it is clear.

        Args:
          path: the path in the table, with slashes.
          components: the number of last components that must be equal. None for a path
            with any number of equal last components: `a/x.png`, `DATA/a/x.png` and
            `x.png` match `a/x.png`, but `b/x.png` does not. The files with the most
            equal components are returned.

        Returns:
          Paths relative to the folder. An existing file outside the folder, given by an
          absolute path or a path with `..`, is returned as it is written.
        """
        if components is None:
            existing = _existing(self._folder, path)
            if existing:
                return [existing]
        wanted = _parts(path)[-components if components else 0 :]
        if not wanted:
            return []
        shared = {}
        for candidate in self._by_name.get(wanted[-1], ()):
            parts = _parts(candidate)
            length = min(len(parts), len(wanted)) if components is None else len(wanted)
            if parts[-length:] == wanted[-length:]:
                # A file whose whole path is in the table has precedence over a longer
                # path.
                shared[candidate] = (length, len(parts) == length)
        if components is None and shared:
            longest = max(shared.values())
            shared = {c: length for c, length in shared.items() if length == longest}
        for folder in self._preferred:
            inside = [candidate for candidate in shared if folder in _parts(candidate)]
            if inside:
                return inside
        return list(shared)


def _existing(folder: AnyPath, path: str) -> str | None:
    """Return the file at exactly this path, see `_FileIndex.find`; None if missing."""
    if isinstance(folder, BucketPath):
        file = folder / path
        if path.startswith("/") or not file.is_file():
            return None
        inside = str(file).startswith(f"{folder}/")
        return str(file).removeprefix(f"{folder}/") if inside else path
    existing = os.path.normpath(os.path.join(folder, path))
    if not os.path.isfile(existing):
        return None
    inside = pathlib.PurePath(existing).is_relative_to(folder)
    name = os.path.relpath(existing, folder) if inside else path
    return pathlib.PurePath(name).as_posix()


def _parts(path: str) -> tuple[str, ...]:
    return tuple(
        part.lower() for part in pathlib.PurePosixPath(path).parts if part != "/"
    )


def resolve(
    rows: Sequence[Label],
    folder: AnyPath,
    *,
    title: str,
    file: str,
    published: int,
    source: str,
    components: int | None,
    preferred: Sequence[str] = (),
    distortion: Callable[[str], Distortion | None] | None = None,
    names_references: bool = True,
    allow_partial: bool,
) -> Resolved:
    """Find the image of every row and check the rows.

    Args:
      rows: rows of the label file.
      folder: folder of the dataset.
      title, file, source: title of the dataset, name and source of the label file, for
        messages.
      published: expected number of rows.
      components: number of last components that identify an image, see
        `_FileIndex.find`.
      preferred: if several files match, those in the first of these folders count.
      distortion: returns type, group and level for the path of an image.
      names_references: whether references are files; in a user's table a reference may
        be only a name.
      allow_partial: whether to leave out rows that cannot be used, instead of raising.

    Raises:
      DatasetError: see `catalogue.open_benchmark`.
    """
    where = f"{title}: {file}"

    def reject(problem: str) -> None:
        if not allow_partial:
            raise errors.DatasetError(
                f"{problem}. The file is {source}; evaluation.allow_partial=true "
                f"continues with the usable rows"
            )

    if len(rows) != published:
        reject(f"{where}: expected {published:,} rows, found {len(rows):,}")
    index = _FileIndex(folder, preferred)
    images, scores, kept, row_of = [], [], [], {}
    for number, row in enumerate(rows):
        found = index.find(row.image, components)
        problem = _problem(row, found, folder, distortion)
        if problem:
            reject(f"{where}: {_position(row, number)}: {problem}")
        elif found[0] in row_of:
            other = row_of[found[0]]
            problem = (
                f"{where}: {_position(rows[other], other)} ({rows[other].image}) and "
                f"{_position(row, number)} ({row.image}) are of the same image "
                f"{found[0]}"
            )
            if components is None:
                # Two paths of one file: either score may be the wrong one.
                raise errors.DatasetError(f"{problem}: keep one of them")
            reject(problem)
        else:
            row_of[found[0]] = number
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
        reject if names_references else lambda problem: None,
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


def _position(row: Label, number: int) -> str:
    return f"line {row.line}" if row.line else f"row {number + 1}"


def _problem(row: Label, found: Sequence[str], folder, distortion) -> str:
    """Return why a row cannot be used; empty if it can."""
    if problem := _problem_of_score(row.score):
        return f"{row.image}: {problem}"
    if not found:
        return f"no image {row.image} in {folder}"
    if len(found) > 1:
        return f"{row.image} may be any of {', '.join(sorted(found))}"
    if distortion and distortion(found[0]) is None:
        return f"{row.image} names no known distortion"
    return ""


def _problem_of_score(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        comma = text.count(",") == 1 and text.replace(",", "").strip("+-").isdigit()
        hint = ": save the table with decimal points" if comma else ""
        return f"the score {text!r} is not a number{hint}"
    return "" if math.isfinite(value) else f"the score {text!r} is not finite"


def _content(row: Label) -> str:
    # Two names of one reference that differ in letter case are one content.
    return (row.reference or row.image).lower()


def _resolve_references(paths, find, where, reject):
    """Return each reference once, and each image's; nothing if one is missing."""
    if not all(paths):
        return (), None
    position, reference_N = {}, []
    for path in paths:
        found = find(path)
        if len(found) != 1:
            reject(f"{where}: expected one reference {path}, found {len(found)}")
            return (), None
        reference_N.append(position.setdefault(found[0], len(position)))
    return tuple(position), np.array(reference_N, np.int64)
