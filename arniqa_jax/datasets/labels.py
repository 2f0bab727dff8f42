"""Labelled images as tables describe them, with readers for general tables.

A reader takes the path of a file and returns its rows in the order of the file, which
is the order that split files refer to. A row contains strings exactly as in the file.
`matching` interprets them and checks that the images exist.
"""

import dataclasses
import posixpath
import statistics
from collections.abc import Sequence

from absl import logging

from arniqa_jax import errors
from arniqa_jax.datasets import text_table
from arniqa_jax.storage.bucket_paths import AnyPath


@dataclasses.dataclass(frozen=True)
class Label:
    """One labelled image.

    Attributes:
      image: path as written, relative to the dataset; may be only the end of the path.
      score: the score as written; `matching` checks that it is a number.
      reference: path of the pristine image, or empty.
      part: `train`, `validation` or `test` if the table gives it, or empty.
      line: line of the table, for messages; 0 if the table has no lines.
    """

    image: str
    score: str
    reference: str = ""
    part: str = ""
    line: int = 0


# Names of the parts of a split in tables, in lower case.
_PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
IMAGE_COLUMNS = (
    "image",
    "file",
    "path",
    "filename",
    "file_name",
    "image_name",
    "image_path",
    "img",
    "img_name",
    "img_path",
    "dis_img_path",
    "dist_img",
    "dist_name",
    "name",
)
SCORE_COLUMNS = ("score", "mos", "mos_mean", "mean_mos", "quality", "elo_score", "dmos")
REFERENCE_COLUMNS = (
    "reference",
    "ref",
    "ref_name",
    "ref_img",
    "ref_img_path",
    "hq_name",
)
PART_COLUMNS = ("split", "official_split", "set")


def read_table(
    path: AnyPath,
    *,
    image: Sequence[str],
    score: Sequence[str],
    reference: Sequence[str] = (),
    part: Sequence[str] = (),
) -> list[Label]:
    """Return the rows of a text table with a header.

    Commas, semicolons or tabs separate the cells.

    Args:
      path: the file, UTF-8 with or without a byte order mark.
      image: names of the column of images, in order of preference.
      score: names of the column of scores.
      reference: names of the column of references, which may be missing.
      part: names of the column with the part of the split of each image.

    Raises:
      DatasetError: a column is missing, a row has more or fewer cells than the header,
        or a row has an unknown part.
    """
    rows = text_table.read_rows(path)
    return from_rows(path, rows, image, score, reference, part)


def from_rows(
    path: AnyPath,
    rows: Sequence[Sequence],
    image: Sequence[str],
    score: Sequence[str],
    reference: Sequence[str] = (),
    part: Sequence[str] = (),
) -> list[Label]:
    """Return labels for the cells of a table, header first; see `read_table`."""
    header = rows[0] if rows else []
    columns = {
        "image": text_table.find_column(path, header, image),
        "score": text_table.find_column(path, header, score),
        "reference": text_table.find_column(path, header, reference, required=False),
        "part": text_table.find_column(path, header, part, required=False),
    }
    columns = {name: index for name, index in columns.items() if index is not None}
    labels = []
    for line, row in enumerate(rows[1:], start=2):
        if not any(str(cell or "").strip() for cell in row):
            continue  # a blank line
        text_table.check_row(path, line, row, header, 1 + max(columns.values()))
        cells = {name: str(row[index]).strip() for name, index in columns.items()}
        if cells.get("part"):
            cells["part"] = _part(path, line, cells["part"])
        labels.append(Label(**cells, line=line))
    if any(label.part for label in labels):
        for label in labels:
            _part(path, label.line, label.part)  # either all rows have a part, or none
    return labels


def _part(path: AnyPath, line: int, text: str) -> str:
    try:
        return _PARTS[text.lower()]
    except KeyError:
        raise errors.DatasetError(
            f"{path}: line {line}: split {text!r}, expected one of train, validation, "
            f"test"
        ) from None


def read_unified(path: AnyPath) -> list[Label]:
    """Read `dis_img_path,dis_type,ref_img_path,score`, the table used across papers."""
    return read_table(
        path, image=("dis_img_path",), score=("score",), reference=("ref_img_path",)
    )


def read_custom(
    path: AnyPath, columns: tuple[str, str] | None = None
) -> tuple[list[Label], bool]:
    """Return the rows of a user's table.

    Args:
      path: the table.
      columns: names of the columns of images and scores; None for those of
        `IMAGE_COLUMNS` and `SCORE_COLUMNS`.

    Returns:
      The rows, and whether higher scores are better, which is False if the name of the
      column begins with `dmos`.

    Raises:
      DatasetError: as in `read_table`; if no column has a known name, the message
        mentions `evaluation.csv_columns`.
    """
    rows = text_table.read_rows(path)
    image, score = (IMAGE_COLUMNS, SCORE_COLUMNS)
    if columns:
        image, score = (columns[0],), (columns[1],)
    try:
        labels = from_rows(path, rows, image, score, REFERENCE_COLUMNS, PART_COLUMNS)
    except errors.DatasetError as error:
        if "expected a column" not in str(error) or columns:
            raise
        raise errors.DatasetError(
            f"{error}; --config.evaluation.csv_columns=IMAGE,SCORE names other columns"
        ) from error
    header = rows[0]
    name_of_image, name_of_score = (
        header[text_table.find_column(path, header, names)] for names in (image, score)
    )
    higher_is_better = not text_table.normal_name(name_of_score).startswith("dmos")
    logging.info(
        "%s: images from the column %s, scores from %s (%s is better)",
        path.name,
        name_of_image,
        name_of_score,
        "higher" if higher_is_better else "lower",
    )
    return labels, higher_is_better


def average_ratings(path: AnyPath, labels: Sequence[Label]) -> tuple[list[Label], str]:
    """Return one row per image, with the mean of its ratings.

    A table may have one row per image and rater.

    Args:
      path: the table, for messages.
      labels: its rows.

    Returns:
      One row per image, in the order of their first rows, and a remark on the number of
      ratings and their spread; the remark is empty if each image has one row. If a
      score of an image is not a number, that row is returned, so that `matching`
      reports it.

    Raises:
      DatasetError: rows of one image differ in the reference or in the part of the
        split.
    """
    rows_of: dict[str, list[Label]] = {}
    for label in labels:
        rows_of.setdefault(posixpath.normpath(label.image), []).append(label)
    if len(rows_of) == len(labels):
        return list(labels), ""
    averaged, counts, spreads = [], [], []
    for first, *others in rows_of.values():
        for other in others:
            for name in ("reference", "part"):
                if getattr(first, name) != getattr(other, name):
                    raise errors.DatasetError(
                        f"{path}: lines {first.line} and {other.line} are ratings of "
                        f"{first.image}, but differ in the {name}"
                    )
        wrong = [label for label in (first, *others) if not _is_number(label.score)]
        if wrong:
            averaged.append(wrong[0])
            continue
        ratings = [float(label.score) for label in (first, *others)]
        mean = statistics.fmean(ratings)
        averaged.append(dataclasses.replace(first, score=repr(mean)))
        counts.append(len(ratings))
        if len(ratings) > 1:
            spreads.append(statistics.stdev(ratings))
    if not spreads:
        return averaged, ""
    least, most = min(counts), max(counts)
    each = f"{least}" if least == most else f"{least} to {most}"
    remark = (
        f"a score is the mean of {each} ratings of the image, whose standard deviation "
        f"is {statistics.fmean(spreads):.3g} on average"
    )
    logging.info("%s: %s", path.name, remark)
    return averaged, remark


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
