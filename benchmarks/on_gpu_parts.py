"""The parts of `benchmarks/on_gpu.py`: each yields its figures as they are ready.

A part runs in its own process. The comparison with recorded values is in
`on_gpu_golden.py`, the step in `on_gpu_step.py`, its profile in `on_gpu_profile.py`.
"""

import importlib.util
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import on_gpu_golden
import on_gpu_profile
import on_gpu_step
import scoring
import step

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SWITCHES = 200
_BRANCHES = 24
_COPIES = 15  # copies of each photograph to score

Figures = Iterator[tuple[str, object]]


class Settings(NamedTuple):
    """The settings of a part.

    Attributes:
      config: file of the config.
      photos: folder of photographs; empty for the built-in photographs.
      small: whether to use small sizes, to try everything on a CPU.
      pairs: numbers of pairs to measure the step with; empty for the default.
    """

    config: str
    photos: str
    small: bool
    pairs: tuple[int, ...] = ()


# --- Does lax.switch wait for the host? ---------------------------------------------


def switch(settings: Settings) -> Figures:
    """Yield the time of a `lax.switch`, and whether the host waits at it.

    A long product runs before the switch. The host waits if the call returns only after
    the product, while the same call with a plain function returns at once.
    """
    branches = [lambda x, k=k: x * (1 + 1e-6 * k) + k for k in range(_BRANCHES)]
    order = jnp.asarray(np.random.default_rng(0).integers(0, _BRANCHES, _SWITCHES))
    steps = order.astype(jnp.float32)
    x = jnp.ones((256, 256))

    @jax.jit
    def switched(order, x):
        def turn(i, x):
            return jax.lax.switch(order[i], branches, x)

        return jax.lax.fori_loop(0, _SWITCHES, turn, x)

    @jax.jit
    def plain(steps, x):
        def turn(i, x):
            return x * (1 + 1e-6 * steps[i]) + steps[i]

        return jax.lax.fori_loop(0, _SWITCHES, turn, x)

    with_switch = step.best_of(switched, order, x)
    without = step.best_of(plain, steps, x)
    yield "microseconds of a turn", 1e6 * with_switch / _SWITCHES
    yield "microseconds of a turn without switch", 1e6 * without / _SWITCHES
    compiled = switched.lower(order, x).compile()
    text = compiled.as_text()
    yield "conditionals in the program", text.count(" conditional(")
    yield "command buffers in the program", text.count("command_buffer")
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(order, x))
        events = on_gpu_profile.device_events(folder)
    copies = sum(event.count for name, event in events.items() if "D2H" in name)
    yield "copies to the host of a turn", copies / _SWITCHES

    side, products = (256, 2) if settings.small else (8192, 20)
    matrix = jnp.full((side, side), 1 / side)

    def after_products(function):
        def run(order, matrix):
            product = matrix
            for _ in range(products):
                product = product @ matrix
            return function(order, product[:256, :256])

        return jax.jit(run)

    waits = {
        "switch": after_products(
            lambda order, x: jax.lax.switch(order[0], branches, x)
        ),
        "plain": after_products(lambda order, x: x * (1 + 1e-6 * order[0])),
    }
    returned = {}
    for name, function in waits.items():
        total = step.best_of(function, order, matrix)
        start = time.perf_counter()
        result = function(order, matrix)
        returned[name] = (time.perf_counter() - start) / total
        jax.block_until_ready(result)
        yield f"call returns after, of its time, {name}", returned[name]
    yield "host waits", returned["switch"] > 0.5 > returned["plain"]


# --- Pre-training, as a user starts it ----------------------------------------------


def pretrain(settings: Settings) -> Figures:
    """Yield the figures of 100 steps of the command, started as a user starts it.

    It starts from random weights and is ended by SIGTERM, as by a scheduler.

    Raises:
      RuntimeError: the command failed; the message is its last line.
    """
    from arniqa_jax import errors
    from arniqa_jax.training import metrics_log

    wanted = 5 if settings.small else 100
    changes = on_gpu_step.changes(settings)
    changes += [
        # It is stopped before this step, so that no evaluation follows.
        f"train.steps={100 * wanted}",
        "train.picture_every=0",
        f"train.checkpoint_every={100 * wanted}",
        "evaluation.every_epochs=0",
    ]
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        said = pathlib.Path(folder) / "said"
        start = time.monotonic()
        with said.open("w") as said_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "arniqa_jax.main", f"--workdir={workdir}"]
                + [f"--config={settings.config}"]
                + [f"--config.{change}" for change in changes],
                stderr=said_file,
                stdout=subprocess.DEVNULL,
                cwd=_ROOT,
            )
        log, lines = workdir / "metrics.jsonl", []
        while process.poll() is None and len(lines) < wanted:
            time.sleep(0.1)
            if log.exists():
                found = [m for m in metrics_log.read(log) if "loss" in m]
                if found and not lines:
                    yield "seconds to the first step", time.monotonic() - start
                lines = found
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        if code != errors.START_AGAIN:
            lines = said.read_text().splitlines() or ["it said nothing"]
            raise RuntimeError(f"exit code {code}: {lines[-1]}")
    lines = lines[:wanted]
    seconds = np.array([line["seconds"] for line in lines[1:]])
    yield "steps", len(lines)
    yield (
        "loss of the first and last ten steps",
        [
            float(np.mean([line["loss"] for line in part]))
            for part in (lines[:10], lines[-10:])
        ],
    )
    yield "seconds of a step, median", float(np.median(seconds))
    yield "seconds of a step, least", float(seconds.min())
    waits = np.array([line["data_wait"] for line in lines[1:]])
    yield "share of waiting for data", float(waits.sum() / seconds.sum())
    for name in ("images_per_second", "share_of_peak"):
        if name in lines[-1]:
            yield name, float(np.median([line[name] for line in lines[1:]]))


# --- Scoring ------------------------------------------------------------------------


def score(settings: Settings) -> Figures:
    """Yield images per second of this package, float32, from file to score."""
    with _images(settings.small) as files:
        parts, score_all, _ = scoring.prepare_ours(files)
        yield "milliseconds of the parts of one image", parts
        yield "images per second", _rate(score_all, len(files), settings.small)


def score_in_torch(settings: Settings) -> Figures:
    """Yield the same figures for plain PyTorch, on the same device."""
    if importlib.util.find_spec("torch") is None:
        yield "skipped", "torch is not installed"
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield "device", torch.cuda.get_device_name() if device == "cuda" else "cpu"
    with _images(settings.small) as files:
        _, score_all, _ = scoring.prepare_torch(files, device)
        yield "images per second", _rate(score_all, len(files), settings.small)


class _images:
    """A folder with the files to score: photographs under many names."""

    def __init__(self, small: bool):
        self._small = small

    def __enter__(self) -> list[pathlib.Path]:
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name) / "images"
        scoring._make_images(folder, "jpg")
        for file in sorted(folder.iterdir()):
            for copy in range(_COPIES):
                file.with_stem(f"{file.stem}_{copy}").hardlink_to(file)
        return sorted(folder.iterdir())[: 1 if self._small else None]

    def __exit__(self, *exception) -> None:
        self._folder.cleanup()


def _rate(function: Callable, images: int, small: bool) -> float:
    """Return images per second of the fastest of three runs, after a warm-up."""
    times = []
    for _ in range(1 if small else 3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return images / min(times)


PARTS: dict[str, Callable[[Settings], Figures]] = {
    "golden": on_gpu_golden.golden,
    "switch": switch,
    "step": on_gpu_step.step_parts,
    "profile": on_gpu_profile.profile,
    "pretrain": pretrain,
    "scoring": score,
    "scoring in PyTorch": score_in_torch,
}
