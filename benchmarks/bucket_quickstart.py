"""Kill the quickstart in a bucket twice, and compare it with a run on the disk.

    python benchmarks/bucket_quickstart.py

The bucket is in an emulator of Google Cloud Storage on this machine. One run in it is
killed with SIGKILL at step 400 and while it writes the checkpoint of step 750. A run on
the disk is not disturbed. Both must end with the same parameters, bit for bit, and with
the same metrics.jsonl except for times. Otherwise the program exits with code 1. It
also prints the median time of a step of both, over the steps after the last kill.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))
import emulators
import soak

from arniqa_jax.storage.bucket_paths import BucketPath
from arniqa_jax.training import metrics_log

_RUN = "gs://bucket/run"
_KILLS = ("step:400", "save:750")


def main():
    """Run, kill, compare and print."""
    with emulators.gcs_server() as address, tempfile.TemporaryDirectory() as folder:
        os.environ.update(emulators.gcs_environment(address))
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        emulators.make_bucket(address, "bucket")
        for moment in (*_KILLS, "never"):
            _start(_RUN, moment)
        disk = pathlib.Path(folder) / "run"
        _start(str(disk), "never")
        (arrays, lines), expected = soak.outcome(_RUN), soak.outcome(disk)
        for place, run in (("bucket", BucketPath(_RUN)), ("disk", disk)):
            logged = metrics_log.read(run / "metrics.jsonl")
            steps = [line for line in logged if "loss" in line]
            seconds = statistics.median(line["seconds"] for line in steps[-240:])
            print(f"{place}: median time of a step {1000 * seconds:.1f} ms")
    if (arrays, lines) != expected:
        raise SystemExit("the two runs differ")
    print(f"{len(arrays)} arrays and {len(lines)} lines of metrics are equal")


def _start(workdir: str, moment: str) -> None:
    command = [sys.executable, str(soak.INTERRUPTED), moment, "--config=quickstart"]
    finished = subprocess.run([*command, f"--workdir={workdir}"], capture_output=True)
    if finished.returncode != (0 if moment == "never" else -9):
        raise SystemExit(finished.stderr.decode())


if __name__ == "__main__":
    main()
