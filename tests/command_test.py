"""Commands: exit codes, one line for an error, help without importing JAX."""

import importlib.util
import os
import pathlib
import runpy
import signal
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

import arniqa_jax
from arniqa_jax import command, errors
from arniqa_jax.distributed import stops

_PACKAGE = pathlib.Path(command.__file__).parent
# Every module that can be run as a command.
COMMANDS = sorted(
    ".".join(path.relative_to(_PACKAGE).with_suffix("").parts)
    for path in _PACKAGE.rglob("*.py")
    if "\n    command.run(main, FLAGS" in path.read_text()
)


def _run(monkeypatch, capsys, main, *arguments):
    """Exit code, standard output and standard error of a command in this process."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_integer("count", 1, "How many.", flag_values=values)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as end:
        command.run(lambda rest: main(values, rest), values, usage="What it does.")
    return end.value.code, *capsys.readouterr()


def _fail(error):
    def main(values, arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.ArniqaError("two\nlines"), 1, "two lines"),
        (errors.UsageError("wrong"), 2, "wrong"),
        (
            OSError(28, "No space left on device", "f"),
            1,
            "f: No space left on device: ",
        ),
        (OSError(28, "No space left"), 1, "error: No space left: free some space"),
        (PermissionError(13, "Permission denied", "f"), 1, "Permission denied: 'f'"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_an_error_is_one_line_and_a_code(monkeypatch, capsys, error, code, line):
    got, out, err = _run(monkeypatch, capsys, _fail(error))
    assert (got, out) == (code, "")
    assert err.startswith("error: ") and line in err and err.count("\n") == 1


def test_success_and_the_flags(monkeypatch, capsys):
    def main(values, arguments):
        print(values["count"].value, arguments)

    assert _run(monkeypatch, capsys, main, "--count=3", "a") == (0, "3 ['a']\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--cuont=3"], "'cuont'. Did you mean: count"),
        (["--count=many"], "--count=many"),
        (["--config=configs/nowhere.py"], "there is no such file"),
        (
            ["--config=nowhere"],
            "no such file; the configs of the package are evaluate, pod",
        ),
        (["--config", "nowhere:x"], "--config=nowhere: there is no such file"),
        (["--config=pretrain", "--config.train.stesp=4"], "mean 'steps'?"),
        (["--config=setup.cfg"], "cannot be read"),
        (["--config=configs/pretrain.py", "--config.train.stesp=4"], "mean 'steps'?"),
        (["--config=configs/pretrain.py", "--config.trian.steps=4"], "mean 'train'?"),
        (["--config=configs/pretrain.py", "--config.zzz=4"], "no field 'zzz'"),
        (["--config=configs/pretrain.py", "--config.train.steps=a"], "invalid literal"),
        (
            ["--config=configs/pretrain.py", "--config.log.tensorboard=maybe"],
            "tensorboard=maybe: expected true or false",
        ),
        (["--config=pretrian"], "did you mean 'pretrain'?"),
        (["--config=configs/pretrain.py:x"], "takes 0 positional arguments"),
        (["--config.seed=4", "--config=configs/pretrain.py"], "--config.seed=4"),
    ],
)
def test_wrong_use_is_one_line(monkeypatch, capsys, arguments, line):
    code, out, err = _run(monkeypatch, capsys, _fail(AssertionError), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and line in err and err.count("\n") == 1


def test_help_lists_the_flags(monkeypatch, capsys):
    code, out, _ = _run(monkeypatch, capsys, _fail(AssertionError), "--help")
    assert code == 0
    assert "What it does." in out and "--count: How many. (default: 1)" in out


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        (["--config=pretrain"], 27),
        (["--config", "quickstart.py", "--config.seed=5"], 5),
        (["--config=mine.py:8", "--", "--config=left alone"], 8),
        (["--config=pod"], 3),  # a file of this name takes precedence
    ],
)
def test_a_config_is_found_by_name_or_path(
    monkeypatch, capsys, tmp_path, arguments, seed
):
    """From any directory; a config may import another one from its own folder."""
    folder = tmp_path / f"configs_{seed}"
    folder.mkdir()
    (folder / "base.py").write_text("OFFSET = 0\n")
    (folder / "mine.py").write_text(
        "from ml_collections import ConfigDict\n"
        f"from configs_{seed} import base\n"
        "def get_config(seed='3'):\n"
        "    return ConfigDict({'seed': int(seed) + base.OFFSET})\n"
    )
    (folder / "pod").write_text((folder / "mine.py").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def main(values, rest):
        assert values["config"].value.is_locked
        print(values["config"].value.seed)

    assert _run(monkeypatch, capsys, main, *arguments) == (0, f"{seed}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_version_of_every_command(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["command", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(_PACKAGE / f"{name.replace('.', '/')}.py"), None, "__main__")
    assert end.value.code == 0
    assert capsys.readouterr() == (f"arniqa_jax {arniqa_jax.__version__}\n", "")


def test_the_commands_are_known():
    assert {"main", "evaluate", "score", "models", "data.kadis700k"} < set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_does_without_jax(name):
    program = (
        "import runpy, sys; sys.argv = ['command', '--help']\n"
        f"try: runpy.run_module('arniqa_jax.{name}', run_name='__main__')\n"
        "finally: print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")
    assert max(map(len, done.stdout.splitlines())) <= 88


def test_a_stop_request_waits_and_the_second_ctrl_c_does_not():
    with stops.StopRequest() as stop:
        assert stop.exit_code is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 75
    with stops.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("installed", [False, True])
def test_flags_for_gpus_are_set_where_there_may_be_some(monkeypatch, installed):
    """XLA would end the process at a flag that it does not know."""
    monkeypatch.setenv("XLA_FLAGS", "--users_own=1")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: object() if installed and name == "jax_cuda13_plugin" else None,
    )
    command._set_gpu_flags()
    flags_given = os.environ["XLA_FLAGS"].split()
    assert flags_given[-1] == "--users_own=1"  # the last one wins
    assert len(flags_given) == (2 if installed else 1)
