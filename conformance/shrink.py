"""Makes a failing case small: fewer samples, fewer classes, default options, simpler numbers, while it still fails.

Pure functions over a `Case` and a predicate; what "still fails" means is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from arrayloss.testing import Case, Floats, rounded

from .cases import CATEGORICAL, ELEMENTWISE

Fails = Callable[[Case], bool]

TRIES = 1000
"""How often the predicate is asked at most."""

ALONE = 400
"""Samples that are tried alone, the most ordinary first."""

NUMBERS = 64
"""Arrays of more numbers than this are left as they are, number by number."""


def shrink(case: Case, fails: Fails, tries: int = TRIES) -> Case:
    """The smallest case found for which `fails` still holds, by greedy steps until none helps.

    Parameters
    ----------
    case
        A case that fails.
    fails
        Whether a case still fails in the same way. It is given well-formed cases only: labels within the classes,
        probabilities within their range.
    tries
        How many cases are tried at most.
    """
    left = tries

    def still(candidate: Case | None) -> bool:
        nonlocal left
        if candidate is None or left <= 0:
            return False
        left -= 1
        return fails(candidate)

    case, before = _alone(case, still), None
    while case is not before and left > 0:
        before = case
        case = _fewer(case, still, samples=True)
        for propose in (_plainer, _flat, _simpler):
            case = _first_of(case, propose, still)
        case = _fewer(case, still, samples=False)
    return case


def _first_of(case: Case, propose: Callable[[Case], Iterator[Case]], still: Fails) -> Case:
    """Take a proposal that still fails, and start over from it, until none does."""
    tried = True
    while tried:
        tried = False
        for candidate in propose(case):
            if still(candidate):
                case, tried = candidate, True
                break
    return case


# ---------------------------------------------------------------- fewer samples, fewer classes


def _spans(case: Case, name: str, values: Floats) -> tuple[int, ...]:
    """The axes of the logits that those of an array run along."""
    count = case.arrays["logits"].ndim
    every = tuple(range(count))
    samples = every if case.function in ELEMENTWISE else tuple(a for a in every if a != case.axis % count)
    if case.function in CATEGORICAL and name in ("class_weight", "alpha"):
        return (case.axis % count,)
    return samples if values.ndim == len(samples) else every[count - values.ndim :]


def taken(case: Case, axis: int, keep: list[int]) -> Case | None:
    """The case with only these positions along an axis of its logits; None where a label would be among the lost."""
    size = case.arrays["logits"].shape[axis]
    arrays = {}
    for name, values in {**case.arrays, "": case.cotangent}.items():
        if values is None:
            continue
        for position, along in enumerate(_spans(case, name, values)):
            if along == axis and values.shape[position] == size:
                values = np.take(values, keep, axis=position)
        arrays[name] = values
    if case.target_kind == "index" and case.function in CATEGORICAL and axis == case.axis % case.arrays["logits"].ndim:
        labels = arrays["target"]
        ignored = labels == case.options.get("ignore_index", -100)
        if not np.all(ignored | np.isin(labels, keep)) or np.any(ignored & (labels >= 0)):
            return None
        places = {old: new for new, old in enumerate(keep)}
        arrays["target"] = np.vectorize(lambda label: places.get(label, label), otypes=[np.float64])(labels)
    return replace(case, cotangent=arrays.pop("", None), arrays=arrays)


def _alone(case: Case, still: Fails) -> Case:
    """One sample alone, of those that fail the one of the smallest logits; the case as it is where none does."""
    x = case.arrays["logits"]
    if x.ndim < 1 + (case.function not in ELEMENTWISE) or (case.function not in ELEMENTWISE and not case.axis % x.ndim):
        return case
    size = np.max(np.abs(np.where(np.isfinite(x), x, np.inf)), axis=tuple(range(1, x.ndim)), initial=0)
    for i in np.argsort(size, kind="stable")[:ALONE]:
        one = taken(case, 0, [int(i)])
        if one is not None and still(one):
            return one
    return case


def _fewer(case: Case, still: Fails, samples: bool) -> Case:
    """Leave out parts along the axes of the samples, or along the class axis: halves first, single ones at the end."""
    count = case.arrays["logits"].ndim
    classes = None if case.function in ELEMENTWISE else case.axis % count
    for axis in range(count):
        if (axis != classes) == samples:
            case = _along(case, axis, still, least=2 if axis == classes else 1)
    return case


def _along(case: Case, axis: int, still: Fails, least: int) -> Case:
    step = max(1, case.arrays["logits"].shape[axis] // 2)
    while step:
        start = 0
        while start < (size := case.arrays["logits"].shape[axis]) and size > least:
            keep = [i for i in range(size) if not start <= i < start + step]
            smaller = taken(case, axis, keep) if len(keep) >= least else None
            if smaller is not None and still(smaller):
                case = smaller
            else:
                start += step
        step //= 2
    return case


# ---------------------------------------------------------------- fewer options, fewer axes


def _plainer(case: Case) -> Iterator[Case]:
    """The case without one of its options, extra arrays or things to differentiate by."""
    if case.wrt:
        yield replace(case, wrt=())
        if len(case.wrt) > 1:
            yield from (replace(case, wrt=(name,)) for name in case.wrt)
    for option in case.options:
        if option == "axis":  # goes with the shape
            continue
        options = {k: v for k, v in case.options.items() if k != option}
        # A cotangent has the shape of the value, which goes with the reduction.
        yield replace(case, options=options, cotangent=None if option == "reduction" else case.cotangent)
    for name in case.arrays:
        if name not in ("logits", "target"):
            arrays = {k: v for k, v in case.arrays.items() if k != name}
            yield replace(case, arrays=arrays, wrt=tuple(n for n in case.wrt if n != name))
    if case.cotangent is not None and case.cotangent.shape and np.any(case.cotangent != 1):
        yield replace(case, cotangent=np.ones_like(case.cotangent))


def _flat(case: Case) -> Iterator[Case]:
    """The samples along one axis, the classes along the last."""
    x = case.arrays["logits"]
    rows = case.function not in ELEMENTWISE
    if x.ndim <= 1 + rows and (not rows or case.axis in (-1, x.ndim - 1)):
        return
    arrays = {}
    for name, values in {**case.arrays, "": case.cotangent}.items():
        if values is None:
            continue
        spans = _spans(case, name, values)
        if values.shape != tuple(x.shape[a] for a in spans):
            return
        if len(spans) == x.ndim:
            values = np.moveaxis(values, case.axis, -1).reshape(-1, x.shape[case.axis]) if rows else values.ravel()
        elif len(spans) == x.ndim - rows and name not in ("class_weight", "alpha"):
            values = values.ravel()
        elif spans != (case.axis % x.ndim,) and values.ndim:
            return
        arrays[name] = values
    options = {k: v for k, v in case.options.items() if k != "axis"}
    yield replace(case, cotangent=arrays.pop("", None), arrays=arrays, options=options)


# ---------------------------------------------------------------- simpler numbers


def _simpler(case: Case) -> Iterator[Case]:
    """The case with a row shifted to 0, or with one number that is shorter to write."""
    x = case.arrays["logits"]
    if case.function not in (*ELEMENTWISE, "nll_loss") and 0 < x.size <= NUMBERS:
        with np.errstate(invalid="ignore"):
            for anchor in (np.min(x), np.max(x)):
                shifted = rounded(x - anchor, case.dtype)
                if np.sum(shifted == 0) > np.sum(x == 0):
                    yield _with(case, "logits", shifted)
    target = case.arrays.get("target")
    if target is not None and case.target_kind == "float" and target.ndim == x.ndim and case.function in CATEGORICAL:
        hard = (
            np.arange(x.shape[case.axis]) == np.argmax(np.moveaxis(target, case.axis, -1), axis=-1)[..., None]
        ) * 1.0
        if np.any(hard != np.moveaxis(target, case.axis, -1)):
            yield _with(case, "target", np.moveaxis(hard, -1, case.axis))
    for name, values in case.arrays.items():
        if name == "where" or (name == "target" and (case.target_kind != "float" or case.function in CATEGORICAL)):
            continue
        if values.size <= NUMBERS:
            for at in np.ndindex(values.shape):
                for number in _shorter(float(values[at]), case.dtype):
                    if _in_range(case, name, float(values[at]), number):
                        changed = values.copy()
                        changed[at] = number
                        yield _with(case, name, changed)


def _with(case: Case, name: str, values: Floats) -> Case:
    return replace(case, arrays={**case.arrays, name: values})


def _shorter(number: float, dtype: str) -> Iterator[float]:
    """Numbers of the dtype near this one, or 0 or 1 in its place, that take less writing; the shortest first."""
    near = [0.0, 1.0, -1.0]
    if math.isfinite(number):
        near += [float(f"{number:.{digits}e}") for digits in range(6)] + [float(round(number)), number / 10]
    near = [float(rounded(value, dtype)) for value in near]
    yield from sorted({value for value in near if _effort(value) < _effort(number)}, key=_effort)


def _effort(number: float) -> tuple[int, int]:
    """How long a number is to write, 0, 1 and -1 before all others."""
    order = {0.0: 0, 1.0: 1, -1.0: 2}
    return order.get(number, 3), len(f"{number:g}" if number == float(f"{number:g}") else repr(number))


def _in_range(case: Case, name: str, old: float, new: float) -> bool:
    """Whether the function is defined there; what is positive stays so, because 0 is a case of its own."""
    if name == "logits" and case.function == "binary_cross_entropy":
        return 0 < new < 1
    if name == "logits" and case.function == "nll_loss":
        return new <= 0
    if name in ("target", "alpha"):
        return 0 <= new <= 1
    return name == "logits" or (new > 0) == (old > 0)
