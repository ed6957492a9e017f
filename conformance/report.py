"""The matrix, the failures and the results file, from plain records."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from conformance.backends import versions
from conformance.runner import Result, Spread

Cell = tuple[str, str, str]


def columns(results: Iterable[Result]) -> list[tuple[str, str, str]]:
    """Implementation, backend and mode of each column that has results."""
    seen = {(r.implementation, r.backend, r.mode): None for r in results if r.mode and r.status != "not run"}
    return list(seen)


def cell(results: list[Result]) -> str:
    """Worst value and gradient in ULP, then both after k; `FAIL` first where the contract is broken."""
    ran = [r for r in results if r.status != "not run"]
    if not ran:
        return "not covered" if results else "-"
    if any(r.status == "error" for r in ran) and not any(r.measured for r in ran):
        return "FAIL (raised)"
    parts = []
    for value in (True, False):
        mine = [r.measured for r in ran if r.measured and r.quantity.endswith("value") == value]
        if mine:
            worst, after = max(m.worst for m in mine), max(m.after_k for m in mine)
            parts.append((short(worst), short(after)))
    if not parts:  # loss curves only
        return "FAIL" if any(r.failed for r in ran) else "curve ok"
    text = " / ".join(p[0] for p in parts) + "  (" + " / ".join(p[1] for p in parts) + ")"
    return ("FAIL " if any(r.failed for r in ran) else "") + text


def short(ulp: float) -> str:
    """An error in two or three characters' worth of digits."""
    return f"{ulp:.1e}" if ulp >= 1e4 else f"{ulp:.0f}" if ulp >= 100 else f"{ulp:.1f}"


def matrix(results: list[Result]) -> str:
    """Function x dtype by library (mode), as a Markdown table."""
    grouped: dict[tuple[str, str], dict[Cell, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for r in results:
        if r.mode:
            grouped[r.function, r.dtype][r.implementation, r.backend, r.mode].append(r)
    heads = columns(results)
    several = len({h[0] for h in heads}) > 1
    names = [(f"{h[0]}: " if several else "") + (h[1] if h[2] == "eager" else f"{h[1]} {h[2]}") for h in heads]
    table = [["function", "dtype", *names]]
    for (function, dtype), cells in grouped.items():
        table.append([function, dtype, *(cell(cells[h]) if h in cells else "-" for h in heads)])
    absent = list(dict.fromkeys(f"{r.backend}: not run: {r.reason}" for r in results if not r.mode))
    return "\n".join([*_table(table), "", *absent])


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


def apart(spreads: Iterable[Spread]) -> str:
    """How far the libraries are from each other, as a Markdown table: value, gradient by the logits, the others."""
    grouped: dict[tuple[str, str], dict[str, Spread]] = defaultdict(dict)
    for s in spreads:
        kind = s.quantity if s.quantity in ("value", "d logits") else "other gradients"
        before = grouped[s.function, s.dtype].get(kind)
        if before is None or s.ulp > before.ulp:
            grouped[s.function, s.dtype][kind] = s
    kinds = ("value", "d logits", "other gradients")
    table = [["function", "dtype", *kinds]]
    for (function, dtype), found in grouped.items():
        table.append([function, dtype, *(_said(found.get(kind)) for kind in kinds)])
    return "\n".join(_table(table))


def _said(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{short(spread.ulp)} ({spread.low}, {spread.high})" if spread.ulp else "0"


def failures(results: list[Result], most: int = 40) -> str:
    """The failures, those alike in function, family and reason told once, each with its worst input."""
    alike: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for r in results:
        if r.failed:
            said = r.reason if r.status == "error" or r.measured is None else ""
            alike[r.implementation, r.function, r.family, r.quantity.split(" ", 1)[-1], said].append(r)
    lines = []
    for same in list(alike.values())[:most]:
        r = max(same, key=lambda s: (_gravity(s), s.measured.after_k if s.measured else 0))
        where = ", ".join(dict.fromkeys(f"{s.backend} {s.mode} {s.dtype}" for s in same))
        lines.append(f"FAIL {r.function}, {r.quantity or 'call'}, {r.case} [{len(same)}: {where[:300]}]")
        lines.append(f"     {r.dtype} on {r.backend} {r.mode}: {r.reason}")
        if r.witness is not None and r.measured is not None:
            w = r.witness
            inputs = ", ".join(f"{k}={[float.fromhex(v) for v in values]}" for k, values in w.inputs.items())
            lines.append(
                f"     worst {short(r.measured.worst)} ULP, {short(r.measured.after_k)} after k; at {w.position}: "
                f"exact {w.exact!r}, got {w.got!r}; {inputs[:400]}"
            )
    if len(alike) > most:
        lines.append(f"... and {len(alike) - most} more kinds of failure")
    return "\n".join(lines)


def not_covered(results: Iterable[Result]) -> str:
    """What could not be asked, and why, as a Markdown list."""
    why: dict[str, dict[str, None]] = defaultdict(dict)
    for r in results:
        if r.mode and r.status == "not run":
            why[r.reason][f"{r.case} {r.dtype}"] = None
    gradients = any(r.quantity.split()[0] in ("auto", "closed") for r in results if r.quantity)
    lines = [f"- {reason}: {len(cases)} cases, {next(iter(cases))} among them" for reason, cases in why.items()]
    return "\n".join([*lines, *([] if gradients else ["- gradients: the library has no autodiff"])])


def _gravity(result: Result) -> int:
    found = result.measured
    return 2 if found is None or found.spurious or found.missing else 1 if found.lost else 0


def summary(results: list[Result]) -> str:
    """One line: how much ran, how much of it failed, what was flushed."""
    ran = [r for r in results if r.mode and r.status != "not run"]
    numbers = sum(r.measured.count for r in ran if r.measured)
    flushed = sum(r.measured.flushed for r in ran if r.measured)
    lost = sum(r.measured.lost for r in ran if r.measured)
    odd = sum(r.measured.spurious + r.measured.missing for r in ran if r.measured)
    cells = len({(r.implementation, r.function, r.backend, r.mode, r.dtype) for r in ran})
    return (
        f"{cells} cells, {len(ran)} records, {numbers} numbers measured: {sum(r.failed for r in ran)} records failed, "
        f"{lost} numbers lost, {odd} non-finite without need or missing, {flushed} subnormals flushed by a compiler"
    )


def write(
    results: list[Result], spreads: list[Spread], directory: Path, title: str, sections: Mapping[str, str]
) -> None:
    """`results.json` and `summary.md`, dated and with versions; the sections come under the matrix."""
    directory.mkdir(parents=True, exist_ok=True)
    about = {
        "schema": 2,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions(),
    }
    records = {"about": about, "results": [r.as_json() for r in results], "spread": [asdict(s) for s in spreads]}
    (directory / "results.json").write_text(json.dumps(records, indent=1, default=str) + "\n")
    found = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = f"# {title}\n\n{about['date']}; Python {about['python']}; {found}\n\n{LEGEND}\n\n"
    text += f"{matrix(results)}\n\n{summary(results)}\n"
    text += "".join(f"\n## {heading}\n\n{body}\n" for heading, body in sections.items() if body)
    if any(r.failed for r in results):
        text += f"\n## Failures\n\n```\n{failures(results)}\n```\n"
    (directory / "summary.md").write_text(text)


LEGEND = (
    "Worst error in ULP of the exact result, value / gradient, and in brackets the worst after k, what conditioning "
    "takes (shared/DESIGN.md, section 4); that one is held to the budget."
)
