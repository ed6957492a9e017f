"""`python -m conformance`: judge the losses on every library found here."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conformance import hunt, named, peers, real, report, runner, share
from conformance.backends import arrayloss, backends
from conformance.cases import FAMILIES, FUNCTIONS
from conformance.formats import FORMATS
from conformance.runner import Result, Selection, Spread, Spreads

BACKEND = "one of those that --list names, or any array API namespace, as module or module:object"
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
    spreads: Spreads = {}
    results = _run(share.PEERS if asked.peers else share.OURS, selection, asked.workers, spreads)
    ours = sorted((s for s in spreads.values() if s.implementation == "arrayloss"), key=_order)
    sections = {
        "Where a peer is still better than we are": peers.better(results) if asked.peers else "",
        "Spread: the farthest apart that any two libraries are, in ULP": ""
        if asked.peers or not ours
        else report.apart(ours),
        "Left out": runner.left_out(selection),
    }
    print(report.matrix(results))
    for heading, body in sections.items():
        if body:
            print(f"\n{heading}\n{body}")
    print()
    if not asked.peers:
        print(report.failures(results))
    print(report.summary(results), f"in {time.monotonic() - began:.0f} s")
    if asked.report:
        report.write(results, ours, Path(asked.report), "Peers" if asked.peers else "Conformance", sections)
    ran = [r for r in results if r.mode and r.status != "not run"]
    if not ran:
        print("Nothing ran.", file=sys.stderr)
        return 1
    return int(any(r.failed for r in ran) and not asked.peers)


def _run(work: share.Work, selection: Selection, workers: int, spreads: Spreads) -> list[Result]:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    results: list[Result] = []
    cut = share.tasks(work, selection)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(cut))
        for done, apart in share.run(cut, workers):
            results += done
            runner.widen(spreads, apart)
            failed = sum(r.failed for r in results)
            progress.update(task, advance=1, description=f"[red]{failed} failed[/red]" if failed else "all well")
    return sorted(results, key=_order)


def _order(one: Result | Spread) -> tuple[int, int]:
    """By function, then by dtype; what was not run at all first."""
    return FUNCTIONS.index(one.function) if one.function else -1, list(FORMATS).index(one.dtype or "float16")


def _list() -> None:
    print("functions:", *FUNCTIONS)
    print("families: ", *FAMILIES, real.FAMILY, hunt.FAMILY)
    print("dtypes:   ", *FORMATS)
    print("modes:    ", *MODES)
    for backend in backends():
        print("backend:  ", backend.name, f"(not here: {backend.missing()})" if backend.missing() else "")


def _backend(name: str) -> str:
    """A name that a backend is found by."""
    try:
        named.backend(name)
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from reason
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a minute: no torch.compile, no wide cases")
    parser.add_argument("--function", action="append", default=[], choices=FUNCTIONS)
    parser.add_argument("--backend", action="append", default=[], type=_backend, metavar="NAME", help=BACKEND)
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
