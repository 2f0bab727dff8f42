"""Processes whose run is in a bucket are killed; the run ends as a local one does."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import emulators
import fault_proxy
import pytest

from arniqa_jax.storage import buckets
from benchmarks import soak

_ROOT = pathlib.Path(__file__).parents[1]
_INTERRUPTED = _ROOT / "tests" / "interrupted_run.py"


@pytest.fixture
def data(tmp_path):
    soak.write_scored(tmp_path / "scored")
    return tmp_path


def _run(data, run, *moments, store=None) -> list[tuple[int, str]]:
    """Run a process for each of the moments at which it is to be killed.

    Each process has its own cache, as if it were on a machine of its own.

    Returns:
      Of each process the exit code and standard error.
    """
    flags = ["--config=configs/pretrain.py", f"--workdir={run}"]
    flags += [f"--config.{name}={value}" for name, value in soak.FIELDS.items()]
    flags += [f"--config.evaluation.root={data}", "--config.data.workers=0"]
    if len(moments) > 1:
        flags += [f"--coordinator={soak.free_address()}", "--heartbeat_seconds=15"]
        flags += [f"--num_processes={len(moments)}"]
    environment = os.environ | soak.ENVIRONMENT
    environment |= emulators.gcs_environment(store) if store else {}
    started = [
        subprocess.Popen(
            [sys.executable, str(_INTERRUPTED), moment, *flags]
            + [f"--process_id={rank}"] * (len(moments) > 1),
            cwd=_ROOT,
            env=environment | {"XDG_CACHE_HOME": str(data / f"machine{rank}")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, moment in enumerate(moments)
    ]
    try:
        said = [process.communicate(timeout=900)[1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [(p.returncode, err) for p, err in zip(started, said, strict=True)]


@pytest.mark.slow
def test_kills_and_faults_at_every_moment(gcs, gcs_server, data):
    ((code, err),) = _run(data, data / "local", "never")
    assert code == 0, err
    run = f"{gcs}/run"
    with fault_proxy.proxy(gcs_server) as proxy:
        proxy.fault = fault_proxy.at_random(0.02)
        for moment in (
            *("start:0:SIGKILL:2.0", "step:3", "save:4", "step:6:SIGKILL:0.05"),
            "evaluation:8:SIGKILL:0.5",
        ):
            ((code, err),) = _run(data, run, moment, store=proxy.address)
            assert code == -signal.SIGKILL, err
        ((code, err),) = _run(data, run, "never", store=proxy.address)
        assert code == 0, err
        assert "taking over the lock of process" in err
        assert "Traceback" not in err
        assert proxy.faults > 0
    assert re.search("resuming at step [2468]", err)
    assert soak.outcome(run) == soak.outcome(data / "local")


@pytest.mark.slow
def test_two_processes_on_machines_that_share_no_disk(gcs, gcs_server, data):
    for code, err in _run(data, data / "local", "never", "never"):
        assert code == 0, err
    run = f"{gcs}/run"
    for moments in (("never", "step:3"), ("save:6", "never")):
        ended = _run(data, run, *moments, store=gcs_server)
        assert -signal.SIGKILL in [code for code, _ in ended], ended
    for code, err in _run(data, run, "never", "never", store=gcs_server):
        assert code == 0, err
        assert "Traceback" not in err
    assert soak.outcome(run) == soak.outcome(data / "local")
    found = buckets.find(run)
    assert "results/untrained/results.json" in found and ".lock" not in found
