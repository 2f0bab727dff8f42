"""Runs whose directory is in a bucket, on an emulator of Google Cloud Storage."""

import json
import pathlib

import pytest

from arniqa_jax import errors
from arniqa_jax.storage import buckets, checkpoints
from arniqa_jax.storage.workdir import Workdir, read_config
from arniqa_jax.training import loop
from arniqa_jax.weights import encoders
from benchmarks import soak
from configs import pretrain


def _config(root, **changes):
    config = pretrain.get_config()
    config.update_from_flattened_dict(soak.FIELDS | changes)
    config.train.batch_size = 8  # one pair for each device of these tests
    config.evaluation.root = str(root)
    config.data.workers = 0
    return config


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    soak.write_scored(folder / "scored")
    return folder


@pytest.fixture(scope="module")
def undisturbed(scored):
    """The outcome of a local run."""
    loop.run(_config(scored), scored / "run")
    return soak.outcome(scored / "run")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
def test_a_run_in_a_bucket_equals_a_local_run(gcs, scored, undisturbed, tmp_path):
    run = f"{gcs}/runs/first"
    config = _config(scored, **{"train.picture_every": 4, "log.tensorboard": True})
    assert loop.run(config, run) == 0
    assert soak.outcome(run) == undisturbed
    found = buckets.find(run)
    assert {"config.json", "photographs.json", "metrics.jsonl"} <= found.keys()
    assert {"pictures/pairs_000005.png", "pictures/loss.png"} <= found.keys()
    assert any(name.startswith("events.out") for name in found)
    assert "results/untrained/results.json" in found
    assert not any(name.startswith(("features", ".lock", "spool")) for name in found)
    steps = {name.split("/")[1] for name in found if name.startswith("checkpoints")}
    assert {"6", "8"} <= steps <= {"4", "6", "8"}  # the last two, and the best
    assert read_config(run).train.steps == 8
    # Nothing is left on the disk but the cache of features.
    (kept,) = (tmp_path / "cache" / "arniqa_jax" / "runs").iterdir()
    assert not list(kept.glob("spool-*/metrics.jsonl"))


@pytest.mark.slow
def test_a_run_is_continued_in_the_bucket(gcs, scored, undisturbed):
    run = f"{gcs}/run"
    loop.run(_config(scored, **{"train.steps": 5}), run)
    assert Workdir(run).latest_step() == 5
    # What a killed run has left: metrics beyond the checkpoint, a half checkpoint.
    text = buckets.read(f"{run}/metrics.jsonl").decode()
    lines = [line for line in text.splitlines() if "test" not in json.loads(line)]
    lines.append(json.dumps({"step": 7, "loss": 0.0}))
    buckets.write(f"{run}/metrics.jsonl", "\n".join(lines) + '\n{"st')
    buckets.write(f"{run}/checkpoints/7/model/manifest.ocdbt", b"?")
    assert Workdir(run).latest_step() == 5
    loop.run(_config(scored), run)
    arrays, lines = soak.outcome(run)
    assert arrays == undisturbed[0]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))


def test_a_checkpoint_is_invisible_before_it_is_removed(gcs, monkeypatch):
    from arniqa_jax.training.train_step import TrainState

    removed = []
    delete = buckets.delete

    def note(url):
        removed.append(url.removeprefix(gcs))
        if len(removed) == 1:
            delete(url)
            # The process is killed here, so the rest is still there.
            raise KeyboardInterrupt

    def state(step):
        import jax.numpy as jnp

        return TrainState(
            step=jnp.asarray(step),
            params={"w": jnp.full(3, step)},
            batch_stats={},
            opt_state={"m": jnp.zeros(2)},
        )

    monkeypatch.setattr(buckets, "delete", note)
    saved = checkpoints.Checkpoints(f"{gcs}/c", {})
    for step in (1, 2, 3):
        saved.save(state(step))
    with pytest.raises(KeyboardInterrupt):
        saved.wait()
    assert removed == ["/c/1/commit_success.txt"]
    assert any(name.startswith("1/") for name in buckets.find(f"{gcs}/c"))
    monkeypatch.undo()


def test_another_run_on_the_same_directory_is_refused(gcs, scored):
    run = Workdir(f"{gcs}/run")
    with run.lock():
        with pytest.raises(errors.ArniqaError, match=r"gs://.*/run is in use"):
            loop.run(_config(scored), f"{gcs}/run")
        run.metrics.write_text('{"step": 1}\n')
    assert buckets.read(f"{gcs}/run/metrics.jsonl") == b'{"step": 1}\n'


@pytest.mark.parametrize("url", ["s3://bucket/run", "abfs://bucket/run", "gs://"])
def test_other_buckets_are_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError, match=f"{url.rstrip('/')}: expected a local"):
        Workdir(url)
    assert not list(tmp_path.iterdir())


def test_a_missing_bucket_is_said_in_one_line(gcs, scored):
    for use in (
        lambda: loop.run(_config(scored), "gs://missing/run"),
        lambda: encoders.load("gs://missing/run"),
    ):
        with pytest.raises(errors.BucketError, match="gs://missing: there is no such"):
            use()
    with pytest.raises(errors.CheckpointError, match="is not a run"):
        read_config(f"{gcs}/run")
    assert not pathlib.Path("gs:").exists()
