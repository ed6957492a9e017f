"""Error over margin: how far from exact a function is, by how right or wrong its answer is.

The margin of a row is the logit that the answer is about (the label's, or the class pulled by the cotangent) less the
best of the others; without such a class, the distance from the largest to the second largest. The margin of an
elementwise number is its logit, positive where the target is right.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from arrayloss.testing import FORMATS, Case, Due, Floats, errors

from .cases import ELEMENTWISE, TRANSFORMS

FAMILIES = ("margins", "dominating", "probabilities")
"""Families that go through margins."""

QUANTITIES = ("value", "d logits")

PER_DECADE = 24
DECADES = 12
"""Margins are binned by their size, 24 bins a decade from 1e-8 to 1e4, and by their sign; bin 0 is margin 0."""

EDGES = np.asarray([float(Decimal(10) ** (Decimal(i) / PER_DECADE - 8)) for i in range(PER_DECADE * DECADES)])
"""Where each bin begins; by decimal arithmetic, which is the same on every processor."""


def points(case: Case, got: Floats, due: Due) -> Floats:
    """Rows of bin, largest error in ULP and largest budget within the bin; an error is inf where NaN or inf came back.

    Left out, as in `measure.spread`, are samples without a finite exact number and those so small that a compiler may
    flush a term of them.
    """
    at = margins(case)
    exact, form, allowed = due.exact, FORMATS[due.dtype], due.budget + due.allowance
    if got.shape != exact.high.shape or at.size == 0:
        return np.zeros((0, 3))
    found = np.where(np.isfinite(got), errors(got, exact, due.dtype), np.inf)
    size = np.where(np.isfinite(exact.scale), np.maximum(exact.scale, np.abs(exact.high)), 0)
    shown = (
        (size >= form.tiny * due.terms)
        & (size <= form.largest)
        & np.isfinite(at).reshape(at.shape + (1,) * (got.ndim - at.ndim))
    )
    rows = (len(at), -1)
    worst = np.max(np.where(shown, found, -1), axis=-1) if got.ndim > at.ndim else np.where(shown, found, -1)
    most = np.max(np.broadcast_to(allowed, got.shape).reshape(rows), axis=1)
    bins, inverse = np.unique(binned(at[worst >= 0]), return_inverse=True)
    table = np.zeros((bins.size, 3))
    table[:, 0] = bins
    np.maximum.at(table[:, 1], inverse, worst[worst >= 0])
    np.maximum.at(table[:, 2], inverse, most[worst >= 0])
    return table


def binned(margin: Floats) -> Floats:
    """The bin of each margin: 0 for 0, else 1 to 288 by its size, with its sign."""
    steps = np.maximum(np.searchsorted(EDGES, np.abs(margin), side="right"), 1)
    return np.asarray(np.where(margin == 0, 0, np.sign(margin) * steps))


def margins(case: Case) -> Floats:
    """The margin of each sample of a case of one axis of samples; empty where it has none or several."""
    x, target = case.arrays["logits"], case.arrays.get("target")
    if case.function in ELEMENTWISE:
        return _elementwise(case, x, target) if x.ndim == 1 else np.zeros(0)
    if x.ndim != 2 or case.axis not in (-1, 1) or x.shape[1] < 2:
        return np.zeros(0)
    with np.errstate(invalid="ignore"):
        if case.function in TRANSFORMS:
            pull = case.cotangent
            if pull is None or pull.shape != x.shape or np.any(np.sum(pull != 0, axis=1) != 1):
                two = np.partition(x, -2, axis=1)
                return np.asarray(two[:, -1] - two[:, -2])
            label = np.argmax(pull != 0, axis=1)
        elif target is None:
            return np.zeros(0)
        else:
            label = np.argmax(target, axis=1) if target.ndim == 2 else target.astype(np.int64)
        own = np.arange(x.shape[1]) == label[:, None]
        return np.asarray(np.max(np.where(own, x, -np.inf), axis=1) - np.max(np.where(own, -np.inf, x), axis=1))


def _elementwise(case: Case, x: Floats, target: Floats | None) -> Floats:
    if case.function == "binary_cross_entropy":  # of probabilities
        with np.errstate(divide="ignore"):
            x = np.log(x) - np.log1p(-x)
    return x if target is None else np.asarray(np.where(target < 0.5, -x, x))
