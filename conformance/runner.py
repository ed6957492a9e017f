"""Puts cases to implementations on every backend and yields what was measured, as plain records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from conformance import budget
from conformance.backends import Backend, Implementation, Numbers, backends
from conformance.cases import ELEMENTWISE, FUNCTIONS, PAIRED, SLOW, Case, cases
from conformance.formats import FORMATS, Floats
from conformance.measure import Measurement, measure, spread
from conformance.oracle import Exact, exact


@dataclass(frozen=True)
class Witness:
    """The number that a record is about: the input it came from, what was due and what came back."""

    position: tuple[int, ...]
    inputs: dict[str, list[str]]
    exact: float
    got: float


@dataclass(frozen=True)
class Result:
    """One quantity of one case on one backend: `status` is "ok", "FAIL", "error" or "not run"."""

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

    @property
    def failed(self) -> bool:
        """Whether the contract is broken here."""
        return self.status in ("FAIL", "error")

    def as_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self)


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
    present = [b for b in backends() if not selection.backends or b.name in selection.backends]
    reasons = {b.name: b.missing() for b in present}
    usable = [b for b in present if reasons[b.name] is None]
    for name, reason in reasons.items():
        if reason is not None:
            yield Result("", "", name, "", "", "", "", "", "not run", reason)
    for case in chosen:
        answer: dict[str, Exact] | None = None
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
                        answer = exact(case)
                    try:
                        numbers = backend.evaluate(implementation, case, mode)
                    except Exception as error:  # whatever an implementation raises is a finding, no reason to stop
                        said = f"{type(error).__name__}: {error}"[:400]
                        yield _blank(implementation, case, backend, mode, "error", said)
                        continue
                    heard[f"{backend.name} {mode}".removesuffix(" eager")] = numbers
                    yield from compare(
                        implementation.name, case, answer, numbers, backend.name, mode, backend.flushes(mode)
                    )
            if spreads is not None and answer is not None:
                widen(spreads, _spreads(implementation.name, case, answer, heard))


def _spreads(name: str, case: Case, answer: Mapping[str, Exact], heard: Mapping[str, Numbers]) -> Iterator[Spread]:
    """The spread of each quantity; closed form and autodiff, eager and compiled are answers to the same question."""
    said: dict[str, dict[str, Floats]] = defaultdict(dict)
    for place, numbers in heard.items():
        for quantity, got in numbers.items():
            if got.shape == answer[_plain(quantity)].high.shape:
                way = quantity.split()[0] if quantity.startswith(("closed", "auto")) else ""
                said[_plain(quantity)][f"{place} {way}".strip()] = got
    for quantity, answers in said.items():
        if len({place.split()[0] for place in answers}) > 1:
            gap = spread(list(answers.values()), answer[quantity], budget.dtype_of(case, quantity), _terms(case))
            places = list(answers)
            yield Spread(
                name, case.function, case.dtype, quantity, gap.ulp, case.label, places[gap.low], places[gap.high]
            )


def _plain(quantity: str) -> str:
    return quantity.removeprefix("closed ").removeprefix("auto ")


LEFT_OUT = {
    "torch.compile": ("million", "wide", "nonfinite", "options", "reductions"),
    "jax:cpu eager": ("million", "nonfinite", "options"),
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
    name: str, case: Case, answer: dict[str, Exact], numbers: Numbers, backend: str, mode: str, flushes: bool
) -> Iterator[Result]:
    """Measure everything that came back against what is exact."""
    for quantity, got in numbers.items():
        plain = _plain(quantity)
        dtype = budget.dtype_of(case, plain)
        base, allowance = budget.base(case, plain), budget.allowance(case, plain)
        record = Result(name, case.function, backend, mode, case.dtype, quantity, case.family, case.label, "ok")
        try:
            found = measure(got, answer[plain], dtype, base, allowance, _terms(case), flushes)
        except ValueError as error:
            yield replace(record, status="FAIL", reason=str(error), budget=base)
            continue
        bad = bool(found.over or found.lost or found.spurious or found.missing or (found.flushed and not flushes))
        yield replace(
            record,
            status="FAIL" if bad else "ok",
            reason=_reason(found, base, flushes) if bad else "",
            budget=base,
            measured=found,
            witness=_witness(case, plain, found.worst_at, got, answer[plain]) if found.count else None,
        )


def _terms(case: Case) -> int:
    """How many exponentials are added up in one number."""
    terms = 1 if case.function in ELEMENTWISE else case.arrays["logits"].shape[case.axis]
    if case.dtype == "float16":  # made of float32, far from where these end
        return terms
    return terms * math.ceil(_factor(case))


def _factor(case: Case) -> float:
    """What an exponential is multiplied by, at the most: what a compiler flushed may have been a normal number's."""
    if case.function in PAIRED:
        return -FORMATS[case.dtype].subnormal_exponent  # a log ratio
    if case.function == "asymmetric_loss":
        return 1 / (float(case.options.get("margin", 0.05)) or 1)
    return max(1.0, 1 + float(case.options.get("epsilon", 2.0))) if case.function == "poly_loss" else 1.0


def _reason(found: Measurement, base: float, flushes: bool) -> str:
    said = [
        f"{found.over} over {base:g} ULP" if found.over else "",
        f"{found.lost} lost" if found.lost else "",
        f"{found.spurious} NaN or inf for a finite number" if found.spurious else "",
        f"{found.missing} not NaN or inf as due" if found.missing else "",
        f"{found.flushed} flushed" if found.flushed and not flushes else "",
    ]
    return ", ".join(filter(None, said)) + f" of {found.count}"


def _witness(case: Case, quantity: str, at: int, got: Floats, answer: Exact) -> Witness:
    position = tuple(int(i) for i in np.unravel_index(at, got.shape)) if got.shape else ()
    inputs = {name: _near(case, name, values, position) for name, values in case.arrays.items()}
    return Witness(position, inputs, float(answer.high.ravel()[at]), float(got.ravel()[at]))


def _near(case: Case, name: str, values: Floats, position: tuple[int, ...]) -> list[str]:
    """The part of an input that a number depends on, as far as that is one sample; at most 12 numbers of it."""
    logits = case.arrays["logits"]
    if position and values.ndim:
        if logits.ndim == 2 and name in ("logits", "target", "sample_weight", "where") and case.axis == -1:
            values = values[position[0]] if len(values) == len(logits) else values
        elif logits.ndim == 1 and values.shape == logits.shape and len(position) == 1 and case.function not in _ROWS:
            values = values[position[0]]
    return [float(v).hex() for v in np.ravel(values)[:12]]


_ROWS = tuple(f for f in FUNCTIONS if f not in ELEMENTWISE)
