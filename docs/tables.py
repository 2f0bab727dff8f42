"""Tables of the documentation that are made from the source code when it is built.

Each function of `TABLES` returns Markdown. The pages ask for them by the directive
`table-of`, which conf.py defines.
"""

import io
import pathlib
import tokenize
from collections.abc import Callable

import configs.pretrain
from arniqa_jax import degradation
from arniqa_jax.datasets import catalogue, meta_tables


def comments(source: str) -> dict[str, str]:
    """Return what the comments of a config file say about each field.

    The comment of a field is what stands in the lines directly above its assignment,
    followed by what stands behind it.

    Args:
      source: the text of the file; a field is assigned as `config.GROUP.NAME = VALUE`.
    """
    found, above = {}, []
    lines = source.splitlines()
    trailing = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("#"):
            above.append(trailing[number])
            continue
        target, assigns, _ = text.partition(" = ")
        if assigns and target.startswith("config.") and "ConfigDict()" not in text:
            said = [" ".join(above), trailing.get(number, "")]
            found[target.removeprefix("config.")] = "; ".join(filter(None, said))
        above = []
    return found


def config_fields() -> str:
    """Return the fields of the pre-training config with defaults and meanings.

    There is one table for each group of fields, in the order of the file.
    """
    config = configs.pretrain.get_config()
    said = comments(pathlib.Path(configs.pretrain.__file__).read_text())
    rows_of_group: dict[str, list[tuple[str, ...]]] = {}
    for field, meaning in said.items():
        group, _, name = field.rpartition(".")
        value = config[group][name] if group else config[name]
        row = (f"`{field}`", f"`{value!r}`", meaning)
        rows_of_group.setdefault(group, []).append(row)
    header = ("field", "default", "meaning")
    return "\n\n".join(_markdown(header, rows) for rows in rows_of_group.values())


def datasets() -> str:
    """Return what is known about each labelled dataset."""
    rows = []
    for name, known in catalogue.DATASETS.items():
        scale = "as found"
        if known.score_range:
            scale = "{}..{}".format(*known.score_range)
        rows.append(
            (
                f"`{name}`",
                f"`{known.folder or known.title}`",
                f"{known.images:,}",
                known.kind,
                f"{'MOS' if known.higher_is_better else 'DMOS'}, {scale}",
                f"`{known.label_file}`",
            )
        )
    header = ("name", "folder", "images", "kind", "scores", "label file")
    return _markdown(header, rows)


def meta_tables_of_pyiqa() -> str:
    """Return the names of the meta tables with the folders of their images."""
    rows = []
    for name, known in meta_tables.META_TABLES.items():
        scale = "{}..{}".format(*known.score_range) if known.score_range else "as found"
        better = "higher" if known.higher_is_better else "lower"
        rows.append((f"`{name}`", f"`{known.folder}`", f"{scale}, {better} is better"))
    return _markdown(("name", "folder", "scores"), rows)


def distortions() -> str:
    """Return the 24 distortions with the parameter of each level."""
    rows = [
        (f"`{d.name}`", d.group, ", ".join(f"{level:g}" for level in d.levels))
        for d in degradation.CATALOGUE.values()
    ]
    return _markdown(("distortion", "group", "parameter at levels 1 to 5"), rows)


def distortion_functions() -> str:
    """Return directives that document the function of each distortion."""
    lines = ["```{eval-rst}"]
    for distortion in degradation.CATALOGUE.values():
        function = distortion.function
        lines.append(f".. autofunction:: {function.__module__}.{function.__name__}")
    return "\n".join([*lines, "```"])


TABLES: dict[str, Callable[[], str]] = {
    "config-fields": config_fields,
    "datasets": datasets,
    "meta-tables": meta_tables_of_pyiqa,
    "distortions": distortions,
    "distortion-functions": distortion_functions,
}


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; a vertical bar in a cell is escaped."""
    lines = [header, ("---",) * len(header), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
