"""The results of an evaluation: plain data, written to and read from a directory.

`results.json` contains every statistic. `predictions.npz` contains the predictions on
the test parts and the scores, which a comparison of two evaluations needs. Neither is a
pickle. An undefined statistic is NaN here and null in `results.json`.
"""

import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from arniqa_jax import errors
from arniqa_jax.evaluation import statistics
from arniqa_jax.storage.files import local_path, write_atomically

SCHEMA_VERSION = 1
_PACKAGES = ("arniqa_jax", "jax", "flax", "numpy", "scipy", "scikit-learn", "pillow")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A statistic over the splits, with its 95 % bootstrap interval over images.

    `median`, `mean` and `std` are over the splits where the statistic is defined. They
    are NaN if there are none. `low` and `high` bound the median.
    """

    median: float
    mean: float
    std: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Subset:
    """The statistics of a distortion type or group; `images` over all test parts."""

    images: int
    srcc: Figure
    plcc: Figure


@dataclasses.dataclass(frozen=True)
class TestPart:
    """The test images of a split, as indices in the dataset, and their predictions.

    Predictions are in the unit and direction of the dataset's scores.
    """

    indices: np.ndarray
    predictions: np.ndarray
    train_images: int

    __test__ = False  # not a test, whatever pytest makes of the name


@dataclasses.dataclass(frozen=True)
class DatasetResult:
    """One dataset, evaluated on its own splits.

    Attributes:
      name, title, kind, averaged, note, remark, split_origin: as in `Benchmark`.
      higher_is_better, score_range: of the scores.
      images: number of images that were used.
      fingerprint: of names, scores and splits.
      alpha: the penalty with the highest median SRCC on the validation parts.
      validation_srcc: that SRCC; NaN if undefined, when `alpha` has the lowest RMSE.
      figures: a `Figure` for each of `statistics.METRICS`.
      per_split: the same statistics, split by split; NaN where undefined.
      by_type, by_group: `Subset` per distortion type and group.
      efficiency: SRCC by the share of the training part, `0.1` to `1.0`; or empty.
      tests: the test parts, split by split.
      image_names: of all images of the dataset.
      scores_N: of all images.
      weights_D, intercept: the regressor of the whole dataset.
    """

    name: str
    title: str
    kind: str
    averaged: bool
    note: str
    split_origin: str
    higher_is_better: bool
    score_range: tuple[float, float]
    images: int
    fingerprint: str
    alpha: float
    validation_srcc: float
    figures: dict[str, Figure]
    per_split: dict[str, list[float]]
    by_type: dict[str, Subset]
    by_group: dict[str, Subset]
    efficiency: dict[str, Figure]
    tests: tuple[TestPart, ...]
    image_names: tuple[str, ...]
    scores_N: np.ndarray
    weights_D: np.ndarray
    intercept: float
    remark: str = ""

    @property
    def has_constant_scores(self) -> bool:
        """Whether all scores are equal, so that nothing can be learned from them."""
        return statistics.is_constant(self.scores_N)


@dataclasses.dataclass(frozen=True)
class CrossResult:
    """The results of one whole dataset's regressor on every image of another."""

    train: str
    test: str
    alpha: float
    images: int
    figures: dict[str, Figure]


@dataclasses.dataclass(frozen=True)
class Results:
    """An evaluation of one encoder.

    Attributes:
      encoder: its name, for tables.
      fingerprint: fingerprint of its parameters.
      feature_dim: width of its features at one scale.
      patch_size, crops, full_reference, seed: the protocol.
      datasets: results of the datasets on their own splits.
      cross: results of one dataset's regressor on another.
    """

    encoder: str
    fingerprint: str
    feature_dim: int
    patch_size: int
    crops: str
    full_reference: bool
    seed: int
    datasets: tuple[DatasetResult, ...]
    cross: tuple[CrossResult, ...]

    def dataset(self, name: str) -> DatasetResult:
        """Return the result of the dataset of this name."""
        return next(d for d in self.datasets if d.name == name)


# Not in results.json: arrays, most of them in predictions.npz.
_ARRAYS = ("tests", "image_names", "scores_N", "weights_D", "intercept")


def to_json(results: Results, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the statistics as plain data; NaN, which JSON lacks, becomes None."""
    datasets = []
    for dataset in results.datasets:
        fields = dataclasses.asdict(dataclasses.replace(dataset, tests=()))
        datasets.append({k: v for k, v in fields.items() if k not in _ARRAYS})
    described = {
        "schema_version": SCHEMA_VERSION,
        **{
            field.name: getattr(results, field.name)
            for field in dataclasses.fields(results)
            if field.name not in ("datasets", "cross")
        },
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "config": config or {},
        "datasets": datasets,
        "cross": [dataclasses.asdict(cross) for cross in results.cross],
    }
    return _without_nan(described)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def save(
    results: Results, directory: pathlib.Path, config: dict[str, Any] | None = None
) -> None:
    """Write `results.json` and `predictions.npz` to a directory, created if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for dataset in results.datasets:
        arrays[f"{dataset.name}/images"] = np.array(dataset.image_names)
        arrays[f"{dataset.name}/scores"] = dataset.scores_N
        arrays[f"{dataset.name}/weights"] = dataset.weights_D
        arrays[f"{dataset.name}/intercept"] = np.array(dataset.intercept)
        for number, test in enumerate(dataset.tests):
            place = f"{dataset.name}/split{number}"
            arrays[f"{place}/test"] = test.indices
            arrays[f"{place}/predictions"] = test.predictions
            arrays[f"{place}/train_images"] = np.array(test.train_images)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(directory / "predictions.npz", buffer.getvalue())
    text = json.dumps(to_json(results, config), indent=1) + "\n"
    write_atomically(directory / "results.json", text)


def load(directory: str | os.PathLike) -> Results:
    """Return the results that `save` wrote.

    Args:
      directory: the directory with `results.json`, or a workdir with one result in it.

    Raises:
      UsageError: there is no result, or more than one, or the path is a URL.
      ArniqaError: the result has another version, or is damaged.
    """
    directory = _find(local_path(directory, "results"))
    try:
        data = json.loads((directory / "results.json").read_text(encoding="utf-8"))
        if data.get("schema_version") != SCHEMA_VERSION:
            raise errors.ArniqaError(
                f"{directory}/results.json has the schema version "
                f"{data.get('schema_version')}, this program reads {SCHEMA_VERSION}: "
                f"evaluate again"
            )
        with (
            open(directory / "predictions.npz", "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            datasets = tuple(_load_dataset(d, arrays) for d in data["datasets"])
        cross = tuple(
            CrossResult(**{**c, "figures": _figures(c["figures"])})
            for c in data["cross"]
        )
        fields = {f.name for f in dataclasses.fields(Results)} - {"datasets", "cross"}
        return Results(
            **{name: data[name] for name in fields}, datasets=datasets, cross=cross
        )
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        *(EOFError, zipfile.BadZipFile),
    ) as error:
        raise errors.ArniqaError(
            f"{directory} holds no complete results ({error!r}): evaluate again"
        ) from error


def _find(directory: pathlib.Path) -> pathlib.Path:
    if (directory / "results.json").is_file():
        return directory
    found = sorted(directory.glob("results/*/results.json"))
    if len(found) != 1:
        names = ", ".join(str(path.parent) for path in found) or "none"
        raise errors.UsageError(
            f"{directory}: expected results.json, or a workdir with one set of results "
            f"below results/, found {names}; name one of them"
        )
    return found[0].parent


def _load_dataset(data: dict[str, Any], arrays) -> DatasetResult:
    name = data["name"]
    tests = []
    while f"{name}/split{len(tests)}/test" in arrays:
        place = f"{name}/split{len(tests)}"
        tests.append(
            TestPart(
                arrays[f"{place}/test"],
                arrays[f"{place}/predictions"],
                int(arrays[f"{place}/train_images"]),
            )
        )
    return DatasetResult(
        **{
            **data,
            "score_range": tuple(data["score_range"]),
            "validation_srcc": _number(data["validation_srcc"]),
            "per_split": {
                metric: [_number(value) for value in values]
                for metric, values in data["per_split"].items()
            },
            "figures": _figures(data["figures"]),
            "efficiency": _figures(data["efficiency"]),
            "by_type": {k: _subset(v) for k, v in data["by_type"].items()},
            "by_group": {k: _subset(v) for k, v in data["by_group"].items()},
        },
        tests=tuple(tests),
        image_names=tuple(arrays[f"{name}/images"].tolist()),
        scores_N=arrays[f"{name}/scores"],
        weights_D=arrays[f"{name}/weights"],
        intercept=float(arrays[f"{name}/intercept"]),
    )


def _figures(data: dict[str, dict]) -> dict[str, Figure]:
    return {name: _figure(values) for name, values in data.items()}


def _figure(values: dict[str, float | None]) -> Figure:
    return Figure(**{name: _number(value) for name, value in values.items()})


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _subset(data: dict[str, Any]) -> Subset:
    return Subset(data["images"], _figure(data["srcc"]), _figure(data["plcc"]))
