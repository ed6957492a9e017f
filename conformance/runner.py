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
    spread,
    witness,
)
from conformance import budget, curves, named
from conformance.cases import FUNCTIONS, SLOW, cases
from conformance.oracle import exact


@dataclass(frozen=True)
class Result:
    """One quantity of one case on one backend: `status` is "ok", "FAIL", "error" or "not run".

    `points` is its error over margin (see `curves`), where its family goes through margins; `asked` the case itself,
    where it failed.
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
    """What to run; an empty tuple means all."""

    functions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False


def judge(implementation: Implementation, selection: Selection = Selection()) -> list[Result]:
    """Judge an implementation by the cases selected."""
    return list(run([implementation], selected_cases(selection), selection))


def selected_cases(selection: Selection) -> Iterator[Case]:
    """The cases that a selection takes in."""
    for dtype in selection.dtypes or tuple(FORMATS):
        for function in selection.functions or FUNCTIONS:
            for case in cases(function, dtype, seed=selection.seed, quick=selection.quick):
                if not selection.families or case.family in selection.families:
                    yield case


def run(
    implementations: Sequence[Implementation],
    chosen: Iterable[Case],
    selection: Selection = Selection(),
    spreads: Spreads | None = None,
) -> Iterator[Result]:
    """Put each case to each implementation on each backend; the exact answer is computed once.

    How far the backends are from each other is gathered in `spreads`.
    """
    present = named.chosen(selection.backends)
    reasons = {b.name: b.missing() for b in present}
    usable = [b for b in present if reasons[b.name] is None]
    for name, reason in reasons.items():
        if reason is not None:
            yield Result("", "", name, "", "", "", "", "", "not run", reason)
    for case in chosen:
        answer: Mapping[str, Due] | None = None
        for implementation in implementations:
            if case.function not in implementation.functions:
                continue
            heard: dict[str, Numbers] = {}
            for backend in usable:
                if implementation.backends is not None and backend.name not in implementation.backends:
                    continue
                if case.dtype not in backend.dtypes or case.result_dtype not in backend.dtypes:
                    continue
                reason = implementation.not_covered(case)
                for mode in backend.modes:
                    if selection.modes and mode not in selection.modes:
                        continue
                    if reason is not None:
                        yield _blank(implementation, case, backend, mode, "not run", reason)
                        continue
                    if not _taken(case, backend, mode, selection):
                        continue
                    if answer is None:
                        answer = case.due or budget.due(case, exact(case))
                    try:
                        numbers = backend.evaluate(implementation, case, mode)
                    except Exception as error:  # whatever an implementation raises is a finding, no reason to stop
                        said = f"{type(error).__name__}: {error}"[:400]
                        yield replace(_blank(implementation, case, backend, mode, "error", said), asked=case)
                        continue
                    heard[f"{backend.name} {mode}".removesuffix(" eager")] = numbers
                    yield from compare(
                        implementation.name, case, answer, numbers, backend.name, mode, backend.flushes(mode)
                    )
            if spreads is not None and answer is not None:
                widen(spreads, _spreads(implementation.name, case, answer, heard))


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


LEFT_OUT = {
    "jax.jit": ("vectors",),
    "torch.compile": ("million", "wide", "nonfinite", "options", "reductions", "vectors"),
    "jax:cpu eager": ("million", "nonfinite", "options", "vectors"),
}
"""Families that a mode doesn't take: each would be a compilation of its own, of arithmetic that is judged already.

Eager JAX compiles every operation for every shape, and `jax.jit` takes these families.
"""

COMPILED_GAMMAS = (0.5, 2.0)
"""The focal exponents that torch.compile takes: one that is a power, one that is a product."""

COMPILED_IN_FLOAT32 = ("soft", "weights", "classes")
"""Families that torch.compile takes in float32 only."""

QUICK = (
    "no torch.compile; JAX and Dask in float32 only, there without the families nonfinite, options (JAX) and "
    "reductions; eager JAX on margins alone"
)


def left_out(selection: Selection) -> str:
    """What a run leaves out by itself, in words."""
    if selection.quick:
        return f"A quick run has {QUICK}; it leaves out, everywhere, the families {', '.join(SLOW)}."
    if selection.families or selection.modes:
        return ""
    said = [f"{place} without the families {', '.join(families)}" for place, families in LEFT_OUT.items()]
    gammas = " and ".join(f"{gamma:g}" for gamma in COMPILED_GAMMAS)
    return (
        f"Each would be a compilation of arithmetic that is judged elsewhere: {'; '.join(said)}; torch.compile with "
        f"focal exponents other than {gammas}, and {', '.join(COMPILED_IN_FLOAT32)} in other dtypes than float32. "
        "A --family or --mode asked for by name is taken whole."
    )


def _taken(case: Case, backend: Backend, mode: str, selection: Selection) -> bool:
    """Whether a mode takes a case; a family or a mode asked for by name is always taken."""
    if selection.families or selection.modes:
        return True
    place = f"{backend.name} {mode}"
    if case.family in (*LEFT_OUT.get(mode, ()), *LEFT_OUT.get(place, ())):
        return False
    if mode == "torch.compile" and (
        case.options.get("gamma", 2.0) not in COMPILED_GAMMAS
        or (case.dtype != "float32" and case.family in COMPILED_IN_FLOAT32)
    ):
        return False
    if not selection.quick or backend.name not in ("jax:cpu", "dask"):
        return not (selection.quick and mode == "torch.compile")
    if case.dtype != "float32" or case.family == "reductions":
        return False
    if place == "jax:cpu eager":
        return case.family == "margins" and case.options.get("gamma", 2.0) == 2
    return backend.name == "dask" or case.family not in ("nonfinite", "options")


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
    name: str, case: Case, answer: Mapping[str, Due], numbers: Numbers, backend: str, mode: str, flushes: bool
) -> Iterator[Result]:
    """Measure everything that came back against what is due."""
    for quantity, got in numbers.items():
        plain = _plain(quantity)
        due = answer[plain]
        drawn = case.family in curves.FAMILIES and plain in curves.QUANTITIES
        record = Result(name, case.function, backend, mode, case.dtype, quantity, case.family, case.label, "ok")
        try:
            found = measure(
                got, due.exact, due.dtype, due.budget, due.allowance, due.terms, due.magnified, flushes=flushes
            )
        except ValueError as error:
            yield replace(record, status="FAIL", reason=str(error), budget=due.budget, asked=case)
            continue
        wrong = fault(found, due.budget, flushes)
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
