"""A user's own labelled dataset: a table of images and scores."""

import dataclasses

from absl import logging

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.datasets import labels, matching, splits
from arniqa_jax.datasets.labelled import CUSTOM, Benchmark
from arniqa_jax.storage.bucket_paths import AnyPath


@dataclasses.dataclass(frozen=True)
class TableFormat:
    """What a table does not say itself.

    Attributes:
      columns: names of the columns of images and scores; None for the usual names.
      score_range: scores at which the public score is 0 and 1; None for the smallest
        and the largest score of the table.
    """

    columns: tuple[str, str] | None = None
    score_range: tuple[float, float] | None = None

    @classmethod
    def parse(cls, columns: str, score_range: str) -> "TableFormat":
        """Return the format for `evaluation.csv_columns` and `evaluation.csv_range`.

        Args:
          columns: `IMAGE,SCORE`, or empty.
          score_range: `LOW,HIGH`, or empty.

        Raises:
          UsageError: `columns` is not two names, or `score_range` is not two numbers in
            order.
        """
        names = tuple(name.strip() for name in columns.split(","))
        if columns and (len(names) != 2 or not all(names)):
            raise errors.UsageError(
                f"evaluation.csv_columns={columns!r}: expected the names of two "
                f"columns, IMAGE,SCORE"
            )
        ends = None
        if score_range:
            try:
                low, high = (float(end) for end in score_range.split(","))
            except ValueError:
                low = high = float("nan")
            if not low < high:
                raise errors.UsageError(
                    f"evaluation.csv_range={score_range!r}: expected the lowest and "
                    f"the highest score of the scale, such as 1,5"
                )
            ends = (low, high)
        return cls(names if columns else None, ends)


def open_csv(
    path: AnyPath,
    *,
    allow_partial: bool = False,
    seed: int = 27,
    table: TableFormat | None = None,
) -> Benchmark:
    """Return the dataset of a table of images and scores.

    The table has a header with a column of images and a column of scores; `labels`
    lists the accepted names. Optional columns are `reference`, a file or just a name,
    so that all versions of one photograph are in the same part of a split, and `split`.
    Several rows of one image are ratings, which are averaged.

    The path of an image is relative to the table or absolute. It may also begin with
    folders that do not exist; see `matching`.

    Args:
      path: the table, or a folder with exactly one .csv file.
      allow_partial: whether to leave out rows that cannot be used, instead of raising.
      seed: seed of the splits, if the table has none.
      table: its columns and its range, if the table does not give them.

    Raises:
      DatasetError: the table is missing or not readable, or a row cannot be used.
    """
    table = table or TableFormat()
    path = _find_table(path)
    folder = path.parent
    title = folder.resolve().name
    rows, higher_is_better = labels.read_custom(path, table.columns)
    rows, remark = labels.average_ratings(path, rows)
    resolved = matching.resolve(
        rows,
        folder,
        title=title,
        file=path.name,
        published=len(rows),
        source="written by you",
        components=None,
        names_references=False,
        allow_partial=allow_partial,
    )
    _check_range(path, resolved.score_range, table.score_range)
    parts, origin = splits.attach(
        path.name,
        folder,
        [row.part for row in rows],
        resolved.contents_of_rows,
        resolved.new_index,
        seed=seed,
    )
    return Benchmark(
        **resolved.benchmark_fields(folder),
        name=title.lower(),
        title=title,
        kind=CUSTOM,
        higher_is_better=higher_is_better,
        score_range=table.score_range or resolved.score_range,
        splits=parts,
        split_origin=origin,
        remark=remark,
        allow_partial=allow_partial,
    )


def _find_table(path: AnyPath) -> AnyPath:
    if path.is_dir():
        tables = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() == ".csv" and not folders.is_hidden(entry.name)
        )
        if len(tables) != 1:
            found = ", ".join(table.name for table in tables) or "none"
            raise errors.DatasetError(
                f"{path}: expected one .csv file with images and scores, found "
                f"{found}; name the table itself, csv:{path}/TABLE.csv"
            )
        return tables[0]
    if not path.is_file():
        raise errors.DatasetError(
            f"{path}: expected a table of images and scores (.csv) or a folder with one"
        )
    return path


def _check_range(path: AnyPath, found, declared) -> None:
    if declared and not declared[0] <= found[0] <= found[1] <= declared[1]:
        logging.warning(
            "%s: scores from %g to %g leave the scale evaluation.csv_range=%g,%g",
            path.name,
            *found,
            *declared,
        )
