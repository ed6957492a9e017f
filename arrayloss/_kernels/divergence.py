"""The divergences of Kullback and Leibler and of Jensen and Shannon, of two softmaxes or of given probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

from arrayloss._kernels.ops import Array, Forward, Kernel, Ops
from arrayloss._kernels.penalties import excess, expm1, log1p
from arrayloss._kernels.softmax import RowSoftmax, weighted


def log_ratio(ops: Ops, of_x: RowSoftmax, of_target: RowSoftmax) -> Array:
    """log(q / p) of each class, for the softmaxes p and q of two arrays.

    It is u - log(t) with t = sum p exp(u), where u is the difference of the logits, less any constant of the row. The
    constant is the mean of the difference under q: for close softmaxes, u and t - 1 are then small, and accurate to the
    last bits. For softmaxes that are far apart, `apart` is accurate: u less the difference of the log-sums.
    """
    xp = ops.xp
    p, q = of_x.p(), of_target.p()
    log_p, log_q = of_x.log_p(), of_target.log_p()
    zero = xp.zeros_like(p)
    finite = xp.isfinite(of_x.x) & xp.isfinite(of_target.x) & xp.isfinite(log_p) & xp.isfinite(log_q)
    # The maxima are subtracted first: rounding errors are relative to the distances from them, not to the logits.
    u = xp.where(finite, (of_target.x - of_target.top) - (of_x.x - of_x.top), zero)
    # Where logits are finite, not log q - log p, which are rounded already. 0 for a class where both p and q are 0.
    neither = (log_p == -float("inf")) & (log_q == -float("inf"))
    of_totals = xp.log1p(of_target.rest) - xp.log1p(of_x.rest)
    apart = xp.where(finite, u - of_totals, xp.where(neither, zero, log_q) - xp.where(neither, zero, log_p))
    mean = ops.sum(q * u)
    u = u - mean
    near = finite & (xp.abs(apart) < 1) & (xp.abs(u) < 1)
    log_t = of_totals - mean
    # If a class is near, |log t| = |u - apart| < 2. A row without such a class does not use t.
    t = xp.exp(xp.where(xp.abs(log_t) < 2, log_t, xp.zeros_like(log_t)))
    shift = ops.sum(xp.where(near, p * expm1(xp, xp.where(near, u, zero)), q * t - p))
    some = shift > -1
    return xp.where(near & some, u - log1p(xp, xp.where(some, shift, xp.zeros_like(shift))), apart)


def given_log_ratio(ops: Ops, log_p: Array, q: Array) -> Array:
    """log q - log p of each class; 0 for a class where both p and q are 0."""
    xp = ops.xp
    neither = (q == 0) & (log_p == -float("inf"))
    log_q = xp.log(xp.where(neither, xp.ones_like(q), q))
    return log_q - xp.where(neither, xp.zeros_like(log_p), log_p)


def mixture(ops: Ops, ratio: Array) -> tuple[Array, Array, Array]:
    """From `ratio`, log(q / p): log(p / m) / 2, log(q / m) / 2, and the divergence of each class divided by m.

    Here m = (p + q) / 2. With s = |log(q / p)| and t = tanh(s / 2), |q - p| is (p + q) t, and the divergence of a class
    is m (t s / 2 - log cosh(s / 2)). Where t is small, the two terms cancel: a series in t^2 takes their place.
    """
    xp = ops.xp
    positive, negative = ops.sides(ratio)
    s = positive + negative
    common = log1p(xp, expm1(xp, -s) / 2)
    e = xp.exp(-s)
    t = -expm1(xp, -s) / (1 + e)
    near = t < 0.5
    v = xp.where(near, t * t, xp.zeros_like(t))
    series = xp.zeros_like(v)
    for k in range(math.ceil(-math.log(ops.epsilon, 4)), 0, -1):
        series = v * series + 1 / (2 * k * (2 * k - 1))
    far = ops.multiply_zero_wins(e, s) / (1 + e) + xp.log1p(e)
    return -(positive + common) / 2, -(negative + common) / 2, xp.where(near, v * series, math.log(2) - far)


def centred(ops: Ops, rows: RowSoftmax, values: Array, g: Array) -> Array:
    """g p (values - sum(p values)): the vjp of sum(p values) for the logits of p, with constant values.

    If a class has p > 1/2, its value is subtracted from all first, which avoids cancellation. A class whose exponential
    is 0 gets 0, even if its value is infinite.
    """
    xp, p, e = ops.xp, rows.p(), rows.e
    zero, most = xp.zeros_like(p), p > 0.5
    values = xp.where((e == 0) & ~xp.isnan(values), zero, values)
    shifted = xp.where(most, zero, values - ops.sum(xp.where(most, values, zero)))
    # e, not p, is multiplied by the values: divided by the sum of its row, it may be subnormal, or 0.
    return ops.scale(e * (shifted - ops.sum(p * shifted)), ops.multiply_zero_wins(g, 1 / rows.total))


@dataclass(frozen=True)
class KullbackLeibler(Kernel):
    """sum q log(q / p), for the softmaxes p of the logits x and q of the target logits."""

    def forward(self, ops: Ops, x: Array, weight: Array | None, target: Array) -> Forward:
        xp = ops.xp
        of_x, of_target = RowSoftmax(ops, x), RowSoftmax(ops, target)
        p, q = of_x.p(), of_target.p()
        ratio = log_ratio(ops, of_x, of_target)
        zero = xp.zeros_like(ratio)
        # The terms are q log(q / p) + p - q: the sum is the same, and none is negative. `excess` takes ratios above -1.
        in_domain = ratio > -1
        terms = xp.where(in_domain, q * excess(xp, xp.where(in_domain, ratio, zero)), q * ratio + (p - q))
        terms = xp.where(ratio == float("inf"), ratio, xp.where((q == 0) & ~xp.isnan(ratio), p, terms))
        value = ops.sum(terms)

        def vjp_x(g: Array) -> Array:
            # p - q, as the larger of the two times an expm1. (Not of -abs(ratio), which has no derivative at 0.)
            above = ratio >= 0
            return ops.scale(xp.where(above, q, -p) * expm1(xp, xp.where(above, -ratio, ratio)), g)

        def vjp_target(g: Array) -> Array:
            return centred(ops, of_target, ratio, g)

        return weighted(ops, weight, value, vjp_x, vjp_target)

    def second(self, ops: Ops, x: Array, target: Array) -> Array:
        rows = RowSoftmax(ops, x)
        return rows.p() * rows.one_minus_p()


@dataclass(frozen=True)
class GivenKullbackLeibler(Kernel):
    """sum q log(q / p), for the log-probabilities log p and the probabilities q, or, with `log_target`, log q.

    With `generalized`, it is sum (q log(q / p) + p - q): never negative, even if p and q do not sum to 1.
    """

    log_target: bool = False
    generalized: bool = False

    def forward(self, ops: Ops, x: Array, weight: Array | None, target: Array) -> Forward:
        q = ops.xp.exp(target) if self.log_target else target
        ratio = target - x if self.log_target else given_log_ratio(ops, x, q)
        terms, by_log_p, by_q = ops.multiply_zero_wins(q, ratio), -q, ratio
        if self.generalized:
            by_log_p = ops.xp.exp(x) - q
            terms = terms + by_log_p
        else:
            by_q = by_q + 1

        def vjp_target(g: Array) -> Array:
            return ops.multiply_zero_wins(g, ops.multiply_zero_wins(q, by_q) if self.log_target else by_q)

        return weighted(ops, weight, ops.sum(terms), lambda g: g * by_log_p, vjp_target)


@dataclass(frozen=True)
class JensenShannon(Kernel):
    """sum (p log(p / m) + q log(q / m)) / 2, m = (p + q) / 2, for the softmaxes p of x and q of the target logits."""

    def forward(self, ops: Ops, x: Array, weight: Array | None, target: Array) -> Forward:
        of_x, of_target = RowSoftmax(ops, x), RowSoftmax(ops, target)
        p, q = of_x.p(), of_target.p()
        by_p, by_q, cost = mixture(ops, log_ratio(ops, of_x, of_target))
        return weighted(
            ops,
            weight,
            ops.sum((p + q) / 2 * cost),
            lambda g: centred(ops, of_x, by_p, g),
            lambda g: centred(ops, of_target, by_q, g),
        )


@dataclass(frozen=True)
class GivenJensenShannon(Kernel):
    """As `JensenShannon`, for the log-probabilities log p and the probabilities q."""

    def forward(self, ops: Ops, x: Array, weight: Array | None, target: Array) -> Forward:
        p = ops.xp.exp(x)
        by_p, by_q, cost = mixture(ops, given_log_ratio(ops, x, target))
        return weighted(
            ops,
            weight,
            ops.sum((p + target) / 2 * cost),
            lambda g: ops.scale(ops.multiply_zero_wins(p, by_p), g),
            lambda g: ops.scale(by_q, g),
        )
