"""What `benchmarks/accelerators.py` says of too much memory and of wrong input."""

import pathlib
import subprocess
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))

from accelerator import fit, measure, targets

from arniqa_jax import errors

ROOT = pathlib.Path(__file__).parents[1]
CHIP = targets.CHIPS["v5e"]


@pytest.mark.parametrize(
    ("said", "used"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 31.50G of 15.75G hbm. Exceeded hbm capacity by "
            "15.75G.\n\nTotal hbm usage >= 31.75G:\n    reserved        258.00M\n",
            31.5,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
            "for HLO temporaries (23.30G) exceeds available HBM (15.75G).",
            23.3,
        ),
    ],
)
def test_the_compilers_words_about_memory_become_one_line(said, used):
    error = measure.readable("step", said)
    assert str(error) == (
        f"the step needs {used * 2**30 / 1e9:.2f} GB of memory on a device that has "
        "16.91 GB"
    )
    assert error.used == used * 2**30


def test_a_batch_that_is_too_large_is_lowered_until_it_fits():
    tried = []

    def compile_one(name, change):
        tried.append(int(change.removeprefix("train.batch_size=")))
        return {} if tried[-1] <= 4 * 8 else {"error": "no"}

    record = {"name": "step", "pairs": 64.0, "used": 2.1 * CHIP.memory}
    assert fit.below(compile_one, record, 8, CHIP) == 4
    assert tried == [16 * 8, 8 * 8, 4 * 8]


@pytest.mark.parametrize("limit", [0, 1, 8, 31, 64, 100])
def test_the_largest_batch_fits_and_its_double_does_not(limit):
    tried = []

    def compile_step(change):
        batch = int(change.removeprefix("train.batch_size="))
        tried.append(batch)
        record = {"memory": {"total": 2**30 + batch * 2**25}, "flops": 1.0}
        return record if batch <= 2 * limit else {"error": "no", "used": 1.0}

    found = fit.largest(compile_step, 2, CHIP)
    assert found["pairs"] == (2 ** (limit.bit_length() - 1) if limit else 0)
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h10:2", "did you mean 'h100'"),
        ("v5e:2x2x2", "has 2 dimensions"),
        ("h100:8x8", "has 1 dimension"),
    ],
)
def test_unknown_targets_are_named(name, message):
    with pytest.raises(errors.UsageError, match=message):
        targets.parse(name)


def test_missing_compilers_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in (("v5e:2x4", "libtpu"), ("h100", r"jax\[cuda13\]")):
        with pytest.raises(errors.UsageError, match=package):
            targets.prepare(targets.parse(name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target=v9:2x2", "--config=pretrain"), "there is no accelerator 'v9'"),
        (("--target=v5e:2x4", "--config=pretain"), "did you mean 'pretrain'"),
        (("--config=pretrain",), "--target and --config are needed"),
        (
            ("--target=v5e:2x4", "--config=pretrain", "--set=train.bach_size=3"),
            "did you mean 'batch_size'",
        ),
        (
            ("--target=v5e:2x4", "--config=pretrain", "--set=train"),
            "expected FIELD=VALUE",
        ),
        (
            ("--target=v5e:2x4", "--config=pretrain", "--json=nowhere/figures.json"),
            "--json=nowhere/figures.json: there is no such folder",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = subprocess.run(
        [sys.executable, "benchmarks/accelerators.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
