"""`python -m conformance`: judge the losses on every library found here, quickly, or with --full by every case."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from arrayloss.testing import FORMATS, backends, own_traceback

from . import compare, curves, failures, fuzz, golden, hunt, named, peers, plan, real, report, runner, share
from .backends import arrayloss
from .cases import FAMILIES, FUNCTIONS
from .runner import Result, Selection, Spread, Spreads

BACKEND = "one of those that --list names, or any array API namespace, as module or module:object"
MODES = ("eager", "jax.jit", "torch.compile")
QUICK_TAKES = "about a minute on 2 cores"
FULL_TAKES = "about 15 minutes on 2 cores"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 on any failure, or where nothing ran."""
    # An installed command has not the current folder on its path, as `python -m` has; a candidate may be there.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    parser = _parser()
    asked = parser.parse_args(arguments)
    if (asked.as_ or asked.budget is not None) and not asked.candidate:
        parser.error("--as and --budget are for a --candidate")
    if asked.candidate and (asked.peers or asked.hunt or asked.vectors or asked.readme):
        parser.error("--candidate is judged alone")
    if len(asked.compare) > 2:
        parser.error("--compare takes one results file, or two")
    if asked.list:
        _list()
        return 0
    try:
        known = [compare.read(Path(name)) for name in asked.compare]
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if len(known) == 2:
        print(compare.told(compare.compare(*known)))
        return int(compare.newly_failing(compare.compare(*known)))
    began = time.monotonic()
    selection = _selection(asked)
    if asked.vectors:
        golden.write(Path(asked.vectors))
        return 0
    if asked.readme:
        page = Path("README.md")
        page.write_text(report.readme(compare.read(Path(asked.readme)), page.read_text()))
        return 0
    if asked.hunt:
        found = hunt.hunt(arrayloss(), replace(selection, quick=False), asked.hunt)
        print(hunt.told(found))
        hunt.keep(found)
        seeds = itertools.count(selection.seed * 10**9)
        tally = fuzz.search(
            arrayloss(), asked.hunt, seeds=seeds, only=selection.backends, functions=selection.functions
        )
        print(tally)
        return int(bool(tally.found))
    spreads: Spreads = {}
    try:
        work, selection = selected(asked)
    except ValueError as error:
        raised = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else ()
        print(*map(own_traceback, raised), error, sep="\n", file=sys.stderr)
        return 2
    if asked.peers:
        work = share.PEERS
    workers = asked.workers or (1 if asked.candidate else min(2, os.cpu_count() or 1))
    if not asked.candidate:
        print(_announced(selection, asked.peers), file=sys.stderr)
    results = _run(work, selection, workers, spreads)
    families_named = selection.families or selection.modes
    ours = sorted((s for s in spreads.values() if s.implementation == "arrayloss"), key=_order)
    sections = {
        "Where a peer is still better than we are": peers.better(results) if asked.peers else "",
        "Spread: the largest difference between any two libraries, in ULP": ""
        if asked.peers or not ours
        else report.apart(ours),
        "Left out": work.left_out if asked.candidate else "" if families_named else plan.left_out(selection.quick),
        "Not covered": report.not_covered(results) if asked.candidate else "",
    }
    print(report.LEGEND, report.matrix(results), sep="\n\n")
    for heading, body in sections.items():
        if body:
            print(f"\n{heading}\n{body}")
    print()
    small = failures.CANDIDATE if asked.candidate else failures.QUICK if selection.quick else {}
    failed = [] if asked.peers else failures.gather(results, work.implementations(), **small)
    if failed:
        print(failures.told(failed))
    print(report.summary(results), f"It took {time.monotonic() - began:.0f} s.")
    families = tuple(f for f in curves.FAMILIES if f in (selection.families or FAMILIES))
    drawn = []
    if asked.report and families and not asked.peers:
        drawn = _run(share.BESIDE, _drawn(selection, families), workers, {})
    whole = report.document(results, ours, failed, "Peers" if asked.peers else "Conformance", sections, drawn)
    for old in known:
        whole["compared"] = compare.compare(old, whole)
        print(f"\n{compare.heading(whole['compared'])}\n{compare.told(whole['compared'])}")
    if asked.report:
        report.write(whole, results, failed, Path(asked.report))
    ran = [r for r in results if r.mode and r.status != "not run"]
    if not ran:
        print("Nothing ran.", file=sys.stderr)
        return 1
    worse = "compared" in whole and compare.newly_failing(whole["compared"])
    return int(worse or (any(r.failed for r in ran) and not asked.peers))


def _selection(asked: argparse.Namespace) -> Selection:
    return Selection(
        tuple(asked.function),
        tuple(asked.backend),
        tuple(asked.mode),
        tuple(asked.dtype),
        tuple(asked.family),
        asked.seed,
        not asked.full,
    )


def selected(asked: argparse.Namespace) -> tuple[share.Work, Selection]:
    """What is judged, and by what: this package, or the candidate named."""
    selection = _selection(asked)
    if not asked.candidate:
        return share.OURS, selection
    return share.candidate(asked.candidate, asked.as_, selection, asked.budget)


def _drawn(selection: Selection, families: tuple[str, ...]) -> Selection:
    """What the report draws of the libraries' own losses beside ours: margins, eagerly; in float32 in a quick run."""
    dtypes = ("float32",) if selection.quick and not selection.dtypes else selection.dtypes
    return replace(selection, families=families, modes=("eager",), dtypes=dtypes)


def _announced(selection: Selection, peers: bool) -> str:
    """What is about to run, and how long it takes."""
    # Which libraries are here isn't asked: that would import them, in a process that has no other use for them.
    where = ", ".join(selection.backends) or "every library that is here"
    functions = selection.functions or FUNCTIONS
    what = "A quick run" if selection.quick else "A full run"
    takes = QUICK_TAKES if selection.quick else FULL_TAKES
    whole = replace(selection, quick=False, seed=0) == Selection() and not peers
    said = f"{what} of {len(functions)} function{'s' * (len(functions) != 1)} on {where}: "
    return said + (takes if whole else f"part of what takes {takes}")


def _run(work: share.Work, selection: Selection, workers: int, spreads: Spreads) -> list[Result]:
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    results: list[Result] = []
    cut = share.tasks(work, selection)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(cut))
        for done, apart in share.run(cut, workers):
            results += done
            runner.widen(spreads, apart)
            failed = sum(r.failed for r in results)
            said = f"[red]{failed} failed[/red]" if failed else "all well"
            progress.update(task, advance=1, description="to be drawn beside" if work is share.BESIDE else said)
    return sorted(results, key=_order)


def _order(one: Result | Spread) -> tuple[int, int]:
    """By function, then by dtype; what was not run at all first."""
    return FUNCTIONS.index(one.function) if one.function else -1, list(FORMATS).index(one.dtype or "float16")


def _list() -> None:
    print("functions:", *FUNCTIONS)
    print("families: ", *FAMILIES, real.FAMILY, hunt.FAMILY, golden.FAMILY)
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


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options that say what is judged, and by what."""
    parser.add_argument("--full", action="store_true", help=f"every case: {FULL_TAKES}; without, {QUICK_TAKES}")
    parser.add_argument("--function", action="append", default=[], choices=FUNCTIONS)
    parser.add_argument("--backend", action="append", default=[], type=_backend, metavar="NAME", help=BACKEND)
    parser.add_argument("--mode", action="append", default=[], choices=MODES)
    parser.add_argument("--dtype", action="append", default=[], choices=list(FORMATS))
    parser.add_argument(
        "--family", action="append", default=[], choices=[*FAMILIES, real.FAMILY, hunt.FAMILY, golden.FAMILY]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--candidate", metavar="MODULE:FUNCTION", help="judge this function, whosever it is")
    parser.add_argument("--as", dest="as_", choices=FUNCTIONS, help="what the candidate is judged as; its own name")
    parser.add_argument("--budget", type=float, metavar="ULP", help="the candidate's, in place of the contract's")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance" if __package__ == "conformance" else "arrayloss-conformance", description=__doc__
    )
    add_selection(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--hunt", type=float, metavar="SECONDS", help="search at random for worse inputs, and for calls that go wrong"
    )
    what.add_argument("--peers", action="store_true", help="judge the libraries' own losses by the same cases")
    what.add_argument("--vectors", metavar="DIR", help="write the golden vectors there")
    what.add_argument("--readme", metavar="RESULTS", help="make README.md's table anew from a results.json")
    parser.add_argument("--workers", type=int, help="processes to share the run among; two, and for a candidate one")
    parser.add_argument("--list", action="store_true", help="what can be selected, and what is installed")
    parser.add_argument("--report", metavar="DIR", help="write index.html, results.json and summary.md there")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="tell what changed since a results.json; given two, compare those and run nothing",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
