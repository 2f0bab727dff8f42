"""Measure the time of every distortion at every level, and of a random chain.

    taskset -c 0 python benchmarks/degradation.py [--size=224]

The unit is milliseconds per crop. The baseline, measured in the same run, is Pillow's
JPEG 2000 round trip of the same crops at 16:1. On a CPU, times are processor time of a
core, which other programs hardly affect; on an accelerator they are wall-clock time.
Compile times are wall-clock time. Absolute times belong to one machine; compare only
the ratios.
"""

import io
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image
from skimage import data

from arniqa_jax import degradation

SIZE = flags.DEFINE_integer("size", 224, "Height and width of a crop.")
CHAINS_ONLY = flags.DEFINE_bool("chains_only", False, "No single distortions.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each; the fastest counts.")

CROPS = 4  # crops of a sample, as in training


def best_of(function, *arguments) -> float:
    """Return the seconds of the fastest of several runs, after one warm-up run."""
    on_cpu = jax.default_backend() == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS.value):
        start = clock()
        jax.block_until_ready(function(*arguments))
        times.append(clock() - start)
    return min(times)


def photographs(count: int, size: int) -> np.ndarray:
    """Return (count, size, size, 3) uint8 crops of built-in photographs."""
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        photo = np.pad(
            photo,
            [(0, max(0, size - n)) for n in photo.shape[:2]] + [(0, 0)],
            "reflect",
        )
        row, column = (rng.integers(n - size + 1) for n in photo.shape[:2])
        crops.append(photo[row : row + size, column : column + size])
    return np.stack(crops)


def yardstick(crop: np.ndarray) -> None:
    """Run Pillow's JPEG 2000 round trip at 16:1, the baseline."""
    file = io.BytesIO()
    Image.fromarray(crop).save(
        file,
        "JPEG2000",
        quality_mode="rates",
        quality_layers=[16],
        irreversible=False,
        num_resolutions=8,
    )
    np.asarray(Image.open(file))


def frequencies(draws: int = 100_000) -> np.ndarray:
    """Return (24, 5), how often a random chain has a distortion at a level."""
    keys = jax.random.split(jax.random.key(1), draws)
    chains = jax.tree.map(np.asarray, degradation.draw_chains(keys))
    used = chains.ops >= 0
    counts = np.zeros((len(degradation.CATALOGUE), 5))
    np.add.at(counts, (chains.ops[used], chains.levels[used]), 1)
    return counts / draws


def distortion_costs(crops) -> np.ndarray:
    """Print the table of distortions; return (24, 5) seconds per crop."""
    costs = []
    key = jax.random.key(0)
    print(f"{'ms per crop at level':30s}{1:8d}{2:8d}{3:8d}{4:8d}{5:8d}  compile s")
    for name, distortion in degradation.CATALOGUE.items():
        start = time.perf_counter()
        run = jax.jit(distortion).lower(key, crops, jnp.int32(0)).compile()
        compiling = time.perf_counter() - start
        row = [best_of(run, key, crops, level) / len(crops) for level in jnp.arange(5)]
        costs.append(row)
        cells = "".join(f"{1e3 * cost:8.3f}" for cost in row)
        print(f"{name:30s}{cells}{compiling:11.2f}", flush=True)
    return np.array(costs)


def chain_costs(yard: float) -> None:
    """Print the time of the compiled chain for batch and tile sizes."""
    print(f"{'chain of':>10s}{'tile':>6s}{'ms/crop':>9s}{'/ yardstick':>13s}", end="")
    print(f"{'compile s':>11s}{'memory MB':>11s}")
    for samples in (1, 16, 64):
        crops = photographs(samples * CROPS, SIZE.value).astype(np.float32) / 255
        images = jnp.asarray(crops.reshape(samples, CROPS, *crops.shape[1:]))
        keys = jax.random.split(jax.random.key(2), samples)
        chains = degradation.draw_chains(keys)
        for tile in (1, 4):
            if tile > samples:
                continue
            apply = jax.jit(degradation.apply_chains, static_argnames="tile")
            start = time.perf_counter()
            run = apply.lower(keys, images, chains, tile=tile).compile()
            compiling = time.perf_counter() - start
            memory = run.memory_analysis()
            total = sum(
                getattr(memory, f"{part}_size_in_bytes")
                for part in ("argument", "output", "temp")
            )
            cost = best_of(run, keys, images, chains) / (samples * CROPS)
            print(
                f"{samples:4d} x {CROPS:3d}{tile:6d}{1e3 * cost:9.2f}"
                f"{cost / yard:13.3f}{compiling:11.1f}{total / 1e6:11.0f}",
                flush=True,
            )


def main(argv):
    del argv
    device = jax.devices()[0]
    print(f"{device.device_kind}, crops of {SIZE.value}x{SIZE.value}")
    crops = photographs(CROPS, SIZE.value)
    yard = np.mean([best_of(yardstick, crop) for crop in crops])
    print(f"yardstick: {1e3 * yard:.2f} ms")
    if not CHAINS_ONLY.value:
        costs = distortion_costs(jnp.asarray(crops.astype(np.float32) / 255))
        expected = np.sum(costs * frequencies())
        print(
            f"expected cost of a random chain, dispatch apart: {1e3 * expected:.2f} "
            f"ms, {expected / yard:.3f} of the yardstick"
        )
    chain_costs(yard)


if __name__ == "__main__":
    app.run(main)
