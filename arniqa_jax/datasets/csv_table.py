"""A labelled dataset of one's own: a folder with a table of images and scores."""

import pathlib

from arniqa_jax import errors
from arniqa_jax.datasets import labels, matching, splits
from arniqa_jax.datasets.labelled import CUSTOM, Benchmark, ImageFiles


def open_csv(
    path: pathlib.Path, *, allow_partial: bool = False, seed: int = 27
) -> Benchmark:
    """Opens a dataset of one's own: a folder with a table of images and scores.

    The table has a header with a column of images (`image`, `file`, `path`, ...),
    relative to the folder of the table, and one of scores (`score`, `mos`, ..., or
    `dmos`, for which lower is better); optionally `reference`, a file or just a name,
    so that one photograph stays on one side of a split, and `split` (train, validation,
    test).

    Args:
      path: the table, or a folder with exactly one .csv file in it.
    """
    if path.is_dir():
        tables = sorted(p for p in path.iterdir() if p.suffix.lower() == ".csv")
        if len(tables) != 1:
            found = ", ".join(table.name for table in tables) or "none"
            raise errors.DatasetError(
                f"{path}: expected one .csv file with images and scores, found "
                f"{found}; name the table itself, csv:{path}/TABLE.csv"
            )
        path = tables[0]
    elif not path.is_file():
        raise errors.DatasetError(
            f"{path}: expected a table of images and scores (.csv) or a folder with one"
        )
    folder = path.parent
    rows, higher_is_better = labels.read_custom(path)
    resolved = matching.resolve(
        rows,
        folder,
        title=folder.resolve().name,
        file=path.name,
        published=len(rows),
        source="written by you",
        components=None,
        allow_partial=allow_partial,
    )
    parts, origin = splits.attach(
        path.name,
        folder,
        [row.part for row in rows],
        resolved.contents_of_rows,
        resolved.new_index,
        seed=seed,
    )
    return Benchmark(
        name=folder.resolve().name.lower(),
        title=folder.resolve().name,
        kind=CUSTOM,
        images=ImageFiles(folder, resolved.images),
        references=ImageFiles(folder, resolved.references)
        if resolved.references
        else None,
        reference_N=resolved.reference_N,
        scores_N=resolved.scores_N,
        higher_is_better=higher_is_better,
        score_range=(float(resolved.scores_N.min()), float(resolved.scores_N.max())),
        contents=resolved.contents,
        splits=parts,
        split_origin=origin,
        note=resolved.note,
        allow_partial=allow_partial,
    )
