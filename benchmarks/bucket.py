"""Measure what a run directory in a bucket costs: requests, bytes and time per step.

    python benchmarks/bucket.py [--steps=40] [--repeats=3] [--arch=small]

Runs of a small encoder write to a local directory and to an emulator of Google Cloud
Storage on this machine, in turn. A proxy in front of the emulator counts. The costs of
a step and of a checkpoint are differences between runs with more steps, or with more
checkpoints. The time of a step is the median of its time in metrics.jsonl, so the
network of a real bucket is not part of it; the writing of checkpoints beside it is.
"""

import argparse
import functools
import os
import pathlib
import statistics
import sys
import tempfile
import typing

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))
import emulators
import fault_proxy
import jax
import soak

from arniqa_jax.configs import pretrain
from arniqa_jax.storage import bucket_paths, buckets
from arniqa_jax.training import loop, metrics_log

_FIELDS = {
    "data.patch_size": 64,
    "data.workers": 0,
    "model.init": "random",
    "train.batch_size": 4,
    "train.picture_every": 0,
    "evaluation.every_epochs": 0,
    "evaluation.datasets": "csv:scored/table.csv",
}


class _Cost(typing.NamedTuple):
    requests: int
    sent: int
    received: int

    def __sub__(self, other: "_Cost") -> "_Cost":
        return _Cost(*(a - b for a, b in zip(self, other, strict=True)))

    def per(self, count: int) -> str:
        return (
            f"{self.requests / count:.1f} requests, {self.sent / count / 1e6:.3f} MB "
            f"sent, {self.received / count / 1e6:.3f} MB received"
        )


def main():
    """Run, count, and print the costs and the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arch", default="small")
    arguments = parser.parse_args()
    steps = arguments.steps
    with (
        emulators.gcs_server() as store,
        fault_proxy.proxy(store) as proxy,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.environ.update(emulators.gcs_environment(proxy.address))
        os.environ["XDG_CACHE_HOME"] = folder
        emulators.make_bucket(store, "bucket")

        def cost(name: str, steps: int, every: int) -> _Cost:
            before = _now(proxy)
            run(f"gs://bucket/{name}", steps, every)
            return _now(proxy) - before

        # All runs but the first find their programs compiled.
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        soak.write_scored(pathlib.Path(folder) / "scored")
        run = functools.partial(_run, folder, arguments.arch)
        run(f"{folder}/warm", 4, 0)  # compiles
        few = cost("few", steps, steps)
        long = cost("long", 2 * steps, 2 * steps)
        often = cost("often", steps, steps // 5)
        size = sum(buckets.find("gs://bucket/few/checkpoints").values())
        print(f"a run of {steps} steps with one checkpoint: {few.per(1)}")
        print(f"a step: {(long - few).per(steps)}")
        print(f"a checkpoint of {size / 1e6:.1f} MB: {(often - few).per(4)}")
        times = {"local": [], "bucket": []}
        for repeat in range(arguments.repeats):
            for place, root in (("local", folder), ("bucket", "gs://bucket")):
                times[place].append(run(f"{root}/timed{repeat}", steps, steps // 4))
        for place, found in times.items():
            shown = ", ".join(f"{1000 * seconds:.1f}" for seconds in found)
            print(f"{place}: median time of a step {shown} ms")
        local, bucket = (min(times[place]) for place in ("local", "bucket"))
        print(f"the fastest runs: {100 * (bucket / local - 1):+.1f} %")


def _now(proxy: fault_proxy.Proxy) -> _Cost:
    return _Cost(proxy.requests.total(), proxy.sent, proxy.received)


def _run(data: str, arch: str, workdir: str, steps: int, save_every: int) -> float:
    """Run to the end; return the median time of a step, in seconds."""
    config = pretrain.get_config()
    config.update_from_flattened_dict(_FIELDS)
    config.train.steps, config.train.checkpoint_every = steps, save_every
    config.evaluation.root, config.model.arch = data, arch
    loop.run(config, workdir)
    lines = metrics_log.read(bucket_paths.place(workdir, "workdir") / "metrics.jsonl")
    # The first steps of a run wait for its input.
    steps = [line for line in lines if "loss" in line and line["step"] > 3]
    return statistics.median(line["seconds"] for line in steps)


if __name__ == "__main__":
    main()
