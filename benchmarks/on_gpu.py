"""Measure everything that needs a GPU, in one command of at most 8 minutes.

    benchmarks/on_gpu.sh [--output=FILE.json] [--minutes=8] [--parts=golden,step]
        [--photos=FOLDER] [--config=configs/pretrain.py] [--pairs=64,16,256]
        [--small]

The parts run in order of importance, each in its own process with a time limit: the
time that is left, less the time reserved for later parts. The JSON file is rewritten
after every number, so that it holds everything measured when the time runs out. A part
that fails records its error, and the next one runs. At the end the figures are printed
as Markdown tables for RESULTS.md, and written next to the JSON file.

--small uses a tiny encoder and few pairs, to try the whole command on a CPU.

The exit code is 0 if every part is done or skipped (PyTorch is not installed), 1 if
not, and 2 for a wrong flag.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import metadata

import on_gpu_tables

# Seconds reserved for each part. Later parts get what a part does not use.
RESERVED = {
    "golden": 60,
    "switch": 20,
    "step": 190,
    "profile": 40,
    "pretrain": 110,
    "scoring": 30,
    "scoring in PyTorch": 20,
}
# Prefix of the lines of a part's standard output that contain a number.
_MARK = "figure "


def main() -> int:
    """Run all parts, or one part as a child process; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=_default_output())
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--parts", default=",".join(RESERVED))
    parser.add_argument("--photos", default="", help="default: built-in photographs")
    parser.add_argument("--config", default="configs/pretrain.py")
    parser.add_argument("--pairs", type=_sizes, default=(), help="pairs of the step")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--part", choices=RESERVED, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        return _run_part(arguments)
    parts = [part.strip() for part in arguments.parts.split(",")]
    for part in parts:
        if part not in RESERVED:
            parser.error(f"--parts: {part!r} is none of {', '.join(RESERVED)}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # Exit by an exception, so that the running part is stopped too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return _run_all(arguments, parts)


def _sizes(text: str) -> tuple[int, ...]:
    """Return numbers of pairs, such as 64,16,256."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected numbers of at least 1, such as 64,16,256; found {text!r}"
        )
    return tuple(map(int, parts))


def _default_output() -> pathlib.Path:
    return pathlib.Path(os.environ.get("OUT", "runs")) / "on_gpu.json"


def _run_all(arguments: argparse.Namespace, parts: list[str]) -> int:
    """Run the parts in turn; write the JSON file and the tables."""
    end = time.monotonic() + 60 * arguments.minutes
    results = {"about": _about(arguments), "parts": {}}

    def write():
        write_atomically(arguments.output, json.dumps(results, indent=1) + "\n")

    write()
    for number, part in enumerate(parts):
        left = end - time.monotonic()
        # If time is short, it is divided in proportion to the reserves.
        needs = [RESERVED[name] for name in parts[number:]]
        seconds = max(left - sum(needs[1:]), left * needs[0] / sum(needs))
        record = results["parts"][part] = {"status": "running", "figures": {}}
        if seconds < 1:
            record["status"] = "not reached"
            write()
            continue
        print(f"{part}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        start = time.monotonic()
        status, error = _start_part(part, seconds, arguments, record["figures"], write)
        record |= {"status": status, "seconds": round(time.monotonic() - start, 1)}
        if error:
            record["error"] = error
        write()
        print(f"{part}: {status}. {error}", file=sys.stderr, flush=True)
    tables = on_gpu_tables.markdown(results)
    write_atomically(arguments.output.with_suffix(".md"), tables)
    print(tables)
    finished = {record["status"] for record in results["parts"].values()}
    return 0 if finished <= {"done", "skipped"} else 1


def _about(arguments: argparse.Namespace) -> dict[str, object]:
    """Return what the figures depend on, without JAX, which would take the GPU."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
    try:
        shown = subprocess.run(
            [*query, "--format=csv,noheader"], capture_output=True, text=True
        )
        gpu = shown.stdout.strip()
    except FileNotFoundError:
        gpu = ""
    versions = {}
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": gpu or None,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "small": arguments.small,
        "config": arguments.config,
        "photos": arguments.photos or "built-in",
    }


def write_atomically(file: pathlib.Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text)
    partial.replace(file)


def _start_part(
    part: str,
    seconds: float,
    arguments: argparse.Namespace,
    figures: dict[str, object],
    write: Callable[[], None],
) -> tuple[str, str]:
    """Run one part as a process; return its status and its error, empty if none."""
    command = [sys.executable, __file__, f"--part={part}"]
    command += [f"--photos={arguments.photos}", f"--config={arguments.config}"]
    if arguments.pairs:
        command += ["--pairs=" + ",".join(map(str, arguments.pairs))]
    command += ["--small"] * arguments.small
    killed = threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that the part's own children are killed too
        )

        def kill():
            killed.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith(_MARK):
                    name, value = json.loads(line.removeprefix(_MARK))
                    figures[name] = value
                    write()
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        errors.seek(0)
        said = errors.read()
    if killed.is_set():
        return "failed", f"stopped after {seconds:.0f} s, its time limit"
    if "skipped" in figures:
        return "skipped", str(figures["skipped"])
    if process.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "it said nothing"
        return "failed", f"exit code {process.returncode}: {last}"
    return "done", ""


def _run_part(arguments: argparse.Namespace) -> int:
    """Run one part in this process and print its figures as they arrive."""
    # Only a part imports JAX, so that the parent process takes no GPU memory.
    import on_gpu_parts

    settings = on_gpu_parts.Settings(
        config=arguments.config,
        photos=arguments.photos,
        small=arguments.small,
        pairs=arguments.pairs,
    )
    for name, value in on_gpu_parts.PARTS[arguments.part](settings):
        print(f"{_MARK}{json.dumps([name, value])}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
