"""Scheduled bundles of the operations of a TPU program, from the compiler's dump.

A bundle is the set of instructions that a TPU core issues in one cycle. libtpu writes a
listing of each operation, `TIME-NAME-NN-final_bundles.txt`, into the folder of
`--xla_jf_dump_to`. An operation with the same code as another one has no listing; the
file `...deduplication-map.txt` names the other one.
"""

import contextlib
import pathlib
import re
import threading
from collections.abc import Iterator

_LINE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*:")
_FILE = re.compile(r"\d+-(.*)-\d+-final_bundles\.txt")
# Seconds between two deletions of the dumps that are not read.
_SWEEP_SECONDS = 0.3


@contextlib.contextmanager
def swept(folder: pathlib.Path) -> Iterator[None]:
    """Delete all files but the listings in a folder while a program is compiled.

    The other dumps of a training step would fill a disk. Files of an earlier program
    are deleted first.
    """
    for file in folder.iterdir():
        file.unlink()
    stop = threading.Event()

    def sweep():
        while not stop.wait(_SWEEP_SECONDS):
            for file in folder.iterdir():
                if not _is_kept(file.name):
                    file.unlink(missing_ok=True)

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_kept(name: str) -> bool:
    wanted = _FILE.fullmatch(name) and "schedule-analysis" not in name
    return bool(wanted) or name.endswith("deduplication-map.txt")


def read(folder: pathlib.Path) -> dict[str, float]:
    """Return the bundles of one run of each operation, by its name."""
    counts, equal = {}, {}
    for file in sorted(folder.iterdir()):
        if file.name.endswith("deduplication-map.txt"):
            equal |= equal_names(file.read_text())
        elif _is_kept(file.name):
            counts[_FILE.fullmatch(file.name)[1]] = count(file.read_text())
    copies = {name: counts[key] for name, key in equal.items() if key in counts}
    return copies | counts


def equal_names(text: str) -> dict[str, str]:
    """Return, for each operation of a map, the operation whose listing it shares."""
    names, key = {}, ""
    for line in text.splitlines():
        if line.startswith("key:"):
            key = line.removeprefix("key:").strip()
        elif line.startswith("  "):
            names[line.strip()] = key
    return names


def count(text: str) -> float:
    """Return the bundles that a listing executes, its loops included.

    A loop is a branch back to the start of a region. Its predicate compares with a
    constant, which is the trip count. For the outer loop of a software pipeline ("iter
    bound"), the trip count includes prologue and epilogue, which do not run the body.
    """
    starts: dict[str, int] = {}
    limits: dict[str, int] = {}
    branches: list[tuple[int, str, str]] = []
    size, pipelined = 0, False
    for line in text.splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        address = int(found[1], 16)
        size = max(size, address + 1)
        for region in re.findall(r"Start region (\d+)", line):
            starts[region] = address
        for predicate, limit in re.findall(
            r"%(p\w+) = scmp\.\w+\.[\w\.]+ %\w+, (-?\d+)", line
        ):
            limits[predicate] = int(limit)
        for predicate, region in re.findall(
            r"sbr\.rel \(!?%(p\w+)\) target = \$region(\d+)", line
        ):
            branches.append((address, predicate, region))
        pipelined |= "iter bound" in line
    loops = [
        (starts[region], address, limits.get(predicate, 1))
        for address, predicate, region in branches
        if starts.get(region, size) <= address
    ]
    return float(sum(_weights(loops, size, pipelined)))


def _weights(loops, size: int, pipelined: bool) -> list[int]:
    """Return how often the bundle at each address runs."""
    weights = [1] * size
    for start, end, trips in loops:
        is_outer = not any(
            first <= start and end <= last and (first, last) != (start, end)
            for first, last, _ in loops
        )
        times = max(trips, 1)
        if is_outer and pipelined and times > 2:
            times -= 2
        for address in range(start, min(end + 1, size)):
            weights[address] *= times
    return weights
