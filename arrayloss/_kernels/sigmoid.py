"""Binary losses and functions: element by element, without a class axis.

One exponential, e = exp(-|x|), serves both answers: softplus(x) = max(x, 0) + log1p(e), and p and 1 - p are 1 / (1 + e)
and e / (1 + e), or the other way round. All terms are positive: nothing cancels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from arrayloss._kernels.ops import Array, Complete, Forward, Kernel, Ops
from arrayloss._kernels.penalties import Penalty, Probability, log1p, times
from arrayloss._kernels.softmax import weighted

BinaryVjp = Callable[[Array, Array, Array], Array]


class BinaryLink(Complete):
    """From the elements of an array to the probabilities of the answers 1 and 0: the base of all binary links.

    They are hashable objects (frozen dataclasses) with one method. `of_answers(ops, x)` returns both probabilities, and
    a function `vjp(g, by_one, by_zero)`. `by_one` and `by_zero` are the derivatives of a result with respect to log p
    and log(1 - p). The function returns g times the derivative of that result with respect to x; 0 where g is 0.

    Attributes
    ----------
    logits
        Whether the probability of 1 is the sigmoid of the array. Then there are second derivatives in closed form.
    unit_interval
        Whether all numbers of the array must be in [0, 1].
    """

    logits: ClassVar[bool] = False
    unit_interval: ClassVar[bool] = False

    @abstractmethod
    def of_answers(self, ops: Ops, x: Array) -> tuple[Probability, Probability, BinaryVjp]: ...


class Logistic:
    """The sigmoid of x and of -x, and their logarithms, from one exponential."""

    def __init__(self, ops: Ops, x: Array) -> None:
        self._ops, self._x = ops, x
        self._positive, self._negative = ops.sides(x)
        self._e = ops.xp.exp(-(self._positive + self._negative))
        self._log1p = ops.xp.log1p(self._e)
        self._sides: tuple[Array, Array, Array] | None = None
        self._p: tuple[Array, Array] | None = None

    def neg_log_p(self) -> Array:
        return self._negative + self._log1p

    def neg_log_q(self) -> Array:
        return self._positive + self._log1p

    def p(self) -> Array:
        return self._both()[0]

    def q(self) -> Array:
        """1 - p."""
        return self._both()[1]

    def slope(self) -> Array:
        """p (1 - p)."""
        return self._e / ((1 + self._e) * (1 + self._e))

    def weighted_difference(self, by_p: Array, by_q: Array) -> Array:
        """by_p p - by_q (1 - p)."""
        up, down, total = self._over_total()
        return (by_p * up - by_q * down) / total

    def _both(self) -> tuple[Array, Array]:
        if self._p is None:
            up, down, total = self._over_total()
            self._p = up / total, down / total
        return self._p

    def _over_total(self) -> tuple[Array, Array, Array]:
        """The numerators of p and 1 - p, and their denominator."""
        if self._sides is None:
            self._sides = *self._ops.one_by_sign(self._x, self._e), 1 + self._e
        return self._sides


@dataclass(frozen=True)
class _SigmoidLink(BinaryLink):
    logits: ClassVar[bool] = True

    def of_answers(self, ops: Ops, x: Array) -> tuple[Probability, Probability, BinaryVjp]:
        both = Logistic(ops, x)

        def vjp(g: Array, by_one: Array, by_zero: Array) -> Array:
            return ops.multiply_zero_wins(-g, both.weighted_difference(by_zero, by_one))

        return (
            Probability(neg_log_p=both.neg_log_p, p=both.p, one_minus_p=both.q),
            Probability(neg_log_p=both.neg_log_q, p=both.q, one_minus_p=both.p),
            vjp,
        )


@dataclass(frozen=True)
class _ProbabilityLink(BinaryLink):
    unit_interval: ClassVar[bool] = True

    def of_answers(self, ops: Ops, x: Array) -> tuple[Probability, Probability, BinaryVjp]:
        def vjp(g: Array, by_one: Array, by_zero: Array) -> Array:
            # The cotangent goes in first: 1 / x alone overflows for a subnormal x.
            return _over(ops, g * by_one, x) - _over(ops, g * by_zero, 1 - x)

        return (
            Probability(neg_log_p=lambda: -ops.xp.log(x), p=lambda: x, one_minus_p=lambda: 1 - x),
            Probability(neg_log_p=lambda: -log1p(ops.xp, -x), p=lambda: 1 - x, one_minus_p=lambda: x),
            vjp,
        )


def _over(ops: Ops, a: Array, b: Array) -> Array:
    """a / b, but 0 where a is 0 and b is not above 0."""
    xp, nothing = ops.xp, (a == 0) & ~(b > 0)
    return xp.where(nothing, xp.zeros_like(a), a / xp.where(nothing, xp.ones_like(b), b))


sigmoid: BinaryLink = _SigmoidLink()
given_probabilities: BinaryLink = _ProbabilityLink()


@dataclass(frozen=True)
class BinaryLoss(Kernel):
    """one * penalty(p) + zero * penalty_of_zero(1 - p): `one` and `zero` are the weights of the answers 1 and 0.

    Inputs: the logits, the weight of each element (None: 1), `one`, `zero`, and the penalties' parameter if any.
    """

    link: BinaryLink
    penalty: Penalty
    penalty_of_zero: Penalty
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array, weight: Array | None, one: Array, zero: Array, *parameter: Array) -> Forward:
        at_one, at_zero, vjp = self.link.of_answers(ops, x)
        of_one, of_zero = (each.with_parameter(parameter) for each in (self.penalty, self.penalty_of_zero))
        if_one, if_zero = of_one.value(ops, at_one), of_zero.value(ops, at_zero)

        def vjp_x(g: Array) -> Array:
            by_one = times(one, of_one.slope(ops, at_one))
            by_zero = times(zero, of_zero.slope(ops, at_zero))
            # The slopes are derivatives by -log p; `vjp` takes derivatives by log p.
            return vjp(-g, by_one, by_zero)

        def vjp_one(g: Array) -> Array:
            return ops.multiply_zero_wins(g, if_one)

        def vjp_zero(g: Array) -> Array:
            return ops.multiply_zero_wins(g, if_zero)

        def vjp_parameter(g: Array) -> Array:
            by_one = ops.multiply_zero_wins(one, of_one.by_parameter(ops, at_one))
            return ops.multiply_zero_wins(g, by_one + ops.multiply_zero_wins(zero, of_zero.by_parameter(ops, at_zero)))

        value = ops.multiply_zero_wins(one, if_one) + ops.multiply_zero_wins(zero, if_zero)
        return weighted(ops, weight, value, vjp_x, vjp_one, vjp_zero, *(vjp_parameter for _ in parameter))

    def second(self, ops: Ops, x: Array, one: Array, zero: Array, *parameter: Array) -> Array:
        """The second derivative of each element's loss by its logit."""
        if not self.link.logits:
            raise TypeError("second derivatives are there for losses of logits")
        at_one, at_zero, _ = self.link.of_answers(ops, x)
        of_one, of_zero = (each.with_parameter(parameter) for each in (self.penalty, self.penalty_of_zero))
        if_one, if_zero = _second(ops, of_one, at_one), _second(ops, of_zero, at_zero)
        return ops.multiply_zero_wins(one, if_one) + ops.multiply_zero_wins(zero, if_zero)


def _second(ops: Ops, penalty: Penalty, at: Probability) -> Array:
    """The second derivative of a penalty by x, if its probability is the sigmoid of x or of -x."""
    bent, curvature = times(at.p, penalty.slope(ops, at)), penalty.curvature(ops, at)
    return at.one_minus_p * (bent if curvature is None else curvature + bent)


@dataclass(frozen=True)
class AnswerWeights:
    """The weights of the answers: positive ((1 - s) y + s / 2) and negative ((1 - s) (1 - y) + s / 2).

    y is the target and s `label_smoothing`. Each factor is the number in this class times the array that `of` is given.
    """

    label_smoothing: Any
    positive: Any
    negative: Any

    def of(
        self, ops: Ops, x: Array, target: Array, positive: Array | None, negative: Array | None
    ) -> tuple[Array, Array]:
        s = ops.scalar(self.label_smoothing)
        one, zero = target, 1 - target
        if not isinstance(s, (int, float)) or s:
            one, zero = (1 - s) * one + s / 2, (1 - s) * zero + s / 2
        return _scaled(one, self.positive, positive), _scaled(zero, self.negative, negative)


def _scaled(x: Array, number: float, array: Array | None) -> Array:
    if number != 1:
        x = x * number
    return times(x, array)


@dataclass(frozen=True)
class Sigmoid(Kernel):
    """1 / (1 + exp(-x))."""

    keeps_classes: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array) -> Forward:
        both = Logistic(ops, x)
        return Forward(both.p(), (lambda g: g * both.slope(),))


@dataclass(frozen=True)
class LogSigmoid(Kernel):
    """-log(1 + exp(-x))."""

    keeps_classes: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array) -> Forward:
        both = Logistic(ops, x)
        return Forward(-both.neg_log_p(), (lambda g: g * both.q(),))
