"""The directory of a run: its config, its lock, and atomic writes."""

import errno
import json
import os
import subprocess
import sys

import pytest

from arniqa_jax import command, errors
from arniqa_jax.storage import files, workdir
from configs import pretrain


@pytest.fixture
def run(tmp_path):
    run = workdir.Workdir(tmp_path / "run")
    files.write_atomically(run.config, pretrain.get_config().to_json())
    return run


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is not a run"), ("{", "damaged")]
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


def test_a_system_without_file_locks(run, monkeypatch):
    """Windows: the package is imported there, and says where it runs."""
    monkeypatch.setitem(sys.modules, "fcntl", None)  # its import then fails
    with pytest.raises(errors.ArniqaError, match="On Windows"), run.lock():
        pass


def test_a_command_on_windows(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as end:
        command.run(None, None, usage="")
    assert end.value.code == 1
    assert "Windows Subsystem for Linux" in capsys.readouterr().err
