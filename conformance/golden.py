"""The golden vectors: which cases they are, and how they are written (`arrayloss.testing` reads them).

`python -m conformance --vectors conformance/vectors` writes the files anew; the README beside them has the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from arrayloss.testing import FORMATS, HALF, PER_SAMPLE, Case, Due, Floats, Reduce, vectors

from . import budget
from .cases import DIVERGENCES, ELEMENTWISE, FUNCTIONS, NOISY, POWERS, cases
from .oracle import exact
from .runner import Selection

FAMILY = "vectors"
SAMPLES = {
    "margins": 36,
    "probabilities": 30,
    "soft": 16,
    "weights": 10,
    "ties": 7,
    "dominating": 7,
    "masked": 7,
    "offset": 7,
}
"""Families of which some samples are taken, and how many of each case."""

SHARE = {
    **dict.fromkeys(ELEMENTWISE, 2),
    **dict.fromkeys((*DIVERGENCES, *NOISY), 0.1),
    "kl_divergence_with_logits": 0.35,
    "poly_loss": 0.35,
    "softmax_focal_loss": 0.8,
}
"""How many times as many: single numbers are short, two arrays of classes long, and some losses have more cases."""

ALIKE = ("kl_divergence", "js_divergence", "js_divergence_with_logits", *NOISY)
"""Losses whose options are those of another loss: of the reductions, the mean is written down."""

WHOLE = ("options", "nonfinite")
"""Families of which all samples are taken, in float32: what they ask for is no matter of digits."""

IN_HALF = {"margins": 10, "weights": 10}
"""The same in the half types."""

GAMMAS = (0.5, 2.0, 5.0)
"""The focal exponents of `margins`; the other families have the one in the middle."""

DIGITS = Context(prec=22)
NOUGHT = 24
"""A number smaller than the dtype's smallest by more than so many bits is written as 0: no digit of it is proven."""


def chosen(function: str) -> Iterator[Case]:
    """The cases that are written down, with what is due of each."""
    for case in picked(function):
        yield replace(case, due=budget.due(case, exact(case)))


def picked(function: str) -> Iterator[Case]:
    """The same, without."""
    for dtype in FORMATS:
        samples = IN_HALF if dtype in HALF else SAMPLES
        for case in cases(function, dtype, quick=True):
            if case.family in samples and _wanted(case):
                case = _distinct(case, max(2, round(samples[case.family] * SHARE.get(function, 1))))
            elif (
                case.family not in WHOLE
                or dtype != "float32"
                or (function in ALIKE and case.family == "options" and case.reduction != "mean")
            ):
                continue
            elif case.options.get("reduction") == "none" and case.arrays["logits"].size:
                case = _distinct(case)
            yield case


def _wanted(case: Case) -> bool:
    """Of the cases that differ in the number of classes or the focal exponent alone, few."""
    logits = case.arrays["logits"]
    classes = {"margins": 3, "soft": 3, "probabilities": 2}.get(case.family, 10)
    gammas = GAMMAS if case.family == "margins" else (2.0,)
    if case.options.get("epsilon", 2.0) != 2.0 and case.family != "margins":
        return False
    if case.options.get("q", POWERS[0]) != POWERS[0] and case.family != "margins":
        return False
    return case.options.get("gamma", 2.0) in gammas and (logits.ndim == 1 or logits.shape[-1] == classes)


def _distinct(case: Case, most: int | None = None) -> Case:
    """The distinct samples, evenly picked where there are too many."""
    count = len(case.arrays["logits"])
    arrays = [np.reshape(a, (count, -1)) for name, a in case.arrays.items() if name in PER_SAMPLE]
    first: dict[bytes, int] = {}
    for at, sample in enumerate(np.column_stack(arrays)):
        first.setdefault(sample.tobytes(), at)
    found = np.asarray(list(first.values()), dtype=np.intp)
    if most is not None and len(found) > most:
        found = found[np.arange(most) * (len(found) - 1) // (most - 1)]
    return case.take(found)


def again(selection: Selection) -> Iterator[Case]:
    """The vectors as cases of the suite, judged by what is written there."""
    if not selection.families or FAMILY in selection.families:
        for function in selection.functions or FUNCTIONS:
            for case in vectors(function, dtypes=selection.dtypes):
                yield replace(case, family=FAMILY, name=f"{case.family} {case.name}")


def write(directory: Path) -> None:
    """Write every file."""
    directory.mkdir(parents=True, exist_ok=True)
    for function in FUNCTIONS:
        (directory / f"{function}.json").write_text(text(function), encoding="utf-8")


def text(function: str) -> str:
    """The file of one function."""
    found = {"schema": 1, "function": function, "cases": [_entry(case) for case in chosen(function)]}
    return json.dumps(found, indent=0) + "\n"


def _entry(case: Case) -> dict[str, Any]:
    options = dict(case.options)
    if isinstance(options.get("reduction"), Reduce):
        options["reduction"] = {"kind": options["reduction"].kind, "arguments": options["reduction"].arguments}
    entry: dict[str, Any] = {"family": case.family, "name": case.name, "dtype": case.dtype, "options": options}
    entry["arrays"] = {name: _array(a, _passed_as(case, name)) for name, a in case.arrays.items()}
    if case.cotangent is not None:
        entry["cotangent"] = _array(case.cotangent, case.result_dtype)
    asked = ["value", *(f"d {name}" for name in case.wrt)]
    entry["due"] = {name: _due(case.due[name]) for name in asked if name in case.due}
    return entry


def _passed_as(case: Case, name: str) -> str:
    kind = "bool" if name == "where" else case.target_kind if name == "target" else "float"
    return {"index": "int64", "bool": "bool"}.get(kind, case.dtype)


def _array(values: Floats, dtype: str) -> dict[str, Any]:
    numbers = (_hex(v) if "float" in dtype else str(int(v)) for v in values.ravel())
    return {"dtype": dtype, "shape": list(values.shape), "numbers": " ".join(numbers)}


def _due(due: Due) -> dict[str, Any]:
    exact = due.exact
    high, low, scale = exact.high.ravel(), exact.low.ravel(), exact.scale.ravel()
    high = np.where(np.abs(high) < np.ldexp(1.0, FORMATS[due.dtype].subnormal_exponent - NOUGHT), 0, high)
    low = np.where(high == 0, 0, low)
    entry: dict[str, Any] = {
        "dtype": due.dtype,
        "shape": list(exact.high.shape),
        "budget": due.budget,
        "terms": due.terms,
        "exact": " ".join(_hex(v) for v in high),
        "decimal": " ".join(_decimal(h, e) for h, e in zip(high, low, strict=True)),
    }
    if due.magnified != 1:
        entry["magnified"] = due.magnified
    k = np.broadcast_to(due.allowance, exact.high.shape).ravel()
    if np.any(k):
        entry["k"] = _short(k)
    flushable = np.broadcast_to(due.flushable, exact.high.shape).ravel()
    if np.any(flushable):
        entry["flushable"] = _short(flushable)
    # Only the binade of a scale matters; where it is that of the number itself there's nothing to say.
    with np.errstate(invalid="ignore"):
        binade, own = (np.frexp(np.where(np.isfinite(v), v, 0))[1] for v in (scale, high))
    if np.any((binade != own) & (scale != 0)):
        entry["scale"] = " ".join(_hex(v) for v in np.where(scale == 0, 0, np.ldexp(0.5, binade)))
    return entry


def _short(values: Floats) -> str:
    return " ".join(repr(float(v)).removesuffix(".0") for v in values)


def _hex(value: float) -> str:
    """As `printf("%a")` has it: no zeros at the end."""
    mantissa, p, exponent = float(value).hex().partition("p")
    return (mantissa.rstrip("0").rstrip(".") if p else mantissa) + p + exponent


def _decimal(high: float, low: float) -> str:
    if not np.isfinite(high):
        return str(float(high))
    return str(DIGITS.normalize(Decimal(float(high)) + Decimal(float(low)))).replace("+", "")
