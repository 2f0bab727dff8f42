"""A table as text, Markdown, LaTeX, HTML or CSV."""

import csv
import html
import io
import math

from arniqa_jax.evaluation.results import Figure
from arniqa_jax.evaluation.tables import Cell, Change, Table

_WIDTH = 80  # columns of a terminal
_UNDEFINED = "-"
_SHORTEST_WORD = 8  # characters that are left of a label, at least


def to_text(table: Table) -> str:
    """Return aligned columns, at most 80 characters wide; long labels are shortened."""
    lines = [table.header, *(tuple(map(_print, row)) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # Numbers are aligned right, words left, and a header like its column.
    numeric = [
        not any(isinstance(cell, str) for cell in column)
        for column in zip(*table.rows, strict=True)
    ]
    # Columns of words are shortened until the table fits, the first ones first.
    excess = sum(widths) + len(widths) - 1 - _WIDTH
    for column, width in enumerate(widths):
        if not numeric[column] and excess > 0:
            widths[column] = min(width, max(_SHORTEST_WORD, width - excess))
            excess -= width - widths[column]
    text = [_wrap(table.title)]
    for line in lines:
        cells = [
            cell.rjust(width) if right else _shorten(cell, width).ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        text.append(" ".join(cells).rstrip())
    text += [_wrap(note) for note in table.notes]
    return "\n".join(text)


def _shorten(word: str, width: int) -> str:
    return word if len(word) <= width else word[: width - 1] + "…"


def _print(cell: Cell) -> str:
    """Return a cell as text: three digits, `0.508 [0.41 0.60]` with an interval.

    NaN (an undefined statistic) is a dash. A cell without content is empty.
    """
    match cell:
        case None:
            return ""
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case float():
            return _UNDEFINED if math.isnan(cell) else f"{cell:.3f}"
        case Figure(median=value):
            sign = "-"
        case Change(value=value):
            sign = "+"
    if math.isnan(value):
        return _UNDEFINED
    if math.isnan(cell.low):
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{cell.low:{sign}.2f} {cell.high:{sign}.2f}]"


def _wrap(text: str) -> str:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = " "
        line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def to_markdown(table: Table) -> str:
    """Return a heading, the table, and the notes as a list."""

    def row(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rows = [row(map(_print, cells)) for cells in table.rows]
    rule = row(["---"] * len(table.header))
    # Escape a star at the start of a note, which would begin a nested list.
    notes = ["- " + note.replace("* ", "\\* ") for note in table.notes]
    return "\n".join(
        [f"### {table.title}", "", row(table.header), rule, *rows, "", *notes, ""]
    )


def to_latex(table: Table) -> str:
    """Return a `table` with booktabs rules and the notes below it."""

    def row(cells):
        return " & ".join(map(_escape, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escape(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            row(table.header),
            r"\midrule",
            *(row(map(_print, cells)) for cells in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_escape(note)}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


# `translate` replaces each character once, so it does not escape the new backslashes.
_LATEX = {"\\": r"\textbackslash{}"} | {c: "\\" + c for c in "&%$#_{}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escape(text: str) -> str:
    return text.translate(str.maketrans(_LATEX))


def to_html(table: Table) -> str:
    """Return a heading, a `table` whose cells have their values, and the notes.

    A cell has all digits of its value in `data-value`, to sort by.
    """

    def words(value: Cell) -> str:
        return ' class="words"' if isinstance(value, str) else ""

    def cell(value: Cell) -> str:
        number = _spread(value)[0]
        sorted_by = ""
        if isinstance(number, int | float) and not math.isnan(number):
            sorted_by = f' data-value="{float(number)!r}"'
        return f"<td{words(value)}{sorted_by}>{html.escape(_print(value))}</td>"

    header = "".join(
        f"<th{words(first)}>{html.escape(name)}</th>"
        for name, first in zip(table.header, table.rows[0], strict=True)
    )
    rows = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in table.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f"<h3>{html.escape(table.title)}</h3>\n"
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>\n'
        f'<tbody>{rows}</tbody></table></div>\n<ul class="notes">{notes}</ul>'
    )


def to_csv(table: Table) -> str:
    """Return CSV with all digits; an interval takes two columns, `_low` and `_high`.

    An undefined statistic is an empty cell.
    """
    with_interval = [
        any(isinstance(cell, Figure | Change) for cell in column)
        for column in zip(*table.rows, strict=True)
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = []
    for name, wide in zip(table.header, with_interval, strict=True):
        header += [name, f"{name}_low", f"{name}_high"] if wide else [name]
    writer.writerow(header)
    for row in table.rows:
        cells = []
        for cell, wide in zip(row, with_interval, strict=True):
            cells += _spread(cell) if wide else [cell]
        writer.writerow(["" if cell != cell else cell for cell in cells])
    return buffer.getvalue()


def _spread(cell: Cell) -> list:
    match cell:
        case Figure(median=value, low=low, high=high):
            return [value, low, high]
        case Change(value=value, low=low, high=high):
            return [value, low, high]
    return [cell, None, None]
