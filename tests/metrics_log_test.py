"""The record of a run survives kills: truncated, never doubled, no incomplete line."""

import json
import sys

import pytest

from arniqa_jax import errors
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


def test_times_beside_the_steps_go_with_the_next_line(tmp_path):
    log = _open(tmp_path, 0)
    log.spent("startup_seconds", 2.0)
    log.step(1, _metrics(1))
    with log.measuring("checkpoint_seconds"):
        pass
    log.spent("checkpoint_seconds", 1.0)
    log.evaluation(2, "validation", {"builtin": 0.5})
    log.step(3, _metrics(3))
    log.close()
    first, second, third = metrics_log.read(tmp_path / "metrics.jsonl")
    assert first["startup_seconds"] == 2.0 and "checkpoint_seconds" not in first
    assert second["checkpoint_seconds"] >= 1.0 and "startup_seconds" not in second
    assert third.keys() == {"step"} | _metrics(3).keys()


class _Wandb:
    """What the package `wandb` is asked to do."""

    def __init__(self):
        self.runs, self.lines = [], []

    def init(self, **options):
        self.runs.append(options)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, line):
        self.lines.append(line)

    def finish(self):
        self.lines.append("finished")

    Image = staticmethod(lambda path: f"image {path}")
    Table = staticmethod(lambda columns, data: (columns, data))


def _open_wandb(path):
    return metrics_log.MetricsLog(
        Workdir(path), start_step=0, total_steps=2, tensorboard=False,
        wandb_project="arniqa", writes=True, config={"seed": 27},
    )  # fmt: skip


def test_weights_and_biases_gets_everything_under_an_id_of_its_own(
    tmp_path, monkeypatch
):
    fake = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for path in ("a/run", "b/run", "a/run"):  # two of one name; and one that resumes
        _open_wandb(tmp_path / path).close()
    first, other, again = (run["id"] for run in fake.runs)
    assert first == again != other
    assert fake.runs[0]["name"] == "run" and fake.runs[0]["config"] == {"seed": 27}
    fake.lines.clear()
    log = _open_wandb(tmp_path / "a" / "run")
    log.step(1, _metrics(1))
    log.picture(1, "pairs", tmp_path / "pairs.png")
    log.tables(2, {"results": "dataset,SRCC\nlive,0.5\n"})
    log.close()
    metrics, picture, table, end = fake.lines
    assert metrics["step"] == 1 and metrics["train/loss"] == 1.0
    assert picture == {"step": 1, "pictures/pairs": f"image {tmp_path}/pairs.png"}
    assert table["tables/results"] == (["dataset", "SRCC"], [["live", "0.5"]])
    assert end == "finished"


def test_weights_and_biases_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import then fails
    with pytest.raises(errors.ArniqaError, match=r"pip install 'arniqa_jax\[wandb\]'"):
        _open_wandb(tmp_path)
