"""The formulas, once, in the array API alone.

A loss is what a *probability* costs (`CrossEntropy`, `Focal`, `Poly`: a value and its slope), over a *link* that says
which probability an array means (`softmax`, `given_log`, `sigmoid`, `given`). Costs know no array layout and links know
no cost, so that a new loss is one cost, and works with labels, soft targets, weights and in both families at once.

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

from arrayloss._modes import Array, Even, Peeled, Traced

Pull = Callable[[Array], Array]


class Evaluated(NamedTuple):
    """A kernel's value, its pulls (reverse mode), and for a value of several elements a row its push (forward).

    The value may be stated as what computes it, where a pull has no use for it. `pull_label`, where that is less work,
    is the first pull of what is 0 but at a label of each row: of the labels, and of these numbers.
    """

    stated: Array | Callable[[], Array]
    pulls: tuple[Pull | None, ...]
    push: Pull | None = None
    pull_label: Callable[[Any, Array], Array] | None = None

    @property
    def value(self) -> Array:
        return self.stated() if callable(self.stated) else self.stated


class Chance(NamedTuple):
    """A probability, as a cost sees it: the surprisal -log p, and, if it asks, (p, 1 - p).

    `rarity`, where the link knows it, is -log(1 - p) in two parts: one without an error, and a small one; `rest` is
    1 - p alone, where that is less work. `weighable` says that the surprisal is finite where the coefficient is 0,
    `finite` that it is everywhere.
    """

    surprisal: Array
    odds: Callable[[], tuple[Array, Array]]
    rarity: Callable[[], tuple[Array, Array]] | None = None
    rest: Callable[[], Array] | None = None
    weighable: bool = False
    finite: bool = False

    def weighed(self, mode: Traced, factor: Array) -> Array:
        """The surprisal times what may be 0 where it is infinite, as is the product then."""
        return factor * self.surprisal if self.finite else mode.times(factor, self.surprisal)


def _once(compute: Callable[[], tuple[Array, Array]]) -> Callable[[], tuple[Array, Array]]:
    """`compute`, which is called the first time only."""
    # Not functools.cache: torch.compile warns of it.
    known: list[tuple[Array, Array]] = []

    def get() -> tuple[Array, Array]:
        if not known:
            known.append(compute())
        return known[0]

    return get


# ---------------------------------------------------------------------------------------------------------------
# Costs


class Cost:
    """What a probability p costs: `value`, and its `slope` -p d cost / dp = d cost / d surprisal (None: 1).

    For second derivatives, its `curvature` (1 - p) d slope / d surprisal (None: 0): with that factor it is finite at
    p = 1 too, where a power of 1 - p has none.

    Attributes
    ----------
    near
        How far below the maximum a logit may be for the rounding of the difference to stay (up to 16, it is 8 units
        in the last place of p); 0 where the exponential itself has to be right to the last bit as well.
    steep
        Whether the rounding of 1 - p is magnified so much that everything is computed wider where that can be had.
    plain
        Whether it is the surprisal itself.
    """

    near: float = 16.0
    steep: bool = False
    plain: bool = False

    def value(self, mode: Traced, at: Chance) -> Array:
        raise NotImplementedError

    def slope(self, mode: Traced, at: Chance) -> Array | None:
        raise NotImplementedError

    def curvature(self, mode: Traced, at: Chance) -> Array | None:
        raise TypeError(f"{type(self).__name__} states no curvature, which a second derivative takes")


@dataclass(frozen=True)
class CrossEntropy(Cost):
    """-log p."""

    plain: ClassVar[bool] = True  # type: ignore[misc]

    def value(self, mode: Traced, at: Chance) -> Array:
        return at.surprisal

    def slope(self, mode: Traced, at: Chance) -> None:
        return None

    def curvature(self, mode: Traced, at: Chance) -> None:
        return None


@dataclass(frozen=True)
class Focal(Cost):
    """(1 - p)^gamma (-log p), of Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017)."""

    gamma: float

    @property
    def near(self) -> float:  # type: ignore[override]
        # The power magnifies every rounding by 1 + gamma.
        return 0.0

    @property
    def steep(self) -> bool:  # type: ignore[override]
        return self.gamma > 2

    def value(self, mode: Traced, at: Chance) -> Array:
        return at.weighed(mode, self._factor(mode, at))

    def slope(self, mode: Traced, at: Chance) -> Array:
        if self.gamma in (1, 2):
            # The quotient multiplied out, which for a power below 1 would not do: its derivative at 0 is infinite.
            p, miss = at.odds()
            bent = miss + self.gamma * at.weighed(mode, p)
            return bent if self.gamma == 1 else miss * bent
        return self._factor(mode, at) * (1 + self.gamma * self._ratio(mode, at))

    def curvature(self, mode: Traced, at: Chance) -> Array:
        ratio = self._ratio(mode, at)
        return self.gamma * self._factor(mode, at) * (at.odds()[0] * (2 + self.gamma * ratio) - ratio)

    def _ratio(self, mode: Traced, at: Chance) -> Array:
        # p (-log p) is 0 at p = 0, and (-log p) / (1 - p) is 1 at p = 1, where its factor is 0.
        p, miss = at.odds()
        return mode.ratio(at.weighed(mode, p), miss)

    def _factor(self, mode: Traced, at: Chance) -> Array:
        if self.steep and at.rarity is not None:
            # (1 - p)^gamma has gamma times the error of 1 - p; its exponent has not.
            return mode.decay(self.gamma, *at.rarity())
        return mode.power(at.odds()[1] if at.rest is None else at.rest(), self.gamma)


@dataclass(frozen=True)
class Poly(Cost):
    """-log p + epsilon (1 - p), epsilon >= -1, of Leng et al., "PolyLoss" (ICLR 2022)."""

    epsilon: float

    @property
    def near(self) -> float:  # type: ignore[override]
        # Of -log p and 1 - p, epsilon = -1 leaves (1 - p)^2 / 2 and more: it magnifies every rounding by 2.
        return 0.0 if self.epsilon < 0 else 16.0

    def value(self, mode: Traced, at: Chance) -> Array:
        _, miss = at.odds()
        if self.epsilon >= 0:
            return at.surprisal + self.epsilon * miss
        # 1 - p is -expm1(-surprisal): both terms are positive.
        return mode.excess(at.surprisal) + (1 + self.epsilon) * miss

    def slope(self, mode: Traced, at: Chance) -> Array:
        p, miss = at.odds()
        # 1 + epsilon p, of which nothing cancels for a negative epsilon.
        return miss + (1 + self.epsilon) * p

    def curvature(self, mode: Traced, at: Chance) -> Array:
        p, miss = at.odds()
        return -self.epsilon * p * miss


@dataclass(frozen=True)
class Shifted(Cost):
    """`cost` of the probability min(p + margin, 1), of Ridnik et al., "Asymmetric Loss" (ICCV 2021); margin > 0."""

    cost: Cost
    margin: float

    @property
    def near(self) -> float:  # type: ignore[override]
        return 0.0

    @property
    def steep(self) -> bool:  # type: ignore[override]
        # 1 - p - margin magnifies every rounding, without bound next to 0.
        return True

    def value(self, mode: Traced, at: Chance) -> Array:
        return self.cost.value(mode, self._shifted(mode, at))

    def slope(self, mode: Traced, at: Chance) -> Array:
        xp = mode.xp
        shifted = self._shifted(mode, at)
        p, _ = at.odds()
        raised, miss = shifted.odds()
        slope = _sloped(mode, p / raised, self.cost.slope(mode, shifted))
        # What costs nothing is flat, the kink included.
        return xp.where(miss == 0, xp.zeros_like(slope), slope)

    def curvature(self, mode: Traced, at: Chance) -> Array:
        xp = mode.xp
        shifted = self._shifted(mode, at)
        p, rest = at.odds()
        raised, miss = shifted.odds()
        # d surprisal of the raised probability / d surprisal; its own derivative is -ratio margin / raised.
        ratio = p / raised
        bent = -_sloped(mode, ratio * (self.margin / raised), self.cost.slope(mode, shifted))
        curvature = self.cost.curvature(mode, shifted)
        some = miss > 0
        if curvature is not None:
            bent = bent + ratio * ratio * curvature / xp.where(some, miss, xp.ones_like(miss))
        return xp.where(some | xp.isnan(miss), rest * bent, xp.zeros_like(miss))

    def _shifted(self, mode: Traced, at: Chance) -> Chance:
        xp = mode.xp
        p, miss = at.odds()
        raised = xp.minimum(p + self.margin, xp.ones_like(p))
        miss = xp.maximum(miss - self.margin, xp.zeros_like(miss))
        few = miss < 0.5
        surprisal = xp.where(few, -mode.log_complement(xp.where(few, miss, xp.zeros_like(miss))), -xp.log(raised))
        return Chance(surprisal, lambda: (raised, miss))


# ---------------------------------------------------------------------------------------------------------------
# Softmax: rows of logits.


class Peak:
    """The maximum of each row, and the distances from it; +inf is settled here: probability 1, or nan if two."""

    def __init__(self, mode: Traced, x: Array, near: float, maximum: Array | None = None) -> None:
        self.mode = mode
        self.near = near
        self.maximum = mode.xp.max(x, axis=1, keepdims=True) if maximum is None else maximum
        self.bounded = mode.bounded(self.maximum)
        self.top = self.maximum if self.bounded else mode.at_most(self.maximum)

    def distance(self, x: Array) -> Array:
        """x - maximum, without inf - inf."""
        return (x if self.bounded else self.mode.at_most(x)) - self.top

    def exp(self, x: Array, distance: Array, base: Array | None = None) -> Array:
        """exp(x - base); without a base, exp(x - maximum) in the mode's unit."""
        return self.mode.exp_below(x, distance, self.top, self.near, base)

    def surprisal(self, rest: Array, distance: Array) -> Array:
        """log1p(rest) - distance."""
        h = self.mode.xp.log1p(rest) - distance
        return h if self.bounded else h + self.beyond(distance)

    def beyond(self, distance: Array) -> Array:
        """What a -log p that was made without +inf lacks: inf beside one, where a class has probability 0, or 0."""
        xp = self.mode.xp
        zero = xp.zeros_like(distance)
        return xp.where((self.maximum == float("inf")) & (distance < 0), xp.full_like(zero, float("inf")), zero)

    def only(self, rest: Array, total: Array) -> Array:
        """`rest`, or nan where the maximum is +inf more than once."""
        if self.bounded:
            return rest
        xp = self.mode.xp
        return xp.where((self.maximum == float("inf")) & (total > 1.5), xp.full_like(rest, float("nan")), rest)


def _softmax_label(
    mode: Traced, x: Array, target: Array, near: float, coefficient: Array | None
) -> tuple[Chance, Pull]:
    xp = mode.xp
    labels = mode.labels(x, target)
    weighable = False
    # Leaving out the label, not the maximum: `others` and `e` are then the two parts of 1 to full precision.
    parts = mode.unscaled(x, labels, near)
    if parts is not None:
        dropped, others, e, total = parts
        h = xp.log1p(others / e)
    else:
        peak = Peak(mode, x, near, mode.highest(x))
        base = mode.base(peak.maximum)
        weighable = base is not None
        dropped = labels.drop(peak.exp(x, peak.distance(x), base))

        def of_rows(others: Array, x_label: Array, maximum: Array, coefficient: Array | None) -> tuple[Array, ...]:
            peak, base = Peak(mode, x_label, near, maximum), mode.base(maximum)
            d = peak.distance(x_label)
            e = peak.exp(x_label, d, base)
            others = peak.only(others, others + e)
            if base is None:
                # log(others + e) = log1p(others - (1 - e)): `others` alone where the label is the maximum, and at
                # least 1 where it is not, so that nothing cancels in either case.
                h = peak.surprisal(others - (1 - e), d)
            else:
                h = mode.log_ratio(others, e, x_label, base, peak.beyond(d), coefficient)
            return h, others, e, others + e

        h, others, e, total = mode.of_rows(of_rows, mode.sum(dropped), labels.take(x), peak.maximum, coefficient)

    def pull(g: Array) -> Array:
        return mode.pull_label(labels, dropped, total, others, g)

    return Chance(h, _once(lambda: (e / total, others / total)), weighable=weighable), pull


class Relative:
    """Rows of exponentials relative to their maxima, in the mode's unit: what `Even` and `Peeled` are for a tracer."""

    def __init__(self, mode: Traced, x: Array, near: float) -> None:
        peak = Peak(mode, x, near)
        d = peak.distance(x)
        self._mode = mode
        self._e = peak.exp(x, d)
        # Nothing is divided by what is in the unit: higher derivatives divide by its powers.
        rest = mode.peel(d, self._e) * (1 / mode.unit)
        self._rest = peak.only(rest, rest + 1)
        self._total = self._rest + 1
        self._h = peak.surprisal(self._rest, d)

    def surprisal(self) -> Array:
        """-log p."""
        return self._h

    def log(self) -> Array:
        return -self._h

    def odds(self) -> tuple[Array, Array]:
        """p and 1 - p."""
        e = self._e * (1 / self._mode.unit)
        return e / self._total, (self._rest + (1 - e)) / self._total

    def pull(self, g: Array) -> Array:
        """g - p sum(g), with the element's own part of the sum taken as -g (1 - p)."""
        p, miss = self.odds()
        return g * miss - p * (self._mode.sum(g) - g)

    def units(self) -> Array:
        """p, in the mode's unit."""
        return self._e / self._total

    def push(self, v: Array) -> Array:
        """v - sum(p v), of log p; forward, and turned round to reverse, as `pull` has it."""
        mode = self._mode
        xp = mode.xp
        p, miss = self.odds()
        most, large, small = self._others(p)
        zero, one = xp.zeros_like(p), xp.ones_like(p)
        # About the class with p > 1/2, where there is one: nothing is subtracted from 1. In this order, as turned round
        # it is g - sum(g) first, which is 0 where the class is all there is.
        others = mode.sum(xp.where(most, -miss, large) * v) + mode.sum(small * v) * (1 / mode.unit)
        about = mode.sum(xp.where(most, one, zero) * v)
        return (v - about) - others

    def push_shares(self, v: Array) -> Array:
        """p (v - sum(p v)), of p; the matrix is symmetric, and so are the steps."""
        mode = self._mode
        xp, zero = mode.xp, mode.xp.zeros_like(v)
        p, miss = self.odds()
        most, large, small = self._others(p)
        # Each is added up, forward or turned round, before it is brought back from the unit.
        of_large, of_small = large * v, small * v
        others = mode.sum(of_large) + mode.sum(of_small) * (1 / mode.unit)
        about = mode.sum(xp.where(most, p * v, zero)) + others
        centred = (of_large - large * about) + (of_small * (1 / mode.unit) - small * (about * (1 / mode.unit)))
        return xp.where(most, p * (v * miss - others), centred)

    def _others(self, p: Array) -> tuple[Array, Array, Array]:
        """Where p > 1/2; p of the other classes; and, where it is small, in the mode's unit: its sum may be normal."""
        xp = self._mode.xp
        scaled = self.units()
        zero = xp.zeros_like(p)
        most, small = p > 0.5, scaled < 1
        return most, xp.where(most | small, zero, p), xp.where(small, scaled, zero)


def _softmax_parts(mode: Traced, x: Array, near: float) -> Even | Peeled | Relative:
    """The softmax of rows; its pull, of log p, may write over what the other methods read."""
    parts = mode.rows(x, near)
    return Relative(mode, x, near) if parts is None else parts


def _softmax_rows(mode: Traced, x: Array, near: float) -> tuple[Chance, Pull]:
    parts = _softmax_parts(mode, x, near)
    return Chance(parts.surprisal(), _once(parts.odds)), parts.pull


def _log_label(mode: Traced, x: Array, target: Array, near: float, coefficient: Array | None) -> tuple[Chance, Pull]:
    xp = mode.xp
    labels = mode.labels(x, target)
    log_p = labels.take(x)

    def pull(g: Array) -> Array:
        return mode.alone(labels, x, g * xp.ones_like(log_p))

    return Chance(-log_p, _once(lambda: (xp.exp(log_p), -xp.expm1(log_p)))), pull


def _log_rows(mode: Traced, x: Array, near: float) -> tuple[Chance, Pull]:
    xp = mode.xp
    return Chance(-x, _once(lambda: (xp.exp(x), -xp.expm1(x)))), lambda g: g


class RowLink(NamedTuple):
    """What rows of numbers say of the probability of their label, and of each class."""

    label: Label
    rows: Callable[[Traced, Array, float], tuple[Chance, Pull]]


softmax = RowLink(_softmax_label, _softmax_rows)
given_log = RowLink(_log_label, _log_rows)


def _softmax_diagonal(mode: Traced, p: Array, miss: Array, slope: Array, curvature: Array | None) -> Array:
    """The sum over c of slope_c p_j (1 - p_j) + curvature_c ([j = c] - p_j)^2 / (1 - p_c), for each class j.

    Both are weighed. The class with p > 1/2, where there is one, is kept apart: the others' part is not what a
    difference leaves of its own, and p_j / (1 - p) is taken first, which is at most 1.
    """
    xp = mode.xp
    diagonal = p * miss * mode.sum(slope)
    if curvature is None:
        return diagonal
    zero = xp.zeros_like(p)
    most = p > 0.5
    among = xp.where(most, zero, curvature / xp.where(most, xp.ones_like(p), miss))
    gap = mode.sum(xp.where(most, miss, zero))
    top = mode.sum(xp.where(most, curvature, zero))
    from_most = xp.where(most, zero, top * (p / xp.where(gap > 0, gap, xp.ones_like(gap))))
    from_others = p * (mode.sum(among) - among) + from_most
    return diagonal + (miss * curvature + p * from_others)


# ---------------------------------------------------------------------------------------------------------------
# Binary: one number each, for the probability of the answer 1; the chances of 1 and of 0.


Both = Callable[[Traced, Array, float], tuple[Chance, Chance, Callable[[Array, Array], Array]]]
Label = Callable[[Traced, Array, Array, float, Array | None], tuple[Chance, Pull]]


def _sigmoid_both(mode: Traced, x: Array, near: float) -> tuple[Chance, Chance, Callable[[Array, Array], Array]]:
    one, odds = _sigmoid(mode, x, near)
    above, below, short = one

    def pull(of_one: Array, of_zero: Array) -> Array:
        p, miss = odds()
        return of_one * miss - of_zero * p

    return (
        Chance(below + short, odds, lambda: (above, short)),
        Chance(above + short, lambda: odds()[::-1], lambda: (below, short)),
        pull,
    )


def _sigmoid_label(
    mode: Traced, x: Array, target: Array, near: float, coefficient: Array | None
) -> tuple[Chance, Pull]:
    against = mode.against(x, target, near)
    if against is not None:
        return Chance(against.surprisal, against.odds, against.rarity, against.rest, finite=True), against.pull
    # The chance of 0 is that of 1 with the sign of the logit turned.
    sign = 2 * mode.real(target) - 1
    (above, below, short), odds = _sigmoid(mode, x * sign, near)
    return Chance(below + short, odds, lambda: (above, short)), lambda g: g * odds()[1] * sign


def _sigmoid_total(mode: Traced, x: Array, target: Array, near: float) -> tuple[Array, Pull] | None:
    against = mode.against(x, target, near, known=False)
    total = None if against is None else against.sum()
    return None if against is None or total is None else (total, against.pull)


def _sigmoid(
    mode: Traced, x: Array, near: float
) -> tuple[tuple[Array, Array, Array], Callable[[], tuple[Array, Array]]]:
    """softplus(x) is above + short, softplus(-x) is below + short; and the odds."""
    xp = mode.xp
    # x = above - below, one of which is 0; a nan is in one of them, and in `e`.
    above, below = mode.sides(x)
    e = mode.exp(mode.under(x, above, below), near)

    def both() -> tuple[Array, Array]:
        up, down = mode.raised(x, e)
        total = 1 + e
        return up / total, down / total

    return (above, below, xp.log1p(e)), _once(both)


def _given_both(mode: Traced, x: Array, near: float) -> tuple[Chance, Chance, Callable[[Array, Array], Array]]:
    xp = mode.xp
    # 1 - x is exact from 1/2 up, and rounded once below.
    return (
        Chance(-xp.log(x), lambda: (x, 1 - x)),
        Chance(-mode.log_complement(x), lambda: (1 - x, x)),
        lambda one, zero: mode.times(one, 1 / x) - mode.times(zero, 1 / (1 - x)),
    )


class BinaryLink(NamedTuple):
    """What numbers say of the probabilities of 1 and 0; and of the answer alone, where that is less work.

    `total` is `label` where only the sum of the surprisals is asked for.
    """

    both: Both
    label: Label | None
    total: Callable[[Traced, Array, Array, float], tuple[Array, Pull] | None] | None


sigmoid = BinaryLink(_sigmoid_both, _sigmoid_label, _sigmoid_total)
given = BinaryLink(_given_both, None, None)


# ---------------------------------------------------------------------------------------------------------------
# Losses: coefficient * sum over the classes of (target weight * cost of the class's probability), for each row.
# Inputs: x, the coefficient (None: 1), the target.


def _prepared(mode: Traced, x: Array, *costs: Cost) -> Array:
    for cost in costs:
        if cost.steep:
            return mode.precise(x)
    return mode.real(x)


def _sloped(mode: Traced, g: Array, slope: Array | None) -> Array:
    return g if slope is None else mode.times(g, slope)


def _weighed(
    mode: Traced, coefficient: Array | None, value: Array, *pulls: Pull | None, weighable: bool = False
) -> Evaluated:
    """`coefficient * value`, where that may be 0 * inf unless `weighable`; the pulls are those of `value`."""
    if coefficient is None:
        return Evaluated(value, (pulls[0], None, *pulls[1:]))

    def through(pull: Pull | None) -> Pull | None:
        return pull and (lambda g: pull(g * coefficient))

    first, *others = map(through, pulls)
    product = coefficient * value if weighable else mode.times(coefficient, value)
    return Evaluated(product, (first, lambda g: mode.times(g, value), *others))


def _bent(mode: Traced, cost: Cost, at: Chance) -> Array:
    """The second derivative of a cost by the logit that its probability is the sigmoid of."""
    p, miss = at.odds()
    bent, curvature = _sloped(mode, p, cost.slope(mode, at)), cost.curvature(mode, at)
    return mode.real(miss * (bent if curvature is None else curvature + bent))


def _of_logits(link: Any) -> None:
    if link is not softmax and link is not sigmoid:
        raise TypeError("second derivatives are there for losses of logits")


@dataclass(frozen=True)
class LabelLoss:
    """The target is labels, (rows, 1): of classes, or 0 and 1 for numbers on their own.

    Of these, the answer 0 may have its own cost.
    """

    link: RowLink | BinaryLink
    cost: Cost
    dtype: Any
    cost_of_zero: Cost | None = None
    keeps_classes: ClassVar[bool] = False

    @property
    def elementwise(self) -> bool:
        return isinstance(self.link, BinaryLink)

    @property
    def _costs(self) -> tuple[Cost, ...]:
        return (self.cost,) if self.cost_of_zero is None else (self.cost, self.cost_of_zero)

    @property
    def _near(self) -> float:
        return self.cost.near if self.cost_of_zero is None else min(self.cost.near, self.cost_of_zero.near)

    @property
    def linear(self) -> bool:
        """Whether the gradient doesn't depend on the input."""
        return self.link is given_log and self.cost.plain

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, target: Array) -> Evaluated:
        near = self._near
        x = _prepared(mode, x, *self._costs)
        if mode.sums and self.cost.plain and coefficient is None and isinstance(self.link, BinaryLink):
            total = self.link.total and self.link.total(mode, x, target, near)
            if total is not None:
                value, pull_total = total
                return Evaluated(value, (lambda g: mode.still(g, pull_total(-g)), None, None))
        assert self.link.label is not None  # or the engine takes another kernel
        at, pull = self.link.label(mode, x, target, near, coefficient)

        def pull_x(g: Array) -> Array:
            return mode.still(g, mode.real(pull(_sloped(mode, -g, self._of(mode, target, at, _slope)))))

        value = mode.real(self._of(mode, target, at, _value))
        return _weighed(mode, coefficient, value, pull_x, None, weighable=at.weighable and self.cost.plain)

    def _of(self, mode: Traced, target: Array, at: Chance, what: Callable[[Traced, Cost, Chance], Any]) -> Any:
        """What the costs say of the chance of the label; None stands for 1."""
        one = what(mode, self.cost, at)
        if self.cost_of_zero is None:
            return one
        zero = what(mode, self.cost_of_zero, at)
        if one is None and zero is None:
            return None
        y, same = mode.real(target), mode.xp.ones_like(at.surprisal)
        return mode.blend(y, same if one is None else one, 1 - y, same if zero is None else zero)

    def diagonal(self, mode: Traced, x: Array, target: Array) -> Array:
        if isinstance(self.link, RowLink):
            one_hot = ClassWeights(0.0, True, self.dtype)(mode, x, target, None)
            return RowLoss(self.link, self.cost, self.dtype).diagonal(mode, x, *one_hot)
        _of_logits(self.link)
        assert self.link.label is not None  # or the engine takes another kernel
        at, _ = self.link.label(mode, _prepared(mode, x, *self._costs), target, self._near, None)
        return self._of(mode, target, at, _bent)


def leaves_label_out(kernel: Any) -> bool:
    """Whether the kernel takes the exponentials of a row of logits, and their sum without the label's."""
    return isinstance(kernel, LabelLoss) and kernel.link is softmax


def _value(mode: Traced, cost: Cost, at: Chance) -> Array:
    return cost.value(mode, at)


def _slope(mode: Traced, cost: Cost, at: Chance) -> Any:
    return cost.slope(mode, at)


@dataclass(frozen=True)
class RowLoss:
    """The target is a weight for every class, (rows, classes)."""

    link: RowLink
    cost: Cost
    dtype: Any
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, target: Array) -> Evaluated:
        xp = mode.xp
        at, pull = self.link.rows(mode, _prepared(mode, x, self.cost), self.cost.near)
        each = mode.real(self.cost.value(mode, at))

        def pull_x(g: Array) -> Array:
            g = _sloped(mode, mode.times(-g, target), self.cost.slope(mode, at))
            return mode.still(xp.max(xp.abs(g), axis=1, keepdims=True), mode.real(pull(g)))

        def pull_target(g: Array) -> Array:
            return mode.times(g, each)

        value = mode.sum(mode.times(target, each))
        return _weighed(mode, coefficient, value, pull_x, pull_target)

    def diagonal(self, mode: Traced, x: Array, target: Array) -> Array:
        _of_logits(self.link)
        at, _ = self.link.rows(mode, _prepared(mode, x, self.cost), self.cost.near)
        slope, curvature = _sloped(mode, target, self.cost.slope(mode, at)), self.cost.curvature(mode, at)
        curvature = None if curvature is None else mode.times(target, curvature)
        return mode.real(_softmax_diagonal(mode, *at.odds(), slope, curvature))


@dataclass(frozen=True)
class BinaryLoss:
    """The target is the weights of the answers 1 and 0, each with its cost; any shape."""

    link: BinaryLink
    costs: tuple[Cost, Cost]
    dtype: Any
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, one: Array, zero: Array) -> Evaluated:
        cost_one, cost_zero = self.costs
        x = _prepared(mode, x, *self.costs)
        at_one, at_zero, pull = self.link.both(mode, x, min(cost_one.near, cost_zero.near))
        if_one, if_zero = mode.real(cost_one.value(mode, at_one)), mode.real(cost_zero.value(mode, at_zero))

        def pull_x(g: Array) -> Array:
            of_one = _sloped(mode, one, cost_one.slope(mode, at_one))
            of_zero = _sloped(mode, zero, cost_zero.slope(mode, at_zero))
            return mode.still(g, mode.real(pull(of_one, of_zero)) * -g)

        def pull_one(g: Array) -> Array:
            return mode.times(g, if_one)

        def pull_zero(g: Array) -> Array:
            return mode.times(g, if_zero)

        value = mode.blend(one, if_one, zero, if_zero)
        return _weighed(mode, coefficient, value, pull_x, pull_one, pull_zero)

    def diagonal(self, mode: Traced, x: Array, one: Array, zero: Array) -> Array:
        _of_logits(self.link)
        cost_one, cost_zero = self.costs
        x = _prepared(mode, x, *self.costs)
        at_one, at_zero, _ = self.link.both(mode, x, min(cost_one.near, cost_zero.near))
        return mode.times(one, _bent(mode, cost_one, at_one)) + mode.times(zero, _bent(mode, cost_zero, at_zero))


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
class Answered:
    """A loss of answers that are 0 or 1, whose weights are made inside, block by block, and take no derivative."""

    loss: LabelLoss
    weights: AnswerWeights
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    @property
    def dtype(self) -> Any:
        return self.loss.dtype

    def __call__(
        self, mode: Traced, x: Array, coefficient: Array | None, target: Array, *factors: Array | None
    ) -> Evaluated:
        one, zero = self.weights(mode, x, target, *factors)
        scale = one + zero  # one of them is 0
        evaluated = self.loss(mode, x, scale if coefficient is None else coefficient * scale, target)
        pull_x, pull_scale, _ = evaluated.pulls
        assert pull_scale is not None  # there is a scale
        return Evaluated(evaluated.value, (pull_x, lambda g: pull_scale(g) * scale, None, *(None for _ in factors)))

    def diagonal(self, mode: Traced, x: Array, target: Array, *factors: Array | None) -> Array:
        one, zero = self.weights(mode, x, target, *factors)
        return mode.times(one + zero, self.loss.diagonal(mode, x, target))


@dataclass(frozen=True)
class Assembled:
    """A loss of the target as given: its weights are made inside, block by block, and take no derivative."""

    loss: RowLoss | BinaryLoss
    weights: ClassWeights | AnswerWeights
    keeps_classes: ClassVar[bool] = False

    @property
    def elementwise(self) -> bool:
        return self.loss.elementwise

    @property
    def dtype(self) -> Any:
        return self.loss.dtype

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, *target: Array | None) -> Evaluated:
        evaluated = self.loss(mode, x, coefficient, *self.weights(mode, x, *target))
        pull_x, pull_coefficient, *_ = evaluated.pulls
        return Evaluated(evaluated.value, (pull_x, pull_coefficient, *(None for _ in target)))

    def diagonal(self, mode: Traced, x: Array, *target: Array | None) -> Array:
        return self.loss.diagonal(mode, x, *self.weights(mode, x, *target))


@dataclass(frozen=True)
class Diagonal:
    """The second derivatives of a loss by its own logits, times a weight for each row; `least` where it is above them.

    A number for each logit and no derivatives: the end of the chain. A row of coefficient 0 has none.
    """

    loss: LabelLoss | RowLoss | BinaryLoss | Answered | Assembled
    least: float | None
    keeps_classes: ClassVar[bool] = True

    @property
    def elementwise(self) -> bool:
        return self.loss.elementwise

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
# Between two rows of logits. Inputs: x, the coefficient (None: 1), the other logits.


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
    """a - b as rounded, and the rounding's error (2Sum)."""
    d = a - b
    back = d - a
    return d, (a - (d - back)) - (b + back)


class Scaled:
    """p and q of rows, and sums of terms that are one of them times something.

    `in_units` has both in the mode's unit where they are small: there, a term may be flushed that its sum is not.
    """

    def __init__(self, mode: Traced, p: Array, q: Array, small: Array | None = None) -> None:
        self._mode = mode
        self.p = p
        self.q = q
        self._small = small

    def in_units(self, p: Array, q: Array) -> Scaled:
        xp = self._mode.xp
        # Where one is not, a flushed term of the other is nothing beside it; and in the unit it might overflow.
        small = (p < 1) & (q < 1)
        return Scaled(self._mode, xp.where(small, p, self.p), xp.where(small, q, self.q), small)

    def sum(self, terms: Array) -> Array:
        """The sum of each row."""
        mode, small = self._mode, self._small
        if small is None:
            return mode.pairwise(terms)
        zero = mode.xp.zeros_like(terms)
        few, most = mode.xp.where(small, terms, zero), mode.xp.where(small, zero, terms)
        return mode.pairwise(most) + mode.pairwise(few) * (1 / mode.unit)


def _log_ratio(mode: Traced, x: Array, target: Array, at_x: Chance, at_target: Chance, scaled: Scaled) -> Array:
    """log(q / p), of the chances p of the logits x and q of the logits target.

    It is target - x but for a constant of the row. Relative to one class, one whose q is next to its p, these are
    differences of inputs, right to the last bit; the constant follows from sum(q exp(-log(q / p))) = sum(p) = 1, with
    the 1 taken off each side. So no digit is lost, however near all of the ratios are to 1.
    """
    xp = mode.xp
    (p, _), (q, _) = at_x.odds(), at_target.odds()
    gap = at_x.surprisal - at_target.surprisal
    # Elsewhere a probability is 0, or 1 for sure, and the gap has all there is.
    plain = xp.isfinite(gap) & xp.isfinite(x) & xp.isfinite(target)
    nothing, nowhere = xp.zeros_like(gap), xp.full_like(gap, -float("inf"))
    d, error = _difference(xp.where(plain, target, nothing), xp.where(plain, x, nothing))
    # Two gaps next to 0 are told apart by their noise: that of a likely class is the smaller. One so unlikely that its
    # chances are not normal numbers has to be the last resort.
    info = xp.finfo(mode.dtype)
    apart = xp.abs(gap) + (at_x.surprisal + at_target.surprisal) * float(info.eps)
    apart = xp.where((p > info.smallest_normal) & (q > info.smallest_normal), apart, xp.full_like(gap, 1e30))
    apart = xp.where(plain, apart, -nowhere)
    nearest = apart == xp.min(apart, axis=1, keepdims=True)

    def there(a: Array) -> Array:
        return xp.max(xp.where(nearest, a, nowhere), axis=1, keepdims=True)

    origin = there(d)
    nearest = nearest & (d == origin)
    # What is left of a gap between large surprisals has lost more than the quotient.
    p_there, q_there = there(p), there(q)
    normal = (p_there > info.smallest_normal) & (q_there > info.smallest_normal)
    quotient = xp.where(normal, q_there, xp.ones_like(q_there)) / xp.where(normal, p_there, xp.ones_like(p_there))
    known = xp.where(normal, xp.log(quotient), there(xp.where(plain, gap, nothing)))
    error = error - there(error)
    d, rounding = _difference(d, origin)
    error = error + rounding
    # A small gap may be all noise: then 0 is the better start.
    start = xp.where(xp.abs(known) < 0.25, xp.zeros_like(known), known)

    def levelled(ratio: Array, scale: Array | float) -> Array:
        # q exp(-ratio) - q; far below, q may have underflowed, and p, times the scale that is left, has the product.
        close = plain & (ratio > -1)
        closely = scaled.q * mode.expm1(-xp.where(close, ratio, nothing))
        return ratio + xp.log1p(scaled.sum(xp.where(close, closely, scaled.p * scale - scaled.q)))

    # Once more for the rounding of a constant that is large beside the ratios.
    ratio = levelled(levelled((d + start) + error, xp.exp(known - start)), 1.0)
    return xp.where(plain, ratio, xp.where(at_target.surprisal == float("inf"), nowhere, gap))


@dataclass(frozen=True)
class Divergence:
    """sum q log(q / p), of Kullback and Leibler, for the softmax p of x and q of the other logits."""

    dtype: Any
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, target: Array) -> Evaluated:
        xp = mode.xp
        x, target = mode.real(x), mode.real(target)
        # The exponentials right to the last bit: the classes' terms have no common error to be excused with.
        of_x, of_target = _softmax_parts(mode, x, 0.0), _softmax_parts(mode, target, 0.0)
        at_x, at_target = (Chance(parts.surprisal(), _once(parts.odds)) for parts in (of_x, of_target))
        (p, _), (q, _) = at_x.odds(), at_target.odds()
        scaled = Scaled(mode, p, q)
        if isinstance(of_x, Relative) and isinstance(of_target, Relative):
            scaled = scaled.in_units(of_x.units(), of_target.units())
        delta = _log_ratio(mode, x, target, at_x, at_target, scaled)
        more = delta >= 0
        above, below = mode.sides(delta)
        fall = mode.expm1(-(above + below))
        # q delta + p - q, whose sum over the classes is the same, and which is nowhere negative; from q or from p,
        # whichever is the larger.
        like = delta >= -2
        nothing = xp.zeros_like(delta)
        tail = xp.where(like | (scaled.q == 0), nothing, delta)
        near = scaled.q * mode.excess(xp.where(like, delta, nothing))
        each = xp.where(like, near, scaled.q * tail - scaled.p * fall)
        infinite = delta == float("inf")
        value = scaled.sum(xp.where(infinite, delta, each))

        def pull_x(g: Array) -> Array:
            # p - q
            return mode.still(g, g * xp.where(more, q * fall, -p * fall))

        def pull_target(g: Array) -> Array:
            ratio = xp.where((scaled.q == 0) & ~xp.isnan(delta), nothing, delta)
            # q (ratio - sum(q ratio)), about the class with q > 1/2 where there is one: nothing cancels against 1.
            most = q > 0.5
            about = xp.where(most, nothing, ratio - mode.sum(xp.where(most, ratio, nothing)))
            return mode.still(g, g * q * (about - scaled.sum(scaled.q * about)))

        return _weighed(mode, coefficient, value, pull_x, pull_target)

    def diagonal(self, mode: Traced, x: Array, target: Array) -> Array:
        at, _ = _softmax_rows(mode, mode.real(x), 0.0)
        p, miss = at.odds()
        return p * miss


# ---------------------------------------------------------------------------------------------------------------
# Functions. Inputs: x.


@dataclass(frozen=True)
class Softmax:
    """exp(x) / sum exp(x)."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True
    keeps_exponentials: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    left_out: ClassVar[float] = 0.0

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        parts = _softmax_parts(mode, mode.real(x), CrossEntropy.near)
        p, _ = parts.odds()
        push = parts.push_shares if isinstance(parts, Relative) else None
        # The Jacobian is symmetric.
        return Evaluated(p, (lambda g: parts.pull(g * p),), push)


@dataclass(frozen=True)
class LogSoftmax:
    """x - log sum exp(x)."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True
    keeps_exponentials: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False
    left_out: ClassVar[float] = -float("inf")

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        parts = _softmax_parts(mode, mode.real(x), CrossEntropy.near)
        if isinstance(parts, Relative):
            return Evaluated(parts.log, (parts.pull,), parts.push)
        return Evaluated(parts.log, (parts.pull,), pull_label=parts.pull_label)


@dataclass(frozen=True)
class LogSumExp:
    """log sum exp(x), (rows, 1)."""

    dtype: Any
    keeps_classes: ClassVar[bool] = False
    keeps_exponentials: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

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
    keeps_exponentials: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        xp = mode.xp
        x = mode.precise(x)
        _, odds = _sigmoid(mode, x, 0.0)
        # p (1 - p), with one rounding less.
        above, below = mode.sides(x)
        e = xp.exp(mode.under(x, above, below))
        slope = e / ((1 + e) * (1 + e))
        return Evaluated(mode.real(odds()[0]), (lambda g: mode.real(g * slope),))


@dataclass(frozen=True)
class LogSigmoid:
    """-log(1 + exp(-x)); any shape."""

    dtype: Any
    keeps_classes: ClassVar[bool] = True
    keeps_exponentials: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __call__(self, mode: Traced, x: Array) -> Evaluated:
        (_, below, short), odds = _sigmoid(mode, mode.real(x), CrossEntropy.near)
        return Evaluated(-(below + short), (lambda g: g * odds()[1],))
