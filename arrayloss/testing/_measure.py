"""How far numbers are from exact ones, in ULP of the exact one, and in which way a number can be wrong besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from arrayloss.testing._formats import FORMATS, HALF, Floats, spacing


@dataclass(frozen=True)
class Exact:
    """An array of exact numbers as `high + low`, and the size against which each one's error is measured.

    `scale` is the number's own magnitude, except where it is a difference P - Q of positive numbers and the contract
    forgives the cancellation: there it is max(P, Q). `moved` is the largest change of each number, to first order,
    if every logit moves by its distance from the row's maximum; None where the contract does not need it.
    """

    high: Floats
    low: Floats
    scale: Floats
    moved: Floats | None = None


@dataclass(frozen=True, eq=False)
class Due:
    """What one result of a case has to be.

    Attributes
    ----------
    exact
        The exact numbers.
    dtype
        The format that the result comes in, whose ULP is the unit.
    budget
        ULP that every number may be off.
    allowance
        What conditioning adds to that, for each number (k in the contract); broadcasts to the numbers.
    terms
        How many exponentials are added up in one number.
    magnified
        What one of these exponentials is multiplied by, at the most.
    flushable
        The part of each number, 0 to 1, that is made of exponentials below the smallest normal number. It may be
        missing. Broadcasts to the numbers.
    """

    exact: Exact
    dtype: str
    budget: float
    allowance: Floats
    terms: int
    magnified: float = 1.0
    flushable: Floats = field(default_factory=lambda: np.zeros(()))


@dataclass(frozen=True)
class Measurement:
    """The faults of one array of numbers.

    Attributes
    ----------
    count
        How many numbers were measured.
    worst, after_k
        The largest error in ULP, and the largest once each number's allowance for conditioning is taken off.
        Numbers that are non-finite without need, or finite where they mustn't be, are counted apart.
    worst_at
        Position (flat) of the number to look at first: a fault of kind, else the largest error after k.
    lost
        Zeros where the exact result is a normal number, and not made only of exponentials below these.
    spurious
        NaN or inf where the exact result is finite and representable.
    missing
        Anything else where the exact result is NaN or infinite.
    flushed
        Numbers that are over budget because exponentials below the smallest normal number became 0.
    over
        How many numbers are over budget.
    """

    count: int
    worst: float
    after_k: float
    worst_at: int
    lost: int
    spurious: int
    missing: int
    flushed: int
    over: int


def errors(got: Floats, exact: Exact, dtype: str) -> Floats:
    """The error of each number in ULP (NaN where there's no such thing)."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = (got - exact.high) - exact.low
        return np.asarray(np.abs(difference) / spacing(_size(exact), dtype))


def _size(exact: Exact) -> Floats:
    """What an error is measured against; 0 where nothing finite was due."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(exact.scale), np.maximum(exact.scale, np.abs(exact.high)), 0)


def measure(
    got: Floats,
    exact: Exact,
    dtype: str,
    base: float,
    allowance: Floats,
    terms: int = 1,
    magnified: float = 1.0,
    flushable: Floats | float = 0.0,
) -> Measurement:
    """Compare with the exact numbers.

    `base` is the budget in ULP, `allowance` what conditioning adds to it. A number is the sum of up to `terms`
    exponentials. If it is below the smallest normal number, each of these may have been rounded to a multiple of the
    smallest subnormal number, or flushed to 0, depending on compiler and processor. The same holds for a number that
    the formula then multiplies by up to `magnified`, and for the part of a normal number that is `flushable`; also for
    the rest of it, if that alone is below the smallest normal number. Half types are computed in float32.
    """
    if got.shape != exact.high.shape:
        raise ValueError(f"shape {got.shape} came back, {exact.high.shape} was due")
    form, least = FORMATS[dtype], FORMATS["float32" if dtype in HALF else dtype]
    underflow = terms / 2 * 2.0**least.subnormal_exponent / spacing(_size(exact), dtype)
    allowance = np.broadcast_to(allowance, got.shape) + np.where(_size(exact) < least.tiny, underflow, 0)
    error = errors(got, exact, dtype)
    size = np.abs(exact.high)
    defined = np.isfinite(exact.high)
    # Half a ULP above the largest number, infinity *is* the rounded result; within the budget of that, it may be.
    near_end = defined & (size + (base + allowance + 0.5) * spacing(exact.high, dtype) >= form.largest)
    overflown = near_end & np.isinf(got) & (np.sign(got) == np.sign(exact.high))
    finite = defined & ~overflown & np.isfinite(got)
    spurious = defined & ~overflown & ~np.isfinite(got)
    missing = ~defined & ~((got == exact.high) | (np.isnan(got) & np.isnan(exact.high)))
    over = finite & (error > base + allowance)
    zero = over & (got == 0)
    off = error * spacing(_size(exact), dtype)
    small = (size < magnified * form.tiny) & (off <= terms * least.tiny)
    part = np.broadcast_to(flushable, got.shape)
    # Without its flushable part, a number is off by that part and its budget at most; or it is 0, if the rest is not
    # normal.
    with np.errstate(invalid="ignore"):
        missing_part = off - (base + allowance) * spacing(_size(exact), dtype) <= part * size
        all_of_it = (1 - part) * size < form.tiny
    flushed = over & (small | np.where(got == 0, all_of_it, missing_part))
    lost = zero & ~flushed
    counted = finite & ~flushed
    beyond = np.where(counted, np.maximum(error - allowance, 0), 0)
    rank = np.where(spurious | missing, np.inf, np.where(lost, 1e300, beyond))
    return Measurement(
        count=int(got.size),
        worst=float(np.max(np.where(counted, error, 0), initial=0)),
        after_k=float(np.max(beyond, initial=0)),
        worst_at=int(np.argmax(rank)) if got.size else 0,
        lost=int(np.sum(lost)),
        spurious=int(np.sum(spurious)),
        missing=int(np.sum(missing)),
        flushed=int(np.sum(flushed)),
        over=int(np.sum(over & ~flushed)),
    )


@dataclass(frozen=True)
class Gap:
    """The largest disagreement among arrays of the same numbers: in ULP, at which number, between which two arrays."""

    ulp: float
    at: int
    low: int
    high: int


def spread(results: Sequence[Floats], exact: Exact, dtype: str, terms: int = 1) -> Gap:
    """Compare results with each other, in ULP of the exact number.

    Left out are numbers that aren't finite in all of them, and those so small that a compiler may flush a term of them:
    `measure` counts both.
    """
    stack = np.stack([r.ravel() for r in results])
    size = _size(exact).ravel()
    apart = np.ptp(np.where(np.isfinite(stack), stack, 0), axis=0) / spacing(size, dtype)
    apart = np.where(np.all(np.isfinite(stack), axis=0) & (size >= FORMATS[dtype].tiny * terms), apart, 0)
    at = int(np.argmax(apart)) if apart.size else 0
    column = stack[:, at] if apart.size else np.zeros(len(results))
    return Gap(float(np.max(apart, initial=0)), at, int(np.argmin(column)), int(np.argmax(column)))
