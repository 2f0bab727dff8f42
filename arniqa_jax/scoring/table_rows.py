"""The rows of a `.csv` or `.jsonl` table of scores, also of a damaged one.

A row is damaged if it is complete but cannot be read, for example because the machine
crashed or someone edited the file. All other rows are still read.
"""

import csv
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from absl import logging


def read_rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the rows, each with the byte where it ends; warn of damaged ones."""
    damaged = 0
    for row, end in scan(path):
        if row is None:
            damaged += 1
        else:
            yield row, end
    if damaged:
        warn_of_damage(path, damaged)


def warn_of_damage(path: pathlib.Path, damaged: int) -> None:
    """Log how many rows of a table are damaged."""
    logging.warning("%s: damaged rows, which are left out: %d", path, damaged)


def scan(path: pathlib.Path) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield each complete row, None if it is damaged, and the byte where it ends.

    An incomplete last row is left out.
    """
    with open(path, "rb") as file:
        yield from (_read_csv if path.suffix == ".csv" else _read_json)(file)


def read_header(path: pathlib.Path) -> list[str]:
    """Return the names in the first line of a `.csv`; [] if the line is incomplete."""
    with open(path, "rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return []
    return next(csv.reader([line.decode("utf-8", "replace")]), [])


def has_score(row: dict[str, Any]) -> bool:
    """Return whether a row that was read has a finite score."""
    try:
        return row["score"] not in ("", None) and math.isfinite(float(row["score"]))
    except (TypeError, ValueError):
        return False


def _read_csv(file: BinaryIO) -> Iterator[tuple[dict[str, str] | None, int]]:
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    header, end = None, 0
    while True:
        try:
            record = next(reader, None)
        except csv.Error:
            record = []
        if record is None:
            return
        if header is None or len(record) == len(header):
            if not lines.complete:
                return
            end = lines.end
            if header is None:
                header = record
            else:
                yield dict(zip(header, record, strict=True)), end
            continue
        # A wrong quotation mark makes one record of several lines. So only the first
        # line is left out, and reading goes on with the next one.
        file.seek(end)
        line = file.readline()
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield None, end
        lines = _Lines(file, end)
        reader = csv.reader(lines, strict=True)


def _read_json(file: BinaryIO) -> Iterator[tuple[dict[str, Any] | None, int]]:
    lines = _Lines(file)
    for line in lines:
        if not lines.complete:
            return
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield row if isinstance(row, dict) else None, lines.end


class _Lines:
    """Decoded lines of a file, with the position where the last one ended."""

    def __init__(self, file: BinaryIO, start: int = 0):
        self._file = file
        self.end = start
        self.complete = True

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.end += len(line)
            self.complete = line.endswith(b"\n")
            # The file may end within a character.
            yield line.decode("utf-8", "replace")
