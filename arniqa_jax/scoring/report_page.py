"""One self-contained HTML page about a table of scores; it opens from disk."""

import base64
import io
import json
import math
import os
import pathlib
import urllib.parse
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from PIL import Image

from arniqa_jax import errors
from arniqa_jax.scoring import heat_map, parts, pictures, table_rows, tables
from arniqa_jax.storage.files import write_atomically

# Maximum number of rows in a page. A browser needs about 200 bytes per row.
MOST_ROWS = 500_000
# Number of pictures at each end of the scale whose thumbnails are in the page.
_THUMBNAILS = 120
_THUMBNAIL_SIDE = 160


def write(
    files: Sequence[pathlib.Path],
    folder: pathlib.Path,
    *,
    threshold: float | None = None,
    map_folder: pathlib.Path | None = None,
) -> pathlib.Path:
    """Write `index.html`; with a threshold also `kept.txt` and `rejected.txt`.

    Args:
      files: tables that `score` wrote: files, or folders of part files.
      folder: folder of the page; created if missing.
      threshold: images with this score or a better one are kept; None lets the page
        start at the median.
      map_folder: the folder of `score --map`; None for no maps.

    Returns:
      The path of the page.

    Raises:
      UsageError: a table is missing or is not a table of scores, there are too many
        rows, or a higher score is better in one table and a lower one in another.
    """
    rows = [row for file in files for row in _read(file)]
    if len(rows) > MOST_ROWS:
        raise errors.UsageError(
            f"found {len(rows)} rows, and a page holds {MOST_ROWS}: give fewer tables"
        )
    scores = [row["score"] for row in rows]
    lower_is_better = _lower_is_better(files)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "paths": [row["path"] for row in rows],
        "scores": scores,
        "errors": [row["error"] or "" for row in rows],
        "crops": _crops(rows),
        "maps": _maps(rows, map_folder),
        "thumbnails": _thumbnails(rows, scores),
        "base": _relative(pathlib.Path.cwd(), folder),
        "mapBase": _relative(map_folder, folder) if map_folder else "",
        "threshold": threshold,
        "lowerIsBetter": lower_is_better,
    }
    text = json.dumps(described, separators=(",", ":"), allow_nan=False)
    template = resources.files("arniqa_jax.scoring").joinpath("report_page.html")
    # In a script element, only `<` can end the element or begin a comment.
    page = template.read_text("utf-8").replace("DATA", text.replace("<", "\\u003c"), 1)
    write_atomically(folder / "index.html", page)
    if threshold is not None:
        sign = -1 if lower_is_better else 1
        _write_lists(rows, scores, threshold, sign, folder)
    return folder / "index.html"


def _read(file: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, or of a folder of part files; scores are numbers."""
    if not file.exists():
        raise errors.UsageError(f"{file}: there is no such table of scores")
    if file.suffix not in tables.SUFFIXES:
        raise errors.UsageError(
            f"{file}: expected a name that ends in {', '.join(tables.SUFFIXES)}"
        )
    for part in parts.list_parts(file) if file.is_dir() else [file]:
        try:
            if part.suffix == ".csv":
                _check_columns(table_rows.read_header(part))
            for row in parts.read(part):
                _check_columns(row)
                scores = {n: _number(v) for n, v in row.items() if _is_score(n)}
                yield row | scores
        except ValueError as error:
            raise errors.UsageError(
                f"{part} is not a table that arniqa_jax.score wrote: {error}"
            ) from error


def _lower_is_better(files: Sequence[pathlib.Path]) -> bool:
    """Return whether a lower score is better, as the files beside the tables say."""
    found = {bool(tables.read_identity(f).get("lower_is_better")) for f in files}
    if len(found) > 1:
        raise errors.UsageError(
            "a higher score is better in some of the tables and a lower one in others: "
            "write a page for each kind"
        )
    return True in found


def _check_columns(names: Collection[str]) -> None:
    if not {"path", "score", "error"} <= set(names):
        raise ValueError(f"its columns are {', '.join(names) or 'missing'}")


def _is_score(column: str) -> bool:
    return column == "score" or column.startswith("score_")


def _number(value: Any) -> float | None:
    number = float("nan") if value in ("", None) else float(value)
    return round(number, 6) if math.isfinite(number) else None


def _crops(rows: list[dict[str, Any]]) -> dict[str, list]:
    """Return the names and columns of the crop scores, of `score --details`."""
    columns = [name for name in (rows[0] if rows else {}) if name.startswith("score_")]
    return {
        "names": [name.removeprefix("score_").replace("_", " ") for name in columns],
        "values": [[row.get(name) for row in rows] for name in columns],
    }


def _maps(
    rows: list[dict[str, Any]], map_folder: pathlib.Path | None
) -> dict[int, str]:
    """Return the file names of the maps that exist, by row."""
    if map_folder is None or not map_folder.is_dir():
        return {}  # no image had a score, so no map was written
    existing = set(os.listdir(map_folder))
    names = ((i, heat_map.file_name(row["path"])) for i, row in enumerate(rows))
    return {i: name for i, name in names if name in existing}


def _thumbnails(
    rows: list[dict[str, Any]], scores: list[float | None]
) -> dict[int, str]:
    """Return small JPEGs, as `data:` URLs by row, of the worst and the best images."""
    order = sorted(
        (i for i, s in enumerate(scores) if s is not None), key=scores.__getitem__
    )
    ends = dict.fromkeys([*order[:_THUMBNAILS], *order[-_THUMBNAILS:]])
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = pool.map(_thumbnail, (rows[i]["path"] for i in ends))
        return {i: url for i, url in zip(ends, made, strict=True) if url}


def _thumbnail(path: str) -> str | None:
    """Return a small JPEG; None if the image cannot be read here, or no longer."""
    try:
        image = Image.fromarray(pictures.decode(path))
    except (errors.ArniqaError, MemoryError):
        return None
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _relative(target: pathlib.Path, folder: pathlib.Path) -> str:
    """Return the URL of a folder relative to that of the page; it ends with `/`."""
    path = os.path.relpath(target.resolve(), folder.resolve())
    return "".join(f"{urllib.parse.quote(part)}/" for part in path.split(os.sep))


def _write_lists(
    rows: list[dict[str, Any]],
    scores: list[float | None],
    threshold: float,
    sign: int,
    folder: pathlib.Path,
) -> None:
    """Write the paths of the images that a threshold keeps, and of those it rejects.

    `sign` is -1 if a lower score is better, otherwise 1.
    """
    kept, rejected = [], []
    for row, score in zip(rows, scores, strict=True):
        if score is not None:
            is_kept = sign * score >= sign * threshold
            (kept if is_kept else rejected).append(row["path"] + "\n")
    write_atomically(folder / "kept.txt", "".join(kept))
    write_atomically(folder / "rejected.txt", "".join(rejected))
