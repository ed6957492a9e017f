"""Shares a run among processes, a function and dtype to each at a time.

Compilers are what takes the time of a run, and they mostly keep one core busy.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from arrayloss import testing
from arrayloss.testing import Backend, Case, Implementation

from . import golden, hunt, peers, plan, real, runner
from .backends import arrayloss
from .cases import FUNCTIONS, NOISY
from .runner import Result, Selection, Spread, Spreads


@dataclass(frozen=True)
class Work:
    """How to make, in another process, what is judged and what it is judged by: functions of importable modules.

    `left_out` says which of the cases are not asked.
    """

    implementations: Callable[[], list[Implementation]]
    cases: Callable[[Selection], Iterator[Case]]
    trained: bool = False
    left_out: str = ""


def _ours() -> list[Implementation]:
    return [arrayloss()]


def _with_peers() -> list[Implementation]:
    return [arrayloss(), *peers.peers()]


def _every_case(selection: Selection) -> Iterator[Case]:
    yield from runner.selected_cases(selection)
    if not selection.quick or selection.families:
        yield from hunt.kept(selection)
        yield from golden.again(selection)


Done = tuple[list[Result], list[Spread]]

OURS = Work(_ours, _every_case, trained=True)
PEERS = Work(_with_peers, peers.cases)
BESIDE = Work(peers.peers, peers.cases)
"""The libraries' own losses alone, to be drawn beside what is judged."""


def candidate(path: str, as_: str | None, selection: Selection, budget: float | None) -> tuple[Work, Selection]:
    """Somebody's function, `package.module:function`, and what of a selection it is judged by.

    On the first library that it takes, and eagerly, on JAX compiled if it can be, unless the selection says more.
    """
    try:
        function = pkgutil.resolve_name(path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--candidate {path}: {error}") from error
    name = testing.judged_as(function, as_)
    found = testing.candidate(function, name, _among(selection.backends))
    libraries = found.backends or ()
    chosen = replace(selection, functions=(name,), backends=libraries, modes=selection.modes or (found.mode,))
    left_out = ""
    if selection.quick and libraries[0].startswith("jax") and not (selection.families or selection.modes):
        chosen = replace(chosen, dtypes=selection.dtypes or ("float32", "bfloat16"))
        left_out = plan.left_out_of_candidate(found.mode)
    few = bool(left_out) and found.mode == "eager"
    made, asked = partial(_resolved, path, name, libraries), partial(_budgeted, budget, found.fixed, few)
    return Work(made, asked, left_out=left_out), chosen


@cache
def _resolved(path: str, name: str, libraries: tuple[str, ...]) -> list[Implementation]:
    return [testing.candidate(pkgutil.resolve_name(path), name, _among(libraries))]


def _among(libraries: tuple[str, ...]) -> list[Backend]:
    return [testing.backend(name) for name in libraries]


def _budgeted(budget: float | None, fixed: Mapping[str, Any], few: bool, selection: Selection) -> Iterator[Case]:
    for case in _every_case(selection):
        if few and not plan.CANDIDATE.takes(case):
            continue
        if stays := {name: value for name, value in fixed.items() if name not in (*case.options, *case.arrays)}:
            case = replace(case, options={**case.options, **stays}, due={})
        if budget is not None:
            due = {name: replace(due, budget=budget) for name, due in case.due.items()}
            case = replace(case, budget=budget, due=due)
        yield case


LONGEST = (
    "kl_divergence_with_logits",
    "js_divergence_with_logits",
    "softmax_focal_loss",
    "asymmetric_loss",
    "poly_loss",
    *NOISY,
    "cross_entropy",
)
"""The functions that take longest to compile."""


def parts(selection: Selection) -> list[Selection]:
    """The selection, cut by function and dtype; the long ones first, so that no process waits for one at the end."""
    functions = selection.functions or FUNCTIONS
    order = (*LONGEST, *functions)
    cut = [replace(selection, functions=(f,), dtypes=(d,)) for f in functions for d in runner.dtypes(selection)]
    return sorted(cut, key=lambda part: (order.index(part.functions[0]), part.dtypes != ("float32",)))


def tasks(work: Work, selection: Selection) -> list[Callable[[], Done]]:
    """What to do, each in one process; training first, which is the longest."""
    chosen = [f for f in real.TRAINED if f in (selection.functions or FUNCTIONS)]
    asked = real.FAMILY in selection.families if selection.families else not selection.quick
    chosen = chosen if work.trained and asked else []
    training: list[Callable[[], Done]] = [partial(trained, work, replace(selection, functions=(f,))) for f in chosen]
    return training + [partial(part_of, work, part) for part in parts(selection)]


def run(cut: list[Callable[[], Done]], workers: int) -> Generator[Done]:
    """Yield what comes of each task as it is done; where the generator is closed, the rest isn't."""
    if workers < 2 or len(cut) < 2:
        for task in cut:
            yield task()
        return
    # Spawned, because JAX and torch have threads by the time anyone forks.
    # One thread each: the processes are as many as the cores that they were given.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = [pool.submit(task) for task in cut]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:  # whoever has seen enough waits for no more than what is running
            for one in waiting:
                one.cancel()


def part_of(work: Work, part: Selection) -> Done:
    """All results of one part, and how far the libraries are apart in it."""
    spreads: Spreads = {}
    results = list(runner.run(work.implementations(), work.cases(part), part, spreads))
    return results, list(spreads.values())


def trained(work: Work, part: Selection) -> Done:
    """The same of what is trained with."""
    spreads: Spreads = {}
    results = [r for one in work.implementations() for r in real.judged(one, part, spreads)]
    return results, list(spreads.values())
