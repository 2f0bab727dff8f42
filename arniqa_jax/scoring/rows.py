"""From a stream of images to one table row each; an error becomes the row's reason."""

import errno
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from arniqa_jax import errors
from arniqa_jax.data.images import one_line
from arniqa_jax.inference import preprocessing
from arniqa_jax.inference.extractor import map_in_threads
from arniqa_jax.scoring import heat_map, inputs
from arniqa_jax.scoring.scorer import Scorer

# Write errors that every further image would cause too.
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def columns(crops: str, *, details: bool) -> list[str]:
    """Return the names of the columns of a row, in order.

    Args:
      crops: a key of `preprocessing.CROPS`.
      details: whether to add size, time and the scores of the crops.
    """
    names = ["path", "score", "error"]
    if details:
        names += ["width", "height", "seconds", *_crop_columns(crops)]
    return names


def _crop_columns(crops: str) -> list[str]:
    return [f"score_{name}" for name in preprocessing.CROPS[crops]]


def score_stream(
    model: Scorer,
    items: Iterable[inputs.Input],
    *,
    raw: bool = False,
    map_folder: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the row of each image, in order.

    Images are decoded in threads while others are computed. Memory is bounded.

    Args:
      model: the model.
      items: the images.
      raw: whether to give scores on the scale of the regressor's dataset.
      map_folder: folder for a heat map of each image; None for no maps.

    Yields:
      All columns of `columns`. For an image without a score, `score` is None and
      `error` has the reason.

    Raises:
      OSError: there is no space left for the maps. Any other error becomes the reason
        of its image.
    """
    load = functools.partial(inputs.load, model)
    views = map_in_threads(load, items, threads=os.cpu_count() or 1)
    for loaded, features_CD in model.extractor.embed(views):
        reason = loaded.reason
        scores_C = None
        if features_CD is not None:
            with np.errstate(all="ignore"):  # the next check reports non-finite scores
                scores_C = model.scores_of(features_CD[None], raw=raw)[0]
            if not np.isfinite(scores_C).all():
                reason = f"the score is not a finite number: {scores_C.mean()}"
            elif map_folder:
                reason = _write_map(model, loaded.input, map_folder)
        yield _row(model.crops, loaded, scores_C, reason)


def _row(
    crops: str, loaded: inputs.Loaded, scores_C: np.ndarray | None, reason: str | None
) -> dict[str, Any]:
    row = dict.fromkeys(columns(crops, details=True))
    row |= {"path": loaded.input.shown, "error": reason}
    row |= {"width": loaded.width, "height": loaded.height}
    if loaded.seconds is not None:
        row["seconds"] = round(loaded.seconds, 4)
    if reason is None:
        row["score"] = round(float(scores_C.mean()), 6)
        names = _crop_columns(crops)
        row |= {n: round(float(v), 6) for n, v in zip(names, scores_C, strict=True)}
    return row


def _write_map(model: Scorer, item: inputs.Input, folder: str) -> str | None:
    """Write the heat map of an image; return the reason if that is impossible."""
    try:
        image = inputs.decode(model, item)
        heat_map.write(
            model, image, pathlib.Path(folder) / heat_map.file_name(item.path)
        )
    except errors.ImageError as error:
        return str(error).removeprefix(f"{item.path}: ")
    except MemoryError:
        return "not enough memory for its map"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OUT_OF_SPACE:
            raise
        return f"its map cannot be written: {one_line(error)}"
    return None
