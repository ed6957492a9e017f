"""Losses and functions along a class axis.

1 - p is never computed from p, and a difference that loses digits is only ever added to a larger number (Blanchard,
Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41, 2021). With m
the maximum of a row and e_c = exp(x_c - m):

- with a label t, the label is left out of the sum: others = sum of e_c over c != t, so that

      -log p_t = log1p(others - (1 - e_t)) + (m - x_t),        1 - p_t = others / (others + e_t).

  Where the label is the maximum, 1 - e_t is exactly 0; where it is not, `others` is at least 1: nothing cancels.
- without a label, one maximum is left out: rest = the sum of all other e_c, so that

      log p_c = (x_c - m) - log1p(rest),        1 - p_c = (rest + (1 - e_c)) / (rest + 1).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf, nan
from typing import Any, ClassVar

from arrayloss._kernels.ops import Array, Complete, Forward, Kernel, Ops, Vjp
from arrayloss._kernels.penalties import Penalty, Probability, expm1, times


class Maximum:
    """The maximum of each row, with +inf kept apart.

    A single +inf has probability 1. A row with two of them is nan, and so is a row of -inf alone. `highest` is the
    maximum, `top` has the largest finite number in place of +inf, and `infinite` is true for these rows.
    """

    def __init__(self, ops: Ops, x: Array) -> None:
        self._ops = ops
        self.highest = ops.max(x)
        self.top = ops.not_above(self.highest, ops.largest)
        self.infinite = self.highest > self.top

    def distance(self, x: Array) -> Array:
        """min(x - max, 0), for one element x of each row; -inf if another element is +inf."""
        ops = self._ops
        d = ops.not_above(x - self.top, 0.0)
        return ops.xp.where(self.infinite & (d < 0), ops.like(-inf, d), d)

    def nan_if_two_infinite(self, rest: Array, one: Array) -> Array:
        """`rest`, the sum of a row's exponentials without `one`; nan if the row has more than one +inf, each of which
        has the exponential 1.

        Rows of -inf alone and rows with a nan are nan already.
        """
        ops = self._ops
        return ops.xp.where(self.infinite & (rest + one > 1.5), ops.like(nan, rest), rest)


class RowSoftmax:
    """The softmax of whole rows: the exponentials, with one maximum left out of their sum."""

    def __init__(self, ops: Ops, x: Array) -> None:
        maximum = Maximum(ops, x)
        self.ops, self.x = ops, x
        self.highest, self.top = maximum.highest, maximum.top
        self._infinite = maximum.infinite
        self.at_max = ops.at_max(x, maximum.top)
        self.e = ops.exp_below(x, maximum.top)
        rest = ops.peel(self.e, self.at_max)
        self.rest = maximum.nan_if_two_infinite(rest, ops.xp.ones_like(rest))
        self.total = self.rest + 1

    def log_p(self) -> Array:
        xp = self.ops.xp
        log_total = xp.log1p(self.rest)
        # Beside +inf all other classes have the probability 0.
        beyond = xp.where(self._infinite, xp.full_like(log_total, float("inf")), xp.zeros_like(log_total))
        own = self.ops.not_above(self.at_max.take(self.x) - self.top, 0.0)
        return self.at_max.put((self.x - self.top) - (log_total + beyond), own - log_total)

    def p(self) -> Array:
        return self.e / self.total

    def one_minus_p(self) -> Array:
        return (self.rest + (1 - self.e)) / self.total

    def vjp_log_p(self, g: Array) -> Array:
        """g - p sum(g). It may overwrite the exponentials: nothing else can be computed from them afterwards.

        At the maximum, if p > 1/2 there, it is computed as (g - sum(g)) + (1 - p) sum(g).
        """
        ops, at_max = self.ops, self.at_max
        among = ops.sum_of_weights(g)
        own, e = at_max.take(g), at_max.take(self.e)
        p, one_minus_p = e / self.total, (self.rest + (1 - e)) / self.total
        gradient_at_max = ops.xp.where(p > 0.5, (own - among) + one_minus_p * among, own - p * among)
        moved = ops.scale(self.e, -among / self.total)
        moved += g  # no second array, where arrays can be written to
        return at_max.put(moved, gradient_at_max)

    def jvp_log_p(self, v: Array) -> Array:
        """v - sum(p v).

        Where a class has p > 1/2, its v is subtracted from all v first, which avoids cancellation. JAX transposes this
        into `vjp_log_p`, with the same roundings.
        """
        xp, ops = self.ops.xp, self.ops
        dominates, elsewhere = self._dominating()
        among = ops.sum(xp.where(dominates, -self.one_minus_p(), elsewhere) * v)
        own = ops.sum(xp.where(dominates, v, xp.zeros_like(v)))
        return (v - own) - among

    def jvp_p(self, v: Array) -> Array:
        """p (v - sum(p v)). The Jacobian is symmetric."""
        xp, ops = self.ops.xp, self.ops
        dominates, elsewhere = self._dominating()
        among = ops.sum(elsewhere * v)
        own = ops.sum(xp.where(dominates, self.p() * v, xp.zeros_like(v)))
        there = self.p() * (v * self.one_minus_p() - among)
        return xp.where(dominates, there, elsewhere * v - elsewhere * (own + among))

    def _dominating(self) -> tuple[Array, Array]:
        """A mask of p > 1/2, and p with 0 there."""
        p = self.p()
        most = p > 0.5
        return most, self.ops.xp.where(most, self.ops.xp.zeros_like(p), p)


# ---------------------------------------------------------------------------------------------------------------
# Links: what an array says of the probabilities of its classes.


class Link(Complete):
    """From the rows of an array to probabilities: the base of all links, hashable objects (frozen dataclasses).

    `of_labels(ops, x, labels)` returns the `Probability` of the label of each row, and the vjp of its logarithm;
    `of_classes(ops, x)` returns the same for all classes. `logits` is True if the probabilities are the softmax of the
    array: then there are second derivatives in closed form.
    """

    logits: ClassVar[bool] = False

    @abstractmethod
    def of_labels(self, ops: Ops, x: Array, labels: Array) -> tuple[Probability, Vjp]: ...

    @abstractmethod
    def of_classes(self, ops: Ops, x: Array) -> tuple[Probability, Vjp]: ...


@dataclass(frozen=True)
class _SoftmaxLink(Link):
    logits: ClassVar[bool] = True

    def of_labels(self, ops: Ops, x: Array, labels: Array) -> tuple[Probability, Vjp]:
        xp = ops.xp
        maximum = Maximum(ops, x)
        at_label = ops.at_label(labels, x)
        distance = maximum.distance(at_label.take(x))
        e_label = xp.exp(distance)
        e = at_label.put(ops.exp_below(x, maximum.top), 0.0)
        others = maximum.nan_if_two_infinite(ops.sum(e), e_label)
        total = others + e_label

        def vjp(g: Array) -> Array:
            # g (one_hot - p)
            share = ops.multiply_zero_wins(g, 1 / total)
            return at_label.put(ops.scale(e, -share), ops.multiply_zero_wins(share, others))

        return Probability(
            neg_log_p=lambda: xp.log1p(others - (1 - e_label)) - distance,
            p=lambda: e_label / total,
            one_minus_p=lambda: others / total,
        ), vjp

    def of_classes(self, ops: Ops, x: Array) -> tuple[Probability, Vjp]:
        rows = RowSoftmax(ops, x)
        return Probability(neg_log_p=lambda: -rows.log_p(), p=rows.p, one_minus_p=rows.one_minus_p), rows.vjp_log_p


@dataclass(frozen=True)
class _LogProbabilityLink(Link):
    def of_labels(self, ops: Ops, x: Array, labels: Array) -> tuple[Probability, Vjp]:
        at_label = ops.at_label(labels, x)
        log_p = at_label.take(x)

        def vjp(g: Array) -> Array:
            return at_label.put(ops.xp.zeros_like(x), g)

        return _of_log_p(ops, log_p), vjp

    def of_classes(self, ops: Ops, x: Array) -> tuple[Probability, Vjp]:
        return _of_log_p(ops, x), lambda g: g


def _of_log_p(ops: Ops, log_p: Array) -> Probability:
    return Probability(neg_log_p=lambda: -log_p, p=lambda: ops.xp.exp(log_p), one_minus_p=lambda: -expm1(ops.xp, log_p))


softmax: Link = _SoftmaxLink()
given_log_probabilities: Link = _LogProbabilityLink()


# ---------------------------------------------------------------------------------------------------------------
# Losses. Inputs: the logits, the weight of each sample (None: 1), and what the target is.


def weighted(ops: Ops, weight: Array | None, value: Array, *vjps: Vjp | None) -> Forward:
    """`weight * value` of a loss. `vjps` are those of `value`, for the logits and for the inputs after the weight."""
    if weight is None:
        return Forward(value, (vjps[0], None, *vjps[1:]))

    def through(vjp: Vjp | None) -> Vjp | None:
        return vjp and (lambda g: vjp(ops.multiply_zero_wins(weight, g)))

    def vjp_weight(g: Array) -> Array:
        # Where the weight is 0 and the loss is not finite, the derivative by the weight is 0.
        return ops.multiply_zero_wins(g, ops.nonzero_only(value, weight))

    first, *others = map(through, vjps)
    return Forward(ops.multiply_zero_wins(weight, value), (first, vjp_weight, *others))


@dataclass(frozen=True)
class LabelLoss(Kernel):
    """The penalty of the probability of an integer label."""

    link: Link
    penalty: Penalty

    def forward(self, ops: Ops, x: Array, weight: Array | None, labels: Array) -> Forward:
        at, vjp = self.link.of_labels(ops, x, labels)

        def vjp_x(g: Array) -> Array:
            slope = self.penalty.slope(ops, at)
            # The slope is a derivative by -log p; `vjp` takes one by log p.
            return vjp(-g if slope is None else -ops.multiply_zero_wins(g, slope))

        return weighted(ops, weight, self.penalty.value(ops, at), vjp_x, None)

    def second(self, ops: Ops, x: Array, labels: Array) -> Array:
        one_hot = TargetWeights(0.0, is_labels=True).of(ops, x, labels, None)
        return TargetLoss(self.link, self.penalty).second(ops, x, *one_hot)


@dataclass(frozen=True)
class TargetLoss(Kernel):
    """The sum of target_c penalty(p_c). Inputs after the weight: the target, and the penalty's parameter if any."""

    link: Link
    penalty: Penalty

    def forward(self, ops: Ops, x: Array, weight: Array | None, target: Array, *parameter: Array) -> Forward:
        at, vjp = self.link.of_classes(ops, x)
        penalty = self.penalty.with_parameter(parameter)
        penalties = penalty.value(ops, at)

        def vjp_x(g: Array) -> Array:
            slope = penalty.slope(ops, at)
            by_class = -g * target if slope is None else ops.scale(ops.multiply_zero_wins(target, slope), -g)
            # Exactly 0 for a sample that does not count, whatever its logits.
            total_weight = ops.sum(ops.xp.abs(by_class))
            return ops.nonzero_only(vjp(by_class), total_weight)

        def vjp_target(g: Array) -> Array:
            return ops.multiply_zero_wins(g, penalties)

        def vjp_parameter(g: Array) -> Array:
            return ops.multiply_zero_wins(g, ops.multiply_zero_wins(target, penalty.by_parameter(ops, at)))

        value = ops.sum(ops.multiply_zero_wins(target, penalties))
        return weighted(ops, weight, value, vjp_x, vjp_target, *(vjp_parameter for _ in parameter))

    def second(self, ops: Ops, x: Array, target: Array, *parameter: Array) -> Array:
        """The second derivatives of the loss of each row by each of its own logits."""
        if not self.link.logits:
            raise TypeError("second derivatives are there for losses of logits")
        at, _ = self.link.of_classes(ops, x)
        penalty = self.penalty.with_parameter(parameter)
        slope, curvature = times(target, penalty.slope(ops, at)), penalty.curvature(ops, at)
        diagonal = at.p * at.one_minus_p * ops.sum(slope)
        return diagonal if curvature is None else diagonal + _curved(ops, at, target * curvature)


def _curved(ops: Ops, at: Probability, curvature: Array) -> Array:
    """The sum over c of curvature_c ([j = c] - p_j)^2 / (1 - p_c), for each class j.

    The class with p > 1/2, where there is one, is summed apart, so that the other classes' terms are not lost in a
    difference. For that class c, p_j / (1 - p_c) is computed first: it is at most 1 and can't overflow.
    """
    xp = ops.xp
    p, rest = at.p, at.one_minus_p
    zero, one, most = xp.zeros_like(p), xp.ones_like(p), p > 0.5
    among = xp.where(most, zero, curvature / xp.where(most, one, rest))
    gap = ops.sum(xp.where(most, rest, zero))
    top = ops.sum(xp.where(most, curvature, zero))
    from_most = xp.where(most, zero, top * (p / xp.where(gap > 0, gap, xp.ones_like(gap))))
    return rest * curvature + p * (p * (ops.sum(among) - among) + from_most)


@dataclass(frozen=True)
class TargetWeights:
    """((1 - s) target + s / classes) class_weight, with s = `label_smoothing`: the weights that `TargetLoss` takes."""

    label_smoothing: Any
    is_labels: bool

    def of(self, ops: Ops, x: Array, target: Array, class_weight: Array | None) -> tuple[Array]:
        s, classes = ops.scalar(self.label_smoothing), x.shape[ops.axis]
        if self.is_labels:
            hit = ops.at_label(target, x).put(ops.xp.zeros_like(x), 1.0)
            made = hit * (1 - s) + s / classes
        else:
            made = target if isinstance(s, (int, float)) and not s else (1 - s) * target + s / classes
        return (made if class_weight is None else made * class_weight,)


@dataclass(frozen=True)
class FromTarget(Kernel):
    """Wraps a loss: computes the weights that it takes from the target, one block at a time, to save memory.

    There is no derivative by the target. If one may be asked for, the weights are computed outside of the kernel, and
    the library differentiates that. The last `own` inputs are passed on to the loss as they are.
    """

    loss: Any
    weights: Any
    own: int = 0

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        return bool(self.loss.elementwise)

    def forward(self, ops: Ops, x: Array, weight: Array | None, *target: Array | None) -> Forward:
        value, (vjp_x, vjp_weight, *_), _ = self.loss.forward(ops, x, weight, *self._inputs(ops, x, target))
        return Forward(value, (vjp_x, vjp_weight, *(None for _ in target)))

    def second(self, ops: Ops, x: Array, *target: Array | None) -> Array:
        second: Array = self.loss.second(ops, x, *self._inputs(ops, x, target))
        return second

    def _inputs(self, ops: Ops, x: Array, target: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
        end = len(target) - self.own
        return *self.weights.of(ops, x, *target[:end]), *target[end:]


@dataclass(frozen=True)
class Tempered(Kernel):
    """Wraps a loss: divides its logits by the temperature; with `both`, the target is logits too, and divided as well.

    The maximum is subtracted before the division, so that rounding errors are relative to x - max, not to x.
    """

    loss: Any
    temperature: Any
    both: bool = False

    def forward(self, ops: Ops, x: Array, weight: Array | None, *inputs: Any) -> Forward:
        divided, *rest = self._divided(ops, x, *inputs)
        value, (vjp_x, vjp_weight, *others), _ = self.loss.forward(ops, divided, weight, *rest)

        def through(vjp: Vjp | None) -> Vjp | None:
            return vjp and (lambda g: vjp(g / ops.scalar(self.temperature)))

        return Forward(value, (through(vjp_x), vjp_weight, *(map(through, others) if self.both else others)))

    def second(self, ops: Ops, x: Array, *inputs: Any) -> Array:
        second: Array = self.loss.second(ops, *self._divided(ops, x, *inputs))
        return second / ops.scalar(self.temperature) / ops.scalar(self.temperature)

    def _divided(self, ops: Ops, *inputs: Any) -> list[Any]:
        logits = len(inputs) if self.both else 1
        divided = ((x - Maximum(ops, x).top) / ops.scalar(self.temperature) for x in inputs[:logits])
        return [*divided, *inputs[logits:]]


@dataclass(frozen=True)
class WithZLoss(Kernel):
    """A loss plus z (log sum exp(x))^2, of Chowdhery et al., "PaLM" (JMLR 2023).

    Inputs: the logits, the weight of each sample, the weight of the z term alone (None: 1), and the loss's own inputs.
    """

    loss: Any
    z: Any

    def forward(self, ops: Ops, x: Array, weight: Array | None, mass: Array | None, *target: Array | None) -> Forward:
        own, (vjp, _, *others), _ = self.loss.forward(ops, x, None, *target)
        lse, (vjp_lse,), _ = LogSumExp().forward(ops, x)
        z_lse = ops.scalar(self.z) * lse

        def vjp_x(g: Array) -> Array:
            moved = vjp(g)
            # A finite factor beside +inf too: the classes of probability 0 get 0.
            slope = ops.not_above(2 * z_lse, ops.largest)
            moved += vjp_lse(ops.multiply_zero_wins(times(g, mass), slope))  # type: ignore[misc]
            return moved

        def vjp_mass(g: Array) -> Array:
            return ops.multiply_zero_wins(g, z_lse * lse)

        term = z_lse * lse if mass is None else ops.multiply_zero_wins(mass, z_lse * lse)
        return weighted(ops, weight, own + term, vjp_x, None if mass is None else vjp_mass, *others)

    def second(self, ops: Ops, x: Array, mass: Array | None, *target: Array | None) -> Array:
        """The second derivatives of the loss, plus 2 z (p^2 + log sum exp(x) p (1 - p))."""
        lse, rows = LogSumExp().forward(ops, x).value, RowSoftmax(ops, x)
        p = rows.p()
        curved = 2 * ops.scalar(self.z) * (p * p + lse * p * rows.one_minus_p())
        return self.loss.second(ops, x, *target) + times(curved, mass)


@dataclass(frozen=True)
class SecondDerivatives(Kernel):
    """The second derivatives of a loss by its own logits, times one number for each sample, `outer`.

    Before this product, those below `least` are replaced by it.
    """

    loss: Any
    least: float | None
    keeps_classes: ClassVar[bool] = True

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        return bool(self.loss.elementwise)

    def forward(self, ops: Ops, x: Array, outer: Array | None, weight: Array | None, *target: Array | None) -> Forward:
        xp = ops.xp
        second = self.loss.second(ops, x, *target)
        if weight is not None:
            second = ops.multiply_zero_wins(weight, second)
        if self.least is not None:
            raised = xp.maximum(second, xp.full_like(second, self.least))
            # A sample that does not count stays at 0.
            second = raised if weight is None else ops.multiply_zero_wins(xp.astype(weight != 0, x.dtype), raised)
        return Forward(second if outer is None else ops.multiply_zero_wins(outer, second), ())


# ---------------------------------------------------------------------------------------------------------------
# Functions. Input: x.


@dataclass(frozen=True)
class Softmax(Kernel):
    """exp(x) / sum exp(x)."""

    keeps_classes: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array) -> Forward:
        rows = RowSoftmax(ops, x)
        p = rows.p()
        return Forward(p, (lambda g: rows.vjp_log_p(g * p),), rows.jvp_p)


@dataclass(frozen=True)
class LogSoftmax(Kernel):
    """x - log sum exp(x)."""

    keeps_classes: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array) -> Forward:
        rows = RowSoftmax(ops, x)
        return Forward(rows.log_p(), (rows.vjp_log_p,), rows.jvp_log_p)


@dataclass(frozen=True)
class LogSumExp(Kernel):
    """log sum exp(x), one number for each row."""

    def forward(self, ops: Ops, x: Array) -> Forward:
        xp, rows = ops.xp, RowSoftmax(ops, x)
        value = xp.where(xp.isinf(rows.highest), rows.highest, rows.top + xp.log1p(rows.rest))
        return Forward(value, (lambda g: ops.scale(rows.p(), g),))
