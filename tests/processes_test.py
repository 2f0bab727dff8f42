"""A run of several real processes, which connect on 127.0.0.1 and share a workdir.

Four devices in all, in one process or in two; the tiny encoder on the built-in
photographs. What one process does alone is tested in train_test; two that end together
and start again, by their launcher, in launch_test.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from arniqa_jax.data import photos
from arniqa_jax.storage import checkpoints, workdir
from arniqa_jax.training import metrics_log, resume
from arniqa_jax.weights import encoders
from benchmarks import soak
from configs import pretrain

_INTERRUPTED = pathlib.Path(__file__).with_name("interrupted_run.py")
_ROOT = pathlib.Path(__file__).parents[1]
_STEPS, _DEVICES = 20, 4
_FIELDS = {
    "data.patch_size": 64,
    "data.workers": 0,
    # Small enough for what a rounding error does to a ReLU at zero to stay as small; at
    # the paper's 1e-3 runs of start values 1e-7 apart part within ten steps
    # (benchmarks/rounding.py).
    "optimizer.learning_rate": 5e-6,
    "model.arch": "tiny",
    "model.init": "random",
    "model.embedding_dim": 16,
    "train.batch_size": 8,
    "train.steps": _STEPS,
    "train.picture_every": 10,
    "train.checkpoint_every": 4,
    "evaluation.every_epochs": 0,
    "log.tensorboard": False,
}
_HEARTBEAT = 15  # seconds
# How Gloo, which joins CPUs, greets on standard output; two threads at a time, each in
# these pieces.
_GREETING = re.compile(
    r"\[Gloo\] Rank (?:\[Gloo\] Rank | is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : |\d|\n)*"
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> dict[str, str]:
    """Return the fields for a labelled dataset that is evaluated quickly."""
    root = tmp_path_factory.mktemp("labelled")
    soak.write_scored(root / "scored")
    return {"evaluation.datasets": f"csv:{root}/scored"}


def _run(path, fields, *moments: str) -> list[tuple[int, str, str]]:
    """Runs a process for each of the moments at which it is to be interrupted.

    Returns:
      Of each process the exit code, standard output and standard error.
    """
    flags = [f"--config.{name}={value}" for name, value in (_FIELDS | fields).items()]
    flags = ["--config=configs/pretrain.py", f"--workdir={path}", *flags]
    if len(moments) > 1:
        flags.append(f"--coordinator={soak.free_address()}")
        flags.append(f"--num_processes={len(moments)}")
        flags.append(f"--heartbeat_seconds={_HEARTBEAT}")
    devices = {"JAX_NUM_CPU_DEVICES": str(_DEVICES // len(moments))}
    started = []
    for rank, moment in enumerate(moments):
        rank_flag = [f"--process_id={rank}"] if len(moments) > 1 else []
        started.append(
            subprocess.Popen(
                [sys.executable, str(_INTERRUPTED), moment, *flags, *rank_flag],
                cwd=_ROOT,
                env=os.environ | soak.ENVIRONMENT | devices,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [
        (process.returncode, _GREETING.sub("", out), err)
        for process, (out, err) in zip(started, outputs, strict=True)
    ]


def _finish(path, fields) -> str:
    """Runs to the end as one process; returns what was printed."""
    ((code, out, err),) = _run(path, fields, "never")
    assert code == 0, err
    return out


def _record(path) -> dict[str, np.ndarray]:
    """What `metrics.jsonl` says of the training steps, by field."""
    lines = [m for m in metrics_log.read(path / "metrics.jsonl") if "loss" in m]
    fields = lines[0].keys() - set(metrics_log.TIMING_FIELDS)
    return {field: np.array([line[field] for line in lines]) for field in fields}


def _assert_same_run(path, expected) -> None:
    """Assert the same steps, losses and variables, up to the order of float32 sums."""
    record, wanted = _record(path), _record(expected)
    np.testing.assert_array_equal(record["step"], np.arange(_STEPS) + 1)
    np.testing.assert_array_equal(record["bad_photos"], wanted["bad_photos"])
    np.testing.assert_allclose(record["loss"], wanted["loss"], rtol=1e-5)
    model = encoders.build_model(workdir.read_config(path))
    variables, wanted = (
        checkpoints.load_variables(
            run / "checkpoints" / str(_STEPS), encoders.abstract_variables(model)
        )
        for run in (path, expected)
    )
    # The parameters have moved by some fifty times this tolerance.
    for name, tolerance in {"params": 1e-6, "batch_stats": 1e-5}.items():
        jax.tree.map(
            lambda a, b, tolerance=tolerance: np.testing.assert_allclose(
                a, b, rtol=tolerance, atol=tolerance
            ),
            variables[name],
            wanted[name],
        )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, labelled):
    """A run of one process with four devices, and what it printed."""
    path = tmp_path_factory.mktemp("one")
    return path, _finish(path, labelled)


@pytest.mark.slow
def test_a_run_of_a_changing_number_of_processes(one_process, labelled, tmp_path):
    # SIGTERM to one of two while it logs step 4: its request is part of the batch of
    # step 5, and both know of it when step 6 is under way.
    for code, _, err in _run(tmp_path, labelled, "never", "step:4:SIGTERM"):
        assert code == 75, err
    assert checkpoints.find(tmp_path / "checkpoints", "last") == 6

    ((code, _, err),) = _run(tmp_path, labelled, "step:12:SIGINT")
    assert code == 130, err
    assert "resuming at step 6" in err
    assert checkpoints.find(tmp_path / "checkpoints", "last") == 13

    (code, _, err), killed = _run(tmp_path, labelled, "never", "step:18")
    assert killed[0] == -signal.SIGKILL, killed[2]
    assert "resuming at step 13" in err
    assert code == 75, err
    assert err.splitlines()[-1].startswith("error: process 0 of 2 has lost another one")
    assert "Traceback" not in err
    # That of step 16 was still being written, or it was not.
    assert checkpoints.find(tmp_path / "checkpoints", "last") in (13, 16)

    expected, out = one_process
    assert _finish(tmp_path, labelled).replace(str(tmp_path), str(expected)) == out
    _assert_same_run(tmp_path, expected)


def test_what_process_0_finds_wrong_is_said_by_all(labelled, tmp_path):
    # A run that has begun.
    config = pretrain.get_config()
    config.update_from_flattened_dict(_FIELDS | labelled)
    run = workdir.Workdir(tmp_path)
    resume.settle(run, config, photos.open_photos(""))
    run.metrics.write_text('{"step": 1}\n')
    before = run.config.read_bytes()
    for code, out, err in _run(tmp_path, labelled | {"seed": 28}, "never", "never"):
        assert (code, out) == (2, "")
        assert "seed was 27 and is 28" in err.splitlines()[-1]
    assert run.config.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("moments", [("fail:2", "never"), ("never", "fail:2")])
def test_a_failure_of_one_process_ends_all_with_its_code(labelled, tmp_path, moments):
    """With 75 a scheduler would start the job again, to fail again."""
    ended = _run(tmp_path, labelled, *moments)
    assert [code for code, *_ in ended] == [1, 1], ended
    for moment, (_, _, err) in zip(moments, ended, strict=True):
        assert "Traceback" not in err
        if moment == "never":
            assert re.search(r"error: process \d of 2 has failed", err), err
        else:
            assert "error: a fault of this process alone" in err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_never_arrives(rank):
    """The others end with one line, and the code that asks for another start."""
    address = soak.free_address()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "arniqa_jax.main", "--config=pretrain"),
            *("--workdir=never made", f"--coordinator={address}"),
            *("--num_processes=2", f"--process_id={rank}"),
            "--start_timeout_seconds=1",
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"error: the processes of this run have not all arrived at {address} within 1 s"
    )
    assert not (_ROOT / "never made").exists()
