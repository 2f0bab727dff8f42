"""The cost of a compiled program, by part, and its collectives.

There are three measures. Bytes are what each operation reads from and writes to HBM,
from the program's text. Bundles are the instructions that a TPU core issues, from the
compiler's dump. Estimated cycles are the compiler's own, and are useful only for
convolutions and products. The time of an operation is at least the larger of two
quotients, the "per-op maximum": its bytes over the bandwidth, and its bundles over the
clock. For a convolution without a dump, the estimated cycles replace the bundles.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from accelerator import hlo
from accelerator.targets import Chip

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


@dataclasses.dataclass
class Cost:
    """The mean cost of one run of a part or a program.

    Attributes:
      bytes: bytes of HBM that are read and written.
      bundles: bundles of the operations that have a listing.
      cycles: the compiler's estimate.
      launches: number of operations that are launched.
      unlisted: number of launched operations without a listing.
      seconds: the per-op maximum.
    """

    bytes: float = 0.0
    bundles: float = 0.0
    cycles: float = 0.0
    launches: float = 0.0
    unlisted: float = 0.0
    seconds: float = 0.0

    def add(self, other: "Cost", times: float = 1.0) -> None:
        """Add another cost, multiplied by `times`."""
        for field in dataclasses.fields(self):
            added = getattr(self, field.name) + times * getattr(other, field.name)
            setattr(self, field.name, added)


@dataclasses.dataclass
class Collectives:
    """The collectives of one kind in one run.

    Attributes:
      count: number of collectives.
      bytes: size of their operands, on one device.
      seconds: time by the bandwidth between the chips, without latency.
      overlapped: number of collectives with computation between their start and end.
    """

    count: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    overlapped: float = 0.0


def operation_cost(
    program: hlo.Program, item: hlo.Executed, listed: Mapping[str, float], chip: Chip
) -> Cost:
    """Return the cost of one run of an operation."""
    operation = item.operation
    if not operation.is_launched:
        return Cost()
    moved = program.bytes(operation, item.computation)
    bundles = listed.get(operation.name)
    busy = bundles
    if busy is None:
        computes = has_kind(program, operation, ("convolution", "dot"))
        busy = operation.estimated_cycles if computes else 0
    return Cost(
        bytes=moved,
        bundles=bundles or 0.0,
        cycles=operation.estimated_cycles,
        # Asynchronous copies have no launch of their own.
        launches=float(not operation.kind.endswith("-start")),
        unlisted=float(bundles is None and not operation.kind.endswith("-start")),
        seconds=max(busy / chip.clock, moved / chip.bandwidth),
    )


def by_part(
    program: hlo.Program,
    chip: Chip,
    part_of: Callable[[str, str], str],
    listed: Mapping[str, float],
    **weights,
) -> dict[str, Cost]:
    """Return the cost of each part of a program.

    Args:
      program: the program.
      chip: the chip that it runs on.
      part_of: returns the part, given an operation's path and the branch that contains
        it.
      listed: the bundles of operations; empty without a dump.
      **weights: weights of loops and branches, see `hlo.Program.executed`.
    """
    parts: dict[str, Cost] = {}
    for item in program.executed(**weights):
        if item.operation.is_launched:
            name = part_of(item.operation.path, item.inside)
            cost = operation_cost(program, item, listed, chip)
            parts.setdefault(name, Cost()).add(cost, item.times)
    return parts


def total(parts: Mapping[str, Cost]) -> Cost:
    """Return the sum of parts."""
    whole = Cost()
    for part in parts.values():
        whole.add(part)
    return whole


def has_kind(program: hlo.Program, operation: hlo.Operation, kinds) -> bool:
    """Return whether an operation, or one fused into it, is of one of the kinds."""
    if operation.kind in kinds or "__cudnn$conv" in operation.rest:
        return True
    return any(
        has_kind(program, inner, kinds)
        for name in operation.called("calls")
        for inner in program.computations.get(name, {}).values()
    )


def collectives(
    program: hlo.Program, chip: Chip, devices: int, **weights
) -> dict[str, Collectives]:
    """Return the collectives by kind, such as `all-reduce`.

    In a ring of n devices each device sends 2 (n - 1) / n of the bytes of an
    all-reduce, and half of this for the other kinds. The links of a chip carry half of
    `Chip.interconnect` in each direction.
    """
    found: dict[str, Collectives] = {}
    ring = (devices - 1) / devices
    for item in program.executed(**weights):
        kind = _collective(program, item.operation)
        if not kind:
            continue
        operands = [
            hlo.size(item.computation[name].type)
            for name in item.operation.operands
            if name in item.computation
        ]
        moved = sum(operands)
        sent = {"all-reduce": 2 * ring, "all-gather": devices - 1}.get(kind, ring)
        here = found.setdefault(kind, Collectives())
        here.count += item.times
        here.bytes += item.times * moved
        here.seconds += item.times * sent * moved / (chip.interconnect / 2)
        here.overlapped += item.times * _overlaps(item)
    return found


def _collective(program: hlo.Program, operation: hlo.Operation) -> str:
    kind = operation.kind
    if kind.endswith("-done"):
        return ""
    if kind in ("async-start", "fusion"):
        for name in operation.called("calls", "called_computations"):
            for inner in program.computations.get(name, {}).values():
                if inner.kind in _COLLECTIVES:
                    return inner.kind
        return ""
    kind = kind.removesuffix("-start")
    return kind if kind in _COLLECTIVES else ""


def _overlaps(item: hlo.Executed) -> bool:
    """Return whether computation runs between the start and the end of a collective.

    A synchronous collective, which is one operation, has no overlap.
    """
    names = list(item.computation)
    start = names.index(item.operation.name)
    if not item.operation.kind.endswith("-start"):
        return False
    for name in names[start + 1 :]:
        operation = item.computation[name]
        if item.operation.name in operation.operands:
            return False
        if operation.is_launched and not operation.kind.endswith("-start"):
            return True
    return False


# The stage of each bottleneck, by number, in the plain Flax ResNet-50, whose names of
# blocks do not contain the stage.
_PLAIN_STAGES = (1,) * 3 + (2,) * 4 + (3,) * 6 + (4,) * 3

# Substrings of the paths of operations that draw and dispatch chains, outside of the
# distortions.
_DRAWING = ("jit(_apply)", "jit(_draw)", "searchsorted", "threefry", "degrade")


def part_of(path: str, inside: str) -> str:
    """Return the part that an operation belongs to, from its path in the source.

    Args:
      path: such as `jit(step)/transpose(jvp(SimCLR))/encoder/layer1_0/conv2/...`.
      inside: the distortion whose branch contains the operation, or "".
    """
    if inside:
        return f"degradation: {inside}"
    if not path:
        return "moved ahead, source unknown"
    stage = re.search(r"layer(\d)_\d", path)
    block = re.search(r"_Bottleneck_(\d+)", path)
    direction = "backward" if "transpose(" in path else "forward"
    if stage:
        return f"encoder {direction}: stage {stage[1]}"
    if block:
        return f"encoder {direction}: stage {_PLAIN_STAGES[int(block[1])]}"
    if "projector" in path or "Dense_" in path:
        return f"projector {direction}"
    if "SimCLR" in path:
        return f"encoder {direction}: stem"
    if "jvp(" in path:
        return "loss"
    if any(word in path for word in _DRAWING):
        return "degradation: dispatch"
    return "optimizer and the rest"
