"""Tables to the terminal and to files: JSON, CSV, Markdown, LaTeX."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from arniqa_jax.evaluation import comparison, regressors, results, tables
from arniqa_jax.evaluation.results import Results
from arniqa_jax.evaluation.tables import Table
from arniqa_jax.workdir import write_aside

_WIDTH = 80  # columns of a terminal


def terminal_table(evaluated: Results) -> str:
    """The main table and, for several datasets, the cross-dataset one."""
    shown = [tables.within(evaluated), tables.cross(evaluated)]
    return "\n\n".join(to_text(table) for table in shown if table is not None)


def side_by_side(a: Results, b: Results) -> str:
    """Encoder B beside encoder A, with what is more than chance."""
    return to_text(tables.comparison(a, b, comparison.compare(a, b)))


def write(
    evaluated: Results, directory: pathlib.Path, config: dict[str, Any] | None = None
) -> None:
    """Writes the tables, the figures' data and the regressors.

    Args:
      evaluated: what was found.
      directory: made where missing: `results.json`, `predictions.npz`, `results.md`,
        `results.tex`, one `.csv` per table and `regressors/`.
      config: recorded in `results.json`.
    """
    results.save(evaluated, directory, config)
    found = [
        tables.within(evaluated),
        tables.spread(evaluated),
        tables.distortions(evaluated),
        tables.cross(evaluated),
        tables.efficiency(evaluated),
        tables.quoted(evaluated),
    ]
    write_tables([t for t in found if t is not None], directory, "results")
    regressors.write_all(evaluated, directory / "regressors")


def write_comparison(a: Results, b: Results, directory: pathlib.Path) -> None:
    """Writes the table of `side_by_side`."""
    table = tables.comparison(a, b, comparison.compare(a, b))
    directory.mkdir(parents=True, exist_ok=True)
    write_tables([table], directory, "comparison")


def write_tables(found: Sequence[Table], directory: pathlib.Path, name: str) -> None:
    """All tables in NAME.md and NAME.tex, and each in a .csv of its own."""
    write_aside(directory / f"{name}.md", "\n".join(map(to_markdown, found)))
    write_aside(directory / f"{name}.tex", "\n".join(map(to_latex, found)))
    for table in found:
        write_aside(directory / f"{table.name}.csv", to_csv(table))


def to_text(table: Table) -> str:
    """Aligned columns; at most 80 characters wide, the label shortened if need be."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    spare = _WIDTH - sum(widths[1:]) - (len(widths) - 1)
    widths[0] = min(widths[0], max(spare, 8))
    text = [_wrap(table.title)]
    for line in lines:
        first, *others = line
        if len(first) > widths[0]:
            first = first[: widths[0] - 1] + "…"
        cells = [first.ljust(widths[0])]
        # Text to the left, numbers to the right.
        for cell, width in zip(others, widths[1:], strict=True):
            cells.append(cell.rjust(width) if _is_number(cell) else cell.ljust(width))
        text.append(" ".join(cells).rstrip())
    text += [_wrap(note) for note in table.notes]
    return "\n".join(text)


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in ("-", "+")


def _wrap(text: str) -> str:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = " "
        line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def to_markdown(table: Table) -> str:
    def row(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [
        f"### {table.title}",
        "",
        row(table.header),
        row(["---"] * len(table.header)),
    ]
    lines += [row(cells) for cells in table.rows]
    # A note that begins with a star would be a list of its own.
    lines += ["", *("- " + note.replace("* ", "\\* ") for note in table.notes), ""]
    return "\n".join(lines)


def to_latex(table: Table) -> str:
    """A `tabular` with booktabs rules, and the notes below it."""

    def row(cells):
        return " & ".join(map(_escape, cells)) + r" \\"

    body = [row(cells) for cells in table.rows]
    columns = "l" + "r" * (len(table.header) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escape(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            row(table.header),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_escape(note)}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")


def to_csv(table: Table) -> str:
    """Cells as printed; an interval becomes its own two columns in `figures.csv`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    return buffer.getvalue()
