"""Puts cases to implementations on every backend and yields what was measured, as plain records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from arrayloss.testing import (
    FORMATS,
    Backend,
    Case,
    Due,
    Floats,
    Implementation,
    Measurement,
    Numbers,
    Witness,
    fault,
    measure,
    own_traceback,
    spread,
    witness,
)

from . import budget, curves, named, plan
from .cases import FUNCTIONS, cases
from .oracle import exact


@dataclass(frozen=True)
class Result:
    """One quantity of one case on one backend: `status` is "ok", "FAIL", "error" or "not run".

    `points` is its error over margin (see `curves`), where its family goes through margins; `asked` the case itself,
    where it failed; `trace` the traceback of what it raised.
    """

    implementation: str
    function: str
    backend: str
    mode: str
    dtype: str
    quantity: str
    family: str
    case: str
    status: str
    reason: str = ""
    budget: float = 0.0
    measured: Measurement | None = None
    witness: Witness | None = None
    points: Floats | None = field(default=None, repr=False, compare=False)
    asked: Case | None = field(default=None, repr=False, compare=False)
    trace: str = field(default="", repr=False, compare=False)

    @property
    def failed(self) -> bool:
        """Whether the contract is broken here."""
        return self.status in ("FAIL", "error")


@dataclass(frozen=True)
class Spread:
    """The worst disagreement on a function, dtype and quantity: how far apart, on which case, between which two."""

    implementation: str
    function: str
    dtype: str
    quantity: str
    ulp: float
    case: str
    low: str
    high: str


Spreads = dict[tuple[str, str, str, str], Spread]
"""The worst so far, by implementation, function, dtype and quantity."""


def widen(spreads: Spreads, found: Iterable[Spread]) -> None:
    """Keep the worse of what is known and what was found."""
    for one in found:
        key = one.implementation, one.function, one.dtype, one.quantity
        if key not in spreads or one.ulp > spreads[key].ulp:
            spreads[key] = one


@dataclass(frozen=True)
class Selection:
    """What to run; an empty tuple means all, and in a quick run the part of them that `plan` has.

    What is named is taken whole, or if `planned`, as far as the plan goes too.
    """

    functions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False
    planned: bool = False


def judge(implementation: Implementation, selection: Selection = Selection()) -> list[Result]:
    """Judge an implementation by the cases selected."""
    return list(run([implementation], selected_cases(selection), selection))


def dtypes(selection: Selection) -> tuple[str, ...]:
    """The formats that a selection takes in."""
    return selection.dtypes or (plan.QUICK_DTYPES if selection.quick else tuple(FORMATS))


def selected_cases(selection: Selection) -> Iterator[Case]:
    """The cases that a selection takes in."""
    # A family asked for by name is had, slow or not.
    quick = selection.quick and not selection.families
    for dtype in dtypes(selection):
        for function in selection.functions or FUNCTIONS:
            for case in cases(function, dtype, seed=selection.seed, quick=quick):
                if not selection.families or case.family in selection.families:
                    yield case


def run(
    implementations: Sequence[Implementation],
    chosen: Iterable[Case],
    selection: Selection = Selection(),
    spreads: Spreads | None = None,
    places: Sequence[Backend] = (),
) -> Iterator[Result]:
    """Put each case to each implementation on each backend; the exact answer is computed once.

    The backends are those selected, or `places`, which know what they have compiled before. How far they are from each
    other is gathered in `spreads`.
    """
    present = places or named.chosen(selection.backends)
    reasons = {b.name: b.missing() for b in present}
    usable = [b for b in present if reasons[b.name] is None]
    for name, reason in reasons.items():
        if reason is not None:
            yield Result("", "", name, "", "", "", "", "", "not run", reason)
    for backend in usable:
        backend.dynamic = not selection.quick
    for case in chosen:
        answer: Mapping[str, Due] | None = None
        for implementation in implementations:
            if case.function not in implementation.functions:
                continue
            heard: dict[str, Numbers] = {}
            reason = implementation.not_covered(case)
            for backend, mode in places_of(implementation, case, usable, selection):
                if reason is not None:
                    yield _blank(implementation, case, backend, mode, "not run", reason)
                    continue
                if answer is None:
                    answer = case.due or budget.due(case, exact(case))
                try:
                    numbers = backend.evaluate(implementation, case, mode)
                except Exception as error:  # whatever an implementation raises is a finding, no reason to stop
                    said = f"{type(error).__name__}: {error}"[:400]
                    blank = _blank(implementation, case, backend, mode, "error", said)
                    yield replace(blank, asked=case, trace=own_traceback(error))
                    continue
                heard[f"{backend.name} {mode}".removesuffix(" eager")] = numbers
                yield from compare(implementation.name, case, answer, numbers, backend.name, mode)
            if spreads is not None and answer is not None:
                widen(spreads, _spreads(implementation.name, case, answer, heard))


def places_of(
    implementation: Implementation, case: Case, usable: Sequence[Backend], selection: Selection
) -> Iterator[tuple[Backend, str]]:
    """Where a case is put to an implementation, and in which mode; also where it isn't covered."""
    uncovered = implementation.not_covered(case) is not None
    for backend in usable:
        if implementation.backends is not None and backend.name not in implementation.backends:
            continue
        if case.dtype not in backend.dtypes or case.result_dtype not in backend.dtypes:
            continue
        for mode in backend.modes:
            chosen = not selection.modes or mode in selection.modes
            if chosen and (uncovered or _taken(case, backend, mode, selection)):
                yield backend, mode


def _spreads(name: str, case: Case, answer: Mapping[str, Due], heard: Mapping[str, Numbers]) -> Iterator[Spread]:
    """The spread of each quantity; closed form and autodiff, eager and compiled are answers to the same question."""
    said: dict[str, dict[str, Floats]] = defaultdict(dict)
    for place, numbers in heard.items():
        for quantity, got in numbers.items():
            if got.shape == answer[_plain(quantity)].exact.high.shape:
                way = quantity.split()[0] if quantity.startswith(("closed", "auto")) else ""
                said[_plain(quantity)][f"{place} {way}".strip()] = got
    for quantity, answers in said.items():
        if len({place.split()[0] for place in answers}) > 1:
            due = answer[quantity]
            gap = spread(list(answers.values()), due.exact, due.dtype, due.terms)
            places = list(answers)
            yield Spread(
                name, case.function, case.dtype, quantity, gap.ulp, case.label, places[gap.low], places[gap.high]
            )


def _plain(quantity: str) -> str:
    return quantity.removeprefix("closed ").removeprefix("auto ")


def _taken(case: Case, backend: Backend, mode: str, selection: Selection) -> bool:
    """Whether a mode takes a case; a family or a mode asked for by name is always taken, unless as planned."""
    named = bool(selection.families or selection.modes) and not selection.planned
    return named or plan.takes(case, backend, mode, selection.quick)


def _blank(implementation: Implementation, case: Case, backend: Backend, mode: str, status: str, reason: str) -> Result:
    return Result(
        implementation.name,
        case.function,
        backend.name,
        mode,
        case.dtype,
        "",
        case.family,
        case.label,
        status,
        reason,
    )


def compare(
    name: str, case: Case, answer: Mapping[str, Due], numbers: Numbers, backend: str, mode: str
) -> Iterator[Result]:
    """Measure everything that came back against what is due."""
    for quantity, got in numbers.items():
        plain = _plain(quantity)
        due = answer[plain]
        drawn = case.family in curves.FAMILIES and plain in curves.QUANTITIES
        record = Result(name, case.function, backend, mode, case.dtype, quantity, case.family, case.label, "ok")
        try:
            found = measure(
                got, due.exact, due.dtype, due.budget, due.allowance, due.terms, due.magnified, due.flushable
            )
        except ValueError as error:
            yield replace(record, status="FAIL", reason=str(error), budget=due.budget, asked=case)
            continue
        wrong = fault(found, due.budget)
        yield replace(
            record,
            status="FAIL" if wrong else "ok",
            reason=wrong,
            budget=due.budget,
            measured=found,
            witness=witness(case, due, quantity, found.worst_at, got) if found.count else None,
            points=curves.points(case, got, due) if drawn else None,
            asked=case if wrong else None,
        )
