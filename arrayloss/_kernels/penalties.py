"""What a loss charges for the probability of the right answer: cross-entropy, focal, poly and others.

A penalty knows one probability and nothing else: no labels, no weights, no array layout. So it works with labels and
soft targets, with a softmax and a sigmoid, on every library.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arrayloss._kernels.ops import Array, Complete, Ops


class Probability:
    """A probability p, as three numbers. A link that takes logits computes none of them as 1 minus another.

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
    is needed by `objective` alone, and None stands for 0. All three return one number for each probability in `at`.

    A parameter that is an array is no field, as compilers cache a kernel by its hash, but an input of the kernel:
    `of(array)` returns the penalty with that array, in the shape of `at`, and the `by_parameter(ops, at)` of this
    penalty is its derivative by the parameter.
    """

    @abstractmethod
    def value(self, ops: Ops, at: Probability) -> Array: ...

    @abstractmethod
    def slope(self, ops: Ops, at: Probability) -> Array | None: ...

    def curvature(self, ops: Ops, at: Probability) -> Array | None:
        raise TypeError(f"{type(self).__name__} has no curvature(self, ops, at), which a second derivative needs")

    def with_parameter(self, parameter: tuple[Array, ...]) -> Penalty:
        """The penalty with its array parameter, the last input of a kernel; the penalty itself if there is none."""
        return self.of(*parameter) if parameter else self

    def of(self, parameter: Array) -> Penalty:
        raise TypeError(f"{type(self).__name__} has no of(self, parameter), which a parameter that is an array needs")

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

    None stands for an array, which is an input of the kernel (`Penalty.of`) and may have zeros.
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
        # log(1 - p), from p where that is small, and from 1 - p elsewhere: never from a number that is close to 1.
        xp, p, rest = ops.xp, at.p, at.one_minus_p
        small = p < 0.25
        of_p = xp.log1p(-xp.where(small, p, xp.zeros_like(p)))
        log_rest = xp.where(small, of_p, xp.log(xp.where(rest == 0, xp.ones_like(rest), rest)))
        return ops.multiply_zero_wins(log_rest, self.value(ops, at))

    def _ratio(self, ops: Ops, at: Probability) -> Array:
        """-p log p / (1 - p), and 0 at p = 0. At p = 1 it is 0, not the limit 1; there it is multiplied by 0."""
        xp, rest = ops.xp, at.one_minus_p
        return ops.multiply_zero_wins(at.p, at.neg_log_p) / xp.where(rest > 0, rest, xp.ones_like(rest))


@dataclass(frozen=True)
class Poly(Penalty):
    """-log p + epsilon (1 - p), epsilon >= -1, of Leng et al., "PolyLoss" (ICLR 2022)."""

    epsilon: float

    def value(self, ops: Ops, at: Probability) -> Array:
        # With u = -log p, 1 - p is -expm1(-u), and u + expm1(-u) is at least 0: no term is negative, nothing cancels.
        return excess(ops.xp, at.neg_log_p) + (1 + ops.scalar(self.epsilon)) * at.one_minus_p

    def slope(self, ops: Ops, at: Probability) -> Array:
        # 1 + epsilon p, as a sum of terms that are not negative.
        return at.one_minus_p + (1 + ops.scalar(self.epsilon)) * at.p

    def curvature(self, ops: Ops, at: Probability) -> Array:
        return -ops.scalar(self.epsilon) * at.p * at.one_minus_p


@dataclass(frozen=True)
class Generalized(Penalty):
    """(1 - p^q) / q, q in (0, 1], of Zhang and Sabuncu, "Generalized Cross Entropy Loss" (NeurIPS 2018)."""

    q: float

    def value(self, ops: Ops, at: Probability) -> Array:
        # -expm1(-v) / q, for v = -q log p. Up to v = 1, -log p itself is the first term, as v may be subnormal.
        xp, q = ops.xp, ops.scalar(self.q)
        v = q * at.neg_log_p
        near = v <= 1
        return xp.where(near, at.neg_log_p - excess(xp, xp.where(near, v, xp.zeros_like(v))) / q, (1 - xp.exp(-v)) / q)

    def slope(self, ops: Ops, at: Probability) -> Array:
        # Not p^q, as p may underflow to 0 where p^q does not.
        return ops.xp.exp(-ops.scalar(self.q) * at.neg_log_p)

    def curvature(self, ops: Ops, at: Probability) -> Array:
        return -ops.scalar(self.q) * at.one_minus_p * self.slope(ops, at)


@dataclass(frozen=True)
class Symmetric(Penalty):
    """alpha (-log p) + reverse (1 - p), of Wang et al., "Symmetric Cross Entropy" (ICCV 2019).

    `reverse` is their beta times -A, where A stands for log 0.
    """

    alpha: float
    reverse: float

    def value(self, ops: Ops, at: Probability) -> Array:
        # Near p = 1, -log p is about 1 - p. Their factors are added first, as alpha (1 - p) alone may be subnormal.
        alpha, reverse = ops.scalar(self.alpha), ops.scalar(self.reverse)
        missed = (alpha + reverse) * at.one_minus_p
        if isinstance(alpha, (int, float)) and not alpha:
            return missed  # not 0 * inf where p is 0
        return alpha * excess(ops.xp, at.neg_log_p) + missed

    def slope(self, ops: Ops, at: Probability) -> Array:
        return ops.scalar(self.alpha) + ops.scalar(self.reverse) * at.p

    def curvature(self, ops: Ops, at: Probability) -> Array:
        return -ops.scalar(self.reverse) * at.p * at.one_minus_p


@dataclass(frozen=True)
class Shifted(Penalty):
    """`penalty` of min(p + margin, 1), of Ridnik et al., "Asymmetric Loss" (ICCV 2021); margin > 0."""

    penalty: Penalty
    margin: float

    def value(self, ops: Ops, at: Probability) -> Array:
        return self.penalty.value(ops, self._shifted(ops, at))

    def slope(self, ops: Ops, at: Probability) -> Array:
        # d(-log of the shifted p) / d(-log p) is p / (p + margin); the slope is 0 where p + margin >= 1, kink included.
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
        # The library's log1p only for small `rest`, as in `log1p` below; elsewhere the log of p.
        small = rest < 0.25
        neg_log_p = xp.where(small, -xp.log1p(-xp.where(small, rest, xp.zeros_like(rest))), -xp.log(p))
        return Probability(neg_log_p=lambda: neg_log_p, p=lambda: p, one_minus_p=lambda: rest)


def times(x: Array, factor: Array | None) -> Array:
    """x times a slope; None stands for 1."""
    return x if factor is None else x * factor


def power(ops: Ops, x: Array, exponent: float) -> Array:
    """x^exponent for x in [0, 1] and an exponent of at least 0; 0 at x = 0, for exponent 0 too."""
    if isinstance(exponent, (int, float)) and exponent in (1, 2):
        return x if exponent == 1 else x * x
    # x = 0 is set apart: for exponents below 1 the derivative is infinite there, and autodiff would make 0 * inf of it.
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

    Not the library's own below -1/4: XLA's float64 log1p is 128 ULP off near x = -0.41 (jaxlib 0.10.2).
    """
    near = x > -0.25
    return xp.where(near, xp.log1p(xp.where(near, x, xp.zeros_like(x))), xp.log(1 + x))


def expm1(xp: Any, x: Array) -> Array:
    """exp(x) - 1, for x up to 1.

    Not the library's own: XLA's is 5 units in the last place off in float32 (jaxlib 0.10.2), and that of torch.compile
    on a CPU is exp(x) - 1 (pytorch issue 189803), which has no right digit for small x.
    """
    near = x >= -1
    v = xp.where(near, x, xp.zeros_like(x))
    return xp.where(near, v + excess(xp, -v), xp.exp(x) - 1)
