"""What a loss charges for the probability of the right answer: cross-entropy, focal, poly and others.

A penalty knows one probability and nothing else: no labels, no weights, no array layout. So it works with labels and
soft targets, in both families, on every library.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arrayloss._kernels.ops import Array, Complete, Ops


class Probability:
    """A probability p, as three numbers. A link of logits makes none of them from another by a subtraction from 1.

    Each is given as a function, which is called once, when it is first asked for.

    Attributes
    ----------
    neg_log_p
        -log p, in [0, inf].
    p, one_minus_p
        p and 1 - p, in [0, 1].
    """

    def __init__(self, *, neg_log_p: Any, p: Any, one_minus_p: Any) -> None:
        self._made: dict[str, Any] = {}
        self._makers: dict[str, Callable[[], Array]] = {"neg_log_p": neg_log_p, "p": p, "one_minus_p": one_minus_p}

    def _get(self, name: str) -> Array:
        # Not functools.cached_property: torch.compile does not trace it.
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    @property
    def neg_log_p(self) -> Array:
        return self._get("neg_log_p")

    @property
    def p(self) -> Array:
        return self._get("p")

    @property
    def one_minus_p(self) -> Array:
        return self._get("one_minus_p")


class Penalty(Complete):
    """The base of all penalties: a hashable object (a frozen dataclass) with two methods, or three.

    `value(ops, at)` is the penalty of the probability `at`. `slope(ops, at)` is its derivative by -log p, which is
    -p d value / dp; None stands for 1. `curvature(ops, at)` is (1 - p) times the derivative of the slope by -log p; it
    is needed by `objective` alone, and None stands for 0. All three return one number for each that `at` has.

    Where a parameter is an array, it is an input of the kernel, which is hashed without it: `of(array)` returns the
    penalty with that array, of the shape that `at` has, and its `by_parameter(ops, at)` the derivative by it.
    """

    @abstractmethod
    def value(self, ops: Ops, at: Probability) -> Array: ...

    @abstractmethod
    def slope(self, ops: Ops, at: Probability) -> Array | None: ...

    def curvature(self, ops: Ops, at: Probability) -> Array | None:
        raise TypeError(f"{type(self).__name__} has no curvature(self, ops, at), which a second derivative takes")

    def with_parameter(self, parameter: tuple[Array, ...]) -> Penalty:
        """The penalty with its parameter, of a kernel's last inputs: one array, or none."""
        return self.of(*parameter) if parameter else self

    def of(self, parameter: Array) -> Penalty:
        raise TypeError(f"{type(self).__name__} has no of(self, parameter), which a parameter that is an array takes")

    def by_parameter(self, ops: Ops, at: Probability) -> Array:
        raise TypeError(f"{type(self).__name__} has no by_parameter(self, ops, at), the derivative by its parameter")


@dataclass(frozen=True)
class CrossEntropy(Penalty):
    """-log p."""

    def value(self, ops: Ops, at: Probability) -> Array:
        return at.neg_log_p

    def slope(self, ops: Ops, at: Probability) -> None:
        return None

    def curvature(self, ops: Ops, at: Probability) -> None:
        return None


@dataclass(frozen=True)
class Focal(Penalty):
    """(1 - p)^gamma (-log p), gamma > 0, of Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017).

    With None, gamma is an array, which may have zeros.
    """

    gamma: Any

    def value(self, ops: Ops, at: Probability) -> Array:
        return power(ops, at.one_minus_p, self.gamma) * at.neg_log_p

    def slope(self, ops: Ops, at: Probability) -> Array:
        return power(ops, at.one_minus_p, self.gamma) * (1 + ops.scalar(self.gamma) * self._ratio(ops, at))

    def curvature(self, ops: Ops, at: Probability) -> Array:
        ratio = self._ratio(ops, at)
        gamma = ops.scalar(self.gamma)
        return gamma * power(ops, at.one_minus_p, self.gamma) * (at.p * (2 + gamma * ratio) - ratio)

    def of(self, parameter: Array) -> Focal:
        return Focal(parameter)

    def by_parameter(self, ops: Ops, at: Probability) -> Array:
        # log(1 - p) of whichever of p and 1 - p is not next to 1.
        xp, p, rest = ops.xp, at.p, at.one_minus_p
        small = p < 0.25
        of_p = xp.log1p(-xp.where(small, p, xp.zeros_like(p)))
        log_rest = xp.where(small, of_p, xp.log(xp.where(rest == 0, xp.ones_like(rest), rest)))
        return ops.multiply_zero_wins(log_rest, self.value(ops, at))

    def _ratio(self, ops: Ops, at: Probability) -> Array:
        """-p log p / (1 - p), which is 0 at p = 0, and 1 at p = 1, where it is multiplied by 0."""
        xp, rest = ops.xp, at.one_minus_p
        return ops.multiply_zero_wins(at.p, at.neg_log_p) / xp.where(rest > 0, rest, xp.ones_like(rest))


@dataclass(frozen=True)
class Poly(Penalty):
    """-log p + epsilon (1 - p), epsilon >= -1, of Leng et al., "PolyLoss" (ICLR 2022)."""

    epsilon: float

    def value(self, ops: Ops, at: Probability) -> Array:
        # 1 - p is -expm1(-u) for u = -log p, and u + expm1(-u) is not negative: both terms have one sign.
        return excess(ops.xp, at.neg_log_p) + (1 + ops.scalar(self.epsilon)) * at.one_minus_p

    def slope(self, ops: Ops, at: Probability) -> Array:
        # 1 + epsilon p, in terms of one sign.
        return at.one_minus_p + (1 + ops.scalar(self.epsilon)) * at.p

    def curvature(self, ops: Ops, at: Probability) -> Array:
        return -ops.scalar(self.epsilon) * at.p * at.one_minus_p


@dataclass(frozen=True)
class Generalized(Penalty):
    """(1 - p^q) / q, q in (0, 1], of Zhang and Sabuncu, "Generalized Cross Entropy Loss" (NeurIPS 2018)."""

    q: float

    def value(self, ops: Ops, at: Probability) -> Array:
        # -expm1(-v) / q; where v = -q log p may be no normal number, with -log p itself as the first term.
        xp, q = ops.xp, ops.scalar(self.q)
        v = q * at.neg_log_p
        near = v <= 1
        return xp.where(near, at.neg_log_p - excess(xp, xp.where(near, v, xp.zeros_like(v))) / q, (1 - xp.exp(-v)) / q)

    def slope(self, ops: Ops, at: Probability) -> Array:
        # Not p^q, as p may be 0 where that is not.
        return ops.xp.exp(-ops.scalar(self.q) * at.neg_log_p)

    def curvature(self, ops: Ops, at: Probability) -> Array:
        return -ops.scalar(self.q) * at.one_minus_p * self.slope(ops, at)


@dataclass(frozen=True)
class Symmetric(Penalty):
    """alpha (-log p) + beta (1 - p), of Wang et al., "Symmetric Cross Entropy" (ICCV 2019)."""

    alpha: float
    beta: float

    def value(self, ops: Ops, at: Probability) -> Array:
        # Near p = 1, -log p and 1 - p are one number, and alpha times that alone may be no normal one.
        alpha, beta = ops.scalar(self.alpha), ops.scalar(self.beta)
        missed = (alpha + beta) * at.one_minus_p
        if isinstance(alpha, (int, float)) and not alpha:
            return missed  # also where -log p is inf
        return alpha * excess(ops.xp, at.neg_log_p) + missed

    def slope(self, ops: Ops, at: Probability) -> Array:
        return ops.scalar(self.alpha) + ops.scalar(self.beta) * at.p

    def curvature(self, ops: Ops, at: Probability) -> Array:
        return -ops.scalar(self.beta) * at.p * at.one_minus_p


@dataclass(frozen=True)
class Shifted(Penalty):
    """`penalty` of min(p + margin, 1), of Ridnik et al., "Asymmetric Loss" (ICCV 2021); margin > 0."""

    penalty: Penalty
    margin: float

    def value(self, ops: Ops, at: Probability) -> Array:
        return self.penalty.value(ops, self._shifted(ops, at))

    def slope(self, ops: Ops, at: Probability) -> Array:
        # d(-log of the shifted p) / d(-log p) is p / (p + margin); what costs nothing is flat, the kink included.
        shifted = self._shifted(ops, at)
        slope = times(at.p / shifted.p, self.penalty.slope(ops, shifted))
        return ops.xp.where(shifted.one_minus_p == 0, ops.xp.zeros_like(slope), slope)

    def curvature(self, ops: Ops, at: Probability) -> Array:
        xp = ops.xp
        shifted = self._shifted(ops, at)
        ratio, rest = at.p / shifted.p, shifted.one_minus_p
        # The derivative of the ratio by -log p is -ratio margin / (p + margin).
        bent = -times(ratio * (ops.scalar(self.margin) / shifted.p), self.penalty.slope(ops, shifted))
        curvature = self.penalty.curvature(ops, shifted)
        if curvature is not None:
            bent = bent + ratio * ratio * curvature / xp.where(rest > 0, rest, xp.ones_like(rest))
        return xp.where(rest == 0, xp.zeros_like(rest), at.one_minus_p * bent)

    def _shifted(self, ops: Ops, at: Probability) -> Probability:
        xp = ops.xp
        p = xp.minimum(at.p + ops.scalar(self.margin), xp.ones_like(at.p))
        rest = xp.maximum(at.one_minus_p - ops.scalar(self.margin), xp.zeros_like(p))
        # The library's log1p down to -1/4 only, as in `log1p`; beyond, p is there itself.
        small = rest < 0.25
        neg_log_p = xp.where(small, -xp.log1p(-xp.where(small, rest, xp.zeros_like(rest))), -xp.log(p))
        return Probability(neg_log_p=lambda: neg_log_p, p=lambda: p, one_minus_p=lambda: rest)


def times(x: Array, factor: Array | None) -> Array:
    """x times a slope; None stands for 1."""
    return x if factor is None else x * factor


def power(ops: Ops, x: Array, exponent: float) -> Array:
    """x^exponent for x in [0, 1] and an exponent above 0; of 0, 0 for all exponents."""
    if isinstance(exponent, (int, float)) and exponent in (1, 2):
        return x if exponent == 1 else x * x
    # 0 apart: for exponents below 1 the derivative is infinite there, and 0 * inf would reach second derivatives.
    xp, some = ops.xp, x > 0
    return xp.where(x == 0, xp.zeros_like(x), xp.where(some, x, xp.ones_like(x)) ** ops.scalar(exponent))


def excess(xp: Any, u: Array) -> Array:
    """u + expm1(-u), for u from -1 up: how far exp(-u) is above its tangent 1 - u; a series where the two cancel."""
    eps = float(xp.finfo(u.dtype).eps)
    last, term = 2, 1.0
    while term > eps / 8:
        last += 1
        term *= 2 / last
    small = u <= 1
    v = xp.where(small, u, xp.zeros_like(u))
    series = xp.ones_like(v)
    for k in range(last, 2, -1):
        series = 1 - v * series * (1 / k)
    return xp.where(small, v * v * series / 2, (u - 1) + xp.exp(-u))


def log1p(xp: Any, x: Array) -> Array:
    """log(1 + x), for x from -1 up.

    Not the library's own below -1/4: XLA's float64 log1p is 128 ULP off about -0.41 (jaxlib 0.10.2).
    """
    near = x > -0.25
    return xp.where(near, xp.log1p(xp.where(near, x, xp.zeros_like(x))), xp.log(1 + x))


def expm1(xp: Any, x: Array) -> Array:
    """exp(x) - 1, for x up to 1.

    Not the library's own: XLA's is 5 units in the last place off in float32 (jaxlib 0.10.2), and that of torch.compile
    on a CPU is exp(x) - 1 (pytorch issue 189803), without a digit for small x.
    """
    near = x >= -1
    v = xp.where(near, x, xp.zeros_like(x))
    return xp.where(near, v + excess(xp, -v), xp.exp(x) - 1)
