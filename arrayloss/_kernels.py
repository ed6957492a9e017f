"""The formulas, once, in the array API alone.

A loss is what a *probability* costs (`CrossEntropy`, `Focal`: a value and its slope), over a *link* that says which
probability an array means (`softmax`, `given_log`, `sigmoid`, `given`). Costs know no array layout and links know no
cost, so that a new loss is one cost, and works with labels, soft targets, weights and in both families at once.

Numbers near 1 are never subtracted from 1: a link gives the surprisal -log p, p, and the miss 1 - p each from terms
of one sign, after Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions"
(IMA J. Numer. Anal. 41, 2021), who peel the largest exponential off the sum.

Rows are (rows, classes) arrays; labels, coefficients and the loss of each sample are (rows, 1). A kernel returns its
value and its *pulls*: one function for each input, which turns a cotangent of the value into one of that input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from arrayloss._modes import Array, Traced

Pull = Callable[[Array], Array]


class Evaluated(NamedTuple):
    """A kernel's value, its pulls (reverse mode), and for a value of several elements a row its push (forward)."""

    value: Array
    pulls: tuple[Pull | None, ...]
    push: Pull | None = None


class Chance(NamedTuple):
    """A probability, as a cost sees it: the surprisal -log p, and, if it asks, (p, 1 - p)."""

    surprisal: Array
    odds: Callable[[], tuple[Array, Array]]


# ---------------------------------------------------------------------------------------------------------------
# Costs: what a probability p costs, and its slope -p d cost / dp = d cost / d surprisal. `near` is how far below the
# maximum a logit may be for the rounding of the difference to stay (up to 16, it is 8 units in the last place of p);
# 0 where the exponential itself has to be right to the last bit as well. For second derivatives, its curvature
# (1 - p) d slope / d surprisal: with that factor it is finite at p = 1 too, where a power of 1 - p has none.


@dataclass(frozen=True)
class CrossEntropy:
    """-log p."""

    near: ClassVar[float] = 16.0

    def value(self, mode: Traced, at: Chance) -> Array:
        return at.surprisal

    def slope(self, mode: Traced, at: Chance) -> Array:
        return mode.xp.ones_like(at.surprisal)

    def curvature(self, mode: Traced, at: Chance) -> Array:
        return mode.xp.zeros_like(at.surprisal)


@dataclass(frozen=True)
class Focal:
    """(1 - p)^gamma (-log p), of Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017)."""

    gamma: float
    # The power magnifies every rounding by 1 + gamma.
    near: ClassVar[float] = 0.0

    def value(self, mode: Traced, at: Chance) -> Array:
        _, miss = at.odds()
        return self._factor(mode, miss) * at.surprisal

    def slope(self, mode: Traced, at: Chance) -> Array:
        p, miss = at.odds()
        return self._factor(mode, miss) * (1 + self.gamma * self._ratio(mode, at, p, miss))

    def curvature(self, mode: Traced, at: Chance) -> Array:
        p, miss = at.odds()
        ratio = self._ratio(mode, at, p, miss)
        return self.gamma * self._factor(mode, miss) * (p * (2 + self.gamma * ratio) - ratio)

    def _ratio(self, mode: Traced, at: Chance, p: Array, miss: Array) -> Array:
        """p (-log p) / (1 - p): 0 at p = 0; any finite number at p = 1, where the factor is 0."""
        xp = mode.xp
        expected = p * xp.where(p > 0, at.surprisal, xp.zeros_like(p))
        return expected / xp.where(miss > 0, miss, xp.ones_like(miss))

    def _factor(self, mode: Traced, miss: Array) -> Array:
        # 0^gamma apart: its derivative is infinite for gamma < 1, and 0 * inf would reach second derivatives.
        xp = mode.xp
        some = miss > 0
        return xp.where(miss == 0, xp.zeros_like(miss), xp.where(some, miss, xp.ones_like(miss)) ** self.gamma)


Cost = CrossEntropy | Focal


# ---------------------------------------------------------------------------------------------------------------
# Softmax: rows of logits.


class Peak:
    """The maximum of each row, and the distances from it; +inf is settled here: probability 1, or nan if two."""

    def __init__(self, mode: Traced, x: Array, near: float) -> None:
        self.mode = mode
        self.near = near
        self.maximum = mode.xp.max(x, axis=1, keepdims=True)
        self.bounded = mode.bounded(self.maximum)
        self.top = self.maximum if self.bounded else mode.at_most(self.maximum)

    def distance(self, x: Array) -> Array:
        """x - maximum, without inf - inf."""
        return (x if self.bounded else self.mode.at_most(x)) - self.top

    def exp(self, x: Array, distance: Array, base: Array | None = None) -> Array:
        """exp(x - base); base: the maximum."""
        return self.mode.exp(x, distance, self.top, self.near, base)

    def surprisal(self, rest: Array, distance: Array) -> Array:
        """log1p(rest) - distance."""
        xp = self.mode.xp
        h = xp.log1p(rest) - distance
        if self.bounded:
            return h
        # Beside +inf a class has probability 0, or nan as it stands.
        infinity = xp.full_like(h, float("inf"))
        return xp.where((self.maximum == infinity) & (distance < 0) & (h >= 0), infinity, h)

    def only(self, rest: Array, total: Array) -> Array:
        """`rest`, or nan where the maximum is +inf more than once."""
        if self.bounded:
            return rest
        xp = self.mode.xp
        return xp.where((self.maximum == float("inf")) & (total > 1.5), xp.full_like(rest, float("nan")), rest)


def _softmax_label(mode: Traced, x: Array, target: Array, near: float) -> tuple[Chance, Pull]:
    xp = mode.xp
    peak = Peak(mode, x, near)
    labels = mode.labels(x, target)
    x_label = labels.take(x)
    d = peak.distance(x_label)
    base = mode.base(peak.top)
    dropped = labels.drop(peak.exp(x, peak.distance(x), base))
    e = peak.exp(x_label, d, base)
    # Leaving out the label, not the maximum: `others` and `e` are then the two parts of 1 to full precision.
    others = xp.sum(dropped, axis=1, keepdims=True)
    others = peak.only(others, others + e)
    total = others + e
    # log(others + e) = log1p(others - (1 - e)): `others` alone where the label is the maximum, and at least 1 where
    # it is not, so that nothing cancels in either case.
    if base is peak.top:
        h = peak.surprisal(others - (1 - e), d)
    else:
        # The same relative to the maximum, of which `e` is then exactly 1.
        unit = peak.exp(base, base - peak.top)
        h = peak.surprisal(others * unit - (1 - peak.exp(x_label, d)), d)

    def pull(g: Array) -> Array:
        at_label = g * (others / total)
        if base is peak.top:
            return mode.still(g, labels.spread(dropped, -g / total, at_label))
        # One factor at a time: the scale of the exponentials on top of a small cotangent would underflow.
        return mode.still(g, labels.spread(dropped * (1 / total), -g, at_label))

    return Chance(h, lambda: (e / total, others / total)), pull


def _softmax_rows(mode: Traced, x: Array, near: float) -> tuple[Chance, Pull]:
    xp = mode.xp
    peak = Peak(mode, x, near)
    d = peak.distance(x)
    e = peak.exp(x, d)
    rest = mode.peel(d, e)
    rest = peak.only(rest, rest + 1)
    total = rest + 1

    def odds() -> tuple[Array, Array]:
        return e / total, (rest + (1 - e)) / total

    def pull(g: Array) -> Array:
        # g - p sum(g), with the element's own part of the sum taken as -g (1 - p).
        p, miss = odds()
        return g * miss - p * (xp.sum(g, axis=1, keepdims=True) - g)

    return Chance(peak.surprisal(rest, d), odds), pull


def _log_label(mode: Traced, x: Array, target: Array, near: float) -> tuple[Chance, Pull]:
    xp = mode.xp
    labels = mode.labels(x, target)
    log_p = labels.take(x)

    def pull(g: Array) -> Array:
        return labels.spread(xp.zeros_like(x), xp.ones_like(g), g)

    return Chance(-log_p, lambda: (xp.exp(log_p), -xp.expm1(log_p))), pull


def _log_rows(mode: Traced, x: Array, near: float) -> tuple[Chance, Pull]:
    xp = mode.xp
    return Chance(-x, lambda: (xp.exp(x), -xp.expm1(x))), lambda g: g


class RowLink(NamedTuple):
    """What rows of numbers say of the probability of their label, and of each class."""

    label: Callable[[Traced, Array, Array, float], tuple[Chance, Pull]]
    rows: Callable[[Traced, Array, float], tuple[Chance, Pull]]


softmax = RowLink(_softmax_label, _softmax_rows)
given_log = RowLink(_log_label, _log_rows)


def _softmax_diagonal(mode: Traced, p: Array, miss: Array, slope: Array, curvature: Array) -> Array:
    """The sum over c of curvature_c ([j = c] - p_j)^2 / (1 - p_c) + slope_c p_j (1 - p_j), for each class j.

    Both are weighed. The class with p > 1/2, where there is one, is kept apart: the others' part is not what a
    difference leaves of its own, and p_j / (1 - p) is taken first, which is at most 1.
    """
    xp = mode.xp
    zero = xp.zeros_like(p)
    most = p > 0.5
    among = xp.where(most, zero, curvature / xp.where(most, xp.ones_like(p), miss))
    gap = xp.sum(xp.where(most, miss, zero), axis=1, keepdims=True)
    top = xp.sum(xp.where(most, curvature, zero), axis=1, keepdims=True)
    from_most = xp.where(most, zero, top * (p / xp.where(gap > 0, gap, xp.ones_like(gap))))
    from_others = p * (xp.sum(among, axis=1, keepdims=True) - among) + from_most
    return miss * (curvature + p * xp.sum(slope, axis=1, keepdims=True)) + p * from_others


# ---------------------------------------------------------------------------------------------------------------
# Binary: one number each, for the probability of the answer 1; the chances of 1 and of 0.


def sigmoid(mode: Traced, x: Array) -> tuple[Chance, Chance, Callable[[Array, Array], Array]]:
    xp = mode.xp
    positive = x >= 0
    a = mode.magnitude(x)
    e = xp.exp(-a)
    short = xp.log1p(e)
    long = short + a

    def odds() -> tuple[Array, Array]:
        most, least = 1 / (1 + e), e / (1 + e)
        return xp.where(positive, most, least), xp.where(positive, least, most)

    def pull(one: Array, zero: Array) -> Array:
        p, miss = odds()
        return one * miss - zero * p

    # A nan is not >= 0, and reaches both through `long` and `short`.
    return (
        Chance(xp.where(positive, short, long), odds),
        Chance(xp.where(positive, long, short), lambda: odds()[::-1]),
        pull,
    )


def given(mode: Traced, x: Array) -> tuple[Chance, Chance, Callable[[Array, Array], Array]]:
    xp = mode.xp
    # 1 - x is exact from 1/2 up, and rounded once below.
    return (
        Chance(-xp.log(x), lambda: (x, 1 - x)),
        Chance(-mode.log_complement(x), lambda: (1 - x, x)),
        lambda one, zero: mode.times(one, 1 / x) - mode.times(zero, 1 / (1 - x)),
    )


# ---------------------------------------------------------------------------------------------------------------
# Losses: coefficient * sum over the classes of (target weight * cost of the class's probability), for each row.
# Inputs: x, the coefficient (None: 1), the target.


def _weighed(mode: Traced, coefficient: Array | None, value: Array, *pulls: Pull | None) -> Evaluated:
    """`coefficient * value`; the pulls are those of `value`."""
    if coefficient is None:
        return Evaluated(value, (pulls[0], None, *pulls[1:]))

    def through(pull: Pull | None) -> Pull | None:
        return pull and (lambda g: pull(g * coefficient))

    first, *others = map(through, pulls)
    return Evaluated(mode.times(coefficient, value), (first, lambda g: mode.times(g, value), *others))


def _curvature(cost: Cost, of_logits: bool) -> Callable[[Traced, Chance], Array]:
    curvature: Callable[[Traced, Chance], Array] | None = getattr(cost, "curvature", None)
    if curvature is None or not of_logits:
        raise TypeError("second derivatives are there for a loss of logits whose cost states its curvature")
    return curvature


@dataclass(frozen=True)
class LabelLoss:
    """The target is integer labels, (rows, 1)."""

    link: RowLink
    cost: Cost
    dtype: Any
    keeps_classes: ClassVar[bool] = False

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, target: Array) -> Evaluated:
        at, pull = self.link.label(mode, mode.real(x), target, self.cost.near)

        def pull_x(g: Array) -> Array:
            return pull(mode.times(-g, self.cost.slope(mode, at)))

        return _weighed(mode, coefficient, self.cost.value(mode, at), pull_x, None)

    def diagonal(self, mode: Traced, x: Array, target: Array) -> Array:
        one_hot = ClassWeights(0.0, True, self.dtype)(mode, x, target, None)
        return RowLoss(self.link, self.cost, self.dtype).diagonal(mode, x, *one_hot)


@dataclass(frozen=True)
class RowLoss:
    """The target is a weight for every class, (rows, classes)."""

    link: RowLink
    cost: Cost
    dtype: Any
    keeps_classes: ClassVar[bool] = False

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, target: Array) -> Evaluated:
        xp = mode.xp
        at, pull = self.link.rows(mode, mode.real(x), self.cost.near)
        each = self.cost.value(mode, at)

        def pull_x(g: Array) -> Array:
            g = mode.times(mode.times(-g, target), self.cost.slope(mode, at))
            return mode.still(xp.max(xp.abs(g), axis=1, keepdims=True), pull(g))

        def pull_target(g: Array) -> Array:
            return mode.times(g, each)

        value = xp.sum(mode.times(target, each), axis=1, keepdims=True)
        return _weighed(mode, coefficient, value, pull_x, pull_target)

    def diagonal(self, mode: Traced, x: Array, target: Array) -> Array:
        bent = _curvature(self.cost, self.link is softmax)
        at, _ = self.link.rows(mode, mode.real(x), self.cost.near)
        slope, curvature = (mode.times(target, f(mode, at)) for f in (self.cost.slope, bent))
        return _softmax_diagonal(mode, *at.odds(), slope, curvature)


@dataclass(frozen=True)
class BinaryLoss:
    """The target is the weights of the answers 1 and 0; any shape."""

    link: Callable[[Traced, Array], tuple[Chance, Chance, Callable[[Array, Array], Array]]]
    cost: Cost
    dtype: Any
    keeps_classes: ClassVar[bool] = False

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, one: Array, zero: Array) -> Evaluated:
        at_one, at_zero, pull = self.link(mode, mode.precise(x, self.cost.near))
        if_one, if_zero = (mode.real(self.cost.value(mode, at)) for at in (at_one, at_zero))

        def pull_x(g: Array) -> Array:
            of_one = mode.times(-g * one, self.cost.slope(mode, at_one))
            of_zero = mode.times(-g * zero, self.cost.slope(mode, at_zero))
            return mode.still(g, mode.real(pull(of_one, of_zero)))

        def pull_one(g: Array) -> Array:
            return mode.times(g, if_one)

        def pull_zero(g: Array) -> Array:
            return mode.times(g, if_zero)

        value = mode.times(one, if_one) + mode.times(zero, if_zero)
        return _weighed(mode, coefficient, value, pull_x, pull_one, pull_zero)

    def diagonal(self, mode: Traced, x: Array, one: Array, zero: Array) -> Array:
        bent = _curvature(self.cost, self.link is sigmoid)
        at_one, at_zero, _ = self.link(mode, mode.precise(x, self.cost.near))

        def of(weight: Array, at: Chance) -> Array:
            p, miss = at.odds()
            return mode.times(weight, mode.real(miss * (bent(mode, at) + p * self.cost.slope(mode, at))))

        return of(one, at_one) + of(zero, at_zero)


# ---------------------------------------------------------------------------------------------------------------
# Targets as given, made into the weights that the losses take.


@dataclass(frozen=True)
class ClassWeights:
    """((1 - s) target + s / classes) scale; integer labels stand for their one-hot row."""

    label_smoothing: float
    labels: bool
    dtype: Any

    def __call__(self, mode: Traced, x: Array, target: Array, scale: Array | None) -> tuple[Array]:
        s, classes = self.label_smoothing, x.shape[1]
        if self.labels:
            ones, one = (mode.xp.ones_like(a, dtype=self.dtype) for a in (x, target))
            labels = mode.labels(x, target)
            q = labels.spread(labels.drop(ones), one * (s / classes), one * (1 - s + s / classes))
        else:
            q = mode.real(target)
            if s:
                q = (1 - s) * q + s / classes
        return (q if scale is None else q * scale,)


@dataclass(frozen=True)
class AnswerWeights:
    """positive ((1 - s) y + s / 2) and negative ((1 - s) (1 - y) + s / 2); the factors are numbers and arrays."""

    label_smoothing: float
    positive: float
    negative: float
    dtype: Any

    def __call__(
        self, mode: Traced, x: Array, target: Array, positive: Array | None, negative: Array | None
    ) -> tuple[Array, Array]:
        s = self.label_smoothing
        one = mode.real(target)
        zero = 1 - one
        if s:
            one, zero = (1 - s) * one + s / 2, (1 - s) * zero + s / 2
        return _scaled(one, self.positive, positive), _scaled(zero, self.negative, negative)


def _scaled(q: Array, number: float, array: Array | None) -> Array:
    if number != 1:
        q = q * number
    return q if array is None else q * array


@dataclass(frozen=True)
class Assembled:
    """A loss of the target as given: its weights are made inside, block by block, and take no derivative."""

    loss: RowLoss | BinaryLoss
    weights: ClassWeights | AnswerWeights
    keeps_classes: ClassVar[bool] = False

    @property
    def dtype(self) -> Any:
        return self.loss.dtype

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, *target: Array | None) -> Evaluated:
        value, (pull_x, pull_coefficient, *_), push = self.loss(mode, x, coefficient, *self.weights(mode, x, *target))
        return Evaluated(value, (pull_x, pull_coefficient, *(None for _ in target)), push)

    def diagonal(self, mode: Traced, x: Array, *target: Array | None) -> Array:
        return self.loss.diagonal(mode, x, *self.weights(mode, x, *target))


@dataclass(frozen=True)
class Diagonal:
    """The second derivatives of a loss by its own logits, times a weight for each row; `least` where it is above them.

    A number for each logit and no derivatives: the end of the chain. A row of coefficient 0 has none.
    """

    loss: LabelLoss | RowLoss | BinaryLoss | Assembled
    least: float | None
    keeps_classes: ClassVar[bool] = True

    @property
    def dtype(self) -> Any:
        return self.loss.dtype

    def __call__(
        self, mode: Traced, x: Array, weight: Array | None, coefficient: Array | None, *target: Array | None
    ) -> Evaluated:
        xp = mode.xp
        second = self.loss.diagonal(mode, x, *target)
        if coefficient is not None:
            second = mode.times(coefficient, second)
        if self.least is not None:
            second = xp.maximum(second, xp.full_like(second, self.least))
        if coefficient is not None:
            second = mode.still(coefficient, second)
        return Evaluated(second if weight is None else mode.times(weight, second), ())


# ---------------------------------------------------------------------------------------------------------------
# Functions. Inputs: x.


def _centred(xp: Any, p: Array, v: Array) -> Array:
    """v - sum(p v), about the class with p > 1/2 where there is one, so that nothing cancels against 1."""
    most = p > 0.5
    zero = xp.zeros_like(v)
    about = xp.where(most, zero, v - xp.sum(xp.where(most, v, zero), axis=1, keepdims=True))
    return about - xp.sum(p * about, axis=1, keepdims=True)


@dataclass(frozen=True)
class Softmax:
    """exp(x) / sum exp(x)."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True
    left_out: ClassVar[float] = 0.0

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        at, pull = _softmax_rows(mode, mode.real(x), CrossEntropy.near)
        p, _ = at.odds()
        # The Jacobian is symmetric.
        return Evaluated(p, (lambda g: pull(g * p),), lambda v: p * _centred(mode.xp, p, v))


@dataclass(frozen=True)
class LogSoftmax:
    """x - log sum exp(x)."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True
    left_out: ClassVar[float] = -float("inf")

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        at, pull = _softmax_rows(mode, mode.real(x), CrossEntropy.near)
        return Evaluated(-at.surprisal, (pull,), lambda v: _centred(mode.xp, at.odds()[0], v))


@dataclass(frozen=True)
class LogSumExp:
    """log sum exp(x), (rows, 1)."""

    dtype: Any
    keeps_classes: ClassVar[bool] = False

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        xp = mode.xp
        x = mode.real(x)
        at, _ = _softmax_rows(mode, x, CrossEntropy.near)
        top = xp.max(x, axis=1, keepdims=True)
        # The smallest surprisal is that of the maximum: log1p(rest).
        above = xp.min(at.surprisal, axis=1, keepdims=True)
        value = xp.where(xp.isinf(top), top, top + above)
        return Evaluated(value, (lambda g: g * at.odds()[0],))


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(-x)); any shape."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        xp = mode.xp
        x = mode.precise(x, 0.0)
        one, _, _ = sigmoid(mode, x)
        e = xp.exp(-mode.magnitude(x))
        # p (1 - p), with one rounding less.
        slope = e / ((1 + e) * (1 + e))
        return Evaluated(mode.real(one.odds()[0]), (lambda g: mode.real(g * slope),))


@dataclass(frozen=True)
class LogSigmoid:
    """-log(1 + exp(-x)); any shape."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        one, _, _ = sigmoid(mode, mode.real(x))
        return Evaluated(-one.surprisal, (lambda g: g * one.odds()[1],))
