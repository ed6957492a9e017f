"""The Kullback-Leibler divergence of two softmaxes."""

from __future__ import annotations

from dataclasses import dataclass

from arrayloss._kernels.ops import Array, Forward, Kernel, Ops
from arrayloss._kernels.penalties import excess, expm1, log1p
from arrayloss._kernels.softmax import Rows, weighted


def log_ratio(ops: Ops, of_x: Rows, of_target: Rows) -> Array:
    """log(q / p) of each class, for the softmaxes p and q of two arrays.

    It is u - log(sum p exp(u)), with u the difference of the logits; any number may be taken off every u of a row, and
    the logarithm is that of t, where q_c t = p_c exp(u_c). About the mean of u, all terms of close softmaxes are small,
    and right to the last bits. Where the two are far apart, the difference of their logarithms is.
    """
    xp = ops.xp
    p, q = of_x.p(), of_target.p()
    log_p, log_q = of_x.log_p(), of_target.log_p()
    zero = xp.zeros_like(p)
    finite = xp.isfinite(of_x.x) & xp.isfinite(of_target.x) & xp.isfinite(log_p) & xp.isfinite(log_q)
    # Where two rows lie at the same height, the logits are close to each other; else their distances from the maximum.
    height = of_target.top - of_x.top
    level = xp.abs(height) < 1
    distances = (of_target.x - of_target.top) - (of_x.x - of_x.top)
    u = xp.where(finite, xp.where(level, of_target.x - of_x.x, distances), zero)
    # Not log q - log p, which are rounded at their own size. A class that neither has is no difference.
    neither = (log_p == -float("inf")) & (log_q == -float("inf"))
    of_logits = xp.where(level, u - height, u) - (xp.log1p(of_target.rest) - xp.log1p(of_x.rest))
    apart = xp.where(finite, of_logits, xp.where(neither, zero, log_q) - xp.where(neither, zero, log_p))
    mean = ops.sum(q * u)
    u = u - mean
    near = finite & (xp.abs(apart) < 1) & (xp.abs(u) < 1)
    log_t = (xp.where(level, height, xp.zeros_like(height)) - mean) + (xp.log1p(of_target.rest) - xp.log1p(of_x.rest))
    # Where anything is near, t is; elsewhere nobody asks for it.
    t = xp.exp(xp.where(xp.abs(log_t) < 2, log_t, xp.zeros_like(log_t)))
    shift = ops.sum(xp.where(near, p * expm1(xp, xp.where(near, u, zero)), q * t - p))
    some = shift > -1
    return xp.where(near & some, u - log1p(xp, xp.where(some, shift, xp.zeros_like(shift))), apart)


@dataclass(frozen=True)
class Divergence(Kernel):
    """sum q log(q / p), of Kullback and Leibler, for the softmax p of x and q of the other logits."""

    def forward(self, ops: Ops, x: Array, weight: Array | None, target: Array) -> Forward:
        xp = ops.xp
        of_x, of_target = Rows(ops, x), Rows(ops, target)
        p, q = of_x.p(), of_target.p()
        ratio = log_ratio(ops, of_x, of_target)
        zero = xp.zeros_like(ratio)
        # q log(q / p) + p - q has the same sum, and is nowhere negative.
        close = ratio > -1
        terms = xp.where(close, q * excess(xp, xp.where(close, ratio, zero)), q * ratio + (p - q))
        terms = xp.where(ratio == float("inf"), ratio, xp.where((q == 0) & ~xp.isnan(ratio), p, terms))
        value = ops.sum(terms)

        def vjp_x(g: Array) -> Array:
            # p - q, of whichever is the larger.
            small = -xp.abs(ratio)
            return ops.scale(xp.where(ratio >= 0, q, -p) * expm1(xp, small), g)

        def vjp_target(g: Array) -> Array:
            # q (ratio - sum(q ratio)), about the class with q > 1/2, where there is one.
            e = of_target.e
            weighed = xp.where((e == 0) & ~xp.isnan(ratio), zero, ratio)
            most = q > 0.5
            about = xp.where(most, zero, weighed - ops.sum(xp.where(most, weighed, zero)))
            # Multiplied by the ratio first: divided by the sum, the exponential may be a subnormal number, or 0.
            return ops.scale(e * (about - ops.sum(q * about)), ops.multiply_zero_wins(g, 1 / of_target.total))

        return weighted(ops, weight, value, vjp_x, vjp_target)

    def second(self, ops: Ops, x: Array, target: Array) -> Array:
        rows = Rows(ops, x)
        return rows.p() * rows.one_minus_p()
