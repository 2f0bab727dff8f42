"""A table of scores as a folder of part files, written by many processes at once.

A part contains the rows of some images and is written atomically. So an image is done
if and only if a part has its row. There is no second record that could disagree after a
crash.

The name of a part depends on its paths. A task that runs twice, because its process was
lost, therefore writes the same file again. A worker of a run that has ended may still
run when the next run starts. It finds that the folder belongs to another run, and
writes nothing.
"""

import csv
import hashlib
import io
import json
import pathlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from arniqa_jax import errors
from arniqa_jax.scoring import table_rows, tables
from arniqa_jax.scoring.shards import digest
from arniqa_jax.storage.files import write_atomically

# This file contains the name of the run that may write into the folder.
_OWNER = ".run"


def open_folder(
    folder: pathlib.Path, columns: Sequence[str], identity: dict[str, Any], resume: bool
) -> tuple[str, np.ndarray]:
    """Take over a folder for a new run, and return the paths that are done.

    Rows without a score are removed and tried again. If a path has two rows, the second
    is removed.

    Args:
      folder: `NAME.csv`, `NAME.jsonl` or `NAME.parquet`; created if missing.
      columns: names of the columns.
      identity: what the scores depend on, see `tables.check_identity`.
      resume: whether to continue a folder that has rows.

    Returns:
      The name of the run, and digests (sorted, uint64) of the paths that have a score.

    Raises:
      UsageError: the folder has rows and `resume` is False, or it has other columns or
        another identity.
    """
    tables.check_suffix(folder)
    if folder.exists() and not folder.is_dir():
        raise errors.UsageError(
            f"{folder} is a file: --engine=ray writes a folder of part files, give "
            "another name"
        )
    existing = list_parts(folder)
    if existing and not resume:
        raise errors.UsageError(
            f"{folder} has part files already: continue it with --resume, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tables.check_identity(folder, identity, exists=bool(existing))
    run = uuid.uuid4().hex
    write_atomically(folder / _OWNER, run)
    seen: set[int] = set()
    # List the parts again, because another run may have written until now.
    for part in list_parts(folder):
        _read_done(part, list(columns), seen)
    return run, np.sort(np.fromiter(seen, np.uint64, len(seen)))


def list_parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the part files of a folder, sorted."""
    return sorted(folder.glob(f"part-*{folder.suffix}"))


def _read_done(part: pathlib.Path, columns: list[str], seen: set[int]) -> None:
    """Add the paths of a part that have a score; rewrite it if it has other rows."""
    kept, removed = [], 0
    for row in read(part):
        if list(row) != columns:
            raise errors.UsageError(
                f"{part} has the columns {', '.join(row)}, and this command writes "
                f"{', '.join(columns)}: give the same flags"
            )
        number = int(digest(row["path"]))
        if table_rows.has_score(row) and number not in seen:
            seen.add(number)
            kept.append(row)
        else:
            removed += 1
    if removed and kept:
        write_atomically(part, encode(kept, columns, part.suffix))
    elif removed:
        part.unlink()


def read(part: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part."""
    if part.suffix == ".parquet":
        yield from tables.read_parquet(part)
    else:
        for row, _ in table_rows.read_rows(part):
            yield row


def write(
    folder: pathlib.Path, rows: list[dict[str, Any]], columns: Sequence[str], run: str
) -> bool:
    """Write a part unless the folder belongs to another run; return whether it did.

    Args:
      folder: a folder opened by `open_folder`.
      rows: the rows of the part.
      columns: names of the columns.
      run: the name of the run, from `open_folder`.
    """
    name = hashlib.blake2b(digest_size=12)
    for row in rows:
        name.update(row["path"].encode() + b"\0")
    content = encode(rows, columns, folder.suffix)
    if (folder / _OWNER).read_text() != run:
        return False
    write_atomically(folder / f"part-{name.hexdigest()}{folder.suffix}", content)
    return True


def encode(rows: list[dict[str, Any]], columns: Sequence[str], suffix: str) -> bytes:
    """Return the content of a table file with these rows."""
    if suffix == ".parquet":
        return tables.encode_parquet(rows, columns)
    text = io.StringIO()
    if suffix == ".csv":
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row.get(name) for name in columns] for row in rows)
    else:
        for row in rows:
            values = {name: row.get(name) for name in columns}
            text.write(json.dumps(values, allow_nan=False) + "\n")
    return text.getvalue().encode()
