"""`python -m conformance`: judge the losses on every library found here."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conformance import hunt, real, report, runner, share
from conformance.backends import arrayloss, backends
from conformance.cases import FAMILIES, FUNCTIONS, SLOW
from conformance.formats import FORMATS
from conformance.runner import Result, Selection

MODES = ("eager", "jax.jit", "torch.compile")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 on any failure, or where nothing ran."""
    asked = _parser().parse_args(arguments)
    if asked.list:
        _list()
        return 0
    selection = Selection(
        tuple(asked.function),
        tuple(asked.backend),
        tuple(asked.mode),
        tuple(asked.dtype),
        tuple(asked.family),
        asked.seed,
        asked.quick,
    )
    began = time.monotonic()
    if asked.hunt:
        found = hunt.hunt(arrayloss(), selection, asked.hunt)
        print(hunt.told(found))
        hunt.keep(found)
        return 0
    if asked.peers:
        results = _run(share.PEERS, selection, asked.workers)
    else:
        results = _run(share.OURS, selection, asked.workers)
        if not selection.families or real.FAMILY in selection.families:
            results += list(real.judged(arrayloss(), selection))
    print(report.matrix(results))
    if not asked.peers:
        print(report.failures(results))
    print(report.summary(results), f"in {time.monotonic() - began:.0f} s")
    if asked.quick:
        print(f"{runner.QUICK} Families left out altogether: {', '.join(SLOW)}.")
    if asked.report:
        report.write(results, Path(asked.report), "Peers" if asked.peers else "Conformance")
    ran = [r for r in results if r.mode and r.status != "not run"]
    if not ran:
        print("Nothing ran.", file=sys.stderr)
        return 1
    return int(any(r.failed for r in ran) and not asked.peers)


def _run(work: share.Work, selection: Selection, workers: int) -> list[Result]:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    results: list[Result] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(share.parts(selection)))
        for done in share.run(work, selection, workers):
            results += done
            failed = sum(r.failed for r in results)
            progress.update(task, advance=1, description=f"[red]{failed} failed[/red]" if failed else "all well")
    order = {name: place for place, name in enumerate(FUNCTIONS)}
    return sorted(results, key=lambda r: (order.get(r.function, -1), list(FORMATS).index(r.dtype or "float16")))


def _list() -> None:
    print("functions:", *FUNCTIONS)
    print("families: ", *FAMILIES, real.FAMILY, hunt.FAMILY)
    print("dtypes:   ", *FORMATS)
    print("modes:    ", *MODES)
    for backend in backends():
        print("backend:  ", backend.name, f"(not here: {backend.missing()})" if backend.missing() else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a minute: no torch.compile, no wide cases")
    parser.add_argument("--function", action="append", default=[], choices=FUNCTIONS)
    parser.add_argument("--backend", action="append", default=[], choices=[b.name for b in backends()])
    parser.add_argument("--mode", action="append", default=[], choices=MODES)
    parser.add_argument("--dtype", action="append", default=[], choices=list(FORMATS))
    parser.add_argument("--family", action="append", default=[], choices=[*FAMILIES, real.FAMILY, hunt.FAMILY])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hunt", type=float, metavar="SECONDS", help="search at random for worse inputs")
    parser.add_argument("--peers", action="store_true", help="judge the libraries' own losses by the same cases")
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes to share the run among"
    )
    parser.add_argument("--list", action="store_true", help="what can be selected, and what is installed")
    parser.add_argument("--report", metavar="DIR", help="write results.json and summary.md there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
