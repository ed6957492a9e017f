"""What several presets share: checks that name the presets' own arguments, clipped probabilities, a focal loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from arrayloss import Mean
from arrayloss.extending import (
    BinaryLink,
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
    Reduction,
    backend_of,
    binary,
    check_at_least,
    check_axis,
    check_fraction,
    check_given,
    check_same_shape,
    given_probabilities,
    weighted,
)

Array = Any


def check_target(name: str, x: Any, target_name: str, target: Any, axes: tuple[int, ...] = ()) -> None:
    """A target has the shape of `x`; if it is labels, the shape without the class `axes`."""
    shape = tuple(x.shape)
    expected, why = shape, f"each number of {name} has its own"
    if axes:
        axes = tuple(check_axis(i, len(shape)) for i in axes)
        expected = tuple(n for i, n in enumerate(shape) if i not in axes)
        why = f"labels have no class axis (axis {', '.join(map(str, axes))})"
    check_same_shape(target_name, target.shape, expected, shape, why, f"{name} has")


def check_weights(name: str, x: Any, weights_name: str, weights: Any, axis: int) -> None:
    """One number for each class, or None."""
    if weights is not None:
        why = "there is one number for each class"
        check_same_shape(weights_name, weights.shape, (x.shape[axis],), x.shape, why, f"{name} has")


def check_integers(name: str, backend: Any, labels: Any) -> None:
    """Integer labels, not probabilities."""
    if backend.kind(labels.dtype) != "integral":
        raise TypeError(f"{name} must be integers, not {labels.dtype}")


def along_classes(backend: Any, x: Any, name: str, values: Any) -> Any:
    """One number for each class, on axis 1, in a shape that broadcasts with `x`; or None."""
    if values is None:
        return None
    check_weights("the input", x, name, values, 1)
    return backend.xp.reshape(values, (-1, *(1 for _ in x.shape[2:])))


def background(backend: Any, x: Any, alpha: Any) -> Any:
    """The factors 1 - alpha of class 0 and alpha of all others, or None."""
    if alpha is None:
        return None
    share, xp = check_fraction("alpha", alpha), backend.xp
    first = xp.arange(x.shape[1], device=backend.device(x)) == 0
    ones = xp.ones_like(first, dtype=x.dtype)
    return xp.where(first, (1 - share) * ones, share * ones)


def over_all(reduction: str | Reduction) -> str | Reduction:
    """A mean divides by the number of samples, whatever they weigh."""
    return Mean(over="all") if reduction == "mean" else reduction


@dataclass(frozen=True)
class Averaged(Kernel):
    """The mean of an elementwise loss along the class axis."""

    loss: Kernel
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Any, *inputs: Any) -> Forward:
        value, vjps, _ = self.loss.forward(ops, x, *inputs)
        n = x.shape[ops.axis]

        def through(vjp: Any) -> Any:
            return vjp and (lambda g: vjp(g / n))

        return Forward(ops.sum(value) / n, tuple(map(through, vjps)))


def averaged(problem: Problem[Any], axis: int, name: str = "y_pred") -> Problem[Any]:
    """An elementwise loss, averaged along an axis."""
    shape = problem.shape
    position = check_axis(axis, len(shape))
    if not shape[position]:
        raise ValueError(f"{name} of shape {shape} has nothing along axis {axis} to take the mean of")
    return replace(problem, kernel=Averaged(problem.kernel), axis=position)


# ---------------------------------------------------------------------------------------------------------------
# Probabilities that are clipped before a logarithm is taken


def _clip(ops: Ops, p: Array, epsilon: float) -> tuple[Array, Array]:
    """p clipped to [epsilon, 1 - epsilon]; and the derivative of that, 1 where p was inside and 0 elsewhere."""
    q = ops.xp.clip(p, epsilon, 1.0 - epsilon) if epsilon else p
    return q, ops.xp.astype(q == p, p.dtype)


def _probability(ops: Ops, p: Array) -> Probability:
    return Probability(neg_log_p=lambda: -ops.xp.log(p), p=lambda: p, one_minus_p=lambda: 1 - p)


@dataclass(frozen=True)
class ClippedRows(Link):
    """Rows of probabilities, divided by their sum if `normalised`, and clipped to [epsilon, 1 - epsilon]."""

    epsilon: float
    normalised: bool = False

    def of_labels(self, ops: Ops, x: Array, labels: Array) -> tuple[Probability, Any]:
        at_label, total = ops.at_label(labels, x), self._total(ops, x)
        q, inside = _clip(ops, at_label.take(x) / total, self.epsilon)

        def vjp(g: Array) -> Array:
            g = g * inside
            own = ops.multiply_zero_wins(g, 1 / q)
            every = -g / total if self.normalised else ops.xp.zeros_like(g)
            return at_label.put(ops.xp.zeros_like(x) + every, own / total + every)

        return _probability(ops, q), vjp

    def of_classes(self, ops: Ops, x: Array) -> tuple[Probability, Any]:
        total = self._total(ops, x)
        q, inside = _clip(ops, x / total, self.epsilon)

        def vjp(g: Array) -> Array:
            g = g * inside
            own = ops.multiply_zero_wins(g, 1 / q)
            return (own - ops.sum(g)) / total if self.normalised else own

        return _probability(ops, q), vjp

    def _total(self, ops: Ops, x: Array) -> Array:
        return ops.sum(x) if self.normalised else ops.xp.ones_like(ops.sum(x))


@dataclass(frozen=True)
class ClippedAnswers(BinaryLink):
    """Probabilities of the answer 1, clipped to [epsilon, 1 - epsilon]."""

    epsilon: float

    def of_answers(self, ops: Ops, x: Array) -> tuple[Probability, Probability, Any]:
        q, inside = _clip(ops, x, self.epsilon)
        at_one, at_zero, vjp = given_probabilities.of_answers(ops, q)
        return at_one, at_zero, lambda g, by_one, by_zero: vjp(g * inside, by_one, by_zero)


# ---------------------------------------------------------------------------------------------------------------
# The focal loss of torchvision, Optax and Keras


@dataclass(frozen=True)
class BlendedFocal(Kernel):
    """(1 - p_t)^gamma times the cross-entropy, with p_t = y p + (1 - y) (1 - p); gamma > 0.

    `arrayloss.sigmoid_focal_loss` gives each answer a factor of its own, `y (1 - p)^gamma (-log p) + (1 - y) p^gamma
    (-log(1 - p))`. For 0 and 1 the two are the same. If the link clips probabilities, the factor is computed from the
    unclipped ones.
    """

    link: BinaryLink
    gamma: Any
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Array, weight: Array | None, one: Array, zero: Array) -> Forward:
        xp, times, gamma = ops.xp, ops.multiply_zero_wins, ops.scalar(self.gamma)
        at_one, at_zero, vjp = self.link.of_answers(ops, x)
        p, q, dp_dx = x, 1 - x, xp.ones_like(x)
        if self.link.logits:
            p, q, dp_dx = at_one.p, at_one.one_minus_p, at_one.p * at_one.one_minus_p
        miss = one * q + zero * p
        some = xp.where(miss == 0, xp.ones_like(miss), miss)
        factor = xp.where(miss == 0, xp.zeros_like(miss), some**gamma)
        entropy = times(one, at_one.neg_log_p) + times(zero, at_zero.neg_log_p)
        by_miss = times(gamma * factor / some, entropy)

        def vjp_x(g: Array) -> Array:
            return vjp(-g, factor * one, factor * zero) + times(g, times((zero - one) * dp_dx, by_miss))

        def vjp_one(g: Array) -> Array:
            return times(g, times(factor, at_one.neg_log_p) + by_miss * q)

        def vjp_zero(g: Array) -> Array:
            return times(g, times(factor, at_zero.neg_log_p) + by_miss * p)

        return weighted(ops, weight, times(factor, entropy), vjp_x, vjp_one, vjp_zero)


def focal_penalty(gamma: Any) -> Penalty:
    """The penalty for an exponent of at least 0, which may be a traced value."""
    exponent = check_at_least("gamma", 0, gamma)
    return CrossEntropy() if isinstance(exponent, (int, float)) and not exponent else Focal(exponent)


def blended_focal(
    link: BinaryLink,
    x: Any,
    y: Any,
    names: tuple[str, str],
    *,
    gamma: float,
    alpha: Any,
    label_smoothing: float = 0.0,
    reduction: str | Reduction = "none",
) -> Problem[Any]:
    """`BlendedFocal` times `alpha y + (1 - alpha) (1 - y)`."""
    name, target_name = names
    backend = backend_of(x, name, **{target_name: check_given(target_name, y)})
    check_target(name, x, target_name, y)
    penalty, weight = focal_penalty(gamma), None
    if alpha is not None:
        s, alpha = check_fraction("label_smoothing", label_smoothing), check_fraction("alpha", alpha)
        one = (1 - s) * backend.astype(y, backend.compute_dtype(x.dtype)) + s / 2
        weight = alpha * one + (1 - alpha) * (1 - one)
    problem = binary(
        link,
        penalty,
        x,
        y,
        name=name,
        label_smoothing=label_smoothing,
        sample_weight=weight,
        reduction=reduction,
    )
    if not isinstance(penalty, Focal):
        return problem
    kernel, focal = problem.kernel, BlendedFocal(link, penalty.gamma)
    return replace(problem, kernel=replace(kernel, loss=focal) if isinstance(kernel, FromTarget) else focal)
