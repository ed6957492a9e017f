"""Two results files: what got worse or better, what is new or missing, which failures came and went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 3
"""Of the results file; raised whenever a reader of the old one would misread the new one."""

NOTICED = 0.05
"""A change of less than this, in ULP, isn't told."""

Results = Mapping[str, Any]
Cells = dict[tuple[str, ...], Mapping[str, Any]]

WORDS = ("fails now", "mended", "worse", "better", "new", "missing")
"""What can be said of a cell, the most urgent first."""


def read(path: Path) -> dict[str, Any]:
    """A results file; ValueError where it isn't one of this schema."""
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no results file: {error}") from error
    schema = found.get("schema", found.get("about", {}).get("schema")) if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}, and only {SCHEMA} can be compared: run it again")
    return dict(found)


def compare(old: Results, new: Results) -> dict[str, Any]:
    """What changed from `old` to `new`, as plain data.

    Returns
    -------
    dict
        `since` (the date of the old file), `changes` (a list of cells: what happened, and for value and gradient the
        worst error after k before and after), `came` and `went` (lists of failures, by cell, quantity and case) and
        `same` (how many cells did not change). A failure has gone only where its cell has been run again.
    """
    before, after = _cells(old), _cells(new)
    changes = [change for key in dict.fromkeys([*after, *before]) for change in _change(key, before, after)]
    failed_before, failed_after = _failed(old), _failed(new)
    return {
        "since": old["about"]["date"],
        "changes": sorted(changes, key=lambda change: WORDS.index(change["what"])),
        "came": [_named(key) for key in failed_after if key not in failed_before and key[:5] in before],
        "went": [_named(key) for key in failed_before if key not in failed_after and key[:5] in after],
        "same": len(before.keys() & after.keys()) - sum(c["what"] not in ("new", "missing") for c in changes),
    }


def newly_failing(compared: Mapping[str, Any]) -> bool:
    """Whether a cell fails that did not, or a failure came in a cell that failed already."""
    return bool(compared["came"]) or any(change["what"] == "fails now" for change in compared["changes"])


def _cells(results: Results) -> Cells:
    names = ("implementation", "function", "dtype", "backend", "mode")
    return {tuple(c[n] for n in names): c for c in results["cells"] if c["records"]}


def _change(key: tuple[str, ...], before: Cells, after: Cells) -> Iterator[dict[str, Any]]:
    old, new = before.get(key), after.get(key)
    figures = {
        kind: [None if cell is None else _worst(cell, kind) for cell in (old, new)] for kind in ("value", "gradient")
    }
    gaps = [b - a for a, b in figures.values() if a is not None and b is not None]
    if old is None or new is None:
        what = "new" if old is None else "missing"
    elif bool(old["failed"]) != bool(new["failed"]):
        what = "fails now" if new["failed"] else "mended"
    elif max(gaps, default=0) >= NOTICED:
        what = "worse"
    elif min(gaps, default=0) <= -NOTICED:
        what = "better"
    else:
        return
    names = ("implementation", "function", "dtype", "backend", "mode")
    yield {"what": what, **dict(zip(names, key, strict=True)), **figures}


def _worst(cell: Mapping[str, Any], kind: str) -> float | None:
    found = [
        q["after_k"]
        for q in cell["quantities"]
        if q["measured"] and q["quantity"].endswith("value") == (kind == "value")
    ]
    return max(found, default=None)


def _failed(results: Results) -> dict[tuple[str, ...], None]:
    """The failed records, each by cell, quantity and case."""
    found: dict[tuple[str, ...], None] = {}
    for record in results["records"]:
        entry = dict(zip(results["record_fields"], record, strict=False))
        if entry["status"] in ("FAIL", "error"):
            cell = results["cells"][entry["cell"]]
            place = (cell[n] for n in ("implementation", "function", "dtype", "backend", "mode"))
            found[*place, entry["quantity"] or "call", results["cases"][entry["case"]]] = None
    return found


def _named(key: tuple[str, ...]) -> dict[str, str]:
    names = ("implementation", "function", "dtype", "backend", "mode", "quantity", "case")
    return dict(zip(names, key, strict=True))


def heading(compared: Mapping[str, Any]) -> str:
    """The title of what is told."""
    return f"Changed since {compared['since']}"


def told(compared: Mapping[str, Any]) -> str:
    """The changes as a Markdown table, and the failures that came and went as lists."""
    lines = []
    if compared["changes"]:
        rows = [["what", "function", "dtype", "where", "value", "gradient"], ["---"] * 6]
        for c in compared["changes"]:
            where = f"{c['implementation']} on {c['backend']} {c['mode']}"
            rows.append([c["what"], c["function"], c["dtype"], where, _figures(c["value"]), _figures(c["gradient"])])
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    for word, name in (("Came", "came"), ("Went", "went")):
        found = compared[name]
        lines += [f"{word}: {len(found)} failed records", ""] if found else []
        for f in found[:20]:
            lines.append(f"- {f['function']}, {f['quantity']}, {f['dtype']} on {f['backend']} {f['mode']}: {f['case']}")
        lines += ([f"- and {len(found) - 20} more"] if len(found) > 20 else []) + ([""] if found else [])
    return "\n".join([*lines, f"Cells as before, within {NOTICED:g} ULP after k: {compared['same']}."])


def _figures(pair: list[float | None]) -> str:
    before, after = ("-" if number is None else f"{number:.3g}" for number in pair)
    return before if before == after else f"{before} -> {after}"
