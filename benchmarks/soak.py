"""Kill runs with SIGKILL at random moments; each must end as if it had not been killed.

    python benchmarks/soak.py --kills=100 [--processes=2] [--seed=0]
    python benchmarks/soak.py --kills=50 --workdir=gs://BUCKET/soak [--emulator]

A run trains the tiny encoder on the built-in photographs, in crops of 64 pixels, and
validates it on a few images. One run is not disturbed. The others are killed several
times each, during start-up, a step, a save and a validation: tests/interrupted_run.py
finds the moment, and the signal follows after a random time. If a run has several
processes, one is killed and all are started again. Then the run may finish. It must
have the same parameters as the undisturbed run, bit for bit, and the same metrics.jsonl
except for times. A killed run must not leave a process or shared memory behind, and no
run may start from an incomplete checkpoint. Otherwise the program exits with code 1.

With `--workdir` the killed runs are in a bucket; the undisturbed run is local all the
same. With `--emulator` the bucket is in an emulator on this machine, and `--faults` is
the share of requests to it that fail.
"""

import argparse
import collections
import contextlib
import functools
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from PIL import Image

from arniqa_jax.storage import bucket_paths, buckets
from arniqa_jax.training import metrics_log
from arniqa_jax.weights import encoders

_ROOT = pathlib.Path(__file__).parents[1]
INTERRUPTED = _ROOT / "tests" / "interrupted_run.py"
_STEPS, _SAVE, _VALIDATE = 8, 2, 4
FIELDS = {
    "data.patch_size": 64,
    "model.arch": "tiny",
    "model.init": "random",
    "model.embedding_dim": 16,
    "train.batch_size": 4,
    "train.steps": _STEPS,
    "train.picture_every": 0,
    "train.checkpoint_every": _SAVE,
    "evaluation.every_epochs": _VALIDATE,  # an epoch of these photographs is one step
    "evaluation.datasets": "csv:scored/table.csv",
    "log.tensorboard": False,
}
# Each phase, with the maximum time in seconds from its beginning to the signal.
_PHASES = {"start": 15.0, "step": 0.2, "save": 0.3, "evaluation": 1.0}
_KILLS_OF_A_RUN = 10
# The undisturbed run compiles every function, down to the smallest, and the others use
# its cache. On CPUs, JAX lets only process 0 read programs that another run compiled,
# so compilation must be fast.
ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
}
_SHARED_MEMORY: set[str] = set()  # the names of all segments that the runs have used
_GONE_WITHIN = 60.0  # seconds for the workers of a killed process to notice


def main():
    """Run, kill, compare and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", default="", help="gs://BUCKET/FOLDER")
    parser.add_argument("--emulator", action="store_true")
    parser.add_argument("--faults", type=float, default=0.0)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if arguments.emulator:
            bucket = arguments.workdir.split("/")[2]
            stack.enter_context(_emulator(bucket, arguments.faults, arguments.seed))
        _soak(arguments)


def _soak(arguments: argparse.Namespace) -> None:
    rng = random.Random(arguments.seed)
    started = time.monotonic()
    kills = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_scored(folder / "scored")
        start = functools.partial(_life, folder, arguments.processes, rng)
        start(folder / "undisturbed", "never")
        expected = outcome(folder / "undisturbed")
        phases = [list(_PHASES)[n % len(_PHASES)] for n in range(arguments.kills)]
        rng.shuffle(phases)
        runs = 0
        while phases:
            run = f"{arguments.workdir or folder}/run{runs}"
            for phase in phases[:_KILLS_OF_A_RUN]:
                # A run may end before the drawn moment.
                while not _killed(start, run, phase, rng):
                    pass
                kills[phase] += 1
            del phases[:_KILLS_OF_A_RUN]
            start(run, "never")
            _same(outcome(run), expected, run)
            runs += 1
            print(f"{kills.total()} kills, {runs} runs ended equal", flush=True)
    deadline = time.monotonic() + _GONE_WITHIN
    while left := _SHARED_MEMORY & set(os.listdir("/dev/shm")):
        if time.monotonic() > deadline:
            raise SystemExit(f"left in /dev/shm: {sorted(left)}")
        time.sleep(0.5)
    said = ", ".join(f"{kills[phase]} during {phase}" for phase in _PHASES)
    print(
        f"{kills.total()} kills ({said}) in {runs} runs of {arguments.processes} "
        f"process(es): all equal to the undisturbed run, no process and no shared "
        f"memory left; {(time.monotonic() - started) / 60:.0f} minutes"
    )


def free_address() -> str:
    """Return HOST:PORT of this machine, for the processes to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def write_scored(folder: pathlib.Path) -> None:
    """Write images of noise, with the amount of noise as their scores."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,score,split"]
    for index in range(24):
        noise = rng.normal(128, 5 * (index + 1), (64, 64, 3)).clip(0, 255)
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{index}.png")
        part = ("train", "validation", "test")[index % 3]
        rows.append(f"{index}.png,{index},{part}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


@contextlib.contextmanager
def _emulator(bucket: str, faults: float, seed: int) -> Iterator[None]:
    """Start an emulator with a bucket, for this process and those that it starts."""
    sys.path.append(str(_ROOT / "tests"))
    import emulators
    import fault_proxy

    with emulators.gcs_server() as address, fault_proxy.proxy(address) as proxy:
        proxy.fault = fault_proxy.at_random(faults, seed)
        os.environ.update(emulators.gcs_environment(proxy.address))
        emulators.make_bucket(address, bucket)
        yield
        requests = ", ".join(f"{n} {name}" for name, n in proxy.requests.items())
        print(f"requests to the bucket: {requests}; {proxy.faults} failed")


def _killed(start: Callable, run: str, phase: str, rng: random.Random) -> bool:
    """Start the run and kill it in the phase; return False if it ended before."""
    done = _last_checkpoint(run)
    every = {"start": 1, "step": 1, "save": _SAVE, "evaluation": _VALIDATE}[phase]
    first = done // every * every + every
    ahead = list(range(first, _STEPS + 1, every))
    if not ahead:
        phase, ahead = "start", [0]
    delay = rng.uniform(0, _PHASES[phase])
    moment = f"{phase}:{rng.choice(ahead)}:SIGKILL:{delay:.3f}"
    return start(run, moment)


def _life(
    data: pathlib.Path, processes: int, rng: random.Random, run: str, moment: str
) -> bool:
    """Run one start to its end or kill; return whether it was killed.

    Raises:
      SystemExit: it ended in another way, or left something behind.
    """
    before = _last_checkpoint(run)
    flags = ["--config=configs/pretrain.py", f"--workdir={run}"]
    flags += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    flags.append(f"--config.evaluation.root={data}")
    # The number of workers does not change a batch, and a worker takes time to start.
    flags.append(f"--config.data.workers={rng.choice([0, 0, 0, 1])}")
    if processes > 1:
        flags += [f"--coordinator={free_address()}", f"--num_processes={processes}"]
        flags.append("--heartbeat_seconds=10")
    victim = rng.randrange(processes)
    children = []
    for rank in range(processes):
        flag = [f"--process_id={rank}"] if processes > 1 else []
        own = moment if rank == victim else "never"
        children.append(
            subprocess.Popen(
                [sys.executable, str(INTERRUPTED), own, *flags, *flag],
                cwd=_ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                # All descendants inherit this mark in their environment.
                env=os.environ
                | ENVIRONMENT
                | {"SOAK_RUN": str(run), "XDG_CACHE_HOME": str(data / "cache")},
            )
        )
    watch = threading.Thread(target=_note_shared_memory, args=(run, children))
    watch.start()
    errors = [child.communicate()[1] for child in children]
    watch.join()
    killed = children[victim].returncode == -signal.SIGKILL
    ended = [child.returncode for child in children]
    if not killed and any(ended):
        raise SystemExit(f"{run} at {moment} ended with {ended}:\n" + "\n".join(errors))
    resumed = re.search(r"resuming at step (\d+)", errors[0])
    if int(resumed[1] if resumed else 0) != before and not (killed and not resumed):
        raise SystemExit(f"{run} started from {resumed}, expected step {before}")
    deadline = time.monotonic() + _GONE_WITHIN
    while orphans := _processes_of(run):
        if time.monotonic() > deadline:
            raise SystemExit(f"{run} at {moment} has left processes: {orphans}")
        time.sleep(0.1)
    return killed


def _last_checkpoint(run: pathlib.Path | str) -> int:
    """Return the step of the last complete checkpoint; 0 if there is none."""
    directory = os.path.join(run, "checkpoints")
    if buckets.is_url(run):
        ends = "/commit_success.txt"
        names = [n.removesuffix(ends) for n in buckets.find(directory) if ends in n]
    else:
        names = os.listdir(directory) if os.path.isdir(directory) else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def outcome(run: pathlib.Path | str) -> tuple[dict[str, bytes], list[dict]]:
    """Return the final variables as bytes, and `metrics.jsonl` without times.

    Args:
      run: the run directory; a URL in a bucket.
    """
    variables = encoders.load(run, "last").variables
    stored = {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    lines = metrics_log.read(bucket_paths.place(run, "run") / "metrics.jsonl")
    timing = set(metrics_log.TIMING_FIELDS)
    return stored, [{k: line[k] for k in line.keys() - timing} for line in lines]


def _same(found, expected, run: str) -> None:
    differing = [
        name for name in expected[0] if found[0].get(name) != expected[0][name]
    ]
    if differing or found[0].keys() != expected[0].keys():
        raise SystemExit(f"{run}: {len(differing)} arrays differ, as {differing[:1]}")
    if found[1] != expected[1]:
        raise SystemExit(f"{run}: metrics.jsonl differs: {found[1]} != {expected[1]}")


def _processes_of(run: str) -> list[int]:
    """Return the running processes that have the mark of a run in their environment."""
    mark, found = f"SOAK_RUN={run}\0".encode(), []
    for directory in pathlib.Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if mark in (directory / "environ").read_bytes():
                found.append(int(directory.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # the process has ended or belongs to another user
    return found


def _note_shared_memory(
    run: pathlib.Path | str, children: list[subprocess.Popen]
) -> None:
    """Add what the processes of a run map in /dev/shm to `_SHARED_MEMORY`, to its end.

    Other programs on the machine have segments there too, which are not ours to judge.
    """
    while any(child.returncode is None for child in children):
        for process in _processes_of(run):
            with contextlib.suppress(OSError):  # the process has ended
                maps = pathlib.Path(f"/proc/{process}/maps").read_text()
                _SHARED_MEMORY.update(re.findall(r"/dev/shm/(\S+)", maps))
        time.sleep(0.05)


if __name__ == "__main__":
    main()
