"""`python -m benchmarks`: time and memory of the losses over those of each library's own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import growth, report, rows, timing


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows that are asked for; 1 where nothing could be run."""
    asked = _parser().parse_args(arguments)
    every: list[rows.Row | rows.Memory] = [*rows.rows(), *rows.memories()]
    chosen = [r for r in every if not asked.row or any(s in r.name for s in asked.row)]
    if asked.list:
        for row in chosen:
            print(row.name)
        return 0
    timing.keep_freed_memory()
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    found: list[report.Measured] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(chosen))
        for row in chosen:
            progress.update(task, description=row.name)
            found.append(_measured(row, asked.seconds))
            progress.advance(task)
    about = report.about()
    print(report.text(found, about))
    if asked.json:
        Path(asked.json).write_text(json.dumps(report.as_json(found, about), indent=1) + "\n")
    if asked.report:
        Path(asked.report).write_text(report.text(found, about))
    if asked.plot:
        growth.plot(Path(asked.plot), asked.largest)
    return int(all(m.reason for m in found))


def _measured(row: rows.Row | rows.Memory, seconds: float) -> report.Measured:
    reason = rows.missing(row.library) if isinstance(row, rows.Memory) else row.missing()
    if reason is not None:
        return report.Measured(row, reason)
    if isinstance(row, rows.Memory):
        ours, theirs = (row.measure(call(row.shape)) for call in (row.call, row.theirs))
        return report.Measured(row, None, ours, theirs)
    contest = row.contest(row)
    calls = {"ours": contest.ours, "theirs": contest.theirs, "passing": contest.passing}
    times = timing.medians(calls, seconds, pause=contest.pause)
    return report.Measured(row, None, times["ours"], times["theirs"], times["passing"], contest.bytes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("row", nargs="*", help="part of a row's name (--list tells them); all, if none is given")
    parser.add_argument("--list", action="store_true", help="the rows there are")
    parser.add_argument("--seconds", type=float, default=4, help="for each row")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--report", metavar="FILE", help="write the table there, as Markdown")
    parser.add_argument("--plot", metavar="FILE", help="draw time and memory against size (needs matplotlib)")
    parser.add_argument("--largest", type=float, default=1e8, help="elements up to which --plot goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
