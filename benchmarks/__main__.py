"""`python -m benchmarks`: time and memory of the losses, divided by those of each library's own loss."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import arrayloss
from benchmarks import against, growth, memory, report, timing
from benchmarks.rows import Row, rows


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows that are asked for. Returns 1 if none could be measured."""
    asked = _parser().parse_args(arguments)
    chosen = [r for r in rows(asked.std) if not asked.row or any(part in r.name for part in asked.row)]
    if asked.list:
        print(*(f"{row.name} std {row.std}" for row in chosen), sep="\n")
        return 0
    timing.keep_freed_memory()
    with tempfile.TemporaryDirectory() as room:
        before = against.load(Path(asked.against), Path(room)) if asked.against else None
        found = _measure(chosen, asked.seconds, before)
    about = report.about(asked.against)
    print(report.text(found, about))
    if asked.json:
        Path(asked.json).write_text(json.dumps(report.as_json(found, about), indent=1) + "\n")
    if asked.report:
        Path(asked.report).write_text(report.text(found, about))
    if asked.plot:
        growth.plot(Path(asked.plot), asked.largest)
    return int(all(m.reason for m in found))


def _measure(chosen: list[Row], seconds: float, before: Any) -> list[report.Measured]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    found = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(chosen))
        for row in chosen:
            progress.update(task, description=f"{row.name} std {row.std}")
            found.append(report.Measured(row, row.missing()))
            if found[-1].reason is None:
                found[-1] = _measured(row, seconds, before)
            progress.advance(task)
    return found


def _measured(row: Row, seconds: float, before: Any) -> report.Measured:
    contest = row.contest(row, arrayloss)
    calls = {"ours": contest.ours, "theirs": contest.theirs}
    if before is not None:
        other = row.contest(row, before)
        calls["before"] = other.ours
        if not row.peer.module:
            calls["before_theirs"] = other.theirs
    if row.memory:
        return report.Measured(row, None, **{who: memory.PEAK[row.library](call) for who, call in calls.items()})
    times = timing.medians(calls | {"passing": contest.passing}, seconds, pause=contest.pause)
    return report.Measured(row, None, **times, bytes=contest.bytes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("row", nargs="*", help="part of a row's name (--list prints them); without it, all rows")
    parser.add_argument("--std", action="append", default=[], help="measure the rows at this standard deviation of the "
                        "logits, also those that have no bound for it; may be repeated")  # fmt: skip
    parser.add_argument("--against", metavar="DIR", help="measure the arrayloss of this checkout too, as `before`")
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and measure nothing")
    parser.add_argument("--seconds", type=float, default=4, help="how long to measure each row")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--report", metavar="FILE", help="write the table to FILE, as Markdown")
    parser.add_argument("--plot", metavar="FILE", help="plot time and memory over the size (needs matplotlib)")
    parser.add_argument("--largest", type=float, default=1e8, help="the most elements that --plot measures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
