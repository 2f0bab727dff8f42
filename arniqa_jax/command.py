"""How every command of the package starts, reports errors and ends.

A command module defines its flags on a `FlagValues` of its own (two commands can then
be imported into one process) and hands over at the bottom of the file:

    FLAGS = flags.FlagValues()
    OUTPUT = flags.DEFINE_string("output", None, "Where to write.", flag_values=FLAGS)

    def main(arguments: list[str]) -> int | None: ...

    if __name__ == "__main__":
        command.run(main, FLAGS, usage=__doc__)

Nothing here, and nothing at the top of a command module, may import JAX: `--help` has
to answer at once.
"""

import errno
import importlib.util
import logging as py_logging
import os
import pathlib
import re
import signal
import sys
import textwrap
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging
from ml_collections import config_flags

from arniqa_jax import config_files, errors
from arniqa_jax.storage import cache

# Exit codes; sysexits.h calls 75 "temporary failure, try again".
SUCCESS = 0
FAILURE = 1
WRONG_USE = 2
START_AGAIN = 75
INTERRUPTED = 130


def run(
    main: Callable[[list[str]], int | None],
    flag_values: flags.FlagValues,
    *,
    usage: str,
) -> NoReturn:
    """Parse the flags, run `main` and exit with one of the codes above.

    Args:
      main: receives the positional arguments; its return value is the exit code, `None`
        is success. An `ArniqaError`, a full disk or Ctrl-C ends in one readable line.
      flag_values: the flags of this command.
      usage: the text of `--help`, above the list of flags.
    """
    _prepare_environment()
    if {"--help", "-h", "-help"} & set(_before_double_dash(sys.argv[1:])):
        print(f"{usage.strip()}\n\nFlags:\n{_describe_flags(flag_values)}")
        sys.exit(SUCCESS)
    try:
        arguments = parse_flags(sys.argv, flag_values)
        code = main(arguments)
        # Where standard output is a full disk or a closed pipe, say so before the end.
        sys.stdout.flush()
        sys.exit(code or SUCCESS)
    except errors.ArniqaError as error:
        code = report(error, error.exit_code)
    except KeyboardInterrupt:
        code = report("stopped by Ctrl-C", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: not an error worth a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        code = report(_describe_os_error(error), FAILURE)
    if "arniqa_jax.distributed.agreement" in sys.modules:
        # One of several processes must not wait for the others, which wait for it.
        sys.modules["arniqa_jax.distributed.agreement"].leave(code)
    sys.exit(code)


def define_config(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """Define `--config`, which takes a path or the name of a config that ships."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        f"One of {', '.join(config_files.names())}, or the path of a config file; "
        "comes before the --config.FIELD=VALUE that change it.",
        lock_config=True,
        flag_values=flag_values,
    )


class ProcessFlags:
    """The flags of a command that several processes can run together."""

    def __init__(self, flag_values: flags.FlagValues):
        self._coordinator = flags.DEFINE_string(
            "coordinator",
            None,
            "HOST:PORT of process 0, of several; not needed on TPUs, Slurm, Open MPI.",
            flag_values=flag_values,
        )
        self._num_processes = flags.DEFINE_integer(
            "num_processes", None, "How many there are.", flag_values=flag_values
        )
        self._process_id = flags.DEFINE_integer(
            "process_id", None, "Which this one is, from 0.", flag_values=flag_values
        )
        self._heartbeat_seconds = flags.DEFINE_integer(
            "heartbeat_seconds",
            60,
            "After so long without a word a process is dead, and the others end.",
            lower_bound=5,
            flag_values=flag_values,
        )

    def start(self) -> None:
        """Joins the processes; comes before any other use of JAX."""
        from arniqa_jax.distributed import sharding

        sharding.start_processes(
            self._coordinator.value,
            self._num_processes.value,
            self._process_id.value,
            heartbeat_seconds=self._heartbeat_seconds.value,
        )


def parse_flags(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Returns the positional arguments of `argv` after parsing the flags in it.

    Raises:
      UsageError: an unknown flag, a misspelt or mistyped config field, a config file
        that is missing or does not run.
    """
    try:
        arguments = flag_values(_with_config_path(argv, flag_values))[1:]
    except flags.Error as error:
        # A config file that does not run brings its traceback: the last line says why.
        message = str(error).strip()
        first, _, rest = message.partition("Traceback (most recent call last)")
        message = first + rest.splitlines()[-1] if rest else message
        raise errors.UsageError(f"{message} (--help lists the flags)") from error
    except (AttributeError, KeyError) as error:
        raise errors.UsageError(_misspelt_field(error)) from error
    except (ImportError, SyntaxError) as error:
        raise errors.UsageError(f"--config cannot be read: {error}") from error
    # grain's worker processes read absl's global flags, which nothing else parses.
    flags.FLAGS.mark_as_parsed()
    return arguments


def _with_config_path(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Return `argv` with the path of the config in place of its name.

    Raises:
      UsageError: there is no such config.
    """
    if "config" not in flag_values:
        return argv
    found = list(argv)
    for index, option in enumerate(_before_double_dash(argv)[1:], 1):
        if argv[index - 1] in ("--config", "-config"):
            found[index] = path = config_files.find(option)
        elif match := re.fullmatch(r"(--?config=)(.*)", option):
            path = config_files.find(match[2])
            found[index] = match[1] + path
        else:
            continue
        # The config may import another one of its folder: `from configs import base`.
        folder = pathlib.Path(path).absolute().parent
        if folder != config_files.DIRECTORY:
            sys.path.append(str(folder.parent))
    return found


def report(message: object, code: int) -> int:
    """Prints one line on standard error and returns `code`."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return code


def _describe_os_error(error: OSError) -> str:
    """The words of the system, and what to do about a full disk."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return str(error)
    # Where writing fails, not opening, the system names no file.
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}: make room and start again; what was complete before "
        "is kept"
    )


def _prepare_environment() -> None:
    handler = py_logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # By force: some libraries add a handler of their own when they are imported.
    py_logging.basicConfig(handlers=[handler], force=True)
    logging.set_verbosity(logging.INFO)
    # Read by JAX when it is imported. JAX_ENABLE_COMPILATION_CACHE=false is the switch.
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(cache.directory() / "compiled")
    )
    # Seconds; JAX's own is 1, but a start has several programs of less.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    _set_gpu_flags()


def _set_gpu_flags() -> None:
    """Tells XLA to hide communication behind computation, where there are GPUs.

    The sum of the gradients of one layer then runs while those of the next are
    computed. XLA ends the process at a flag that it does not know, so the flag is given
    only where the plugin for NVIDIA's GPUs is installed, and before JAX reads it; what
    the user has set comes after it, and wins.
    """
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if any(importlib.util.find_spec(plugin) for plugin in plugins):
        flag = "--xla_gpu_enable_latency_hiding_scheduler=true"
        os.environ["XLA_FLAGS"] = f"{flag} {os.environ.get('XLA_FLAGS', '')}".strip()


def _before_double_dash(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _describe_flags(flag_values: flags.FlagValues) -> str:
    lines = []
    for name in flag_values:
        flag = flag_values[name]
        default = "" if flag.default is None else f" (default: {flag.default})"
        line = f"--{name}: {flag.help}{default}"
        lines.append(
            textwrap.fill(line, 88, initial_indent="  ", subsequent_indent="      ")
        )
    return "\n".join(lines)


def _misspelt_field(error: Exception) -> str:
    """One line out of the message of ml_collections, with the nearest name."""
    text = str(error)
    match = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    if match:
        return f"the config has no field {match[2]!r}; did you mean {match[1]!r}?"
    return f"the config has no field {text.strip(chr(34) + chr(39))!r}"


class _Formatter(py_logging.Formatter):
    """Time and message; the level only where it is not plain information."""

    def format(self, record: py_logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno < py_logging.WARNING:
            return line
        moment, _, message = line.partition(" ")
        return f"{moment} {record.levelname.lower()}: {message}"


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a wish that a loop can look at between two steps.

    Used as a context manager around the loop. The second Ctrl-C leaves at once, as
    `KeyboardInterrupt`.

    Attributes:
      exit_code: None while nothing was asked for; then the code to end with.
    """

    def __init__(self):
        self.exit_code: int | None = None

    def __enter__(self):
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, _):
        if self.exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = INTERRUPTED if number == signal.SIGINT else START_AGAIN
        # Not through logging: the signal may have come while its lock is held.
        os.write(2, b"stopping after this step; once more Ctrl-C leaves at once\n")
