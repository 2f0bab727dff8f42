"""`benchmarks/on_gpu.sh` as a user runs it, with small numbers on the CPU."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


def _run(tmp_path, *flags):
    """Return the exit code, the results and the tables."""
    output = tmp_path / "results" / "on_gpu.json"
    done = subprocess.run(
        [_ROOT / "benchmarks" / "on_gpu.sh", "--small", f"--output={output}", *flags],
        env=os.environ | {"PYTHON": sys.executable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert output.exists(), done.stderr
    return done.returncode, json.loads(output.read_text()), done.stdout


def _numbers(value):
    """Yield every number in nested figures."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


@pytest.mark.slow
def test_every_part_gives_its_numbers(tmp_path):
    code, results, tables = _run(tmp_path, "--minutes=20")
    parts = results["parts"]
    states = {name: part["status"] for name, part in parts.items()}
    with_torch = importlib.util.find_spec("torch") is not None
    torch_state = "done" if with_torch else "skipped"
    assert states == {
        **dict.fromkeys(states, "done"),
        "scoring in PyTorch": torch_state,
    }, parts
    assert code == 0
    assert results["about"]["versions"]["jax"]
    figures = {name: part["figures"] for name, part in parts.items()}
    for name in states:
        assert f"| {name} |" in tables
        if states[name] == "done":
            assert list(_numbers(figures[name])), name

    golden = figures["golden"]
    assert all(row["agrees"] for row in golden["golden distortions"].values())
    assert golden["golden features"]["highest"]["error"] < 1e-4
    assert set(golden["statistics of random distortions"].values()) == {True}
    assert len(golden["distortions against the CPU"]) == 2
    assert isinstance(figures["switch"]["host waits"], bool)
    assert figures["switch"]["conditionals in the program"] >= 1

    step = figures["step"]
    whole, parts = step["whole step, 2 pairs"], step["parts, 2 pairs"]
    assert set(whole) == {"bfloat16"}
    assert set(parts) == {
        "degradation, tile 1",
        "encoder, bfloat16",
        "encoder, float32",
    }
    for row in (whole | parts).values():
        assert row["seconds"] > 0 and row["temporaries"] > 0
    assert step["input, 2 pairs"]["loader"] > 0
    assert step["input, 2 pairs"]["host to device"] > 0
    assert "| 2 | float32 | 1 |" in tables and "%)" in tables

    profile = figures["profile"]
    for title in ("three largest operations", "three largest costs"):
        shares = [row["share"] for row in profile[title]]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1
    assert sum(row["share"] for row in profile["by part of the program"]) == (
        pytest.approx(1)
    )

    pretrain = figures["pretrain"]
    assert pretrain["steps"] == 5
    assert pretrain["seconds of a step, median"] > 0
    assert 0 <= pretrain["share of waiting for data"] <= 1
    assert figures["scoring"]["images per second"] > 0
    if with_torch:
        assert figures["scoring in PyTorch"]["images per second"] > 0
        assert "ours over PyTorch" in tables
    else:
        skipped = figures["scoring in PyTorch"]["skipped"]
        assert skipped == "torch is not installed"


def test_a_failing_part_is_reported_and_the_next_one_runs(tmp_path):
    code, results, tables = _run(
        tmp_path, "--parts=pretrain,switch", "--photos=missing", "--minutes=5"
    )
    assert code == 1
    failed, switch = results["parts"]["pretrain"], results["parts"]["switch"]
    assert failed["status"] == "failed"
    assert "missing: there is no such file or folder" in failed["error"]
    assert failed["error"] in tables
    assert switch["status"] == "done" and "host waits" in switch["figures"]


def test_what_the_time_does_not_allow_is_said(tmp_path):
    """A part is stopped at its limit, and what comes after it is not lost."""
    code, results, tables = _run(tmp_path, "--parts=golden,switch", "--minutes=0.05")
    assert code == 1
    golden, switch = results["parts"]["golden"], results["parts"]["switch"]
    assert golden["status"] == "failed" and "its time limit" in golden["error"]
    assert golden["seconds"] < 10
    assert switch["status"] in ("failed", "not reached")
    assert "| switch |" in tables


def test_unknown_part(tmp_path):
    done = subprocess.run(
        [_ROOT / "benchmarks" / "on_gpu.sh", "--parts=gold"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "'gold' is none of golden" in done.stderr
