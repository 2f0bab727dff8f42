"""Three random kills by `benchmarks/soak.py`; more are in benchmarks/RESULTS.md."""

import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_runs_survive_random_kills():
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "benchmarks/soak.py", "--kills=3"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 kills (")
