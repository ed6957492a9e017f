"""`python -m benchmarks`: time and memory of the losses, divided by those of each library's own loss."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import arrayloss
from benchmarks import against, growth, kernels, memory, report, timing
from benchmarks.rows import Row, dry, rows


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows that are asked for. Returns 1 if none could be measured."""
    asked = _parser().parse_args(arguments)
    chosen = [r for r in rows(asked.std) if not asked.row or any(part in r.name for part in asked.row)]
    if asked.dry:
        chosen = [dry(row) for row in chosen]
    if asked.list:
        print(*(f"{row.name} std {row.std}" for row in chosen), sep="\n")
        return 0
    timing.keep_freed_memory()
    about = report.about(asked.against, {row.library for row in chosen if row.missing() is None})
    found: list[report.Measured] = []
    with tempfile.TemporaryDirectory() as room:
        before = against.load(Path(asked.against), Path(room)) if asked.against else None
        for measured in _measure(chosen, asked.seconds, before):
            found.append(measured)
            # Row by row, in case that the rest is never measured.
            if asked.json:
                Path(asked.json).write_text(json.dumps(report.as_json(found, about), indent=1) + "\n")
            if asked.report:
                Path(asked.report).write_text(report.text(found, about))
    print(report.text(found, about))
    if asked.plot:
        growth.plot(Path(asked.plot), asked.largest)
    return int(all(m.reason for m in found))


def _measure(chosen: list[Row], seconds: float, before: Any) -> Iterator[report.Measured]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(chosen))
        for row in chosen:
            progress.update(task, description=f"{row.name} std {row.std}")
            reason = row.missing()
            try:
                yield report.Measured(row, reason) if reason else _measured(row, seconds, before)
            except Exception as error:
                if not row.device:
                    raise
                # A row that a device has no room for, say, is no reason to leave out the others.
                yield report.Measured(row, f"{row.name}: {type(error).__name__}: {error}".partition("\n")[0])
            progress.advance(task)


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
    # The profiler sees all kernels of the process, but JAX's are one program anyway.
    counts = row.device == "cuda" and not row.library.startswith("jax")
    return report.Measured(
        row, None, **times, bytes=contest.bytes, kernels=kernels.started(contest.ours) if counts else 0
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("row", nargs="*", help="part of a row's name (--list prints them); without it, all rows")
    parser.add_argument("--std", action="append", default=[], help="measure the rows at this standard deviation of the "
                        "logits, also those that have no bound for it; may be repeated")  # fmt: skip
    parser.add_argument("--against", metavar="DIR", help="measure the arrayloss of this checkout too, as `before`")
    parser.add_argument("--dry", action="store_true", help="the rows of a device, small and on the CPU: a try")
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and measure nothing")
    parser.add_argument("--seconds", type=float, default=4, help="how long to measure each row")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--report", metavar="FILE", help="write the table to FILE, as Markdown")
    parser.add_argument("--plot", metavar="FILE", help="plot time and memory over the size (needs matplotlib)")
    parser.add_argument("--largest", type=float, default=1e8, help="the most elements that --plot measures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
