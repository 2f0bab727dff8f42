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
    """Return one row per combination: milliseconds, and shares of the parts' sum."""
    lines = [
        f"Milliseconds on {figures.get('device', 'an unknown device')}; in brackets "
        "the share of degradation + encoder + transfer. Whole step: default tile.",
        "",
        "| pairs | dtype | tile | degradation | encoder | host to device | loader "
        "| whole step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, parts in figures.items():
        if not title.startswith("parts, "):
            continue
        pairs = title.removeprefix("parts, ")
        given = figures.get(f"input, {pairs}", {})
        for degradation in (n for n in parts if n.startswith("degradation")):
            for encoder in (n for n in parts if n.startswith("encoder")):
                dtype = encoder.removeprefix("encoder, ")
                cells = [parts[degradation], parts[encoder]]
                cells.append({"seconds": given.get("host to device")})
                known = [cell.get("seconds") for cell in cells]
                total = sum(known) if None not in known else None
                row = [
                    pairs.removesuffix(" pairs"),
                    dtype,
                    degradation.rpartition(" ")[2],
                    *(_milliseconds(cell, total) for cell in cells),
                    _milliseconds({"seconds": given.get("loader")}),
                    _milliseconds(parts.get(f"whole step, {dtype}", {})),
                ]
                lines.append(f"| {' | '.join(row)} |")
    return lines


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
