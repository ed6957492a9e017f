"""Failures as a reader needs them: those alike told once, each by the smallest input that still fails."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from arrayloss.testing import FORMATS, Backend, Case, Floats, Implementation

from . import named, runner
from .oracle import exact
from .runner import Result, Selection
from .shrink import shrink
from .snippet import digits, passed_as, snippet, written

SHRUNK = 12
"""How many kinds of failure are made small, so that a badly broken run still ends; the first of each function first."""

SECONDS = 20.0
"""How long each may take: a compiler may be asked for every shape that is tried."""

QUICK: dict[str, Any] = {"shrunk": 4, "seconds": 5.0}
"""The same of a quick run."""

CANDIDATE: dict[str, Any] = {"total": 15.0}
"""The same of a candidate; `total` is what all of them may take."""


@dataclass(frozen=True)
class Failure:
    """A kind of failure: records alike in function, quantity, family and reason, and one of them to look at.

    `ulp` and `after_k` are None, and `got` says what came back, where there is no number to measure.
    `snippet` reproduces it; it is "" where the kind wasn't made small or can't be written down.
    `trace` is the traceback of what was raised.
    """

    implementation: str
    function: str
    quantity: str
    family: str
    case: str
    dtype: str
    backend: str
    mode: str
    reason: str
    records: int
    places: tuple[str, ...]
    inputs: Mapping[str, str]
    position: tuple[int, ...]
    exact: str
    got: str
    ulp: float | None
    after_k: float | None
    budget: float
    snippet: str = ""
    trace: str = ""


def gather(
    results: list[Result],
    implementations: list[Implementation],
    shrunk: int = SHRUNK,
    seconds: float = SECONDS,
    total: float = math.inf,
) -> list[Failure]:
    """Every kind of failure among the results; the first `shrunk` of them made small."""
    alike: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for r in results:
        if r.failed:
            said = re.sub(r"\d+", "n", r.reason) if r.measured is None else ""  # of every size
            alike[r.implementation, r.function, r.family, r.quantity.split(" ", 1)[-1], said].append(r)
    judged = {one.name: one for one in implementations}
    nth: dict[tuple[str, ...], int] = defaultdict(int)
    rank: dict[tuple[str, ...], tuple[int, int]] = {}
    for key in alike:
        rank[key] = nth[key[:2]], len(rank)
        nth[key[:2]] += 1
    chosen = set(sorted(alike, key=lambda key: rank[key])[:shrunk])
    end = time.monotonic() + total
    found = []
    for key, same in alike.items():
        if key in chosen and key[0] in judged:
            share = (end - time.monotonic()) / len(chosen)
            chosen.remove(key)
            found.append(_smallest(same, judged[key[0]], min(seconds, share)))
        else:
            found.append(_told(_worst(same), same))
    return found


def _worst(same: list[Result]) -> Result:
    return max(same, key=lambda r: (_gravity(r), r.measured.after_k if r.measured else 0))


def _gravity(result: Result) -> int:
    found = result.measured
    return 1 if found is None or found.spurious or found.missing else 0


def _plainest(same: list[Result]) -> Result:
    """The one to look at: of those that are wrong as the worst one is, of float32 if there is one, the plainest."""
    worst = _worst(same)

    def order(r: Result) -> tuple[bool, int, int]:
        case = r.asked
        return r.dtype != "float32", len(case.options) if case else 0, case.arrays["logits"].size if case else 0

    return min((r for r in same if _alike(r, worst)), key=order)


def _told(r: Result, same: list[Result], case: Case | None = None) -> Failure:
    """A failure by one of its records, without a program."""
    w, m = r.witness, r.measured
    inputs = {}
    if case is not None:
        inputs = {name: _short(values, passed_as(case, name)) for name, values in case.arrays.items()}
    elif w is not None:
        inputs = {name: str([float.fromhex(v) for v in values]) for name, values in w.inputs.items()}
    finite = m is not None and not (m.spurious or m.missing)
    return Failure(
        r.implementation,
        r.function,
        r.quantity,
        r.family,
        r.case,
        r.dtype,
        r.backend,
        r.mode,
        r.reason,
        len(same),
        tuple(dict.fromkeys(f"{s.backend} {s.mode} {s.dtype}" for s in same)),
        inputs,
        w.position if w else (),
        repr(w.exact) if w else "",
        repr(w.got) if w else r.reason,
        w.ulp if w and finite else None,
        w.after_k if w and finite else None,
        r.budget,
        trace=r.trace,
    )


def _short(values: Floats, dtype: str, most: int = 24) -> str:
    return written(values, dtype) if values.size <= most else f"{values.size} numbers of shape {values.shape}"


_CHEAP = ("numpy eager", "torch:cpu eager", "array-api-strict eager", "dask eager", "jax:cpu jax.jit")
"""Where many small cases are tried soonest; anything else after them."""


def _smallest(same: list[Result], implementation: Implementation, seconds: float) -> Failure:
    """Shrink a record of the cheapest place that fails."""
    places = {f"{r.backend} {r.mode}": None for r in same}
    place = min(places, key=lambda p: _CHEAP.index(p) if p in _CHEAP else len(_CHEAP))
    worst = _plainest([r for r in same if f"{r.backend} {r.mode}" == place])
    if worst.asked is None:
        return _told(worst, same)
    end = time.monotonic() + seconds
    found: list[Result] = []
    there = named.chosen((worst.backend,))

    def fails(case: Case) -> bool:
        again = _again(implementation, case, worst, there) if time.monotonic() < end else None
        if again is not None:
            found.append(again)
        return again is not None

    small = shrink(worst.asked, fails)
    result = found[-1] if found else worst  # what failed last is what was kept last
    passed = implementation.adapted(small)
    failure = replace(_told(result, same, passed), case=worst.case, reason=worst.reason)
    at = failure.position
    if result.measured is not None and result.witness is not None:
        answer = exact(small)[result.quantity.removeprefix("closed ").removeprefix("auto ")]
        failure = replace(failure, exact=digits(answer, at))
    due = "no exception" if result.status == "error" else failure.exact or "an answer of another shape"
    quantity = result.quantity or "value"
    why = error(failure) if failure.exact else result.reason
    program = snippet(implementation, passed, result.backend, result.mode, quantity, at, due, why)
    return replace(failure, snippet=program or "")


def _again(implementation: Implementation, case: Case, before: Result, there: list[Backend]) -> Result | None:
    """The same failure of another case, if it fails so: the same quantity, or the same exception."""
    try:
        found = list(runner.run([implementation], [case], Selection(modes=(before.mode,)), places=there))
    except (ArithmeticError, ValueError, IndexError):  # the oracle has no answer to it
        return None
    for r in found:
        if r.failed and r.quantity == before.quantity and _alike(r, before):
            return r
    return None


def _alike(result: Result, before: Result) -> bool:
    """Whether both raised the same, or have a wrong shape, or NaN or inf; or half of the digits lost are lost again."""
    if before.measured is None or result.measured is None:
        kinds = [r.reason.split(":")[0] if r.status == "error" else r.measured for r in (result, before)]
        return kinds[0] == kinds[1]
    if _gravity(result) != _gravity(before):
        return False
    lost = min(before.measured.after_k, 1 / FORMATS[before.dtype].epsilon)
    return bool(_gravity(before)) or result.measured.after_k >= math.sqrt(before.budget * lost)


def told(failures: list[Failure], most: int = 40) -> str:
    """The failures as text, with their programs."""
    lines = []
    for f in failures[:most]:
        where = ", ".join(f.places)
        lines.append(f"FAIL {f.function}, {f.quantity or 'call'}, {f.case} [{f.records}: {where[:300]}]")
        lines.append(f"     {f.dtype} on {f.backend} {f.mode}: {f.reason}")
        lines += [f"     {name} = {values[:400]}" for name, values in f.inputs.items()]
        if f.exact:
            at = f" at {list(f.position)}" if f.position else ""
            lines.append(
                f"     exact{at}: {f.exact}; came back: {f.got}" + (f"; {error(f)}" if f.ulp is not None else "")
            )
        lines += [f"     {line}" for line in f.trace.splitlines()]
        if f.snippet:
            lines += ["", *(f"         {line}".rstrip() for line in f.snippet.splitlines()), ""]
    if len(failures) > most:
        lines.append(f"... and {len(failures) - most} more kinds of failure")
    return "\n".join(lines)


def error(failure: Failure) -> str:
    """The error in words."""
    if failure.ulp is None or failure.after_k is None:
        return f"{failure.got} where {failure.exact} was due"
    after = "" if failure.after_k == failure.ulp else f", {failure.after_k:.4g} after k"
    return f"{failure.ulp:.4g} ULP{after}, {failure.budget:g} allowed"
