"""Tables of text: encoding, delimiter, header and columns.

A table has one header line. Commas, semicolons or tabs separate its cells. Names of
columns are compared without letter case; spaces, `-` and `_` count as equal.
"""

import csv
import re
from collections.abc import Sequence

from arniqa_jax import errors
from arniqa_jax.storage.bucket_paths import AnyPath

_SAVE_AS = "save it as CSV UTF-8"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_rows(path: AnyPath) -> list[list[str]]:
    """Return the cells of a table, header first; backslashes become slashes.

    Backslashes separate folders if a table was made on Windows. The line `sep=;`, which
    Excel writes before the header, sets the delimiter.

    Raises:
      DatasetError: the file is not UTF-8 text, or a quotation mark is not closed.
    """
    lines = read_text(path).replace("\\", "/").splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:
        delimiter = lines.pop(0)[4]
    try:
        return list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise errors.DatasetError(
            f"{path}: {error}; is there a quotation mark that is not closed?"
        ) from error


def read_text(path: AnyPath) -> str:
    """Return the text of a file, UTF-8 with or without a byte order mark.

    Raises:
      DatasetError: the file has another encoding; the message gives the line.
    """
    content = path.read_bytes()
    if content.startswith(_UTF_16):
        raise errors.DatasetError(
            f"{path}: expected UTF-8 text, found UTF-16: {_SAVE_AS}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise errors.DatasetError(
            f"{path}: expected UTF-8 text, found another encoding in line {line}: "
            f"{_SAVE_AS}"
        ) from error


def normal_name(cell: object) -> str:
    """Return the name of a column in the form in which names are compared."""
    return re.sub(r"[\s_-]+", "_", str(cell or "").strip().lower())


def find_column(
    path: AnyPath,
    header: Sequence[object],
    names: Sequence[str],
    *,
    required: bool = True,
) -> int | None:
    """Return the index of the first of `names` that the header contains.

    Args:
      path: path of the table, for the message.
      header: cells of the first line.
      names: names in order of preference.
      required: whether a missing column is an error; otherwise the result is None.

    Raises:
      DatasetError: there is no such column; the message lists the columns.
    """
    known = [normal_name(cell) for cell in header]
    for name in names:
        if normal_name(name) in known:
            return known.index(normal_name(name))
    if not required:
        return None
    found = ", ".join(str(cell) for cell in header if cell) or "an empty file"
    raise errors.DatasetError(
        f"{path}: expected a column named {' or '.join(names)} in the first line, "
        f"found {found}"
    )


def check_row(
    path: AnyPath, number: int, row: Sequence, header: Sequence, needed: int
) -> None:
    """Raise an error if a row has fewer than `needed` cells, or more than the header.

    Empty cells at the end of a row are accepted.

    Raises:
      DatasetError: the message gives the line.
    """
    extra = any(str(cell or "").strip() for cell in row[len(header) :])
    if len(row) < needed or extra:
        hint = (
            ". Numbers with decimal commas and file names with commas need another "
            "delimiter: save it with decimal points and semicolons"
            if extra
            else ""
        )
        raise errors.DatasetError(
            f"{path}: line {number} has {len(row)} cells, the header {len(header)}"
            f"{hint}"
        )
