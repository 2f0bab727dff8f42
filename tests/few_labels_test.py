"""Constant scores and tiny test parts: undefined statistics are shown as such."""

import json
import pathlib

import miniature
import numpy as np
import pytest

from arniqa_jax.datasets import csv_table
from arniqa_jax.evaluation import (
    comparison,
    figures,
    page,
    protocol,
    regressors,
    report,
    results,
)
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.training import metrics_log


def _evaluate(folder: pathlib.Path, count: int, score: float | None = None):
    """Return the dataset and the results of `count` images, with one score or many."""
    painter = miniature._Painter(3)
    rows = []
    for i in range(count):
        quality = painter.paint(folder / f"{i}.png")
        rows.append([f"{i}.png", quality if score is None else score])
    miniature.write_csv(folder / "t.csv", "image,score", rows)
    opened = csv_table.open_csv(folder)
    cache = folder.parent / "cache"
    return opened, protocol.evaluate(miniature.encoder(), [opened], cache_dir=cache)


@pytest.mark.parametrize("score", [3.0, 0.1])
def test_constant_scores_have_no_correlation_and_no_regressor(tmp_path, score):
    _, found = _evaluate(tmp_path / "same", 40, score)
    (dataset,) = found.datasets
    row = report.terminal_table(found).splitlines()[2].split()
    assert row[3:6] == ["-", "-", "-"]
    text = " ".join(report.terminal_table(found).split())
    assert f"every score is {score:g}, so no regressor is saved" in text
    assert "undefined (-) in 10 of 10 test parts" in text
    report.write(found, tmp_path / "out")
    assert not (tmp_path / "out" / "regressors").exists()
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    srcc = data["datasets"][0]["figures"]["srcc"]
    assert set(srcc.values()) == {None}
    assert data["datasets"][0]["validation_srcc"] is None
    loaded = results.load(tmp_path / "out").datasets[0]
    assert np.isnan(loaded.validation_srcc)
    assert np.isnan(loaded.per_split["srcc"]).all()
    assert np.isfinite(dataset.weights_D).all()
    assert regressors.write_missing(found, tmp_path / "model") == []


@pytest.mark.parametrize(
    ("count", "images"), [(3, "1 image"), (12, "2 images"), (16, "3 images")]
)
def test_a_small_test_part_is_named(tmp_path, count, images):
    _, found = _evaluate(tmp_path / "few", count)
    text = " ".join(report.terminal_table(found).split())
    assert f"a test part has only {images}: too few" in text
    row = report.terminal_table(found).splitlines()[2].split()
    # Of fewer than three images a correlation is undefined.
    assert (row[3] == "-") == (count < 16)
    assert ("lowest RMSE" in text) == (count < 25)


def test_the_penalty_then_has_the_lowest_validation_rmse(tmp_path):
    opened, found = _evaluate(tmp_path / "few", 12)
    features = DatasetExtractor(miniature.encoder(), tmp_path / "cache").dataset(opened)
    errors = []
    for alpha in protocol.ALPHAS:
        squares = []
        for split in opened.splits:
            from sklearn.linear_model import Ridge

            x = features.take(split.train)
            y = np.repeat(opened.scores_N[split.train], 5)
            model = Ridge(alpha=alpha).fit(x.reshape(len(y), -1), y)
            predicted = model.predict(features.means(split.validation))
            squares.append(np.abs(predicted - opened.scores_N[split.validation]).mean())
        errors.append(np.median(squares))
    assert found.datasets[0].alpha == protocol.ALPHAS[int(np.argmin(errors))]


def test_splits_with_a_statistic_decide_where_some_have_none(tmp_path):
    """Five scores of 40 differ, so some test parts are constant and some are not."""
    folder = tmp_path / "some"
    painter = miniature._Painter(3)
    rows = [[f"{i}.png", painter.paint(folder / f"{i}.png")] for i in range(40)]
    rows = [[name, score if i < 5 else 0.5] for i, (name, score) in enumerate(rows)]
    miniature.write_csv(folder / "t.csv", "image,score", rows)
    opened = csv_table.open_csv(folder)
    found = protocol.evaluate(miniature.encoder(), [opened], cache_dir=tmp_path / "c")
    (dataset,) = found.datasets
    per_split = np.array(dataset.per_split["srcc"])
    known = per_split[~np.isnan(per_split)]
    assert 0 < len(known) < 10
    assert dataset.figures["srcc"].median == np.median(known)
    text = " ".join(report.terminal_table(found).split())
    assert f"in {10 - len(known)} of 10 test parts" in text
    assert "medians are over the others" in text
    # The comparison uses the splits that both have, and finds no difference to itself.
    (same,) = comparison.compare(found, found)
    assert same.p_value == 1.0 and not same.significant


def test_undefined_results_are_compared_and_drawn(tmp_path):
    opened, found = _evaluate(tmp_path / "same", 40, 3.0)
    (difference,) = comparison.compare(found, found)
    assert difference.p_value is None and not difference.significant
    table = report.side_by_side(found, found, [difference]).splitlines()
    assert table[2].split() == ["same", "-", "-", "-", "no", "-", "-", "-"]
    extractor = DatasetExtractor(miniature.encoder(), tmp_path / "cache")
    figures.write(found, [opened], extractor, tmp_path / "figures")
    assert (tmp_path / "figures" / "same_scatter.png").exists()
    page.write(found, [opened], {}, tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<td>-</td>" in text and ">nan" not in text
    page.write_comparison(found, found, [difference], [opened], tmp_path / "both")
    assert "<td>-</td>" in (tmp_path / "both" / "index.html").read_text()


def test_a_single_tested_image_is_drawn(tmp_path):
    painter = miniature._Painter(3)
    parts = ["train"] * 5 + ["validation", "test"]
    rows = [
        [f"{i}.png", painter.paint(tmp_path / f"{i}.png"), p]
        for i, p in enumerate(parts)
    ]
    miniature.write_csv(tmp_path / "t.csv", "image,score,split", rows)
    opened = csv_table.open_csv(tmp_path)
    cache = tmp_path / "cache"
    found = protocol.evaluate(miniature.encoder(), [opened], cache_dir=cache)
    extractor = DatasetExtractor(miniature.encoder(), cache)
    figures.write(found, [opened], extractor, tmp_path / "figures")
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_an_undefined_validation_chooses_no_checkpoint(tmp_path):
    opened, _ = _evaluate(tmp_path / "same", 40, 3.0)
    values = protocol.validate(
        miniature.encoder(), [opened], alpha=0.1, cache_dir=tmp_path / "v"
    )
    assert np.isnan(values["same"]) and np.isnan(values["mean"])
    options = {"start_step": 0, "total_steps": 1, "tensorboard": True}
    workdir = Workdir(tmp_path / "run")
    log = metrics_log.MetricsLog(workdir, **options, wandb_project="", writes=True)
    log.evaluation(1, "validation", values)
    log.close()
    line = json.loads(workdir.metrics.read_text())
    assert line["validation"] == {"same": None, "mean": None}
