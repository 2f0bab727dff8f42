"""The tables of `benchmarks/accelerators.py`, for a terminal of 80 columns."""

from accelerator import draws
from accelerator.costs import Cost
from accelerator.targets import Target
from arniqa_jax.degradation.catalogue import CATALOGUE


def print_all(target: Target, config, records: dict[str, dict]) -> None:
    """Print the tables of the programs that were compiled."""
    chip = target.chip
    print(
        f"\n{target.name}: {chip.memory / 2**30:.0f} GiB of HBM at "
        f"{chip.bandwidth / 1e9:.0f} GB/s, {chip.clock / 1e9:.2f} GHz, between chips "
        f"{chip.interconnect / 1e9:.0f} GB/s\n{config.model.arch}, {config.model.dtype}"
        f", {config.train.batch_size} pairs of {config.data.patch_size} px"
    )
    fitting = {name: r for name, r in records.items() if "error" not in r}
    programs = {name: r for name, r in fitting.items() if name not in CATALOGUE}
    distortions = {name: r for name, r in fitting.items() if name in CATALOGUE}
    if programs:
        _print_programs(target, programs)
    expected = None
    if distortions:
        expected = _print_distortions(config, distortions)
    complete = expected if len(distortions) == len(CATALOGUE) else None
    for name, record in programs.items():
        _print_parts(name, record, complete)
        if record["collectives"]:
            _print_collectives(record)
    if complete and {"step", "plain"} <= set(programs):
        _print_ratio(programs, complete)


def _print_programs(target: Target, programs: dict[str, dict]) -> None:
    print(
        f"\n{'':10}{'compile':>8}{'code':>8}{'state,':>9}{'temp.':>8}{'of the':>8}"
        f"{'':>10}{'bytes, GB':>19}"
    )
    print(
        f"{'program':10}{'s':>8}{'MB':>8}{'data GB':>9}{'GB':>8}{'memory':>8}"
        f"{'GFLOP':>10}{'text':>10}{'compiler':>9}"
    )
    for name, record in programs.items():
        memory = record["memory"]
        share = 100 * memory["total"] / target.chip.memory
        print(
            f"{name:10}{record['compile_seconds']:8.0f}"
            f"{record['program_bytes'] / 1e6:8.1f}{memory['arguments'] / 1e9:9.2f}"
            f"{memory['temporaries'] / 1e9:8.2f}{share:6.0f} %"
            f"{_scaled(record['flops'], 1e9, 10)}"
            f"{record['total']['bytes'] / 1e9:10.2f}"
            f"{_scaled(record['compiler_bytes'], 1e9, 9)}"
        )
    print("GFLOP and compiler: its cost analysis, which runs dynamic loops once.")


def _scaled(value: float | None, unit: float, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value / unit:{width}.2f}"


def _print_distortions(config, records: dict[str, dict]) -> Cost:
    """Print the distortions and return their mean cost for a pair."""
    drawn = draws.of_config(config)
    expected = Cost()
    rows = []
    for name, record in records.items():
        mean = Cost()
        mean.add(Cost(**record["total"]), drawn.applications[name])
        expected.add(mean)
        rows.append((mean.seconds, name, record))
    rows.sort(reverse=True)
    print(
        f"\n{'distortion, on the 4 crops':26}{'compile':>8}{'M':>10}{'':>9}{'':>9}"
        f"{'drawn':>8}{'share':>7}"
    )
    print(
        f"{'of a pair':26}{'s':>8}{'bundles':>10}{'MB':>9}{'launches':>9}"
        f"{'a pair':>8}{'%':>7}"
    )
    for seconds, name, record in rows:
        total = record["total"]
        print(
            f"{name:26}{record['compile_seconds']:8.1f}{total['bundles'] / 1e6:10.4f}"
            f"{total['bytes'] / 1e6:9.1f}{total['launches']:9.0f}"
            f"{drawn.applications[name]:8.4f}{100 * seconds / expected.seconds:7.1f}"
        )
    compiled = sum(record["compile_seconds"] for record in records.values())
    mean = sum(drawn.applications[name] for name in records)
    print(
        f"{'expected for a pair':26}{compiled:8.1f}{expected.bundles / 1e6:10.4f}"
        f"{expected.bytes / 1e6:9.1f}{expected.launches:9.0f}{mean:8.4f}{100.0:7.1f}"
    )
    print(f"Shares of {1e6 * expected.seconds:.1f} us a pair, the per-op maximum.")
    return expected


def _print_parts(name: str, record: dict, expected: Cost | None) -> None:
    """Print the parts of a program; `expected` is the degradation of a pair."""
    parts = {part: Cost(**cost) for part, cost in record["parts"].items()}
    if any(part.startswith("degradation") for part in parts):
        merged = Cost()
        for part in [part for part in parts if part.startswith("degradation")]:
            if part != "degradation: dispatch":
                merged.add(parts.pop(part))
        if expected:
            merged = Cost()
            merged.add(expected, record["pairs"])
        parts["degradation: distortions"] = merged
    total = sum(part.seconds for part in parts.values())
    busy = "bundles" if record["ruler"] == "bundles" else "cycles"
    print(
        f"\n{name + ', by part':32}{'GB':>9}{'M ' + busy:>12}{'launches':>10}", end=""
    )
    print(f"{'ms':>9}{'%':>7}")
    whole = Cost()
    for part, cost in sorted(parts.items()):
        whole.add(cost)
        print(_part_row(part, cost, getattr(cost, busy), total))
    print(_part_row("sum", whole, getattr(whole, busy), total))
    if record["ruler"] == "cycles":
        print("cycles: the compiler's estimate, reliable only for convolutions.")
    if expected and "degradation: distortions" in parts:
        bundles = parts["degradation: distortions"].bundles
        print(
            f"The distortions are those above: {bundles / 1e6:.2f} M bundles, "
            f"{100 * parts['degradation: distortions'].seconds / total:.1f} %."
        )
    print("ms, %: the per-op maximum.", end=" ")
    if record["ruler"] == "bundles":
        print(f"Without a listing: {whole.unlisted:.0f} of the launches.", end="")
    print()


def _part_row(name: str, cost: Cost, busy: float, total: float) -> str:
    return (
        f"{name:32}{cost.bytes / 1e9:9.3f}{busy / 1e6:12.3f}{cost.launches:10.0f}"
        f"{1e3 * cost.seconds:9.3f}{100 * cost.seconds / max(total, 1e-12):7.1f}"
    )


def _print_collectives(record: dict) -> None:
    seconds = record["total"]["seconds"]
    print(
        f"\n{'collective, ' + str(record['devices']) + ' devices':26}{'number':>8}"
        f"{'MB':>10}{'ms':>9}{'% of the step':>15}{'overlapped':>12}"
    )
    for kind, found in record["collectives"].items():
        print(
            f"{kind:26}{found['count']:8.0f}{found['bytes'] / 1e6:10.2f}"
            f"{1e3 * found['seconds']:9.3f}{100 * found['seconds'] / seconds:15.1f}"
            f"{found['overlapped']:12.0f}"
        )
    print("By the bandwidth between chips in a ring; latency is not counted.")


def _print_ratio(programs: dict[str, dict], expected: Cost) -> None:
    step, plain = programs["step"], programs["plain"]
    rest = sum(
        cost["seconds"]
        for part, cost in step["parts"].items()
        if part == "degradation: dispatch" or not part.startswith("degradation")
    )
    degradation = step["pairs"] * expected.seconds
    whole, yardstick = rest + degradation, plain["total"]["seconds"]
    print(
        f"\nwhole step {1e3 * whole:.2f} ms ({1e3 * degradation:.2f} of degradation) "
        f"over plain Flax's gradient {1e3 * yardstick:.2f} ms: {whole / yardstick:.3f}"
    )


def print_fit(found: dict[str, dict]) -> None:
    """Print the batches that fit."""
    print(f"\n{'activations':16}{'pairs on a device':>18}  tried (GB)")
    for name, result in found.items():
        tried = ", ".join(
            f"{pairs}: {_gigabytes(record)}"
            for pairs, record in sorted(result["tried"].items())
        )
        print(f"{name:16}{result['pairs']:18}  {tried}")


def _gigabytes(record: dict) -> str:
    size = f"{record['bytes'] / 1e9:.2f}" if record["bytes"] else "?"
    return size if record["fits"] else f"{size} does not fit"
