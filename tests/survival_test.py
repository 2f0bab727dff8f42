"""Faults around a run: each prints one line and keeps the last checkpoint.

Kills are in train_test, soak_test and processes_test; the lock is in workdir_test.
"""

import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from arniqa_jax import errors
from arniqa_jax.data import pairs, photos
from arniqa_jax.storage import checkpoints, workdir
from arniqa_jax.training import loop
from arniqa_jax.weights import encoders
from benchmarks import soak
from configs import pretrain

_ROOT = pathlib.Path(__file__).parents[1]
# Those of train_test too, so that one compiled step serves the processes of both.
_FIELDS = soak.FIELDS | {"data.workers": 0, "train.batch_size": 8}
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")


def _run(path, moment: str, *, largest_file: int | None = None) -> tuple[int, str]:
    """Exit code and standard error of a run; `largest_file` in kB stands for a disk."""
    fields = _FIELDS | {"evaluation.root": path.parent}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    limit = f"ulimit -f {largest_file};" if largest_file else ""
    done = subprocess.run(
        [
            *("bash", "-c", f'{limit} exec "$@"', "-", sys.executable),
            *("tests/interrupted_run.py", moment, "--config=configs/pretrain.py"),
            *(f"--workdir={path}", *flags),
        ],
        cwd=_ROOT,
        env=os.environ | soak.ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def _values(path, step: int) -> list[bytes]:
    encoder = encoders.load(path, str(step))
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(encoder.variables)]


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that was stopped after step 4: with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("stopped")
    soak.write_scored(folder / "scored")
    code, err = _run(folder / "run", "step:3:SIGTERM")
    assert code == 75, err
    assert {"2", "4"} == set(os.listdir(folder / "run" / "checkpoints"))
    return folder / "run"


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of that run, to be damaged."""
    shutil.copytree(stopped_once.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def _resume(path) -> int:
    """Resumes in this process."""
    config = pretrain.get_config()
    config.update_from_flattened_dict(_FIELDS | {"evaluation.root": str(path.parent)})
    return loop.run(config, path)


def _one_line(err: str) -> str:
    """Return the error of a command: its last line, after nothing but log lines."""
    *log, line = err.splitlines()
    assert line.startswith("error: ")
    assert all(_LOG_LINE.match(each) for each in log), err
    return line


@pytest.mark.slow
def test_a_full_disk(stopped):
    before = _values(stopped, 4)
    code, err = _run(stopped, "never", largest_file=200)
    assert code == 1
    line = _one_line(err)
    assert "could not be written" in line and "File too large" in line
    assert "resumes at step 4" in line
    assert _values(stopped, 4) == before
    # Once there is space, the same command resumes.
    code, err = _run(stopped, "step:7:SIGTERM")
    assert code == 75, err
    assert "resuming at step 4" in err
    assert checkpoints.find(stopped / "checkpoints", "last") == 8


@pytest.mark.parametrize("below", ["a file", "/proc/1/no directory"])
def test_a_workdir_that_cannot_be_written(tmp_path, below):
    (tmp_path / "a file").write_text("")
    with pytest.raises(errors.UsageError, match="cannot write there"):
        workdir.Workdir(tmp_path / below / "run")


def test_a_workdir_that_turned_read_only(stopped, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "config.json")

    monkeypatch.setattr(os, "fsync", read_only)
    before = _values(stopped, 4)
    with pytest.raises(OSError, match="Read-only file system"):  # a command's one line
        _resume(stopped)
    assert _values(stopped, 4) == before


def test_the_last_checkpoint_is_truncated(stopped):
    before = _values(stopped, 2)
    for file in (stopped / "checkpoints" / "4").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:8])
    code, err = _run(stopped, "never")
    assert code == 1
    line = _one_line(err)
    assert f"{stopped}/checkpoints/4 cannot be read" in line
    assert "remove this directory to resume from the one before it" in line
    assert _values(stopped, 2) == before
    shutil.rmtree(stopped / "checkpoints" / "4")
    code, err = _run(stopped, "step:3:SIGTERM")
    assert code == 75, err
    assert "resuming at step 2" in err


def test_a_checkpoint_of_another_architecture(stopped):
    config = json.loads((stopped / "config.json").read_text())
    config["model"]["embedding_dim"] = 8
    (stopped / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.CheckpointError, match=r"is \(.*16.*, expected \(.*8"):
        encoders.load(stopped, "last")


def test_a_run_of_another_version(stopped):
    config = json.loads((stopped / "config.json").read_text())
    config["model"]["projector_layers"] = 3
    (stopped / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        errors.CheckpointError, match=r"another version.*projector_layer"
    ):
        encoders.load(stopped, "last")
    with pytest.raises(
        errors.CheckpointError, match=r"fields model.projector_layers\."
    ):
        _resume(stopped)


def test_a_checkpoint_of_another_version(stopped):
    shutil.rmtree(stopped / "checkpoints" / "4" / "training")
    with pytest.raises(errors.CheckpointError, match="it has no part 'training'"):
        _resume(stopped)


def test_photographs_that_vanish_on_the_way(tmp_path, caplog):
    # Together more than the pipeline keeps decoded.
    for k in range(40):
        Image.new("RGB", (1200, 1200), (k, k, k)).save(tmp_path / f"{k:02}.png")
    source = photos.open_photos(str(tmp_path))
    bad = pairs.BadPhotographs(source, 0.2)
    options = {"seed": 27, "patch_size": 32, "batch_size": 4, "max_bad_share": 0.2}
    with pairs.pair_batches(source, **options) as batches:
        for _ in range(3):
            bad.update(next(batches))
        assert not caplog.text
        (tmp_path / "07.png").unlink()
        file = tmp_path / "21.png"
        file.write_bytes(file.read_bytes()[:50])
        for _ in range(25):
            bad.update(next(batches))
        assert caplog.text.count("07.png") == caplog.text.count("21.png") == 1
        for k in range(22, 36):
            (tmp_path / f"{k:02}.png").unlink()
        with pytest.raises(errors.DatasetError, match=r"data\.max_bad_share"):
            for _ in range(40):
                bad.update(next(batches))
