"""The console script: its subcommands, and what it says about wrong ones."""

import importlib
import sys

import pytest
from command_test import COMMANDS

from arniqa_jax import console


def _run(monkeypatch, capsys, *arguments):
    """Return exit code, standard output and standard error of `arniqa ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["arniqa", *arguments])
    with pytest.raises(SystemExit) as end:
        console.main()
    return end.value.code, *capsys.readouterr()


def test_every_command_is_a_subcommand():
    modules = {
        name.removeprefix("arniqa_jax.") for name in console.SUBCOMMANDS.values()
    }
    # Prepares one dataset, once; it is named where that dataset is explained.
    assert modules | {"data.kadis700k"} == set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_subcommands_are_listed(monkeypatch, capsys, arguments):
    code, out, err = _run(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    for name, module in console.SUBCOMMANDS.items():
        summary = importlib.import_module(module).__doc__.splitlines()[0]
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [name])
        assert line.endswith(summary) and len(line) <= 100


@pytest.mark.parametrize(
    ("name", "hint"), [("trian", "did you mean 'train'?"), ("zzz", "'zzz'; (--help")]
)
def test_an_unknown_subcommand_is_one_line(monkeypatch, capsys, name, hint):
    code, out, err = _run(monkeypatch, capsys, name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and hint in err and err.count("\n") == 1


def test_version(monkeypatch, capsys):
    code, out, _ = _run(monkeypatch, capsys, "--version")
    assert code == 0 and out.startswith("arniqa_jax ")
    assert _run(monkeypatch, capsys, "score", "--version") == (0, out, "")


def test_a_subcommand_parses_its_own_flags(monkeypatch, capsys):
    flags = ["--config=quickstart", "--config.train.steps=2"]
    code, _, err = _run(monkeypatch, capsys, "train", *flags)
    assert code == 2 and "--config and --workdir are needed" in err
    code, _, err = _run(monkeypatch, capsys, "evaluate", *flags, "--no_such_flag=1")
    assert code == 2 and "no_such_flag" in err


def test_help_of_a_subcommand_speaks_of_it(monkeypatch, capsys):
    code, out, _ = _run(monkeypatch, capsys, "train", "--help")
    assert code == 0
    assert "arniqa train --config=" in out and "python -m" not in out
    assert "--workdir: " in out
