"""Compare runs of 1, 2 and 4 processes, and of a number that changes on the way.

    python benchmarks/processes.py [--steps=20 --stop_every=5 --learning_rate=5e-6]

These are real processes that connect on 127.0.0.1, with four simulated devices in all.
They train the tiny encoder on the built-in photographs. The table shows by how much
losses and parameters differ from those of one process, relative to the largest. We
promise 1e-5, at a learning rate that does not amplify rounding errors (rounding.py).
The last run is stopped by SIGTERM every few steps and resumes with 4, 2, 1, 2, 4 ...
processes.
"""

import argparse
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import soak

from arniqa_jax import errors
from arniqa_jax.storage import checkpoints, workdir
from arniqa_jax.training import metrics_log
from arniqa_jax.weights import encoders

_DEVICES = 4
_ROOT = pathlib.Path(__file__).parents[1]


def main():
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=5e-6)
    parser.add_argument("--stop_every", type=int, default=5, help="steps")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        print("processes          starts  seconds  loss diff.  parameter diff.")
        for name, counts in {
            "1": [1], "2": [2], "4": [4], "4, 2, 1, 2, 4 ...": [4, 2, 1, 2],
        }.items():  # fmt: skip
            path = folder / name.replace(", ", "-")
            start = time.monotonic()
            starts = run(path, counts, arguments)
            seconds = time.monotonic() - start
            differences = compare(path, folder / "1", arguments.steps)
            figures = "  ".join(f"{d:10.1e}" for d in differences)
            print(f"{name:17}  {starts:6}  {seconds:7.0f}  {figures}", flush=True)


def run(path: pathlib.Path, counts: list[int], arguments) -> int:
    """Run to the end; after each stop, continue with the next number of processes.

    Returns:
      The number of starts.
    """
    for starts, count in enumerate(itertools.cycle(counts), start=1):
        processes = start_processes(path, count, arguments)
        if len(counts) > 1:
            stop_after(path, processes, arguments.stop_every)
        codes = {process.wait() for process in processes}
        if codes == {errors.SUCCESS}:
            return starts
        # The signal kills a process that is past its last step or has just started.
        if not codes <= {errors.START_AGAIN, -signal.SIGTERM}:
            sys.exit(f"{path.name}: exit codes {codes}")


def start_processes(
    path: pathlib.Path, count: int, arguments
) -> list[subprocess.Popen]:
    """Start the processes of a run; one process needs no coordinator."""
    fields = {
        "data.patch_size": 64, "data.workers": 0, "model.arch": "tiny",
        "model.init": "random", "train.batch_size": 8,
        "train.steps": arguments.steps, "train.checkpoint_every": arguments.steps,
        "optimizer.learning_rate": arguments.learning_rate,
        "train.picture_every": 0, "evaluation.every_epochs": 0,
        "log.tensorboard": False,
    }  # fmt: skip
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    together = [f"--coordinator={soak.free_address()}", f"--num_processes={count}"]
    devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(_DEVICES // count)}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "arniqa_jax.main"),
                *("--config=configs/pretrain.py", f"--workdir={path}", *flags),
                *([*together, f"--process_id={rank}"] if count > 1 else []),
            ],
            cwd=_ROOT,
            env=os.environ | devices,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(count)
    ]


def stop_after(path: pathlib.Path, processes: list, steps: int) -> None:
    """Send SIGTERM to the last process when this many more steps are done."""
    before = len(metrics_log.read(path / "metrics.jsonl"))
    while len(metrics_log.read(path / "metrics.jsonl")) < before + steps:
        if processes[-1].poll() is not None:
            return
        time.sleep(0.05)
    processes[-1].send_signal(signal.SIGTERM)


def compare(path: pathlib.Path, other: pathlib.Path, steps: int) -> list[float]:
    """Return the largest relative differences of losses and of parameters."""
    model = encoders.build_model(workdir.read_config(path))
    values = []
    for run in (path, other):
        lines = metrics_log.read(run / "metrics.jsonl")
        variables = checkpoints.load_variables(
            run / "checkpoints" / str(steps), encoders.abstract_variables(model)
        )
        params = [np.ravel(leaf) for leaf in jax.tree.leaves(variables["params"])]
        losses = np.array([line["loss"] for line in lines if "loss" in line])
        values.append((losses, np.concatenate(params)))
    return [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(*values, strict=True)]


if __name__ == "__main__":
    main()
