"""The profile of a training step on a GPU: its largest costs, by name and part."""

import collections
import dataclasses
import functools
import itertools
import pathlib
import re
import tempfile
from collections.abc import Iterator

import jax
import on_gpu_step
import step

_PROFILED_STEPS = 3


@dataclasses.dataclass
class Event:
    """All runs of one operation on the device."""

    seconds: float = 0.0
    count: int = 0


def profile(settings) -> Iterator[tuple[str, object]]:
    """Yield the three largest costs of a step, and how busy the device is."""
    size = 2 if settings.small else 64
    work = on_gpu_step.Workload(settings, size)
    program = work.step(size, "bfloat16", 0)
    compiled = program.compile()
    key = jax.random.key(0)
    wall = step.best_of(functools.partial(program.run, compiled), key)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_PROFILED_STEPS):
                result = program.run(compiled, key)
            jax.block_until_ready(result)
        events = device_events(folder)
    yield "step", f"{size} pairs, bfloat16, default tile"
    yield "milliseconds of a step", 1e3 * wall
    total = sum(event.seconds for event in events.values())
    yield "milliseconds of all operations of a step", 1e3 * total / _PROFILED_STEPS
    count = sum(event.count for event in events.values())
    yield "operations of a step", count / _PROFILED_STEPS
    copies = sum(event.count for name, event in events.items() if "D2H" in name)
    yield "copies to the host of a step", copies / _PROFILED_STEPS
    sources = _sources(compiled.as_text())
    yield "three largest operations", _largest(events, total)
    parts: dict[str, Event] = collections.defaultdict(Event)
    for name, event in events.items():
        part = parts[_part(sources.get(name, ""))]
        part.seconds += event.seconds
        part.count += event.count
    yield "by part of the program", _largest(parts, total, len(parts))
    named: dict[str, Event] = collections.defaultdict(Event)
    for name, event in events.items():
        merged = named[_short(sources.get(name, name))]
        merged.seconds += event.seconds
        merged.count += event.count
    yield "three largest costs", _largest(named, total)


def _largest(events: dict[str, Event], total: float, count: int = 3) -> list[dict]:
    order = sorted(events.items(), key=lambda item: -item[1].seconds)
    return [
        {
            "name": name,
            "milliseconds of a step": 1e3 * event.seconds / _PROFILED_STEPS,
            "share": event.seconds / total if total else 0.0,
            "runs of a step": event.count / _PROFILED_STEPS,
        }
        for name, event in itertools.islice(order, count)
    ]


def device_events(folder: str) -> dict[str, Event]:
    """Return the operations of a trace by their name in the program, or the kernel's.

    On a GPU these are all events of its streams. On other devices they are the events
    that carry the name of an operation.
    """
    (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    streams = [
        line
        for plane in planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
    ]
    lines = streams or [line for plane in planes for line in plane.lines]
    events: dict[str, Event] = collections.defaultdict(Event)
    for line in lines:
        for event in line.events:
            operation = dict(event.stats).get("hlo_op")
            if operation is None and not streams:
                continue
            found = events[str(operation or event.name)]
            found.seconds += 1e-9 * event.duration_ns
            found.count += 1
    return dict(events)


def _sources(text: str) -> dict[str, str]:
    """Return the origin in the program, such as `jit(step)/...`, of each operation."""
    pattern = re.compile(r"%?([\w.-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"")
    return dict(match.groups() for match in map(pattern.search, text.splitlines())
                if match)  # fmt: skip


def _part(source: str) -> str:
    """Return the part of the step that an origin belongs to."""
    if "transpose(" in source:
        return "backward"
    if "jvp(" in source:
        return "forward"
    if source.startswith("jit(step)/"):
        # Functions of the degradation are jitted and keep their names.
        nested = "/jit(" in source or "/degrade" in source
        return "degradation" if nested else "optimizer and metrics"
    return "not named"


def _short(source: str) -> str:
    """Return the last names of an origin."""
    return "/".join(source.split("/")[-4:])
