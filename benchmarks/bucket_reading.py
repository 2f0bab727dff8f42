"""Measure what it costs to read photographs from a bucket: requests, bytes and time.

    python benchmarks/bucket_reading.py [--photos=FOLDER] [--delay=0.03]

The photographs of benchmarks/input.py, 512 x 384, are read from an emulator of Google
Cloud Storage on this machine, through a proxy that counts and that delays each answer.
Crops have 224 pixels and batches 16 pairs, as in configs/pretrain.py. The emulator and
the proxy share the cores with the pipeline, so the rate of a real bucket is higher.
"""

import argparse
import itertools
import os
import pathlib
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))
import emulators
import fault_proxy
import input as local

from arniqa_jax.data import pairs, photos

_PATCH, _BATCH, _WARM_UP = 224, 16, 4
_HEADER = ("source", "pairing", "workers", "requests", "kB", "pairs/s", "from disk")


def main():
    """Upload the photographs, count and time each case, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="", help="folder of photographs")
    parser.add_argument("--number", type=int, default=1500, help="of photographs")
    parser.add_argument("--batches", type=int, default=20, help="batches per row")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument(
        "--delay", type=float, default=0.03, help="seconds added to each answer"
    )
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        emulators.gcs_server() as store,
        fault_proxy.proxy(store) as proxy,
    ):
        folder = pathlib.Path(folder)
        local.write(folder, arguments.photos, arguments.number)
        os.environ.update(emulators.gcs_environment(proxy.address))
        emulators.make_bucket(store, "bucket")
        emulators.upload(folder, "gs://bucket")
        proxy.fault = lambda *_: time.sleep(arguments.delay)
        print(
            "per pair, requests and kB; " + f"{arguments.delay * 1000:g} ms a request"
        )
        print("{:14}{:13}{:>8}{:>10}{:>8}{:>9}{:>11}".format(*_HEADER))
        for kind, pairing, workers in itertools.product(
            ("png", "jpg", "array_record"), ("independent", "rolled"), arguments.workers
        ):
            there, kb, requests = _measure(
                proxy, f"gs://bucket/{kind}", pairing, workers, arguments.batches
            )
            here, _, _ = _measure(
                proxy, str(folder / kind), pairing, workers, arguments.batches
            )
            print(
                f"{kind:14}{pairing:13}{workers:8}{requests:10.2f}{kb:8.0f}"
                f"{there:9.1f}{here:11.1f}",
                flush=True,
            )


def _measure(
    proxy: fault_proxy.Proxy, root: str, pairing: str, workers: int, batches: int
) -> tuple[float, float, float]:
    """Return pairs per second; kB and requests per pair."""
    with pairs.pair_batches(
        photos.open_photos(root),
        seed=27,
        patch_size=_PATCH,
        batch_size=_BATCH,
        workers=workers,
        pairing=pairing,
    ) as loading:
        for _ in range(_WARM_UP):  # prefetched batches would take no time
            next(loading)
        number = proxy.requests.total()
        received, clock = proxy.received, time.perf_counter()
        for _ in range(batches):
            next(loading)
        clock = time.perf_counter() - clock
        number = proxy.requests.total() - number
        received = proxy.received - received
    count = batches * _BATCH
    return count / clock, received / count / 1000, number / count


if __name__ == "__main__":
    main()
