"""How every command of the package starts, reports errors and exits.

A command module defines its flags on its own `FlagValues`, so that two commands can be
imported into one process. At the bottom of the file it calls `run`:

    FLAGS = flags.FlagValues()
    OUTPUT = flags.DEFINE_string("output", None, "Where to write.", flag_values=FLAGS)

    def main(arguments: list[str]) -> int | None: ...

    if __name__ == "__main__":
        command.run(main, FLAGS, usage=__doc__)

Neither this module nor the top level of a command module may import JAX, because
`--help` must answer at once.
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
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging
from ml_collections import config_flags

from arniqa_jax import config_files, errors
from arniqa_jax.storage import bucket_errors, cache
from arniqa_jax.version import __version__

# The module that the commands of several processes have imported, with JAX.
_AGREEMENT = "arniqa_jax.distributed.agreement"
_ORBAX = os.path.join("site-packages", "orbax", "")

HELP_FLAGS = {"--help", "-h", "-help"}
VERSION_FLAGS = {"--version", "-version"}


def run(
    main: Callable[[list[str]], int | None],
    flag_values: flags.FlagValues,
    *,
    usage: str,
) -> NoReturn:
    """Parse the flags, run `main` and exit with a code of `errors`.

    An `ArniqaError`, a full disk or Ctrl-C prints one line.

    Args:
      main: receives the positional arguments. Its return value is the exit code; `None`
        means success.
      flag_values: the flags of this command.
      usage: the text of `--help`, above the list of flags.
    """
    if sys.platform == "win32":
        sys.exit(report(errors.NOT_ON_WINDOWS, errors.FAILURE))
    _prepare_environment()
    options = set(_before_double_dash(sys.argv[1:]))
    if options & VERSION_FLAGS:
        print_version()
        sys.exit(errors.SUCCESS)
    if options & HELP_FLAGS:
        print(f"{usage.strip()}\n\nFlags:\n{_describe_flags(flag_values)}")
        sys.exit(errors.SUCCESS)
    try:
        arguments = parse_flags(sys.argv, flag_values)
        code = main(arguments)
        # Flush here, so that a full disk or a closed pipe on standard output is still
        # reported.
        sys.stdout.flush()
        sys.exit(code or errors.SUCCESS)
    except errors.ArniqaError as error:
        code = report(error, error.exit_code)
    except KeyboardInterrupt:
        code = report("stopped by Ctrl-C", errors.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (such as `| head`) has exited, which is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        code = report(_describe_os_error(error), errors.FAILURE)
    except Exception as error:
        code = _report_unexpected(error)
    agreement = sys.modules.get(_AGREEMENT)
    if agreement:
        # Skip the shutdown barrier: the other processes are already blocked on this
        # one.
        agreement.leave(code)
    sys.exit(code)


def _report_unexpected(error: Exception) -> int:
    """Report a lost process in one line, and a bug with its traceback."""
    agreement = sys.modules.get(_AGREEMENT)
    lost = agreement.as_lost_process(error) if agreement else None
    if lost is not None:
        return report(lost, lost.exit_code)
    traceback.print_exception(error)
    return errors.FAILURE


def define_config(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """Define `--config`, which takes a path or the name of a config of the package."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        f"One of {', '.join(config_files.names())}, or the path of a config file; must "
        "come before the --config.FIELD=VALUE that change it.",
        lock_config=True,
        flag_values=flag_values,
    )


def define_model(flag_values: flags.FlagValues) -> flags.FlagHolder[str | None]:
    """Define `--model`, which takes what `arniqa_jax.load` takes."""
    return flags.DEFINE_string(
        "model",
        None,
        "Model directory, workdir of a run, DIR:NAME for one of several regressors, or "
        "the name of an official regressor, or starter, which needs no download.",
        flag_values=flag_values,
    )


class ProcessFlags:
    """The flags of a command that can run as several processes."""

    def __init__(self, flag_values: flags.FlagValues):
        self._coordinator = flags.DEFINE_string(
            "coordinator",
            None,
            "HOST:PORT of process 0, for a run of several processes; TPUs, Slurm and "
            "Open MPI do not need it.",
            flag_values=flag_values,
        )
        self._num_processes = flags.DEFINE_integer(
            "num_processes", None, "Number of processes.", flag_values=flag_values
        )
        self._process_id = flags.DEFINE_integer(
            "process_id",
            None,
            "Index of this process, from 0.",
            flag_values=flag_values,
        )
        self._heartbeat_seconds = flags.DEFINE_integer(
            "heartbeat_seconds",
            60,
            "A process that is silent for this long counts as dead; the others end.",
            lower_bound=5,
            flag_values=flag_values,
        )
        self._start_timeout_seconds = flags.DEFINE_integer(
            "start_timeout_seconds",
            300,
            "A process ends with code 75 if the others have not arrived by then.",
            lower_bound=1,
            flag_values=flag_values,
        )

    def start(self) -> None:
        """Connect the processes; must come before any other use of JAX."""
        import jax

        from arniqa_jax.distributed import sharding

        sharding.start_processes(
            self._coordinator.value,
            self._num_processes.value,
            self._process_id.value,
            heartbeat_seconds=self._heartbeat_seconds.value,
            start_timeout_seconds=self._start_timeout_seconds.value,
        )
        if jax.distributed.is_initialized() and jax.process_index() > 0:
            # Process 0 alone reports progress. Every process reports its own problems.
            logging.set_verbosity(logging.WARNING)


def parse_flags(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Parse the flags in `argv` and return the positional arguments.

    Raises:
      UsageError: a flag is unknown, a config field is misspelt or has the wrong type,
        or the config file is missing or raises an error.
    """
    try:
        arguments = flag_values(_with_config_path(argv, flag_values))[1:]
    except flags.Error as error:
        # For a config file that raises an error, the message contains the traceback.
        # Only its last line gives the reason.
        message = str(error).strip()
        first, _, rest = message.partition("Traceback (most recent call last)")
        message = first + rest.splitlines()[-1] if rest else message
        # absl names a value that is not a boolean twice, as a Python tuple.
        message = re.sub(
            r"\('Non-boolean argument to boolean flag', .*\)$",
            "expected true or false",
            message,
        )
        raise errors.UsageError(f"{message} (--help lists the flags)") from error
    except (AttributeError, KeyError) as error:
        raise errors.UsageError(_misspelt_field(error)) from error
    except (ImportError, SyntaxError) as error:
        raise errors.UsageError(f"--config cannot be read: {error}") from error
    # grain's worker processes read absl's global flags, which are not parsed otherwise.
    flags.FLAGS.mark_as_parsed()
    return arguments


def _with_config_path(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Return `argv` with the name of the config replaced by its path.

    Raises:
      UsageError: there is no config of this name.
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
        # The config may import another one from its folder: `from configs import base`.
        folder = pathlib.Path(path).absolute().parent
        if folder != config_files.DIRECTORY:
            sys.path.append(str(folder.parent))
    return found


def print_version() -> None:
    """Print the name and version of the package on standard output."""
    print(f"arniqa_jax {__version__}")


def report(message: object, code: int) -> int:
    """Print one line on standard error and return `code`."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return code


def _describe_os_error(error: OSError) -> str:
    """Return the system's message, with advice if the disk is full."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return str(error)
    # If writing fails (and not opening), the system gives no file name.
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}: free some space and start again; completed work is "
        "kept"
    )


def _prepare_environment() -> None:
    handler = py_logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # `force` is needed because some libraries add their own handler on import.
    py_logging.basicConfig(handlers=[handler], force=True)
    logging.set_verbosity(logging.INFO)
    # Orbax logs about ten lines per save. If a save fails, it also logs warnings and
    # tracebacks of its background tasks, in addition to the error that it raises.
    handler.addFilter(lambda record: _ORBAX not in record.pathname)
    # At this level gcsfs says that it repeats a request, which the filter keeps.
    py_logging.getLogger("gcsfs").setLevel(py_logging.DEBUG)
    handler.addFilter(bucket_errors.only_repetitions)
    # Other processes write to a bucket too, so a listing must not be kept.
    os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')
    # Pillow warns of oddities of an image that is decoded nevertheless.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # JAX reads this on import. JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(cache.directory() / "compiled")
    )
    # In seconds. JAX's default is 1, but many programs of a start compile in less.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    _set_gpu_flags()


def _set_gpu_flags() -> None:
    """Set the XLA flag that overlaps communication with computation on GPUs.

    The all-reduce of the gradients of one layer then runs while those of the next layer
    are computed. XLA ends the process if it does not know a flag. So the flag is set
    only if the plugin for NVIDIA GPUs is installed, and before JAX reads it. The user's
    flags follow it and take precedence.
    """
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if any(importlib.util.find_spec(plugin) for plugin in plugins):
        flag = "--xla_gpu_enable_latency_hiding_scheduler=true"
        os.environ["XLA_FLAGS"] = f"{flag} {os.environ.get('XLA_FLAGS', '')}".strip()


def _before_double_dash(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _describe_flags(flag_values: flags.FlagValues) -> str:
    """Return one paragraph about each flag."""
    helps = {}
    for name in flag_values:
        flag = flag_values[name]
        default = "" if flag.default is None else f" (default: {flag.default})"
        helps[name] = f"{flag.help}{default}"
    helps["version"] = "Print the version and exit."
    return "\n".join(
        textwrap.fill(
            f"--{name}: {text}", 88, initial_indent="  ", subsequent_indent="      "
        )
        for name, text in helps.items()
    )


def _misspelt_field(error: Exception) -> str:
    """Return the message of ml_collections as one line, with the closest field name."""
    text = str(error)
    match = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    if match:
        return f"the config has no field {match[2]!r}; did you mean {match[1]!r}?"
    return f"the config has no field {text.strip(chr(34) + chr(39))!r}"


class _Formatter(py_logging.Formatter):
    """Formats time and message, and the level from WARNING up."""

    def format(self, record: py_logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno < py_logging.WARNING:
            return line
        moment, _, message = line.partition(" ")
        return f"{moment} {record.levelname.lower()}: {message}"
