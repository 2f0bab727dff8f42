"""Models in a bucket: scored, evaluated and continued as those on disk."""

import json

import emulators
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_model

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.evaluation import job
from arniqa_jax.storage import buckets, workdir
from arniqa_jax.storage.checkpoints import Checkpoints
from arniqa_jax.training import train_step
from arniqa_jax.weights import encoders, model_directory, regressors
from arniqa_jax.weights.regressors import Regressor
from benchmarks import soak
from configs import evaluate as evaluate_config
from configs import pretrain

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_model_directory(any_bucket, tmp_path):
    model = small_model.write(tmp_path / "model", "live", "csiq")
    url = f"{any_bucket}/models/mine"
    emulators.upload(model, url)
    buckets.write(f"{url}/results/large.json", b"not needed")
    for name in ("live", "csiq"):
        found = arniqa_jax.load(f"{url}:{name}").score([IMAGE])
        expected = arniqa_jax.load(f"{model}:{name}").score([IMAGE])
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(errors.UsageError, match=f"choose one of csiq, live, as {url}:"):
        arniqa_jax.load(url)
    with pytest.raises(errors.UsageError, match=f"{url} has no regressor 'spaq'"):
        arniqa_jax.load(f"{url}:spaq")
    # The copy in the cache is complete, and has nothing else.
    (copy,) = (tmp_path / "cache").glob("arniqa_jax/models/mine-*/*")
    copied = {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()}
    assert copied == {
        str(p.relative_to(model)) for p in model.rglob("*") if p.is_file()
    }


def _names(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_model_that_changes_is_copied_again(gcs, tmp_path):
    model = small_model.write(tmp_path / "model", "live")
    emulators.upload(model, f"{gcs}/model")
    before = arniqa_jax.load(f"{gcs}/model")
    encoder = model_directory.read_encoder(model)
    changed = regressors.read(model / "regressors", "live")
    other = Regressor(**{**changed.__dict__, "intercept": changed.intercept + 10})
    model_directory.write_regressor(model, other, "live")
    emulators.upload(model / "regressors", f"{gcs}/model/regressors")
    after = arniqa_jax.load(f"{gcs}/model")
    assert after.regressor.intercept == before.regressor.intercept + 10
    assert after.encoder.fingerprint == encoder.fingerprint


def test_an_evaluation_and_a_run_start_from_it(gcs, tmp_path):
    model = small_model.write(tmp_path / "model")
    emulators.upload(model, f"{gcs}/model")
    soak.write_scored(tmp_path / "scored")
    config = evaluate_config.get_config()
    config.data.workers = 0
    config.evaluation.root = str(tmp_path)
    config.evaluation.datasets = "csv:scored"
    config.evaluation.figures = False
    job.evaluate(config, str(tmp_path / "x"), f"{gcs}/model", "best")
    scored = arniqa_jax.load(tmp_path / "x")  # finds the encoder in the bucket
    assert scored.regressor.dataset == "scored"
    assert np.isfinite(scored.score([IMAGE])).all()
    assert not buckets.exists(f"{gcs}/model/regressors")

    config = pretrain.get_config()
    config.model.arch, config.model.init = "tiny", f"{gcs}/model"
    jax.tree.map(
        np.testing.assert_array_equal,
        encoders.initial_variables(config)["params"]["encoder"],
        encoders.load(model).variables["params"]["encoder"],
    )


def _write_run(url: str) -> None:
    """A run of an encoder that was not trained, with two evaluations."""
    config = pretrain.get_config()
    config.data.patch_size = 32
    config.model.arch, config.model.init = "tiny", "random"
    run = workdir.Workdir(url)
    variables = encoders.initial_variables(config)
    with run.synced():
        run.config.write_text(json.dumps(config.to_dict()))
    state = train_step.TrainState(jnp.int32(2), **variables, opt_state={})
    checkpoints = Checkpoints(run.checkpoints, config.to_dict())
    checkpoints.save(state, srcc=0.5)
    checkpoints.wait()
    checkpoints.close()
    encoder = encoders.load(url)
    for name, intercept in (("b-first", 0.25), ("a-second", 0.75)):
        regressor = small_model.proxy_regressor(encoder, intercept)
        with run.synced():
            regressors.write(regressor, run.results / name / "regressors", "builtin")


def test_a_run_in_a_bucket_scores_with_its_last_evaluation(gcs, s3, tmp_path):
    _write_run(f"{gcs}/run")
    model = arniqa_jax.load(f"{gcs}/run")
    assert model.encoder.name == "step 2" and model.regressor.intercept == 0.75
    assert np.isfinite(model.score([IMAGE])).all()
    buckets.write(f"{s3}/run/config.json", buckets.read(f"{gcs}/run/config.json"))
    with pytest.raises(errors.CheckpointError, match="checkpoints are read from gs://"):
        arniqa_jax.load(f"{s3}/run")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{}/no", "there is no model at gs://.*/no: expected model.json"),
        ("gs://no-such-bucket/model", "there is no such bucket"),
        ("https://host/model", "expected a local path"),
    ],
)
def test_what_is_no_model(gcs, address, message):
    with pytest.raises(errors.ArniqaError, match=message):
        arniqa_jax.load(address.format(gcs))


def test_an_evaluation_of_a_bucket_gives_the_same_tables(any_bucket, tmp_path, capsys):
    model = small_model.write(tmp_path / "model")
    (tmp_path / "data").mkdir()
    soak.write_scored(tmp_path / "data" / "scored")
    emulators.upload(tmp_path / "data", f"{any_bucket}/data")
    printed = []
    for name, root in (("a", tmp_path / "data"), ("b", f"{any_bucket}/data")):
        config = evaluate_config.get_config()
        config.evaluation.root = str(root)
        config.evaluation.datasets = "csv:scored"
        config.evaluation.figures = False
        job.evaluate(config, str(tmp_path / name), str(model), "best", replace=True)
        output = capsys.readouterr().out
        printed.append(output.replace(str(tmp_path / name), ""))
    assert printed[0] == printed[1] and "SRCC" in printed[0]
    pages = [next((tmp_path / name).glob("results/*/predictions.npz")) for name in "ab"]
    one, other = (np.load(page) for page in pages)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])
