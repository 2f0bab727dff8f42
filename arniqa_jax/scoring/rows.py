"""From images to one table row each; an error becomes the row's reason.

The score command uses `score_stream`. `ScoreRows` is for engines that map a function
over batches of rows (Ray Data, Hugging Face datasets, Spark, Beam). This module imports
none of them.
"""

import errno
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from arniqa_jax import errors
from arniqa_jax.distributed import cpus
from arniqa_jax.inference import preprocessing
from arniqa_jax.inference.extractor import map_in_threads
from arniqa_jax.scoring import heat_map, inputs, scorer
from arniqa_jax.scoring.scorer import Scorer
from arniqa_jax.storage import files

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
    views = map_in_threads(load, items, threads=cpus.available_cpus())
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
        return f"its map cannot be written: {errors.one_line(error)}"
    return None


# --- For engines --------------------------------------------------------------------

# Columns that may contain images, in order of preference.
_IMAGE_COLUMNS = ("image", "bytes", "path")


class ScoreRows:
    """Scores batches of rows: columns in, the same columns and `score`, `error` out.

    An instance can be pickled. It holds the name of the model, not the model, which is
    loaded once per process at the first batch.

    Ray Data::

        photos = ray.data.read_binary_files("photos", include_paths=True)
        scored = photos.map_batches(
            ScoreRows, fn_constructor_args=["kadid10k"], batch_size=256,
            compute=ray.data.ActorPoolStrategy(size=4), num_gpus=1)

    Hugging Face datasets::

        scored = dataset.map(ScoreRows("kadid10k"), batched=True, batch_size=256)

    Spark::

        rows = ScoreRows("kadid10k")

        def score(frames):
            for frame in frames:
                yield pandas.DataFrame(rows(frame.to_dict("list")))

        scored = table.mapInPandas(score, "path string, score double, error string")
    """

    def __init__(
        self,
        model: str | os.PathLike,
        *,
        column: str | None = None,
        raw: bool = False,
        details: bool = False,
        map_folder: str | None = None,
        **options: Any,
    ):
        """Store the arguments, without loading anything.

        Args:
          model: as in `scorer.load`. Every process must be able to read it.
          column: the column with the images; by default the first existing one of
            `image`, `bytes` and `path`. An image is a path, encoded bytes, a Pillow
            image, an array (H, W, 3), or a dictionary with `bytes` or `path`.
          raw: whether to give scores on the scale of the regressor's dataset.
          details: whether to add width, height, seconds and the scores of the crops.
          map_folder: folder for a heat map of each image; None for no maps.
          **options: options of `scorer.load`, for example `crops="whole"`.

        Raises:
          UsageError: `map_folder` is not a local path.
        """
        if map_folder is not None:
            map_folder = os.fspath(files.local_path(map_folder, "--map"))
        self.model = os.fspath(model)
        self.column = column
        self.raw, self.details, self.map_folder = raw, details, map_folder
        self.options = options
        self._scorer: Scorer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_scorer": None}

    @property
    def scorer(self) -> Scorer:
        """The model, loaded at first use.

        Raises:
          ArniqaError: as in `scorer.load`; or the model has no regressor, or cannot
            make the maps that are asked for.
        """
        if self._scorer is None:
            loaded = scorer.load(self.model, **self.options)
            loaded.require_regressor()
            if self.map_folder:
                loaded.require_maps()
            self._scorer = loaded
        return self._scorer

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on, as JSON; a table is continued with the same."""
        identity = {"fingerprint": self.scorer.fingerprint, "raw": self.raw}
        if self.raw and not self.scorer.require_regressor().higher_is_better:
            identity["lower_is_better"] = True
        return identity

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, Any]:
        """Return the columns of a batch with its scores.

        Args:
          batch: columns of equal length, by name.

        Returns:
          The columns of `batch` unchanged; `score`, float64, NaN without a score;
          `error`, text, empty without an error; with `details` further float64 columns.

        Raises:
          UsageError: no column has images.
        """
        found = list(self.stream(self._items(batch)))
        added = {}
        for name in columns(self.scorer.crops, details=self.details):
            if name == "error":
                added[name] = np.array([row[name] or "" for row in found], np.str_)
            elif name != "path":
                added[name] = np.array([row[name] for row in found], np.float64)
        return {**batch, **added}

    def stream(self, items: Iterable[inputs.Input]) -> Iterator[dict[str, Any]]:
        """Yield a row for each image, like `score_stream`."""
        return score_stream(
            self.scorer, items, raw=self.raw, map_folder=self.map_folder
        )

    def _items(self, batch: Mapping[str, Sequence]) -> list[inputs.Input]:
        candidates = [self.column] if self.column else _IMAGE_COLUMNS
        column = next((name for name in candidates if name in batch), None)
        if column is None:
            raise errors.UsageError(
                f"no column {' or '.join(candidates)} among {', '.join(batch)}: name "
                "the one with the images, ScoreRows(model, column=...)"
            )
        values = batch[column]
        names = batch.get("path", [None] * len(values))
        return [
            _item(value, name, index)
            for index, (value, name) in enumerate(zip(values, names, strict=True))
        ]


def _item(value: Any, name: Any, index: int) -> inputs.Input:
    """Return what one cell of a column holds."""
    if isinstance(value, Mapping):
        name = value.get("path") or name
        value = value.get("bytes") or value.get("path")
    name = os.fspath(name) if isinstance(name, str | os.PathLike) else f"row {index}"
    if value is None:
        return inputs.Input(name, "no image in this row")
    if isinstance(value, str | os.PathLike):
        return inputs.Input(os.fspath(value))
    return inputs.Input(name, content=value)
