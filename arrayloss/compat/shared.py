"""What several presets need: their checks, probabilities that are clipped, and the focal loss that others have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from arrayloss.extending import (
    BinaryLink,
    BinaryVjp,
    CrossEntropy,
    Focal,
    Forward,
    FromTarget,
    Kernel,
    Link,
    Ops,
    Penalty,
    Probability,
    Problem,
    Vjp,
    backend_of,
    binary,
    check_at_least,
    check_axis,
    check_fraction,
    check_given,
    check_same_shape,
    given_probabilities,
    sigmoid,
    weighted,
)
from arrayloss.reductions import Reduction

Array = Any


def checked(
    name: str,
    x: Any,
    target_name: str,
    target: Any,
    axes: tuple[int, ...] = (),
    *,
    labels: bool = False,
    **weights: Any,
) -> Any:
    """What the core checks as well, said by the names of a preset's arguments; returns the backend of the arrays.

    `labels` are integers without the class axes; `weights` have one number for each class of the first of these.
    """
    backend = backend_of(x, name, **{target_name: check_given(target_name, target)}, **weights)
    shape = tuple(x.shape)
    axes = tuple(check_axis(i, len(shape)) for i in axes)
    expected, why = shape, f"each number of {name} has its own"
    if labels:
        if not backend.isdtype(target.dtype, "integral"):
            raise TypeError(f"{target_name} must be integers, not {target.dtype}")
        expected = tuple(n for i, n in enumerate(shape) if i not in axes)
        why = f"labels have no class axis (axis {', '.join(map(str, axes))})"
    check_same_shape(target_name, target.shape, expected, shape, why, f"{name} has")
    for weights_name, weight in weights.items():
        if weight is not None:
            why = "there is one number for each class"
            check_same_shape(weights_name, weight.shape, (shape[axes[0]],), shape, why, f"{name} has")
    return backend


# ---------------------------------------------------------------------------------------------------------------
# Links of clipped probabilities, equal for equal numbers: compilers cache by them, and torch.compile traces no cache.


def _clip(ops: Ops, p: Array, epsilon: float) -> tuple[Array, Array]:
    """p in [epsilon, 1 - epsilon], and its derivative: 1 where it was there already, 0 elsewhere."""
    q = ops.xp.clip(p, epsilon, 1.0 - epsilon) if epsilon else p
    return q, ops.xp.astype(q == p, p.dtype)


def _probability(ops: Ops, q: Array) -> Probability:
    return Probability(neg_log_p=lambda: -ops.xp.log(q), p=lambda: q, one_minus_p=lambda: 1 - q)


def _total(ops: Ops, x: Array, normalised: bool) -> Array:
    total = ops.sum(x)
    return total if normalised else ops.xp.ones_like(total)


@dataclass(frozen=True)
class _OfLabels:
    epsilon: float
    normalised: bool

    def __call__(self, ops: Ops, x: Array, labels: Array) -> tuple[Probability, Vjp]:
        at_label, total = ops.at_label(labels, x), _total(ops, x, self.normalised)
        q, inside = _clip(ops, at_label.take(x) / total, self.epsilon)

        def vjp(g: Array) -> Array:
            g = g * inside
            own, zeros = ops.multiply_zero_wins(g, 1 / q), ops.xp.zeros_like(x)
            return at_label.put(zeros - g / total, (own - g) / total) if self.normalised else at_label.put(zeros, own)

        return _probability(ops, q), vjp


@dataclass(frozen=True)
class _OfClasses:
    epsilon: float
    normalised: bool

    def __call__(self, ops: Ops, x: Array) -> tuple[Probability, Vjp]:
        total = _total(ops, x, self.normalised)
        q, inside = _clip(ops, x / total, self.epsilon)

        def vjp(g: Array) -> Array:
            g = g * inside
            own = ops.multiply_zero_wins(g, 1 / q)
            return (own - ops.sum(g)) / total if self.normalised else own

        return _probability(ops, q), vjp


def clipped_rows(epsilon: float, normalised: bool) -> Link:
    """Rows of probabilities, if `normalised` divided by their sum, clipped to [epsilon, 1 - epsilon]."""
    return Link(_OfLabels(epsilon, normalised), _OfClasses(epsilon, normalised))


@dataclass(frozen=True)
class _OfAnswers:
    epsilon: float

    def __call__(self, ops: Ops, x: Array) -> tuple[Probability, Probability, BinaryVjp]:
        q, inside = _clip(ops, x, self.epsilon)
        at_one, at_zero, vjp = given_probabilities.of_answers(ops, q)
        return at_one, at_zero, lambda g, by_one, by_zero: vjp(g * inside, by_one, by_zero)


def clipped_answers(epsilon: float) -> BinaryLink:
    """Probabilities of the answer 1, clipped to [epsilon, 1 - epsilon]."""
    return BinaryLink(_OfAnswers(epsilon))


# ---------------------------------------------------------------------------------------------------------------
# The focal loss of torchvision, Optax and Keras. `arrayloss` weighs the loss of either answer by the target,
# `y (1 - p)^g (-log p) + (1 - y) p^g (-log(1 - p))`; these three multiply the cross-entropy by one factor,
# `(1 - p_t)^g` with `p_t = y p + (1 - y) (1 - p)`. For 0 and 1 the two are the same.


def focal_penalty(gamma: Any) -> Penalty:
    """That of an exponent of at least 0."""
    exponent = check_at_least("gamma", 0, gamma)
    return Focal(exponent) if not isinstance(exponent, (int, float)) or exponent else CrossEntropy()


@dataclass(frozen=True)
class _Blended:
    """(1 - p_t)^gamma times the cross-entropy. Of probabilities, the latter alone takes them clipped, by the link."""

    link: BinaryLink
    gamma: Any
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array, weight: Array | None, one: Array, zero: Array) -> Forward:
        xp, times, gamma = ops.xp, ops.multiply_zero_wins, ops.scalar(self.gamma)
        at_one, at_zero, vjp = self.link.of_answers(ops, x)
        p, not_p = (at_one.p, at_one.one_minus_p) if self.link.logits else (x, 1 - x)
        slope = p * not_p if self.link.logits else xp.ones_like(x)  # d p / d x
        miss = one * not_p + zero * p
        none = miss == 0
        some = xp.where(none, xp.ones_like(miss), miss)
        power = xp.where(none, miss, some**gamma)
        entropy = times(one, at_one.neg_log_p) + times(zero, at_zero.neg_log_p)
        rise = times(gamma * power / some, entropy)  # d power / d miss, times the cross-entropy

        def vjp_x(g: Array) -> Array:
            return vjp(g, -power * one, -power * zero) + times(g, times((zero - one) * slope, rise))

        def vjp_one(g: Array) -> Array:
            return times(g, times(power, at_one.neg_log_p) + times(not_p, rise))

        def vjp_zero(g: Array) -> Array:
            return times(g, times(power, at_zero.neg_log_p) + times(p, rise))

        return weighted(ops, weight, times(power, entropy), vjp_x, vjp_one, vjp_zero)


def _blended(kernel: Any) -> Kernel:
    if isinstance(kernel, FromTarget):
        return replace(kernel, loss=_blended(kernel.loss))
    return _Blended(kernel.link, kernel.penalty.gamma) if isinstance(kernel.penalty, Focal) else kernel


def focal(
    x: Any,
    y: Any,
    alpha: Any,
    gamma: Any,
    names: tuple[str, str],
    *,
    link: BinaryLink = sigmoid,
    label_smoothing: Any = 0.0,
    reduction: str | Reduction = "none",
) -> Problem[Any]:
    """Their focal loss times `alpha y + (1 - alpha) (1 - y)`, of logits or of probabilities that `link` clips."""
    backend = checked(names[0], x, names[1], y)
    weight = None
    if alpha is not None:
        s = check_fraction("label_smoothing", label_smoothing)
        if isinstance(alpha, (int, float)):
            alpha = check_fraction("alpha", alpha)
        one = backend.astype(y, backend.compute_dtype(x.dtype)) * (1 - s) + s / 2
        weight = alpha * one + (1 - alpha) * (1 - one)
    options: Any = {"name": names[0], "sample_weight": weight, "reduction": reduction}
    stated = binary(link, focal_penalty(gamma), x, y, label_smoothing=label_smoothing, **options)
    return replace(stated, kernel=_blended(stated.kernel))
