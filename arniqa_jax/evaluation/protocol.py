"""The protocol of the paper: splits, choice of the penalty, figures, other datasets.

Within a dataset, every split gets ridge regressions with all penalties on the crops of
the training images. Each crop has the score of its image. A prediction for an image is
the mean over its crops; for a linear regressor this is the prediction for the mean
feature. The penalty with the highest median SRCC over the validation parts is chosen,
and its figures on the test parts are reported.

Across datasets, the regressor of one whole dataset predicts every image of another.

Shapes: N images of a dataset, D features, A penalties, S splits, R bootstrap
replicates, T datasets that were trained on.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.datasets.splits import Split
from arniqa_jax.evaluation import statistics, summaries
from arniqa_jax.evaluation.fits import Regressions
from arniqa_jax.evaluation.results import (
    CrossResult,
    DatasetResult,
    Figure,
    Results,
    TestPart,
)
from arniqa_jax.inference import feature_store
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.inference.extractor import Encoder
from arniqa_jax.inference.feature_store import Features

ALPHAS = np.geomspace(1e-3, 1e3, 100)
# Fractions of the training part in the data-efficiency curve.
TRAINING_SHARES = (0.1, 0.2, 0.5, 0.8, 1.0)


def validate(
    encoder: Encoder,
    benchmarks: Sequence[Benchmark],
    *,
    alpha: float,
    cache_dir: str | os.PathLike,
    crops: str = "five",
    workers: int = 2,
) -> dict[str, float]:
    """Return the median SRCC over the validation parts, with a given penalty.

    Test images are never used. The features of this encoder are kept on disk, so that
    an interrupted validation resumes. Those of the previous encoder are removed.

    Returns:
      The SRCC of each dataset by its name, and their `mean`. A median or mean uses the
      defined values, and is NaN if there are none.
    """
    directory = pathlib.Path(cache_dir) / "validation"
    extractor = DatasetExtractor(encoder, directory, crops, workers)
    feature_store.prune(directory, keep=extractor.directory)
    figures = {}
    for benchmark in benchmarks:
        seen = [np.concatenate([s.train, s.validation]) for s in benchmark.splits]
        rows = np.unique(np.concatenate(seen))
        features = extractor.dataset(benchmark, rows)
        regressions = Regressions(
            features, benchmark.scores_N, rows, shared=len(benchmark.splits) > 1
        )
        srcc_S = [
            regressions.validation_srcc(split, np.array([alpha]))[0]
            for split in _readable(benchmark, features, ("train", "validation"))
        ]
        figures[benchmark.name] = float(np.median(statistics.defined(srcc_S)))
    known = statistics.defined(list(figures.values()))
    return {**figures, "mean": float(np.mean(known))}


def evaluate(
    encoder: Encoder,
    benchmarks: Sequence[Benchmark],
    *,
    cache_dir: str | os.PathLike,
    crops: str = "five",
    workers: int = 2,
    seed: int = 27,
    full_reference: bool = False,
    data_efficiency: bool = False,
) -> Results:
    """Return the results of the whole protocol.

    Args:
      encoder: the encoder.
      benchmarks: the datasets.
      cache_dir: directory where features are kept.
      crops: a key of `preprocessing.CROPS`.
      workers: number of threads that decode images.
      seed: seed of the bootstrap and of the parts in the data-efficiency curve.
      full_reference: whether to predict from [f, `|f - f_ref|`]; datasets without
        references are left out.
      data_efficiency: whether to also fit on 10 to 80 % of the training parts.

    Raises:
      DatasetError: `full_reference` is set, and no dataset has references.
    """
    extractor = DatasetExtractor(encoder, pathlib.Path(cache_dir), crops, workers)
    if full_reference:
        benchmarks = [b for b in benchmarks if b.references is not None]
        if not benchmarks:
            raise errors.DatasetError(
                "full reference: expected a dataset with reference images, but none "
                "of evaluation.datasets has them"
            )
    all_features = {
        benchmark.name: extractor.dataset(benchmark, full_reference=full_reference)
        for benchmark in benchmarks
    }
    datasets = []
    for benchmark in benchmarks:
        logging.info("%s: regressions", benchmark.title)
        features = all_features[benchmark.name]
        datasets.append(_evaluate_one(benchmark, features, seed, data_efficiency))
    cross = {}
    for tested, benchmark in zip(datasets, benchmarks, strict=True):
        others = [dataset for dataset in datasets if dataset is not tested]
        features = all_features[tested.name]
        for trained, found in _evaluate_cross(
            others, tested, benchmark, features, seed
        ):
            cross[trained.name, tested.name] = found
    return Results(
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        feature_dim=encoder.feature_dim,
        patch_size=encoder.patch_size,
        crops=crops,
        full_reference=full_reference,
        seed=seed,
        datasets=tuple(datasets),
        cross=tuple(
            cross[a.name, b.name] for a in datasets for b in datasets if a is not b
        ),
    )


def _evaluate_one(
    benchmark: Benchmark, features: Features, seed: int, data_efficiency: bool
) -> DatasetResult:
    scores_N = benchmark.scores_N
    everything = np.arange(len(benchmark))
    regressions = Regressions(features, scores_N, everything, shared=True)
    splits = _readable(benchmark, features, ("train", "validation", "test"))
    best, validation_srcc, tests = _choose_and_test(regressions, splits, scores_N)
    alpha = float(ALPHAS[best])
    weights_AD, intercepts_A = regressions.fit_path(regressions.rows, [alpha])
    unreadable = len(benchmark) - len(regressions.rows)
    notes = [benchmark.note, f"{unreadable} unreadable" if unreadable else ""]
    pool = np.unique(np.concatenate([test.indices for test in tests]))
    counts = summaries.Resampling(seed, pool)
    return DatasetResult(
        **{
            name: getattr(benchmark, name)
            for name in (
                "name",
                "title",
                "kind",
                "averaged",
                "remark",
                "split_origin",
                "higher_is_better",
                "score_range",
                "scores_N",
            )
        },
        note=", ".join(filter(None, notes)),
        images=len(regressions.rows),
        fingerprint=benchmark.fingerprint(),
        alpha=alpha,
        validation_srcc=validation_srcc,
        figures=summaries.figures(tests, scores_N, counts, statistics.METRICS),
        per_split=summaries.per_split(tests, scores_N),
        by_type=summaries.by_label(benchmark.types, tests, scores_N, counts),
        by_group=summaries.by_label(benchmark.groups, tests, scores_N, counts),
        efficiency=_efficiency(benchmark, regressions, splits, seed, counts)
        if data_efficiency
        else {},
        tests=tests,
        image_names=tuple(benchmark.images.names),
        weights_D=weights_AD[0],
        intercept=float(intercepts_A[0]),
    )


def _choose_and_test(
    regressions: Regressions, splits: Sequence[Split], scores_N: np.ndarray
) -> tuple[int, float, tuple[TestPart, ...]]:
    """Return the index of the best penalty, its validation SRCC and the test parts.

    The best penalty has the highest median SRCC on the validation parts. If every SRCC
    is undefined (for parts of one image, say), it has the lowest median RMSE there.
    """
    validation_SA, rmse_SA, predictions_SAN = [], [], []
    for split in splits:
        path = regressions.fit_path(split.train, ALPHAS)
        validated_AN = regressions.predict(path, split.validation)
        validation_SA.append(
            statistics.srcc_path(validated_AN, scores_N[split.validation])
        )
        rmse_SA.append(
            [statistics.rmse(row, scores_N[split.validation]) for row in validated_AN]
        )
        predictions_SAN.append(regressions.predict(path, split.test))
    median_A = statistics.median_of_samples(np.array(validation_SA))
    if np.isnan(median_A).all():
        best = int(np.argmin(np.median(rmse_SA, axis=0)))
    else:
        best = int(np.nanargmax(median_A))
    tests = tuple(
        TestPart(split.test, predictions_AN[best], len(split.train))
        for split, predictions_AN in zip(splits, predictions_SAN, strict=True)
    )
    return best, float(median_A[best]), tests


def _evaluate_cross(
    others: Sequence[DatasetResult],
    tested: DatasetResult,
    benchmark: Benchmark,
    features: Features,
    seed: int,
) -> Iterator[tuple[DatasetResult, CrossResult]]:
    """Yield the results of other datasets' regressors on one dataset.

    There is no refitting. If lower scores are better, they are negated on both sides.
    """
    if not others:
        return
    indices = features.readable(np.arange(len(benchmark)))
    predictions_TN = features.predict(
        indices,
        np.stack([trained.weights_D for trained in others]),
        [trained.intercept for trained in others],
    )
    resampling = summaries.Resampling(seed, indices)
    for trained, predictions_N in zip(others, predictions_TN, strict=True):
        everything = TestPart(indices, _upward(trained) * predictions_N, trained.images)
        figures = summaries.figures(
            (everything,),
            _upward(tested) * benchmark.scores_N,
            resampling,
            ("srcc", "plcc"),
        )
        yield (
            trained,
            CrossResult(
                trained.name, tested.name, trained.alpha, len(indices), figures
            ),
        )


def _upward(dataset: DatasetResult) -> int:
    return 1 if dataset.higher_is_better else -1


def _readable(
    benchmark: Benchmark, features: Features, parts: Sequence[str]
) -> list[Split]:
    """Return the splits without the images that could not be decoded."""
    splits = []
    for split in benchmark.splits:
        read = {part: features.readable(getattr(split, part)) for part in parts}
        for part, indices in read.items():
            if not len(indices):
                raise errors.DatasetError(
                    f"{benchmark.title}: no image of the {part} part can be decoded"
                )
        splits.append(Split(**{**split.parts(), **read}))
    return splits


def _efficiency(
    benchmark: Benchmark,
    regressions: Regressions,
    splits: Sequence[Split],
    seed: int,
    resampling: summaries.Resampling,
) -> dict[str, Figure]:
    """Return the SRCC for parts of the training contents.

    The penalty is chosen again for each.
    """
    contents = np.array(benchmark.contents)
    curve = {}
    for share in TRAINING_SHARES:
        smaller = []
        for number, split in enumerate(splits):
            unique = np.unique(contents[split.train])
            order = np.random.default_rng([seed, number]).permutation(unique)
            kept = order[: max(1, round(share * len(order)))]
            train = split.train[np.isin(contents[split.train], kept)]
            smaller.append(Split(train, split.validation, split.test))
        *_, tests = _choose_and_test(regressions, smaller, benchmark.scores_N)
        figures = summaries.figures(tests, benchmark.scores_N, resampling, ("srcc",))
        curve[f"{share:g}"] = figures["srcc"]
    return curve
