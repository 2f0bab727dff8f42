"""The main command as users run it: whole runs, in separate processes.

Everything is the tiny encoder on the built-in photographs, in crops of 64 pixels and
batches of eight pairs; the compilation cache of the suite serves all of these runs.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from arniqa_jax import errors
from arniqa_jax.distributed import sharding
from arniqa_jax.storage import checkpoints, workdir
from arniqa_jax.training import loop, metrics_log, optimizers, plans, train_step
from arniqa_jax.weights import encoders
from benchmarks import soak
from configs import pretrain

_INTERRUPTED = pathlib.Path(__file__).with_name("interrupted_run.py")
_ROOT = pathlib.Path(__file__).parents[1]
# Those of survival_test too, so that one compiled step serves the processes of both.
_FIELDS = soak.FIELDS | {
    "data.workers": 0,
    "train.batch_size": 8,
    "train.picture_every": 4,
}
_STEPS = _FIELDS["train.steps"]


def _run(path, moment="never", **fields) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of a whole run."""
    fields = _FIELDS | {"evaluation.root": path.parent} | fields
    if not (path.parent / "scored").exists():
        soak.write_scored(path.parent / "scored")
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    done = subprocess.run(
        [
            *(sys.executable, str(_INTERRUPTED), moment),
            *("--config=configs/pretrain.py", f"--workdir={path}", *flags),
        ],
        cwd=_ROOT,
        env=os.environ | soak.ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a run from start to end, and what it printed."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, out, err = _run(path)
    assert code == 0, err
    return path, out, err


def _record(path) -> list[dict]:
    """`metrics.jsonl` without the fields that measure time."""
    lines = metrics_log.read(path / "metrics.jsonl")
    for line in lines:
        for field in metrics_log.TIMING_FIELDS:
            line.pop(field, None)
    return lines


def _files(path) -> dict[str, bytes]:
    """Every stored value of the last checkpoint, as bytes by its name."""
    model = encoders.build_model(workdir.read_config(path))
    optimizer = optimizers.optimizer(
        name="sgd", schedule=lambda _: 0.0, momentum=0.9, weight_decay=0.0
    )
    abstract = jax.eval_shape(
        lambda variables: train_step.initial_state(variables, optimizer),
        encoders.abstract_variables(model),
    )
    with contextlib.closing(checkpoints.Checkpoints(path / "checkpoints", {})) as store:
        mesh = sharding.make_mesh()
        state = store.restore(store.latest, abstract, sharding.replicated(mesh))
    return {
        jax.tree_util.keystr(name): np.asarray(leaf).tobytes()
        for name, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def test_what_a_run_leaves(uninterrupted):
    path, out, err = uninterrupted
    lines = _record(path)
    steps = list(range(1, _STEPS + 1))
    assert [line["step"] for line in lines if "loss" in line] == steps
    assert [line["step"] for line in lines if "validation" in line] == [4, 8]
    assert [line["step"] for line in lines if "test" in line] == [8]
    assert {"loss", "learning_rate", "grad_norm", "alignment", "bad_photos"} <= set(
        lines[0]
    )
    pictures = sorted(file.name for file in (path / "pictures").iterdir())
    assert pictures == ["loss.png", "pairs_000001.png", "pairs_000005.png"]
    with Image.open(path / "pictures" / "pairs_000001.png") as sheet:
        assert sheet.height > 4 * 64
    assert {"4", "6", "8"} >= set(os.listdir(path / "checkpoints"))
    assert json.loads((path / "config.json").read_text())["train"]["steps"] == _STEPS
    assert (path / "results" / "untrained" / "results.json").exists()
    # Of the untrained encoder, of the best checkpoint, and of the comparison.
    written = list((path / "results").iterdir())
    assert len(written) == 3
    assert all((directory / "index.html").exists() for directory in written)
    assert "scored" in out and "untrained" in out
    assert max(map(len, out.replace(str(path), "").splitlines())) <= 80
    assert "NO PHOTOGRAPHS GIVEN" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "moment", ["step:5", pytest.param("save:4", marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_if_it_had_not_been(uninterrupted, tmp_path, moment):
    _assert_survives(tmp_path / "run", moment, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_while_it_validates_on_the_built_in_proxy(tmp_path):
    fields = {"evaluation.datasets": "builtin"}
    whole = tmp_path / "whole"
    code, out, err = _run(whole, **fields)
    assert code == 0, err
    assert "proxy" in out and "untrained" in out
    assert max(map(len, out.replace(str(whole), "").splitlines())) <= 80
    _assert_survives(tmp_path / "run", "evaluation:4", (whole, out, err), **fields)


def _assert_survives(run, moment: str, uninterrupted, **fields) -> None:
    """Kill the run at the moment, resume it, and compare it with the other one."""
    code, *_ = _run(run, moment, **fields)
    assert code == -signal.SIGKILL
    saved = [int(name) for name in os.listdir(run / "checkpoints") if name.isdigit()]
    assert max(saved, default=0) < int(moment[-1])
    code, out, err = _run(run, **fields)
    assert code == 0, err
    assert f"resuming at step {max(saved)}" in err
    path, expected_out, _ = uninterrupted
    assert _record(run) == _record(path)
    assert _files(run) == _files(path)
    assert out.replace(str(run), str(path)) == expected_out


def test_a_finished_run_says_so(uninterrupted):
    path, *_ = uninterrupted
    before = (path / "metrics.jsonl").read_bytes()
    code, out, err = _run(path)
    assert (code, out) == (0, "")
    assert "is finished at step 8" in err and "features" not in err
    assert (path / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused(uninterrupted):
    path, *_ = uninterrupted
    code, _, err = _run(path, **{"optimizer.momentum": 0.5, "seed": 1})
    assert code == 2
    assert "optimizer.momentum was 0.9 and is 0.5; seed was 27 and is 1" in err


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_stop_saves_and_the_next_start_goes_on(tmp_path, number, code):
    run = tmp_path / "run"
    stopped, _, err = _run(run, f"step:3:{number.name}")
    assert stopped == code, err
    assert "Traceback" not in err
    step = checkpoints.find(run / "checkpoints", "last")
    assert 3 <= step < _STEPS
    assert [line["step"] for line in _record(run) if "loss" in line] == list(
        range(1, step + 1)
    )


@pytest.mark.slow
def test_unreadable_photographs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(40):
        noise = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((90, 70)).save(photos / f"{k:02}.png")
    (photos / "00.png").write_bytes(b"no image")
    fields = {"data.root": photos, "train.steps": 12}
    code, _, err = _run(tmp_path / "run", **fields)
    assert code == 0, err
    assert err.count("00.png") == 1
    assert sum(line.get("bad_photos", 0) for line in _record(tmp_path / "run")) > 0
    for k in range(1, 30):
        (photos / f"{k:02}.png").write_bytes(b"no image")
    code, _, err = _run(tmp_path / "other", **fields)
    assert code == 1
    assert "data.max_bad_share" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    fields = {"optimizer.learning_rate": 1e30, "train.checkpoint_every": 1}
    code, _, err = _run(tmp_path / "run", **fields)
    assert code == 1
    line = err.splitlines()[-1]
    assert line.startswith("error: the loss of step")
    assert "the last good checkpoint is step" in line and "(photographs [" in line
    # What was saved is finite.
    step = checkpoints.find(tmp_path / "run" / "checkpoints", "last")
    assert f"step {step} in" in line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.root": "no/such/folder"}, "no/such/folder"),
        ({"train.batch_size": 0}, "train.batch_size=0: expected at least 1"),
        ({"train.accumulation": 3}, "choose a multiple of 24"),
        (
            {"schedule.warmup_steps": -3},
            "schedule.warmup_steps=-3: expected at least 0",
        ),
        ({"model.init": "imagenet"}, "model.init=random"),
        ({"evaluation.datasets": "lvie"}, "did you mean live"),
        ({"evaluation.crops": "hwole"}, "expected one of five, whole"),
    ],
)
def test_what_cannot_run_is_said_at_once(tmp_path, fields, message):
    config = pretrain.get_config()
    config.update_from_flattened_dict(
        _FIELDS | {"evaluation.datasets": "builtin"} | fields
    )
    with pytest.raises(errors.ArniqaError, match=message):
        loop.run(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_encoders_of_a_run(uninterrupted):
    path, *_ = uninterrupted
    last = encoders.load(path, "last")
    assert last.name == "step 8" and last.patch_size == 64
    untrained = encoders.load(path, "untrained")
    assert untrained.fingerprint != last.fingerprint
    statistics = untrained.variables["batch_stats"]["encoder"]["bn1"]
    assert np.abs(statistics["mean"]).min() > 0
    with pytest.raises(errors.CheckpointError, match="expected best, last"):
        encoders.load(path, "7")


def test_the_photographs_of_a_run_may_have_moved(tmp_path):
    """The untrained encoder needs them; the evaluation says where they are now."""
    config = pretrain.get_config()
    config.update_from_flattened_dict(_FIELDS | {"data.root": str(tmp_path / "then")})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(errors.ArniqaError, match="then: there is no such"):
        encoders.load(tmp_path, "untrained")
    for name in ("a.png", "b.png"):
        Image.effect_noise((160, 160), 50).convert("RGB").save(tmp_path / name)
    found = encoders.load(tmp_path, "untrained", photographs=str(tmp_path))
    assert found.name == "untrained"


def test_a_run_starts_from_another(uninterrupted):
    path, *_ = uninterrupted
    config = workdir.read_config(path)
    config.model.init = str(path)
    best = encoders.load(path, "best")
    start = encoders.initial_variables(config)
    jax.tree.map(np.testing.assert_array_equal, start, best.variables)
    config.model.embedding_dim = 8
    with pytest.raises(errors.CheckpointError, match="tiny with 16 outputs, expected"):
        encoders.initial_variables(config)


def test_the_plan_in_steps():
    config = pretrain.get_config()
    assert plans.make_plan(config, 140_000) == (8750, 87_500, 8750, 8750)
    config.train.steps = 60
    config.train.checkpoint_every = 7
    config.evaluation.every_epochs = 0
    assert plans.make_plan(config, 10) == (1, 60, 0, 7)
