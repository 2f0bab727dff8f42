"""Parser of the text of a compiled program: operations, and how often they run.

Only operations that are launched count. These are the operations of the entry, of loop
bodies and of branches of conditionals, but not those inside fusions.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

# Kinds of operation that launch nothing.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "conditional", "call", "partition-id", "replica-id", "opt-barrier"),
}
_WIDTHS = {
    "pred": 1,
    "token": 0,
    "opaque": 0,
    "c64": 8,
    "c128": 16,
    **{f"{kind}{bits}": bits / 8 for kind in "su" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"f{bits}": bits / 8 for bits in (16, 32, 64)},
    "bf16": 2,
}
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w\.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w\.\-]+) \(.*\) -> .*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of the text.

    Attributes:
      name: unique in the program.
      kind: such as `fusion`.
      type: type of the result, as written.
      operands: names of the operands.
      rest: the attributes after the operands.
      is_root: whether it is the result of its computation.
      arguments: the operands, as written.
    """

    name: str
    kind: str
    type: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool
    arguments: str

    @functools.cached_property
    def path(self) -> str:
        """The origin in the source, as JAX named it; may be empty."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @functools.cached_property
    def estimated_cycles(self) -> int:
        """The compiler's estimate; 0 if there is none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else 0

    @property
    def is_launched(self) -> bool:
        """Whether the device launches it as a separate piece of work."""
        return self.kind not in _FREE and not self.kind.endswith("-done")

    def called(self, *attributes: str) -> tuple[str, ...]:
        """Return the names of the computations that one of the attributes calls."""
        pattern = rf"(?:{'|'.join(attributes)})=\{{?([^,}}\s]+(?:, *%[^,}}\s]+)*)"
        found = re.search(pattern, self.rest)
        return tuple(re.findall(r"[\w\.\-]+", found[1])) if found else ()


Computation = dict[str, Operation]


@dataclasses.dataclass(frozen=True)
class Executed:
    """An operation, its position and how often it runs.

    Attributes:
      operation: the line.
      computation: the computation that contains it.
      times: mean number of runs; dynamic loops and branches count by their probability.
      inside: the caller's name of the innermost conditional's branch, or "".
    """

    operation: Operation
    computation: Computation
    times: float
    inside: str


class Program:
    """The computations of a compiled program."""

    def __init__(self, text: str):
        """Parse the text of `compiled.as_text()`."""
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current = None
        for line in text.splitlines():
            if current is None:
                header = _COMPUTATION.match(line)
                if header:
                    current = self.computations.setdefault(header[2], {})
                    self.entry = header[2] if header[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif operation := parse_operation(line):
                current[operation.name] = operation

    def trips(self, loop: Operation) -> int | None:
        """Return how often a `while` runs its body; None if this depends on data.

        The count comes from the compiler's annotation, or from the one constant that
        the condition compares with.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        constants: list[int] = []
        self._constants(loop.called("condition"), constants)
        return max(constants) if constants else None

    def _constants(self, names, found: list[int]) -> None:
        for name in names:
            for operation in self.computations.get(name, {}).values():
                if operation.kind == "constant" and operation.arguments.isdigit():
                    found.append(int(operation.arguments))
                self._constants(operation.called("calls", "to_apply"), found)

    def executed(
        self,
        mean_trips: Callable[[Operation, str], float] = lambda loop, inside: 1.0,
        branch_weights: Callable[
            [Operation, int, str], list[tuple[str, float]]
        ] = lambda conditional, count, inside: [(inside, 1 / count)] * count,
    ) -> Iterator[Executed]:
        """Yield every operation that the entry reaches, launched or not.

        Args:
          mean_trips: returns the mean trip count of a loop whose count depends on data.
          branch_weights: returns the name and the probability of each branch of a
            conditional.
        """
        yield from self._executed(self.entry, 1.0, "", mean_trips, branch_weights)

    def _executed(self, name, times, inside, mean_trips, branch_weights):
        computation = self.computations.get(name, {})
        follow = functools.partial(
            self._executed, mean_trips=mean_trips, branch_weights=branch_weights
        )
        for operation in computation.values():
            yield Executed(operation, computation, times, inside)
            if operation.kind == "while":
                trips = self.trips(operation)
                if trips is None:
                    trips = mean_trips(operation, inside)
                for body in operation.called("body"):
                    yield from follow(body, times * trips, inside)
            elif operation.kind == "conditional":
                branches = operation.called("branch_computations") or (
                    *operation.called("true_computation"),
                    *operation.called("false_computation"),
                )
                weights = branch_weights(operation, len(branches), inside)
                for branch, (label, weight) in zip(branches, weights, strict=True):
                    yield from follow(branch, times * weight, label)
            elif operation.kind == "call":
                for called in operation.called("to_apply"):
                    yield from follow(called, times, inside)

    def bytes(self, operation: Operation, computation: Computation) -> float:
        """Return the bytes of HBM that an operation reads and writes.

        If a fusion slices an operand, only the slice counts. If a result is an operand
        with a changed slice, only the slice counts, because it is changed in place.
        """
        if not operation.is_launched:
            return 0.0
        if operation.kind.endswith("-start"):
            # The result contains the operands; its first part is the destination.
            parts = arrays(operation.type)
            read = sum(
                size_in_hbm(computation[name].type)
                for name in operation.operands
                if name in computation
            )
            return read + (parts[0] if parts else 0)
        called = operation.called("calls")
        body = self.computations.get(called[0]) if called else None
        read = 0.0
        for index, name in enumerate(operation.operands):
            if name not in computation:
                continue
            whole = size_in_hbm(computation[name].type)
            if whole and body and operation.kind == "fusion":
                whole = min(whole, self._read_of_parameter(body, index, whole))
            elif operation.kind in ("dynamic-slice", "gather") and index == 0:
                whole = min(whole, size_in_hbm(operation.type) or whole)
            elif operation.kind == "dynamic-update-slice" and index == 0:
                whole = 0.0
            read += whole
        return read + self._written(operation, computation, body)

    def _read_of_parameter(self, body: Computation, index: int, whole: float) -> float:
        """Return the bytes that a fused computation reads of one of its parameters."""
        names = {
            operation.name
            for operation in body.values()
            if operation.kind == "parameter" and operation.arguments == str(index)
        }
        read = 0.0
        for operation in body.values():
            places = [i for i, name in enumerate(operation.operands) if name in names]
            if not places:
                continue
            if operation.kind == "bitcast":
                names.add(operation.name)
            elif operation.kind in ("dynamic-slice", "slice", "gather"):
                read += size(operation.type)
            elif operation.kind == "dynamic-update-slice" and places == [0]:
                continue
            elif operation.kind == "fusion":
                inner = self.computations.get(operation.called("calls")[0], {})
                read += sum(self._read_of_parameter(inner, i, whole) for i in places)
            else:
                return whole
        is_result = any(o.is_root and o.name in names for o in body.values())
        return whole if is_result else read

    def _written(self, operation, computation, body) -> float:
        whole = size_in_hbm(operation.type)
        if not whole:
            return 0.0
        if operation.kind == "dynamic-update-slice":
            return size_in_hbm(computation[operation.operands[1]].type)
        if not body or operation.kind != "fusion":
            return whole
        return min(whole, self._written_by(body, whole))

    def _written_by(self, body: Computation, whole: float) -> float:
        root = next((o for o in body.values() if o.is_root), None)
        while root and root.kind == "bitcast" and root.operands[0] in body:
            root = body[root.operands[0]]
        if root and root.kind == "fusion":
            return self._written_by(
                self.computations.get(root.called("calls")[0], {}), whole
            )
        if root and root.kind == "dynamic-update-slice":
            return size(body[root.operands[1]].type)
        if root and root.kind == "tuple":
            total = 0.0
            for name in root.operands:
                part = body.get(name)
                if part is None:
                    return whole
                updated = part.kind == "dynamic-update-slice"
                total += size((body[part.operands[1]] if updated else part).type)
            return total
        return whole


def parse_operation(line: str) -> Operation | None:
    """Return the operation that a line of a computation describes."""
    found = _OPERATION.match(line)
    if not found:
        return None
    name, right = found[1], found[2]
    end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    kind = re.match(r"\s*([\w\-]+)\(", right[end:])
    if end <= 0 or not kind:
        return None
    start = end + kind.end() - 1
    close = _closing(right, start)
    arguments = right[start + 1 : close]
    # Operands are names. In some texts their types come before the names.
    operands = re.findall(r"%([\w\.\-]+)", arguments)
    return Operation(
        name,
        kind[1],
        right[:end],
        tuple(operands),
        right[close + 1 :],
        line.lstrip().startswith("ROOT "),
        arguments,
    )


def _closing(text: str, start: int) -> int:
    """Return the position where the bracket that opens at `start` is closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    return len(text)


def arrays(type_: str, *, hbm_only: bool = True) -> list[float]:
    """Return the bytes of each array of a type, in its padded layout.

    A TPU stores the two minor dimensions in tiles, `T(8,128)`. `S(1)` is the memory in
    the core; its arrays count as 0 if `hbm_only`.
    """
    sizes = []
    for element, shape, layout in _ARRAY.findall(type_):
        if element not in _WIDTHS and not element.startswith("f8"):
            continue
        dimensions = [int(d.lstrip("<=")) for d in shape.split(",") if d]
        if hbm_only and re.search(r"S\([1-9]", layout):
            sizes.append(0.0)
            continue
        sizes.append(math.prod(_padded(dimensions, layout)) * _WIDTHS.get(element, 1))
    return sizes


def size_in_hbm(type_: str) -> float:
    """Return the bytes of HBM that a type takes."""
    return sum(arrays(type_))


def size(type_: str) -> float:
    """Return the bytes that a type takes, in any memory."""
    return sum(arrays(type_, hbm_only=False))


def _padded(dimensions: list[int], layout: str) -> list[int]:
    tile = re.search(r"T\(([\d,]+)\)", layout)
    order = [int(d) for d in layout.split(":")[0].split(",") if d.strip().isdigit()]
    if not tile or len(order) != len(dimensions):
        return dimensions
    padded = list(dimensions)
    sides = [int(side) for side in tile[1].split(",")]
    # `order` lists dimensions from the minor one, and the last side of the tile belongs
    # to the minor one.
    for dimension, side in zip(order, reversed(sides), strict=False):
        padded[dimension] = -(-padded[dimension] // side) * side
    return padded
