"""The figures of `benchmarks/on_gpu.py` as Markdown, for RESULTS.md."""


def markdown(results: dict) -> str:
    """Return the tables of all parts that have figures, and the failures."""
    about, parts = results["about"], results["parts"]
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if v)
    lines = [
        f"### {about['gpu'] or 'No GPU'}",
        "",
        f"{about['time']}, {about['cores']} cores, Python {about['python']}, "
        f"{versions}; {about['config']}, photographs: {about['photos']}"
        + ("; SMALL NUMBERS, no measure of anything" if about["small"] else ""),
        "",
        "| part | | seconds |",
        "|---|---|---|",
    ]
    for name, part in parts.items():
        state = f"{part['status']}. {part.get('error', '')}".rstrip(". ")
        lines.append(f"| {name} | {state} | {part.get('seconds', '')} |")
    for name, table in (
        ("golden", _golden),
        ("step", _step),
        ("profile", _profile),
    ):
        figures = parts.get(name, {}).get("figures")
        if figures:
            lines += ["", *table(figures)]
    for name in ("switch", "pretrain", "scoring", "scoring in PyTorch"):
        figures = parts.get(name, {}).get("figures")
        if figures:
            lines += ["", f"| {name} | |", "|---|---|"]
            lines += [f"| {key} | {_shown(value)} |" for key, value in figures.items()]
    rates = [
        parts.get(name, {}).get("figures", {}).get("images per second")
        for name in ("scoring", "scoring in PyTorch")
    ]
    if all(rates):
        lines += ["", f"Scoring, ours over PyTorch: {rates[0] / rates[1]:.2f}"]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return str(value)


def _golden(figures: dict) -> list[str]:
    lines = ["| against | what | largest error | agrees |", "|---|---|---|---|"]
    for title, rows in figures.items():
        for name, row in rows.items():
            row = row if isinstance(row, dict) else {"agrees": row}
            cells = [_shown(row.get("error")), _shown(row.get("agrees"))]
            lines.append(f"| {title} | {name} | {' | '.join(cells)} |")
    return lines


def _step(figures: dict) -> list[str]:
    """Return the whole step, and the parts with their shares of the sum."""
    lines = [
        f"Milliseconds on {figures.get('device', 'an unknown device')}. Whole step: "
        "default tile. In brackets: the share of degradation + encoder + transfer.",
        "",
        "| pairs | dtype | whole step | loader |",
        "|---|---|---|---|",
    ]
    for pairs, whole in _by_pairs(figures, "whole step"):
        loader = {"seconds": figures.get(f"input, {pairs} pairs", {}).get("loader")}
        for dtype, row in whole.items():
            cells = [pairs, dtype, _milliseconds(row), _milliseconds(loader)]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| pairs | dtype | tile | degradation | encoder | host to device |",
        "|---|---|---|---|---|---|",
    ]
    for pairs, parts in _by_pairs(figures, "parts"):
        given = figures.get(f"input, {pairs} pairs", {})
        for degradation in (n for n in parts if n.startswith("degradation")):
            for encoder in (n for n in parts if n.startswith("encoder")):
                rows = [parts[degradation], parts[encoder]]
                rows.append({"seconds": given.get("host to device")})
                known = [row.get("seconds") for row in rows]
                total = sum(known) if None not in known else None
                cells = [
                    pairs,
                    encoder.removeprefix("encoder, "),
                    degradation.rpartition(" ")[2],
                    *(_milliseconds(row, total) for row in rows),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _by_pairs(figures: dict, kind: str) -> list[tuple[str, dict]]:
    """Return the number of pairs and the figures of each entry of a kind."""
    return [
        (title.removeprefix(f"{kind}, ").removesuffix(" pairs"), entry)
        for title, entry in figures.items()
        if title.startswith(f"{kind}, ")
    ]


def _milliseconds(cell: dict, total: float | None = None) -> str:
    if "error" in cell:
        return cell["error"].split(":")[0]
    seconds = cell.get("seconds")
    if seconds is None:
        return ""
    share = f" ({seconds / total:.0%})" if total else ""
    return f"{1e3 * seconds:.3g}{share}"


def _profile(figures: dict) -> list[str]:
    lines = [
        "; ".join(
            f"{name}: {_shown(value)}"
            for name, value in figures.items()
            if not isinstance(value, list)
        ),
    ]
    for title, rows in figures.items():
        if isinstance(rows, list):
            lines += [
                "",
                f"| {title} | ms a step | share | runs |",
                "|---|---|---|---|",
            ]
            lines += [
                f"| `{row['name']}` | {row['milliseconds of a step']:.3g} "
                f"| {row['share']:.1%} | {row['runs of a step']:.4g} |"
                for row in rows
            ]
    return lines
