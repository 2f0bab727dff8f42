"""The record of a run survives kills: truncated, never doubled, no incomplete line."""

import json

import pytest

from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.training import metrics_log


def _open(path, start_step):
    return metrics_log.MetricsLog(
        Workdir(path),
        start_step=start_step,
        total_steps=10,
        tensorboard=True,
        wandb_project="",
        writes=True,
    )


def _metrics(step):
    return {"loss": 1 / step, "images_per_second": 2.0, "data_wait": 0.0}


def _fill(log, steps):
    for step in steps:
        log.step(step, _metrics(step))
    log.close()


def test_a_resumed_run_has_every_step_once(tmp_path):
    log = _open(tmp_path, 0)
    log.evaluation(4, "validation", {"builtin": 0.5})
    _fill(log, range(1, 8))
    # Killed while it wrote step 8; the checkpoint is of step 5.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    resumed = _open(tmp_path, 5)
    assert [line["step"] for line in resumed.history] == [4, 1, 2, 3, 4, 5]
    _fill(resumed, range(6, 11))
    lines = [
        json.loads(s) for s in (tmp_path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 11))
    assert [line for line in lines if "validation" in line] == [
        {"step": 4, "validation": {"builtin": 0.5}}
    ]


def test_a_new_run_drops_what_lies_there(tmp_path):
    _fill(_open(tmp_path, 0), range(1, 4))
    assert _open(tmp_path, 0).history == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_tensorboard_has_the_scalars(tmp_path):
    _fill(_open(tmp_path, 0), [1])
    (events,) = tmp_path.glob("events.*")
    assert b"train/loss" in events.read_bytes()


def test_only_one_process_writes(tmp_path):
    log = metrics_log.MetricsLog(
        Workdir(tmp_path), start_step=0, total_steps=2, tensorboard=True,
        wandb_project="", writes=False,
    )  # fmt: skip
    _fill(log, [1])
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_is_an_extra(tmp_path):
    with pytest.raises(ImportError, match="wandb"):
        metrics_log.MetricsLog(
            Workdir(tmp_path), start_step=0, total_steps=2, tensorboard=False,
            wandb_project="arniqa", writes=True,
        )  # fmt: skip
