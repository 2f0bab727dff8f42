"""Tables of scores: written line by line, and gone on with after an interruption.

CSV, JSON lines or Parquet by the suffix. A Parquet file cannot be appended to: its
rows are kept beside it, in `NAME.partial.jsonl`, until all are there.
"""

import csv
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from arniqa_jax import errors

SUFFIXES = (".csv", ".jsonl", ".parquet")
_ROWS_IN_A_GROUP = 10_000


class Table:
    """A context in which `write` adds rows.

    Attributes:
      done: digests (sorted, uint64) of the paths that the file had already.
      failed: how many of these have no score.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        columns: Sequence[str],
        *,
        stdout: TextIO,
        resume: bool = False,
    ):
        """Opens a file, or CSV on standard output where `path` is None.

        Raises:
          UsageError: an unknown suffix; the file exists and may not be gone on with;
            it has other columns.
        """
        self.done, self.failed = np.empty(0, np.uint64), 0
        self._columns, self._target, self._path = list(columns), path, path
        self._as_csv = path is None or path.suffix == ".csv"
        if path is None:
            if resume:
                raise errors.UsageError("--resume needs --output, the file to go on")
            self._file = stdout
            self._write_header()
            return
        if path.suffix not in SUFFIXES:
            raise errors.UsageError(
                f"--output={path}: expected a name that ends in {', '.join(SUFFIXES)}"
            )
        if path.suffix == ".parquet":
            _import_parquet()
            self._path = path.with_suffix(".partial.jsonl")
        for file in {path, self._path}:
            if file.exists() and not resume:
                raise errors.UsageError(
                    f"{file} exists already; go on with it by --resume, or remove it"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet" and path.exists():
            self._unpack()
        keep = self._read_done() if self._path.exists() else 0
        self._file = self._open()
        self._file.truncate(keep)
        if not keep:
            self._write_header()

    def __enter__(self) -> "Table":
        return self

    def has(self, path: str) -> bool:
        """Whether the file had a row of this path (as shown) when it was opened."""
        if not len(self.done):
            return False
        digest = _digest(path)
        at = np.searchsorted(self.done, digest)
        return at < len(self.done) and self.done[at] == digest

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row, which is handed to the system at once."""
        if self._as_csv:
            self._write_csv([row.get(name) for name in self._columns])
        else:
            text = json.dumps({name: row.get(name) for name in self._columns})
            self._file.write(text + "\n")
        self._file.flush()

    def __exit__(self, kind, error, traceback) -> None:
        if self._target is None:
            return
        self._file.close()
        if kind is None and self._target != self._path:
            self._pack()

    def _open(self) -> TextIO:
        return open(self._path, "a", encoding="utf-8", newline="")

    def _write_header(self) -> None:
        if self._as_csv:
            self._write_csv(self._columns)
            self._file.flush()

    def _write_csv(self, values: list) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._file.write(text.getvalue())

    def _read_done(self) -> int:
        """Reads what is there; returns where its last complete row ends."""
        digests, keep = [], 0
        for row, end in read_rows(self._path):
            if list(row) != self._columns:
                raise errors.UsageError(
                    f"{self._path} has the columns {', '.join(row)}, and this command "
                    f"writes {', '.join(self._columns)}: give the same flags"
                )
            digests.append(_digest(row["path"]))
            self.failed += row["score"] in ("", None)
            keep = end
        self.done = np.sort(np.array(digests, np.uint64))
        return keep

    def _pack(self) -> None:
        pyarrow, parquet = _import_parquet()
        types = {"path": pyarrow.string(), "error": pyarrow.string()}
        types |= {"width": pyarrow.int64(), "height": pyarrow.int64()}
        fields = [(name, types.get(name, pyarrow.float64())) for name in self._columns]
        schema = pyarrow.schema(fields)
        aside = self._target.with_suffix(".partial.parquet")
        with parquet.ParquetWriter(aside, schema) as writer:
            rows = []
            for row, _ in read_rows(self._path):
                rows.append(row)
                if len(rows) == _ROWS_IN_A_GROUP:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
        os.replace(aside, self._target)
        self._path.unlink()

    def _unpack(self) -> None:
        _, parquet = _import_parquet()
        aside = self._path.with_suffix(".aside")
        with open(aside, "w", encoding="utf-8") as file:
            for batch in parquet.ParquetFile(self._target).iter_batches():
                file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
        os.replace(aside, self._path)


def read_rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Complete rows of a .csv or .jsonl, each with the place in bytes where it ends.

    A last row that was torn by the end of its process is left out.
    """
    with open(path, "rb") as file:
        lines = _Lines(file)
        if path.suffix == ".csv":
            reader = csv.reader(lines, strict=True)
            try:
                header = next(reader, [])
                for record in reader:
                    if len(record) != len(header) or not lines.complete:
                        return
                    yield dict(zip(header, record, strict=True)), lines.end
            except csv.Error:
                return  # the end of the file, within quotes
        else:
            for line in lines:
                if not lines.complete:
                    return
                yield json.loads(line), lines.end


class _Lines:
    """Decoded lines of a file, with the place where the last one ended."""

    def __init__(self, file):
        self._file = file
        self.end = 0
        self.complete = True

    def __iter__(self):
        for line in self._file:
            self.end += len(line)
            self.complete = line.endswith(b"\n")
            # Half a character may be torn off at the end.
            yield line.decode("utf-8", "replace")


def _digest(path: str) -> np.uint64:
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return np.frombuffer(digest, np.uint64)[0]


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
