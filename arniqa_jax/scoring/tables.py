"""Tables of scores: written line by line, and continued after an interruption.

The suffix chooses CSV, JSON lines or Parquet. A Parquet file cannot be appended to, so
its rows are first written to `NAME.partial.jsonl` next to it. `NAME.model.json` records
what the scores depend on, so that no table mixes two models.
"""

import csv
import io
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.scoring import table_rows
from arniqa_jax.scoring.shards import contains, digest
from arniqa_jax.storage import locks
from arniqa_jax.storage.bucket_paths import AnyPath
from arniqa_jax.storage.files import replacing, write_atomically

SUFFIXES = (".csv", ".jsonl", ".parquet")
_ROWS_IN_A_GROUP = 10_000


class Table:
    """A context manager in which `write` adds rows.

    Attributes:
      done: digests (sorted, uint64) of the paths that already have a score in the file.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        columns: Sequence[str],
        *,
        stdout: TextIO,
        identity: dict[str, Any],
        resume: bool = False,
    ):
        """Open a file, or CSV on standard output if `path` is None.

        Args:
          path: the file to write, or None.
          columns: names of the columns.
          stdout: where the rows go without a path.
          identity: what the scores depend on, for example the model's fingerprint. A
            file is continued only with the same identity.
          resume: whether to continue an existing file. Its rows with an error are
            removed and tried again.

        Raises:
          UsageError: the suffix is unknown, the file exists and `resume` is False, the
            file has other columns or another identity, or another command writes it.
        """
        self.done = np.empty(0, np.uint64)
        self._columns, self._target, self._path = list(columns), path, path
        self._as_csv = path is None or path.suffix == ".csv"
        if path is None:
            if resume:
                raise errors.UsageError("--resume needs --output, the file to continue")
            self._file = stdout
            self._write_header()
            return
        check_suffix(path)
        if path.suffix == ".parquet":
            self._path = path.with_suffix(".partial.jsonl")
        existing = [file for file in {path, self._path} if file.exists()]
        if existing and not resume:
            raise errors.UsageError(
                f"{existing[0]} exists already: continue it with --resume, or remove it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        check_identity(path, identity, exists=bool(existing))
        with self._open():  # both may replace the file, which therefore is opened again
            if path.suffix == ".parquet" and path.exists():
                self._unpack()
            keep = self._read_done()
        self._file = self._open()
        self._file.truncate(keep)
        if not keep:
            self._write_header()

    def __enter__(self) -> "Table":
        return self

    def has(self, path: str) -> bool:
        """Return whether the file had a score of this path (as shown) when opened."""
        return contains(self.done, path)

    def write(self, row: dict[str, Any]) -> None:
        """Add a row and flush it at once."""
        if self._as_csv:
            self._write_csv([row.get(name) for name in self._columns])
        else:
            values = {name: row.get(name) for name in self._columns}
            text = json.dumps(values, allow_nan=False)
            self._file.write(text + "\n")
        self._file.flush()

    def __exit__(self, kind, error, traceback) -> None:
        if self._target is None:
            return
        self._file.close()
        if kind is None and self._target != self._path:
            self._pack()

    def _open(self) -> TextIO:
        """Open the file for this command alone, until it is closed."""
        file = open(self._path, "a", encoding="utf-8", newline="")  # noqa: SIM115
        try:
            alone = locks.try_lock(file)
        except OSError as error:  # of a file system without locks
            logging.warning("%s cannot be locked: %s", self._path, error)
            return file
        if not alone:
            file.close()
            raise errors.UsageError(
                f"another command is writing {self._path}: wait for it, or give each "
                "its own part with --shard=I/N"
            )
        return file

    def _write_header(self) -> None:
        if self._as_csv:
            self._write_csv(self._columns)
            self._file.flush()

    def _write_csv(self, values: list) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._file.write(text.getvalue())

    def _read_done(self) -> int:
        """Read the paths that have a score; return the byte where the last row ends.

        Rows without a score are removed from the file, and so are damaged rows.
        """
        digests, without, damaged, keep = [], 0, 0, 0
        if self._as_csv and (header := table_rows.read_header(self._path)):
            self._check_columns(header, self._path)
        for row, end in table_rows.scan(self._path):
            if row is None:
                damaged += 1
            else:
                self._check_columns(row, self._path)
                if table_rows.has_score(row):
                    digests.append(digest(row["path"]))
                else:
                    without += 1
            keep = end
        if damaged:
            if not (digests or without):
                raise errors.UsageError(
                    f"{self._path} is not a table of scores: give another name, or "
                    "remove it"
                )
            table_rows.warn_of_damage(self._path, damaged)
        self.done = np.sort(np.array(digests, np.uint64))
        return self._remove_rows_without_score() if without or damaged else keep

    def _remove_rows_without_score(self) -> int:
        """Remove rows without a score atomically; return the new length of the file."""
        with (
            replacing(self._path) as new,
            open(self._path, "rb") as source,
            open(new, "wb") as target,
        ):
            if self._as_csv:
                target.write(source.readline())
            for row, end in table_rows.scan(self._path):
                content = source.read(end - source.tell())
                if row is not None and table_rows.has_score(row):
                    target.write(content)
            return target.tell()

    def _pack(self) -> None:
        pyarrow, parquet = _import_parquet()
        schema = _schema(self._columns)
        with (
            replacing(self._target) as new,
            parquet.ParquetWriter(new, schema) as writer,
        ):
            rows = []
            for row, _ in table_rows.read_rows(self._path):
                rows.append(row)
                if len(rows) == _ROWS_IN_A_GROUP:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
        self._path.unlink()

    def _unpack(self) -> None:
        """Write the rows of the Parquet file that have a score as JSON lines.

        If a run that continued the file was killed, its rows follow.
        """
        further = (row for row, _ in table_rows.read_rows(self._path))
        seen: set[int] = set()
        with replacing(self._path) as new, open(new, "w", encoding="utf-8") as file:
            for row in itertools.chain(read_parquet(self._target), further):
                self._check_columns(row, self._target)
                number = int(digest(row["path"]))
                if table_rows.has_score(row) and number not in seen:
                    seen.add(number)
                    file.write(json.dumps(row) + "\n")

    def _check_columns(self, row: Iterable[str], path: pathlib.Path) -> None:
        if list(row) != self._columns:
            raise errors.UsageError(
                f"{path} has the columns {', '.join(row)}, and this command writes "
                f"{', '.join(self._columns)}: give the same flags"
            )


def _schema(columns: Sequence[str]):
    pyarrow, _ = _import_parquet()
    types = {"path": pyarrow.string(), "error": pyarrow.string()}
    types |= {"width": pyarrow.int64(), "height": pyarrow.int64()}
    return pyarrow.schema(
        [(name, types.get(name, pyarrow.float64())) for name in columns]
    )


def encode_parquet(rows: list[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """Return the content of a Parquet file with these rows."""
    pyarrow, parquet = _import_parquet()
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, _schema(columns)), content)
    return content.getvalue()


def read_parquet(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file."""
    _, parquet = _import_parquet()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def check_suffix(path: AnyPath) -> None:
    """Check that the name of a table ends in one of `SUFFIXES`.

    Raises:
      UsageError: the name has another suffix.
      ArniqaError: the table is Parquet, and pyarrow is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise errors.UsageError(
            f"--output={path}: expected a name that ends in {', '.join(SUFFIXES)}"
        )
    if path.suffix == ".parquet":
        _import_parquet()


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".model.json")


def read_identity(path: pathlib.Path) -> dict[str, Any]:
    """Return what the scores of a table depend on; {} if that was not recorded.

    Raises:
      UsageError: the record is damaged.
    """
    beside = _beside(path)
    if not beside.exists():
        return {}
    try:
        identity = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(identity, dict):
            raise ValueError("expected an object")
    except ValueError as error:
        raise errors.UsageError(
            f"{beside} is damaged ({error}): remove it if {path} was written with "
            "this model"
        ) from error
    return identity


def check_identity(path: pathlib.Path, identity: dict[str, Any], exists: bool) -> None:
    """Compare `NAME.model.json` with what the next scores depend on, or write it.

    Args:
      path: the table, NAME.
      identity: a dictionary of JSON values.
      exists: whether the table already has rows.

    Raises:
      UsageError: the existing rows have another identity.
    """
    beside = _beside(path)
    if exists and not beside.exists():
        logging.warning(
            "%s is missing: it cannot be checked that %s was written with this model",
            beside,
            path,
        )
    elif exists:
        before = read_identity(path)
        changed = sorted(k for k in identity if before.get(k) != identity[k])
        if changed:
            raise errors.UsageError(
                f"{path} was written with another model or other flags "
                f"({', '.join(changed)} differ, see {beside}): use the same ones, or "
                "write another file"
            )
    write_atomically(beside, json.dumps(identity, indent=1) + "\n")


def _import_parquet():
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise errors.ArniqaError(
            "Parquet needs pyarrow, which is not installed: pip install "
            "'arniqa_jax[parquet]', or write .csv or .jsonl"
        ) from error
    return pyarrow, parquet
