"""Readers of label files: as their owners distribute them, and the unified tables.

A reader takes the path of a file and returns its rows in the order of the file, which
is the order that split files refer to. A row holds strings as the file has them; what
they mean, and whether the images exist, is settled in `benchmarks`.
"""

import csv
import dataclasses
import pathlib
import zipfile

from arniqa_jax import errors


@dataclasses.dataclass(frozen=True)
class Label:
    """One labelled image.

    Attributes:
      image: path as written, relative to the dataset or only its end.
      score: as written; whether it is a number is checked later.
      reference: path of the pristine image, or empty.
      part: `train`, `validation` or `test` where the dataset says it, or empty.
    """

    image: str
    score: str
    reference: str = ""
    part: str = ""


def read_table(
    path: pathlib.Path,
    *,
    image: tuple[str, ...],
    score: tuple[str, ...],
    reference: tuple[str, ...] = (),
    part: tuple[str, ...] = (),
) -> list[Label]:
    """Reads a text table with a header; commas, semicolons or tabs separate.

    Args:
      path: the file, UTF-8 with or without a byte order mark.
      image: names of the column of images, in order of preference, lower case.
      score: names of the column of scores.
      reference: names of the column of references, which may be missing.
      part: names of the column that says which part of the split an image is in.

    Raises:
      DatasetError: a column is missing or a row is shorter than the header.
    """
    return _labels_from_rows(path, _read_rows(path), image, score, reference, part)


def _read_rows(path: pathlib.Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.DatasetError(f"{path}: expected UTF-8 text: {error}") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    # Paths hold backslashes where a table was made on Windows.
    return list(csv.reader(text.replace("\\", "/").splitlines(), delimiter=delimiter))


def _labels_from_rows(path, rows, image, score, reference=(), part=()) -> list[Label]:
    header = [str(cell or "").strip().lower() for cell in rows[0]] if rows else []

    def column(names, *, required):
        for name in names:
            if name in header:
                return header.index(name)
        if not required:
            return None
        raise errors.DatasetError(
            f"{path}: expected a column named {' or '.join(names)} in the first line, "
            f"found {', '.join(header) or 'an empty file'}"
        )

    columns = {
        "image": column(image, required=True),
        "score": column(score, required=True),
        "reference": column(reference, required=False),
        "part": column(part, required=False),
    }
    columns = {name: index for name, index in columns.items() if index is not None}
    labels = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(str(cell or "").strip() for cell in row):
            continue  # a blank line
        if len(row) <= max(columns.values()):
            raise errors.DatasetError(
                f"{path}: line {number} has {len(row)} cells, the header {len(header)}"
            )
        labels.append(Label(**{n: str(row[i]).strip() for n, i in columns.items()}))
    return labels


def read_unified(path: pathlib.Path) -> list[Label]:
    """`dis_img_path,dis_type,ref_img_path,score`, the table used across papers."""
    return read_table(
        path, image=("dis_img_path",), score=("score",), reference=("ref_img_path",)
    )


def read_tid2013(path: pathlib.Path) -> list[Label]:
    """`mos_with_names.txt`: `5.51429 I01_01_1.bmp` per line, without a header."""
    labels = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        cells = line.split()
        if cells and len(cells) != 2:
            raise errors.DatasetError(
                f"{path}: line {number}: expected a score and a name, found {line!r}"
            )
        if cells:
            content = cells[1].partition("_")[0]
            labels.append(Label(cells[1], cells[0], reference=f"{content}.bmp"))
    return labels


def read_spaq(path: pathlib.Path) -> list[Label]:
    """`MOS and Image attribute scores.xlsx`: columns `Image name`, `MOS` and others."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise errors.DatasetError(f"{path}: not a readable .xlsx: {error}") from error
    rows = list(book.active.iter_rows(values_only=True))
    book.close()
    return _labels_from_rows(path, rows, ("image name",), ("mos",))


def read_clive(path: pathlib.Path) -> list[Label]:
    """`AllImages_release.mat` and, beside it, `AllMOS_release.mat`.

    The first seven rows are the training images of the study (`t1.bmp` ... `t7.bmp`)
    and no part of the dataset.
    """
    import scipy.io

    scores_path = _sibling(path, "AllMOS_release.mat")
    arrays = []
    for file, key in (
        (path, "AllImages_release"),
        (scores_path, "AllMOS_release"),
    ):
        try:
            arrays.append(scipy.io.loadmat(file)[key].ravel())
        except (scipy.io.matlab.MatReadError, KeyError, ValueError) as error:
            raise errors.DatasetError(
                f"{file}: expected a MATLAB file with the variable {key}: {error}"
            ) from error
    names, scores = arrays
    if len(names) != len(scores):
        raise errors.DatasetError(
            f"{path}: {len(names)} names, {scores_path.name}: {len(scores)} scores"
        )
    # A cell holds an array of one string.
    labels = [
        Label(str(name.item() if hasattr(name, "item") else name), str(float(score)))
        for name, score in zip(names, scores, strict=True)
    ]
    return labels[7:]


def read_biq2021(path: pathlib.Path) -> list[Label]:
    """`Train (Images and MOS).csv` and the test table beside it: the official split."""
    test_path = _sibling(path, "Test (Images and MOS).csv")
    labels = []
    for part, file in (("train", path), ("test", test_path)):
        rows = read_table(file, image=("image name",), score=("mos",))
        labels += [dataclasses.replace(label, part=part) for label in rows]
    return labels


def _sibling(path: pathlib.Path, name: str) -> pathlib.Path:
    for candidate in path.parent.iterdir():
        if candidate.name.lower() == name.lower():
            return candidate
    raise errors.DatasetError(f"{path.parent}: expected {name} beside {path.name}")


_CUSTOM_IMAGE = (
    "image",
    "file",
    "path",
    "filename",
    "image_name",
    "image name",
    "name",
)
_CUSTOM_SCORE = ("score", "mos", "quality", "dmos")


def read_custom(path: pathlib.Path) -> tuple[list[Label], bool]:
    """A table of one's own; returns its rows and whether higher scores are better."""
    rows = _read_rows(path)
    labels = _labels_from_rows(
        path, rows, _CUSTOM_IMAGE, _CUSTOM_SCORE, ("reference",), ("split",)
    )
    allowed = ("train", "validation", "test")
    for number, label in enumerate(labels, start=2):
        if label.part not in allowed and any(other.part for other in labels):
            raise errors.DatasetError(
                f"{path}: line {number}: split {label.part!r}, expected one of "
                f"{', '.join(allowed)}"
            )
    header = [cell.strip().lower() for cell in rows[0]]
    score = next(name for name in _CUSTOM_SCORE if name in header)
    return labels, score != "dmos"
