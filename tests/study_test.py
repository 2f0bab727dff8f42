"""The study of variants: which evaluations it reads, and what its tables say."""

import dataclasses
import json
import signal
import sys

import miniature
import pytest

from arniqa_jax.datasets import catalogue
from arniqa_jax.evaluation import protocol, results
from benchmarks import study
from configs import scratch


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Three encoders on LIVE."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        counts = {"live": miniature.live(root, miniature._Painter(0))}
        miniature.use_counts(patch, counts)
        opened = [catalogue.open_benchmark("live", root)]
    return [
        protocol.evaluate(
            miniature.encoder(seed, name), opened, cache_dir=root / "cache"
        )
        for seed, name in enumerate(("untrained", "step 9", "step 10"))
    ]


def _write(workdir, *found, crops="five"):
    config = scratch.get_config()
    config.evaluation.crops = crops
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    for one in found:
        results.save(one, workdir / "results" / one.encoder.removeprefix("step "))


def test_the_last_step_is_read(evaluated, tmp_path):
    _write(tmp_path, *evaluated)
    found = study.read(tmp_path, "a", 27)
    assert (found.untrained.encoder, found.trained.encoder) == ("untrained", "step 10")


def test_evaluations_with_other_crops_do_not_count(evaluated, tmp_path):
    """The evaluate command adds them to the run."""
    _write(tmp_path, *evaluated[:2])
    for one in evaluated[:2]:
        other = dataclasses.replace(one, crops="whole")
        results.save(other, tmp_path / "results" / f"{one.encoder}-2")
    found = study.read(tmp_path, "a", 27)
    assert (found.untrained.crops, found.trained.crops) == ("five", "five")


def test_a_stopped_run_is_waited_for_and_named(tmp_path, monkeypatch, capfd):
    """SIGTERM is passed on, and the study ends with the exit code of the run."""
    run = tmp_path / "run"
    run.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "signal.alarm(60)  # so that a signal that is not passed on fails the test\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "signal.pause()\n"
    )
    run.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(run))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        study._train("scratch", tmp_path / "a-27", [])
    assert stopped.value.code == 75 and signal.getsignal(signal.SIGTERM) is before
    (line,) = capfd.readouterr().err.splitlines()
    assert "a-27 was stopped (exit code 75); the same command continues" in line


@pytest.mark.parametrize("seeds", ["a", "", "27,27", "27,,28", "27.5"])
def test_wrong_seeds_are_refused(monkeypatch, capsys, seeds):
    monkeypatch.setattr(
        sys, "argv", ["study", "pairing", "--output=x", f"--seeds={seeds}"]
    )
    with pytest.raises(SystemExit):
        study.main()
    assert "expected different whole numbers" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_named(evaluated, tmp_path):
    _write(tmp_path, evaluated[0])
    with pytest.raises(SystemExit, match="expected an evaluation"):
        study.read(tmp_path, "a", 27)


def _with_srcc(found, value):
    (dataset,) = found.datasets
    figure = dataclasses.replace(dataset.figures["srcc"], median=value)
    dataset = dataclasses.replace(dataset, figures={**dataset.figures, "srcc": figure})
    return dataclasses.replace(found, datasets=(dataset,))


def test_variants_are_compared_seed_by_seed(evaluated):
    before, after, _ = evaluated
    runs = [
        study.Finished(variant, seed, _with_srcc(before, 0.3), _with_srcc(after, srcc))
        for variant, seed, srcc in (
            ("a", 1, 0.4), ("b", 1, 0.5), ("a", 2, 0.8), ("b", 2, 0.94),
        )
    ]  # fmt: skip
    *_, a, b = study.table_of_variants(runs).splitlines()
    assert a == "| a | LIVE | 2 | +0.300 |  |"
    # The differences are 0.10 and 0.14; t is 12.706 at one degree of freedom.
    assert b == "| b | LIVE | 2 | +0.420 | +0.120, -0.134 to +0.374 |"
    assert "| b | 2 | LIVE | 0.300 | 0.940 | +0.640, " in study.table_of_runs(runs)


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_field_of_a_study_is_one_of_the_config(name):
    for fields in study.STUDIES[name].values():
        scratch.get_config().update_from_flattened_dict(fields)
