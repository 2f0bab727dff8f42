"""Estimate what the programs cost on an accelerator, by compiling them without one.

    python benchmarks/accelerators.py --target=v5e:2x4 --config=pretrain
        [--config.FIELD=VALUE ...] [--set=FIELD=VALUE,...] [--devices=N]
        [--what=step,encoder,plain,distortions,chain,scorer] [--fit] [--nobundles]
        [--json=FILE]

Targets: v4, v5e, v5p and v6e with the shape of a slice (v5e:2x4, v5p:2x2x2), through
`pip install 'jax[tpu]'`, and h100, through `pip install 'jax[cuda13]'`. The config is a
name in configs/ or a file. Each program is compiled in its own process:

  step         the training step on all devices of the target, or on --devices of them
  encoder      the gradient of the loss without degradations, on one device
  plain        the same for a plain Flax ResNet-50, the baseline
  distortions  each distortion on the four crops of a pair, weighted by how often it is
               drawn; or give names: --what=jitter,jpeg
  chain        the degradation of the pairs of one device
  scorer       features of 320 crops

Measures. Bytes are read from and written to HBM, according to the text of the program;
the table also shows the compiler's cost analysis. Bundles are the instructions that a
TPU core issues, from the compiler's dump. Cycles are the compiler's estimate. The time
of an operation is the larger of its bytes over the bandwidth and its bundles over the
clock ("per-op maximum"). For a convolution without bundles, the cycles replace them. On
a GPU only bytes count.

--fit finds the largest batch that fits into memory, with and without rematerialisation.
Exit codes: 0; 1 if a program does not fit; 2 for wrong use.
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent import futures

from absl import flags
from ml_collections import config_flags

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

from accelerator import targets

from arniqa_jax import command, config_files, errors
from arniqa_jax.storage.files import write_atomically

_ROOT = pathlib.Path(__file__).resolve().parents[1]

FLAGS = flags.FlagValues()
TARGET = flags.DEFINE_string(
    "target", None, "Accelerator, such as v5e:2x4 or h100.", flag_values=FLAGS
)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Name in configs/, or a file.", flag_values=FLAGS
)
WHAT = flags.DEFINE_list(
    "what",
    ["step", "encoder", "plain", "distortions"],
    "Programs, comma-separated.",
    flag_values=FLAGS,
)
DEVICES = flags.DEFINE_integer(
    "devices", None, "Devices of the target to use.", lower_bound=1, flag_values=FLAGS
)
FIT = flags.DEFINE_bool("fit", False, "Find the largest batch.", flag_values=FLAGS)
BUNDLES = flags.DEFINE_bool(
    "bundles",
    True,
    "Count bundles; --nobundles compiles faster and leaves estimated cycles.",
    flag_values=FLAGS,
)
JSON = flags.DEFINE_string("json", None, "File for the figures.", flag_values=FLAGS)
JOBS = flags.DEFINE_integer(
    "jobs", 1, "Compilers that run at once.", lower_bound=1, flag_values=FLAGS
)
RECORD = flags.DEFINE_string(
    "record",
    None,
    "For the processes that this command starts: compile one program and write its "
    "figures to --json.",
    flag_values=FLAGS,
)
_PROGRAMS = ("step", "encoder", "plain", "chain", "scorer")


def main(arguments: list[str]) -> int:
    """Check the flags, compile and print; return the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if not TARGET.value or CONFIG.value is None:
        raise errors.UsageError(
            "--target and --config are needed, for example --target=v5e:2x4 "
            "--config=pretrain"
        )
    target = targets.parse(TARGET.value)
    if RECORD.value:
        return _record(target)
    if JSON.value and not pathlib.Path(JSON.value).absolute().parent.is_dir():
        raise errors.UsageError(f"--json={JSON.value}: there is no such folder")
    targets.prepare(target)
    from accelerator import report

    names = _programs(WHAT.value)
    target.mesh(DEVICES.value)  # rejects an unknown slice before any process starts
    if FIT.value:
        found = {"fit": _fit(target)}
        report.print_fit(found["fit"])
    else:
        found = {"programs": _compile_all(names)}
        report.print_all(target, CONFIG.value, found["programs"])
    if JSON.value:
        about = {"target": target.name, "config": CONFIG.value.to_dict()}
        figures = json.dumps(about | found, indent=1)
        write_atomically(pathlib.Path(JSON.value), figures + "\n")
    failed = [r for r in found.get("programs", {}).values() if "error" in r]
    for record in failed:
        command.report(_advice(target, record), errors.FAILURE)
    return errors.FAILURE if failed else errors.SUCCESS


def _advice(target: targets.Target, record: dict) -> str:
    """Return why a program does not fit, and the largest batch that fits."""
    depends_on_batch = record["name"] in ("step", "encoder", "plain", "chain")
    if "used" not in record or not depends_on_batch:
        return record["error"]
    from accelerator import fit

    devices = target.mesh(DEVICES.value).size
    pairs = fit.below(_compile_one, record, devices, target.chip)
    if not pairs:
        return f"{record['error']}, and not even one pair fits"
    return f"{record['error']}; train.batch_size={pairs * devices} fits"


def _programs(wanted: list[str]) -> list[str]:
    """Return the names of the programs that --what asks for.

    Raises:
      UsageError: there is no such program.
    """
    from arniqa_jax.degradation.catalogue import CATALOGUE

    names = []
    for name in wanted:
        if name == "distortions":
            names += CATALOGUE
        elif name in CATALOGUE or name in _PROGRAMS:
            names.append(name)
        else:
            known = ["distortions", *_PROGRAMS, *CATALOGUE]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise errors.UsageError(
                f"--what={name}: expected {', '.join(known[:6])} or the name of a "
                f"distortion; did you mean {near!r}?"
            )
    return list(dict.fromkeys(names))


def _record(target: targets.Target) -> int:
    """Compile one program, in its own process."""
    name = RECORD.value
    with tempfile.TemporaryDirectory() as folder:
        dumped = target.is_tpu and BUNDLES.value and not FIT.value
        targets.prepare(target, folder if dumped else "")
        from accelerator import measure

        path = pathlib.Path(folder)
        try:
            found = measure.record(
                name, CONFIG.value, target, DEVICES.value, path if dumped else None
            )
        except measure.DoesNotFit as error:
            pairs = CONFIG.value.train.batch_size / target.mesh(DEVICES.value).size
            found = {"name": name, "error": str(error), "used": error.used}
            found["pairs"] = pairs
    pathlib.Path(JSON.value).write_text(json.dumps(found))
    return errors.SUCCESS


def _compile_all(names: list[str]) -> dict[str, dict]:
    """Return the figures of programs by name; each is compiled in its own process."""
    with futures.ThreadPoolExecutor(JOBS.value) as pool:
        return dict(zip(names, pool.map(_compile_one, names), strict=True))


def _compile_one(name: str, *changes: str) -> dict:
    """Return the figures of one program, for the config with some fields changed.

    If the program does not fit or the compiler fails, the only figure is an `error`.

    Raises:
      UsageError: the config does not suit the target.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "record.json"
        mine = [a for a in sys.argv[1:] if not a.startswith(("--json", "--record"))]
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                *mine,
                *(f"--config.{change}" for change in changes),
                f"--record={name}",
                f"--json={file}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode or not file.exists():
            said = _reason(done.stderr)
            if done.returncode == errors.WRONG_USE:
                raise errors.UsageError(said)
            return {"name": name, "error": f"compiling {name}: {said}"}
        print(f"compiled {name}", file=sys.stderr, flush=True)
        return json.loads(file.read_text())


def _reason(stderr: str) -> str:
    """Return the line that says why a process ended.

    This is the last line, unless a failed check of the compiler has printed a stack
    trace after it.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    checks = [line for line in lines if "Check failed" in line]
    reasons = checks or lines[-1:] or ["no message"]
    return reasons[0].removeprefix("error: ")


def _fit(target: targets.Target) -> dict[str, dict]:
    from accelerator import fit

    count = target.mesh(DEVICES.value).size
    return fit.both(_compile_one, count, CONFIG.value, target.chip)


def expand(argv: list[str]) -> list[str]:
    """Return the arguments with a config's name and --set written out.

    The name is replaced by its file, and --set by a flag per field.

    Raises:
      UsageError: there is no such config, or a change is not FIELD=VALUE.
    """
    expanded = []
    for argument in argv:
        flag, _, value = argument.partition("=")
        if flag == "--config":
            expanded.append(f"--config={config_files.find(value)}")
        elif flag == "--set":
            for change in value.split(","):
                if "=" not in change:
                    raise errors.UsageError(f"--set={change}: expected FIELD=VALUE")
                expanded.append(f"--config.{change}")
        else:
            expanded.append(argument)
    return expanded


if __name__ == "__main__":
    # A program from the cache would write no dump and take no time to compile.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    os.environ["PYTHONPATH"] = f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}"
    try:
        sys.argv = expand(sys.argv)
    except errors.ArniqaError as error:
        sys.exit(command.report(error, error.exit_code))
    command.run(main, FLAGS, usage=__doc__)
