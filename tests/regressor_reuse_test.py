"""Scoring with the regressor of an evaluation that wrote to another directory."""

import shutil

import miniature
import numpy as np
import pytest
import small_model

from arniqa_jax import errors
from arniqa_jax.evaluation import job
from arniqa_jax.scoring import scorer


@pytest.fixture
def evaluated(tmp_path):
    """Return the workdir of an evaluation of a model that lies elsewhere."""
    painter = miniature._Painter(7)
    rows = []
    for i in range(16):
        rows.append([f"{i}.png", painter.paint(tmp_path / "mine" / f"{i}.png")])
    miniature.write_csv(tmp_path / "mine" / "scores.csv", "image,score", rows)
    model = small_model.write(tmp_path / "model")
    config = _config(tmp_path)
    job.evaluate(config, str(tmp_path / "x"), str(model), "best")
    # Only the directory of the evaluation has the regressor.
    shutil.rmtree(model / "regressors")
    return tmp_path / "x"


def _config(root):
    from configs import evaluate

    config = evaluate.get_config()
    config.data.workers = 1
    config.evaluation.root = str(root)
    config.evaluation.datasets = "csv:mine"
    config.evaluation.figures = False
    return config


def test_a_regressor_is_found_with_its_encoder(evaluated):
    image = evaluated.parent / "mine" / "3.png"
    by_workdir = scorer.load(evaluated)
    assert by_workdir.regressor.dataset == "mine"
    (results,) = (evaluated / "results").iterdir()
    by_results, by_name = scorer.load(results), scorer.load(f"{evaluated}:mine")
    scores = [model.score([image])[0] for model in (by_workdir, by_results, by_name)]
    assert np.isfinite(scores).all() and len(set(scores)) == 1


def test_a_model_that_is_gone_is_named(evaluated):
    shutil.rmtree(evaluated.parent / "model")
    with pytest.raises(errors.CheckpointError, match="model, which does not exist"):
        scorer.load(evaluated)
    (record,) = evaluated.glob("results/*/encoder.json")
    record.write_text("{")
    with pytest.raises(errors.CheckpointError, match=r"encoder\.json is damaged"):
        scorer.load(evaluated)
