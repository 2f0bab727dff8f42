"""Scoring by Ray on two nodes: every path once, whatever is killed."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import score_runs
import small_model

_IN_NAMESPACE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
_SCRIPT = pathlib.Path(__file__).with_name("ray_cluster.py")


def _has_namespaces() -> bool:
    try:
        return not subprocess.run([*_IN_NAMESPACE, "true"], timeout=30).returncode
    except OSError:
        return False


@pytest.mark.slow
def test_every_path_once_whatever_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    if not _has_namespaces():
        pytest.skip("Ray runs only where nothing but loopback can be reached (unshare)")
    model = small_model.write(tmp_path / "model", "live")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(1500):
        score_runs.picture(seed=i).save(photos / f"{i:04d}.png")
    for i in range(5):
        (photos / f"bad{i}.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)  # Ray's workers start elsewhere
    assert score_runs.run(model, "photos", "--output=one.csv") == 1
    with open(tmp_path / "log.txt", "w") as log:
        run = subprocess.run(
            [*_IN_NAMESPACE, sys.executable, _SCRIPT, tmp_path],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=900,
            env=os.environ | {"PYTHONPATH": str(_SCRIPT.parents[1])},
        )
    assert run.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    cases = [json.loads(line) for line in run.stdout.splitlines() if line[:1] == "{"]
    assert len(cases) == 5
    for case in cases:
        expected = 1525 if case["case"] == "driver" else 1505
        assert case["rows"] == case["paths"] == expected, case
        assert case["missing"] == case["differing"] == 0, case
        assert case["code"] == 1, case  # five images have no score
