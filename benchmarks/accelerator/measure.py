"""Compile programs for a target and record the compiler's figures."""

import dataclasses
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from accelerator import bundles, costs, draws, hlo, programs
from accelerator.targets import Chip, Target
from arniqa_jax import errors
from arniqa_jax.degradation.catalogue import CATALOGUE


class DoesNotFit(errors.ArniqaError):
    """A program needs more memory than a device has.

    Attributes:
      used: bytes that it needs, if the compiler reports them.
    """

    def __init__(self, message: str, used: float | None):
        """Keep the compiler's message."""
        super().__init__(message)
        self.used = used


def build(name: str, config: ConfigDict, mesh) -> programs.Program:
    """Return a program by its name: one of `BUILDERS`, or a distortion.

    Raises:
      UsageError: the config does not suit the mesh.
    """
    if name in CATALOGUE:
        return programs.distortion(name, config, mesh)
    return BUILDERS[name](config, mesh)


BUILDERS = {
    "step": programs.step,
    "encoder": programs.encoder,
    "plain": programs.plain_flax,
    "chain": programs.chain,
    "scorer": programs.score,
}
# Programs that run on one device for any mesh.
_ONE_DEVICE = frozenset(BUILDERS) - {"step"}


def record(
    name: str,
    config: ConfigDict,
    target: Target,
    devices: int | None = None,
    dump: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Compile a program and return its figures, ready for JSON.

    Args:
      name: see `build`.
      config: config of a run.
      target: a target for which `targets.prepare` has been called.
      devices: number of its devices to use; all by default.
      dump: the folder of `targets.prepare`; without it bundles are not counted.

    Raises:
      DoesNotFit: the program does not fit into the memory of a device.
      UsageError: the config does not suit the mesh.
    """
    mesh = target.mesh(devices)
    program = build(name, config, mesh)
    if dump:
        with bundles.swept(dump):
            compiled, seconds = compile_program(program)
        listed = bundles.read(dump)
    else:
        (compiled, seconds), listed = compile_program(program), {}
    single = name in _ONE_DEVICE or name in CATALOGUE
    pairs = config.train.batch_size / mesh.size
    means = weights_of(name, config, pairs)
    found = summary(compiled, target.chip, 1 if single else mesh.size, listed, means)
    found |= {"name": name, "compile_seconds": seconds, "pairs": pairs}
    found["ruler"] = "bundles" if listed else "cycles"
    used = found["memory"]["total"]
    if used > target.chip.memory:
        raise DoesNotFit(_does_not_fit(name, used, target.chip.memory), used)
    return found


def compile_program(program: programs.Program):
    """Return the compiled program and the seconds it took to compile.

    Raises:
      DoesNotFit: the compiler reports that memory is exhausted.
    """
    try:
        return program.compile()
    except RuntimeError as error:  # JaxRuntimeError
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise readable(program.name, str(error)) from error


def readable(name: str, message: str) -> DoesNotFit:
    """Return an error with one line of the compiler's message about memory."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    size = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"Used {size} of {size}", message) or re.search(
        rf"\({size}\) exceeds available \w+ \({size}\)", message
    )
    if not found:
        words = " ".join(message.split())[:160]
        return DoesNotFit(f"the {name} does not fit in the memory: {words}", None)
    used, there = (float(found[place]) * units[found[place + 1]] for place in (1, 3))
    return DoesNotFit(_does_not_fit(name, used, there), used)


def _does_not_fit(name, used, there) -> str:
    return (
        f"the {name} needs {used / 1e9:.2f} GB of memory on a device that has "
        f"{there / 1e9:.2f} GB"
    )


def summary(
    compiled,
    chip: Chip,
    devices: int = 1,
    listed: dict[str, float] | None = None,
    weights: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of a compiled program.

    Args:
      compiled: a compiled program of `jax.stages`.
      chip: the chip that it runs on.
      devices: number of devices.
      listed: bundles of its operations, see `bundles.read`.
      weights: weights of its loops and branches, see `hlo.Program.executed`.
    """
    weights, text = weights or {}, hlo.Program(compiled.as_text())
    parts = costs.by_part(text, chip, costs.part_of, listed or {}, **weights)
    plan, analysis = compiled.memory_analysis(), compiled.cost_analysis() or {}
    memory = {
        "arguments": plan.argument_size_in_bytes,
        "temporaries": plan.temp_size_in_bytes,
        "results": plan.output_size_in_bytes - plan.alias_size_in_bytes,
    }
    memory["total"] = sum(memory.values())
    found = costs.collectives(text, chip, devices, **weights)
    return {
        "devices": devices,
        "program_bytes": plan.generated_code_size_in_bytes,
        "memory": memory,
        "flops": analysis.get("flops"),
        "compiler_bytes": analysis.get("bytes accessed"),
        "total": dataclasses.asdict(costs.total(parts)),
        "parts": {name: dataclasses.asdict(cost) for name, cost in parts.items()},
        "collectives": {name: dataclasses.asdict(c) for name, c in found.items()},
    }


def weights_of(name: str, config: ConfigDict, pairs: float) -> dict[str, Any]:
    """Return `mean_trips` and `branch_weights` for a program by its name.

    Args:
      name: see `build`.
      config: config of a run.
      pairs: number of pairs on one device.
    """
    drawn = draws.of_config(config)
    tile = min(config.degradation.tile or 1, max(1, int(pairs)))
    positions = draws.mean_tiles(config, max(1, int(pairs)), tile)

    def mean_trips(loop, inside):
        here = inside or name
        return drawn.mean_trips(here) if here in CATALOGUE else positions

    def branch_weights(conditional, count, inside):
        here = inside or name
        if here in CATALOGUE:
            shares = drawn.branch_shares(here, count)
        elif count == len(CATALOGUE):
            kinds = drawn.applications.items()
            return [(kind, mean / drawn.length) for kind, mean in kinds]
        else:
            shares = [1 / count] * count
        return [(inside, share) for share in shares]

    return {"mean_trips": mean_trips, "branch_weights": branch_weights}
