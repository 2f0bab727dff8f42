"""The directory of a run: its config, its lock, and files that are whole or absent."""

import errno
import json
import os
import subprocess
import sys

import pytest

from arniqa_jax import errors
from arniqa_jax.storage import files, workdir
from configs import pretrain


@pytest.fixture
def run(tmp_path):
    run = workdir.Workdir(tmp_path / "run")
    run.settle_config(pretrain.get_config())
    run.metrics.write_text('{"step": 1}\n')
    return run


def _config(**changes):
    config = pretrain.get_config()
    config.update_from_flattened_dict(changes)
    return config


def test_the_config_comes_back_as_it_was(run):
    assert workdir.read_config(run.path).to_dict() == pretrain.get_config().to_dict()


def test_a_run_that_never_began_can_be_given_another_config(run):
    run.metrics.unlink()
    changed = _config(**{"model.init": "random", "seed": 3})
    run.settle_config(changed)
    assert workdir.read_config(run.path).to_dict() == changed.to_dict()
    (run.checkpoints / "4").mkdir(parents=True)
    with pytest.raises(errors.UsageError, match="seed was 3 and is 27"):
        run.settle_config(pretrain.get_config())


@pytest.mark.parametrize(
    "changes",
    [
        {"data.root": "elsewhere", "data.workers": 0, "log.tensorboard": False},
        {"evaluation.datasets": "live", "evaluation.every_epochs": 3},
        {"train.epochs": 11, "train.steps": 5},
    ],
)
def test_what_may_change_on_resume(run, changes):
    run.settle_config(_config(**changes))
    stored = workdir.read_config(run.path).to_dict()
    assert stored == _config(**changes).to_dict()


def test_every_other_change_is_listed(run):
    before = run.config.read_bytes()
    changed = _config(**{"seed": 28, "model.arch": "resnet18", "train.epochs": 9})
    with pytest.raises(errors.UsageError) as error:
        run.settle_config(changed)
    for part in (
        "seed was 27 and is 28",
        "model.arch was 'resnet50' and is 'resnet18'",
        "train.epochs was 10 and is 9",
    ):
        assert part in str(error.value)
    assert run.config.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"), [(None, "holds no run"), ("{", "damaged")]
)
def test_a_directory_without_a_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(errors.CheckpointError, match=message):
        workdir.read_config(tmp_path)


def test_a_second_run_is_kept_out_and_a_dead_one_is_not_in_the_way(run):
    hold = (
        "import sys, time; from arniqa_jax.storage import workdir\n"
        "with workdir.Workdir(sys.argv[1]).lock():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, run.path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(errors.ArniqaError, match="in use by another run"),
            run.lock(),
        ):
            pass
        holder.kill()
        holder.wait()
        with run.lock():
            assert json.loads(run.config.read_text())


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    files.write_atomically(file, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*/file'"):
        files.write_atomically(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
