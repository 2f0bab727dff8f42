"""Throughput of scoring by Ray against the plain command, on the same cores.

    unshare -rn sh -c 'ip link set lo up; exec python benchmarks/scoring_ray.py'

Ray asks the addresses of clouds when it starts, so run it where nothing but loopback
can be reached, as above. Needs the extra `ray`. Each round runs both commands, in turn.
The time is that of the images, from the first row to the last, without the start of the
processes and without compiling. The printed ratio is the median over the rounds.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image


def main() -> None:
    """Make images, run both commands in turn, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model directory, DIR:NAME")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, nargs=2, default=(384, 512))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        _write_images(folder / "photos", options.images, options.side)
        found = {"plain": [], "ray": []}
        for i in range(options.rounds):
            for engine in ("plain", "ray"):
                output = folder / f"{engine}{i}.csv"
                flags = [f"--engine=ray --workers={options.workers}"][
                    engine == "plain" :
                ]
                found[engine].append(_images_per_second(options, folder, output, flags))
    rates = {engine: statistics.median(values) for engine, values in found.items()}
    rates["ratio"] = statistics.median(
        ray / plain for ray, plain in zip(found["ray"], found["plain"], strict=True)
    )
    print(json.dumps({k: round(v, 3) for k, v in rates.items()} | {"all": found}))


def _write_images(folder: pathlib.Path, count: int, side: tuple[int, int]) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (16, side[0] // 8, side[1] // 8, 3), np.uint8)
    for i in range(count):
        if i < len(small):
            image = Image.fromarray(small[i]).resize(side[::-1])
            image.save(folder / f"{i:06d}.jpg", quality=90)
        else:
            os.link(folder / f"{i % len(small):06d}.jpg", folder / f"{i:06d}.jpg")


def _images_per_second(options, folder, output, flags) -> float:
    """Run the command; return images per second between the first and last rows."""
    arguments = [f"--model={options.model}", folder / "photos", f"--output={output}"]
    arguments += [word for flag in flags for word in flag.split()]
    process = subprocess.Popen(
        [sys.executable, "-m", "arniqa_jax.score", *arguments],
        stderr=subprocess.DEVNULL,
    )
    marks: list[tuple[float, int]] = []
    while process.poll() is None:
        rows = _count_rows(output)
        if rows and (not marks or rows > marks[-1][1]):
            marks.append((time.perf_counter(), rows))
        time.sleep(0.02)
    assert process.returncode == 0, process.returncode
    marks = [mark for mark in marks if mark[1] < options.images] or marks
    (start, first), (end, last) = marks[0], marks[-1]
    assert last > first, "too few images to see progress: give more by --images"
    return (last - first) / (end - start)


def _count_rows(output: pathlib.Path) -> int:
    files = output.glob("part-*") if output.is_dir() else [output]
    return sum(
        max(0, file.read_bytes().count(b"\n") - 1) for file in files if file.exists()
    )


if __name__ == "__main__":
    main()
