"""Measure the pairs per second of the input pipeline, by source, workers and pairing.

    python benchmarks/input.py [--photos=FOLDER] [--run=WORKDIR]

The photographs are cut to 512 x 384, the size of KADIS-700k, and stored as PNG, as JPEG
and in ArrayRecord (the PNG files). There are 100 cuts under many names, so that the
cache of the pipeline holds only a few of the requested files. Crops have 224 pixels and
batches 16 pairs, as in configs/pretrain.py. "core ms" is processor time per pair, over
all workers, which other programs hardly affect. "cores" is the number of such cores
that 1,000 pairs per second need. With --run, "of need" divides the rate by the rate at
which the run's steps consume pairs: its batch size over the median time of a step
without the wait for data.
"""

import argparse
import itertools
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from arniqa_jax.data import pairs, photos
from arniqa_jax.storage import workdir
from arniqa_jax.training import metrics_log

_SIZE = (512, 384)  # width, height
_PATCH, _BATCH = 224, 16
_CUTS = 100
_KINDS = {"png": {}, "jpg": {"quality": 95}}


def main():
    """Write the photographs, measure each case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos",
        default="",
        help="folder of photographs to cut from; default: built-in ones",
    )
    parser.add_argument("--run", help="workdir of a run on the accelerator to compare")
    parser.add_argument("--number", type=int, default=1500, help="of photographs")
    parser.add_argument("--batches", type=int, default=30, help="batches per row")
    arguments = parser.parse_args()
    need = _need(pathlib.Path(arguments.run)) if arguments.run else None
    if need:
        print(f"a step of {arguments.run} needs {need:.1f} pairs/s")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sizes = write(folder, arguments.photos, arguments.number)
        for kind, size in sizes.items():
            print(
                f"{arguments.number} photographs as {kind}: {size / 1000:.0f} kB each"
            )
        print(f"{'source':13}{'pairing':13}workers   pairs/s  core ms   cores", end="")
        print("  of need" * bool(need))
        independent = {}
        for source, (pairing, workers) in itertools.product(
            ("png", "jpg", "array_record"),
            [("independent", 0), ("independent", 1), ("independent", 2), ("rolled", 0)],
        ):
            rate, core_seconds = _measure(
                photos.open_photos(str(folder / source)),
                pairing,
                workers,
                arguments.batches,
            )
            print(
                f"{source:13}{pairing:13}{workers:7}{rate:10.1f}"
                f"{1000 * core_seconds:9.2f}{1000 * core_seconds:8.1f}",
                *([f"{rate / need:7.1f}x"] if need else []),
                flush=True,
            )
            if workers == 0:
                independent.setdefault(source, core_seconds)
                if pairing == "rolled":
                    saved = 1 - core_seconds / independent[source]
                    print(f"{'':13}rolled saves {saved:.0%} of the core time")


def _need(run: pathlib.Path) -> float:
    """Return the pairs per second that the steps of a run consume."""
    batch_size = workdir.read_config(run).train.batch_size
    lines = metrics_log.read(run / "metrics.jsonl")
    seconds = [m["seconds"] - m["data_wait"] for m in lines if "loss" in m]
    return batch_size / statistics.median(seconds[1:])  # the first step compiles


def write(folder: pathlib.Path, root: str, number: int) -> dict[str, float]:
    """Write `number` cuts in three ways; return the mean file size of each in bytes."""
    for kind in (*_KINDS, "array_record"):
        (folder / kind).mkdir()
    writer = ArrayRecordWriter(
        str(folder / "array_record" / "photos.array_record"), "group_size:1"
    )
    cuts = _cuts(root)
    for index in range(number):
        image = next(cuts) if index < _CUTS else None
        for kind, options in _KINDS.items():
            file = folder / kind / f"{index:04}.{kind}"
            if image:
                image.save(file, **options)
            else:
                file.hardlink_to(file.with_stem(f"{index % _CUTS:04}"))
        writer.write((folder / "png" / f"{index:04}.png").read_bytes())
    writer.close()
    return {
        kind: statistics.mean(f.stat().st_size for f in (folder / kind).iterdir())
        for kind in _KINDS
    }


def _cuts(root: str) -> Iterator[Image.Image]:
    """Yield different cuts of the photographs in turn, without end."""
    source = photos.open_photos(root)
    rng = np.random.default_rng(0)
    width, height = _SIZE
    for index in itertools.cycle(range(len(source))):
        photo = Image.fromarray(source[index])
        # A photograph that is too small is enlarged, with a margin for several
        # positions.
        scale = max(1.0, 1.1 * width / photo.width, 1.1 * height / photo.height)
        photo = photo.resize((round(scale * photo.width), round(scale * photo.height)))
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        yield photo.crop((left, top, left + width, top + height))


def _measure(
    source: photos.PhotoSource, pairing: str, workers: int, batches: int
) -> tuple[float, float]:
    """Return pairs per second, and processor seconds per pair, of a steady pipeline."""
    with pairs.pair_batches(
        source,
        seed=27,
        patch_size=_PATCH,
        batch_size=_BATCH,
        workers=workers,
        pairing=pairing,
    ) as loading:
        for _ in range(4):  # prefetched batches would take no time
            next(loading)
        cpu, clock = _cpu_seconds(), time.perf_counter()
        for _ in range(batches):
            next(loading)
        cpu, clock = _cpu_seconds() - cpu, time.perf_counter() - clock
    return batches * _BATCH / clock, cpu / (batches * _BATCH)


def _cpu_seconds() -> float:
    """Return the processor time of this process and its workers so far."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ticks = 0
    for pid in pids:
        # User and system time are fields 14 and 15. Field 2 may contain spaces.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        ticks += sum(int(n) for n in fields.split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
