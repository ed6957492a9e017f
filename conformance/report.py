"""The matrix, the results file and the summary, from plain records."""

from __future__ import annotations

import importlib
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from arrayloss.testing import backends

from . import compare, curves, failures, named, page
from .backends import versions
from .compare import SCHEMA
from .failures import Failure
from .runner import Result, Spread

Cell = tuple[str, str, str]
Place = tuple[str, str, str, str, str]
"""Implementation, function, dtype, backend and mode."""


def columns(results: Iterable[Result]) -> list[tuple[str, str, str]]:
    """Implementation, backend and mode of each column that has results."""
    seen = {(r.implementation, r.backend, r.mode): None for r in results if r.mode and r.status != "not run"}
    return list(seen)


def cell(results: list[Result]) -> str:
    """Worst value and gradient in ULP as measured, then what is left after k; `FAIL` first where there is a failure."""
    ran = [r for r in results if r.status != "not run"]
    if not ran:
        return "not covered" if results else "-"
    if any(r.status == "error" for r in ran) and not any(r.measured for r in ran):
        return "FAIL (raised)"
    parts = [pair for value in (True, False) if (pair := _worst(ran, value)) is not None]
    if not parts:  # loss curves only
        return "FAIL" if any(r.failed for r in ran) else "curve ok"
    return ("FAIL " if any(r.failed for r in ran) else "") + _figures(parts)


def _worst(ran: list[Result], value: bool) -> tuple[float, float] | None:
    """The worst error of values or of gradients, as measured and after k; None where there is none."""
    mine = [r.measured for r in ran if r.measured and r.quantity.endswith("value") == value]
    return (max(m.worst for m in mine), max(m.after_k for m in mine)) if mine else None


def _figures(pairs: list[tuple[float, float]]) -> str:
    """Errors as measured, and what is left of them after k, where that is something else."""
    measured, after = (" / ".join(short(pair[i]) for pair in pairs) for i in (0, 1))
    return measured if measured == after else f"{measured} (after k {after})"


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
    absent = list(dict.fromkeys(f"- {r.backend}: not run: {r.reason}" for r in results if not r.mode))
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


def not_covered(results: Iterable[Result]) -> str:
    """What could not be asked, and why, as a Markdown list."""
    why: dict[str, dict[str, None]] = defaultdict(dict)
    for r in results:
        if r.mode and r.status == "not run":
            why[r.reason][f"{r.case} {r.dtype}"] = None
    lines = [f"- {reason}: {len(cases)} cases, {next(iter(cases))} among them" for reason, cases in why.items()]
    places = dict.fromkeys(r.backend for r in results if r.mode)
    plain = [name for name in places if not named.backend(name).differentiates]
    return "\n".join([*lines, *(f"- gradients: {name} has no autodiff" for name in plain)])


def summary(results: list[Result]) -> str:
    """A paragraph: how much ran, how much of it failed, what was flushed."""
    ran = [r for r in results if r.mode and r.status != "not run"]
    measured = [r.measured for r in ran if r.measured]
    numbers, flushed, lost, over, spurious, missing = (
        sum(getattr(m, name) for m in measured) for name in ("count", "flushed", "lost", "over", "spurious", "missing")
    )
    functions, places, formats = {r.function for r in ran}, {(r.backend, r.mode) for r in ran}, {r.dtype for r in ran}
    all_cells, bad_cells = (
        {(r.implementation, r.function, r.backend, r.mode, r.dtype) for r in some}
        for some in (ran, [r for r in ran if r.failed])
    )
    cells, bad = len(all_cells), len(bad_cells)
    verdict = f"{bad} of {cells} cells FAILED" if bad else f"All {cells} cells are within the contract"
    return (
        f"{len(functions)} functions on {len(places)} libraries and modes in {len(formats)} number formats: "
        f"{numbers:,} numbers were compared with their exact values, in {len(ran):,} records, of which "
        f"{sum(r.failed for r in ran):,} failed. {verdict}. Numbers over budget: {over:,}; lost (0 for a number): "
        f"{lost:,}; NaN or inf where wrong, or missing: {spurious + missing:,}. Below the smallest normal number, "
        f"{flushed:,} were flushed to 0, which is allowed."
    )


def document(
    results: list[Result],
    spreads: list[Spread],
    failed: list[Failure],
    title: str,
    sections: Mapping[str, str],
    beside: Iterable[Result] = (),
) -> dict[str, Any]:
    """Everything that a run found, as plain data: what `results.json` holds and the page is made from.

    `beside` are records of other implementations that are only drawn.
    """
    mine: dict[Place, list[Result]] = defaultdict(list)
    for r in results:
        if r.mode:
            mine[r.implementation, r.function, r.dtype, r.backend, r.mode].append(r)
    others: dict[Place, list[Result]] = defaultdict(list)
    for r in beside:
        if r.mode:
            others[r.implementation, r.function, r.dtype, r.backend, r.mode].append(r)
    absent = {r.backend: r.reason for r in results if not r.mode}
    known = [b.name for b in backends()]
    ran = {r.backend for r in results if r.mode and r.status != "not run"}
    there = sorted(ran, key=lambda name: (known.index(name) if name in known else len(known), name))
    labels = {label: i for i, label in enumerate(dict.fromkeys(r.case for group in mine.values() for r in group))}
    return {
        "schema": SCHEMA,
        "about": {
            "title": title,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.platform(terse=True),
            "versions": versions(),
            "devices": devices(there),
            "summary": summary(results),
            "sections": dict(sections),
        },
        "backends": [{"name": name, "missing": None} for name in there]
        + [{"name": name, "missing": reason} for name, reason in absent.items()],
        "cells": [_cell(*place, group) for place, group in mine.items()],
        "failures": [asdict(f) for f in failed],
        "spread": [{**asdict(s), "ulp": _few(s.ulp)} for s in spreads],
        "curves": [c for groups in (mine, others) for place, group in groups.items() for c in _curves(*place, group)],
        "cases": list(labels),
        "record_fields": list(FIELDS),
        "records": [
            _record(i, labels[r.case], r)
            for i, group in enumerate(mine.values())
            for r in group
            if r.status != "not run"
        ],
    }


def _cell(
    implementation: str, function: str, dtype: str, backend: str, mode: str, group: list[Result]
) -> dict[str, Any]:
    """One function and dtype on one backend in one mode."""
    ran = [r for r in group if r.status != "not run"]
    return {
        "implementation": implementation,
        "function": function,
        "dtype": dtype,
        "backend": backend,
        "mode": mode,
        "records": len(ran),
        "failed": sum(r.failed for r in ran),
        "numbers": sum(r.measured.count for r in ran if r.measured),
        "flushed": sum(r.measured.flushed for r in ran if r.measured),
        "share": _few(max((_share(r) for r in ran), default=0.0)),
        "quantities": _parts(ran, lambda r: r.quantity or "call", "quantity"),
        "families": _parts(ran, lambda r: r.family, "family"),
        "not_covered": dict(Counter(r.reason for r in group if r.status == "not run")),
    }


def _parts(ran: list[Result], of: Callable[[Result], str], name: str) -> list[dict[str, Any]]:
    """The same records by quantity or by family, each with the one that uses most of its budget."""
    grouped: dict[str, list[Result]] = defaultdict(list)
    for r in ran:
        grouped[of(r)].append(r)
    found = []
    for part, same in grouped.items():
        worst = max(same, key=lambda r: (r.failed, _share(r)))
        measured = [r.measured for r in same if r.measured]
        found.append(
            {
                name: part,
                "records": len(same),
                "failed": sum(r.failed for r in same),
                "worst": _few(max((m.worst for m in measured), default=0.0)),
                "after_k": _few(max((m.after_k for m in measured), default=0.0)),
                "measured": bool(measured),
                "share": _few(_share(worst)),
                "budget": worst.budget,
                "case": worst.case,
                "reason": worst.reason,
            }
        )
    return found


def _share(r: Result) -> float:
    """How much of its budget a record uses."""
    return r.measured.after_k / r.budget if r.measured and r.budget else 0.0


def _few(number: float) -> float:
    """Four digits are enough of an error."""
    return float(f"{number:.4g}")


FIELDS = ("cell", "case", "quantity", "status", "budget", "numbers", "worst", "after_k", "flushed", "reason")


def _record(cell: int, label: int, r: Result) -> list[Any]:
    """One record, in the order of `FIELDS`; `cell` and `case` count into the lists of those."""
    m = r.measured
    numbers = [m.count, _few(m.worst), _few(m.after_k), m.flushed] if m else [0, None, None, 0]
    return [cell, label, r.quantity, r.status, r.budget, *numbers, *([r.reason] if r.reason else [])]


def _curves(
    implementation: str, function: str, dtype: str, backend: str, mode: str, group: list[Result]
) -> Iterator[dict[str, Any]]:
    """Error over margin, value and gradient: `points` are bin, worst error (null: NaN or inf came back), budget."""
    for kind in curves.QUANTITIES:
        tables = [r.points for r in group if r.points is not None and r.points.size and r.quantity.endswith(kind)]
        if not tables:
            continue
        table = np.concatenate(tables)
        points = []
        for at in np.unique(table[:, 0]):
            worst, allowed = np.max(table[table[:, 0] == at, 1:], axis=0)
            points.append([int(at), _few(float(worst)) if np.isfinite(worst) else None, _few(float(allowed))])
        yield {
            "implementation": implementation,
            "function": function,
            "dtype": dtype,
            "backend": backend,
            "mode": mode,
            "quantity": kind,
            "points": points,
        }


def devices(names: Iterable[str]) -> dict[str, str]:
    """What the backends that ran have run on."""
    found = {}
    for name in names:
        library, _, device = name.partition(":")
        if library == "torch" and device == "cuda":
            found[name] = str(importlib.import_module("torch").cuda.get_device_name(0))
        elif library == "jax" and device == "cuda":
            found[name] = str(importlib.import_module("jax").devices("cuda")[0].device_kind)
        elif library == "cupy":
            found[name] = importlib.import_module("cupy").cuda.runtime.getDeviceProperties(0)["name"].decode()
        else:
            found["cpu"] = _processor()
    return found


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def write(found: Mapping[str, Any], results: list[Result], failed: list[Failure], directory: Path) -> None:
    """`index.html`, `results.json` and `summary.md`, dated and with versions."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(_lines(found))
    (directory / "index.html").write_text(page.render(found))
    about = found["about"]
    packages = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    text = f"# {about['title']}\n\n{about['date']}; Python {about['python']}; {packages}\n\n{LEGEND}\n\n"
    text += f"{matrix(results)}\n\n{about['summary']}\n"
    text += "".join(f"\n## {heading}\n\n{body}\n" for heading, body in about["sections"].items() if body)
    if "compared" in found:
        text += f"\n## {compare.heading(found['compared'])}\n\n{compare.told(found['compared'])}\n"
    if failed:
        text += f"\n## Failures\n\n```\n{failures.told(failed)}\n```\n"
    (directory / "summary.md").write_text(text)


def _lines(found: Mapping[str, Any]) -> str:
    """JSON with one entry of each list on a line: small, and a difference of two files can be read."""
    parts = []
    for name, value in found.items():
        if isinstance(value, list) and value:
            entries = ",\n".join(json.dumps(v, separators=(",", ":"), allow_nan=False) for v in value)
            parts.append(f"{json.dumps(name)}: [\n{entries}\n]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value, indent=1, allow_nan=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


LEGEND = (
    "The worst error **as measured**, value / gradient, in units in the last place (ULP) of the exact result: 0.5 is "
    'perfect rounding. "(after k ...)" is the error minus k, which is the error that the rounding of x - max may cause '
    "if a logit is far below the maximum of its row. It is given if it differs, and the budget is a limit for it. "
    "A cell fails if a number in it is over budget, or is 0, NaN or inf where it should not be."
)


# ---------------------------------------------------------------- the README's table

SHOWN = (
    "cross_entropy",
    "softmax_focal_loss",
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
)
COLUMNS = {
    "NumPy": ("numpy", "eager"),
    "torch": ("torch:cpu", "eager"),
    "torch.compile": ("torch:cpu", "torch.compile"),
    "JAX": ("jax:cpu", "eager"),
    "jax.jit": ("jax:cpu", "jax.jit"),
}
START, END = "<!-- measured: python -m conformance --readme RESULTS -->", "<!-- end of what was measured -->"


def readme(found: Mapping[str, Any], text: str) -> str:
    """The text with the block between `START` and `END` made anew from a results document."""
    cells = {(c["function"], c["backend"], c["mode"]): c for c in found["cells"] if c["dtype"] == "float32"}
    rows = [["", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for function in SHOWN:
        rows.append([f"`{function}`", *(_shown(cells.get((function, *place))) for place in COLUMNS.values())])
    failed = sum(c["failed"] for c in found["cells"])
    records = sum(c["records"] for c in found["cells"])
    block = [
        "The worst error in float32, in units in the last place of the exact result: value / gradient **as measured**, "
        "and in",
        f"brackets **after k**, if this number differs ({found['about']['date'][:10]}, on a CPU; of {records:,} "
        f"records, {'none' if not failed else f'{failed:,}'} failed):",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    before, begun, rest = text.partition(START)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"the text has no block from {START} to {END}")
    return before + "\n".join([START, *block, END]) + after


def _shown(found: Mapping[str, Any] | None) -> str:
    """A cell of the results as the README has it."""
    if found is None:
        return "-"
    pairs = []
    for value in (True, False):
        mine = [q for q in found["quantities"] if q["measured"] and q["quantity"].endswith("value") == value]
        if mine:
            pairs.append((max(q["worst"] for q in mine), max(q["after_k"] for q in mine)))
    return _figures(pairs).replace("after k ", "") if pairs else "-"
