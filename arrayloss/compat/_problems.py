"""What the presets change of a loss's problem: the probabilities it is of, and whether it is a mean over an axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import arrayloss
from arrayloss import _checks
from arrayloss._engine import Layout, Problem
from arrayloss._gradients import problem_of
from arrayloss._kernels import Answered, Assembled, BinaryLoss, Chance, Evaluated, Pull, _weighed, given, sigmoid
from arrayloss._modes import Array, Traced
from arrayloss._reductions import Reduction


def check_target(
    name: str, x: Any, target_name: str, target: Any, axes: tuple[int, ...] = (), labels: bool = False
) -> None:
    """What the core checks as well, said by the names that a preset's arguments have: `labels` have no class axes."""
    shape = tuple(x.shape)
    expected, why = shape, f"each number of {name} has its own"
    if labels:
        axes = tuple(_checks.class_axis(i, len(shape)) for i in axes)
        expected = tuple(n for i, n in enumerate(shape) if i not in axes)
        why = f"labels have no class axis (axis {', '.join(map(str, axes))})"
    _checks.same_shape(target_name, target.shape, expected, shape, why, f"{name} has")


def check_weights(name: str, x: Any, weights_name: str, weights: Any, axis: int) -> None:
    """One number for each class, or None."""
    if weights is not None:
        why = "there is one number for each class"
        _checks.same_shape(weights_name, weights.shape, (x.shape[axis],), x.shape, why, f"{name} has")


def check_integers(name: str, xp: Any, labels: Any) -> None:
    """Labels, and no probabilities."""
    if not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(f"{name} must be integers, not {labels.dtype}")


def with_kernel(problem: Problem[Any], change: Callable[[Any], Any]) -> Problem[Any]:
    """The problem with its loss changed, whether its target is assembled inside or not."""
    kernel = problem.kernel
    changed = replace(kernel, loss=change(kernel.loss)) if isinstance(kernel, (Answered, Assembled)) else change(kernel)
    return replace(problem, kernel=changed)


def linked(problem: Problem[Any], link: Any) -> Problem[Any]:
    """The problem of other probabilities."""
    return with_kernel(problem, lambda loss: replace(loss, link=link))


def _clip(mode: Traced, p: Array, epsilon: float) -> tuple[Array, Array]:
    """p in [epsilon, 1 - epsilon], and 1 where it was there already, 0 elsewhere: its derivative."""
    q: Array = mode.xp.clip(p, epsilon, 1.0 - epsilon) if epsilon else p
    return q, mode.real(q == p)


@dataclass(frozen=True)
class ClippedRows:
    """A `RowLink` of rows of probabilities, if `normalised` divided by their sum, clipped to [epsilon, 1 - epsilon]."""

    epsilon: float
    normalised: bool

    def label(
        self, mode: Traced, x: Array, target: Array, near: float, coefficient: Array | None
    ) -> tuple[Chance, Pull]:
        xp = mode.xp
        labels = mode.labels(x, target)
        total = self._total(mode, x)
        q, inside = _clip(mode, labels.take(x) / total, self.epsilon)

        def pull(g: Array) -> Array:
            g = g * inside
            own = mode.times(g, 1 / q)
            others, at_label = (-g / total, (own - g) / total) if self.normalised else (xp.zeros_like(g), own)
            return labels.spread(labels.drop(xp.ones_like(x)), others, at_label)

        return Chance(-xp.log(q), lambda: (q, 1 - q)), pull

    def rows(self, mode: Traced, x: Array, near: float) -> tuple[Chance, Pull]:
        xp = mode.xp
        total = self._total(mode, x)
        q, inside = _clip(mode, x / total, self.epsilon)

        def pull(g: Array) -> Array:
            g = g * inside
            own = mode.times(g, 1 / q)
            return (own - xp.sum(g, axis=1, keepdims=True)) / total if self.normalised else own

        return Chance(-xp.log(q), lambda: (q, 1 - q)), pull

    def _total(self, mode: Traced, x: Array) -> Array:
        return mode.xp.sum(x, axis=1, keepdims=True) if self.normalised else mode.xp.ones_like(x[:, :1])


@dataclass(frozen=True)
class ClippedAnswers:
    """A `BinaryLink` of probabilities of the answer 1, clipped to [epsilon, 1 - epsilon]."""

    epsilon: float

    label: ClassVar[None] = None

    def both(self, mode: Traced, x: Array, near: float) -> tuple[Chance, Chance, Callable[[Array, Array], Array]]:
        q, inside = _clip(mode, x, self.epsilon)
        one, zero, pull = given.both(mode, q, near)
        return one, zero, lambda if_one, if_zero: pull(if_one * inside, if_zero * inside)


@dataclass(frozen=True)
class _Averaged:
    """The mean of elementwise losses over the classes of a row."""

    loss: Any
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    @property
    def dtype(self) -> Any:
        return self.loss.dtype

    def __call__(self, mode: Traced, x: Array, *others: Array | None) -> Evaluated:
        evaluated = self.loss(mode, x, *others)
        n = x.shape[1]

        def through(pull: Pull | None) -> Pull | None:
            return pull and (lambda g: pull(g / n))

        value = mode.xp.mean(evaluated.value, axis=1, keepdims=True)
        return Evaluated(value, tuple(map(through, evaluated.pulls)))


def averaged(problem: Problem[Any], axis: int) -> Problem[Any]:
    """The mean of an elementwise problem over `axis`, where its losses are not reduced."""
    xp, shape = problem.library.xp, problem.layout.shape
    layout = Layout(shape, _checks.class_axis(axis, len(shape)))
    if not shape[axis]:
        raise ValueError(f"y_pred of shape {shape} has nothing along axis {axis} to take the mean of")
    arrays = (None if a is None else layout.canonical(xp, a, shape[axis]) for a in problem.arrays)
    return replace(problem, kernel=_Averaged(problem.kernel), layout=layout, arrays=tuple(arrays))


# ---------------------------------------------------------------------------------------------------------------
# The focal loss of torchvision, Optax and Keras. `arrayloss` weighs the loss of either answer by the target,
# `y (1 - p)^g (-log p) + (1 - y) p^g (-log(1 - p))`; these three multiply the cross-entropy by one factor,
# `(1 - p_t)^g` with `p_t = y p + (1 - y) (1 - p)`. For 0 and 1 the two are the same.


@dataclass(frozen=True)
class _Blended:
    """(1 - p_t)^gamma times the cross-entropy, of logits, or of probabilities, which the latter alone takes clipped."""

    clipped: ClippedAnswers | None
    gamma: float
    dtype: Any
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __call__(self, mode: Traced, x: Array, coefficient: Array | None, one: Array, zero: Array) -> Evaluated:
        xp = mode.xp
        x = mode.precise(x)
        at_one, at_zero, pull = (self.clipped or sigmoid).both(mode, x, 0.0)
        p, not_p = at_one.odds() if self.clipped is None else (x, 1 - x)
        moved = p * not_p if self.clipped is None else xp.ones_like(x)  # d p / d x
        miss = one * not_p + zero * p
        power = mode.power(miss, self.gamma)
        entropy = mode.blend(one, at_one.surprisal, zero, at_zero.surprisal)
        # d power / d miss, times the cross-entropy.
        rise = mode.times(self.gamma * mode.ratio(power, miss), entropy)

        def pull_x(g: Array) -> Array:
            by_entropy = pull(-g * power * one, -g * power * zero)
            return mode.still(g, mode.real(by_entropy + mode.times(g * (zero - one) * moved, rise)))

        def pull_one(g: Array) -> Array:
            return mode.times(g, mode.real(power * at_one.surprisal + rise * not_p))

        def pull_zero(g: Array) -> Array:
            return mode.times(g, mode.real(power * at_zero.surprisal + rise * p))

        return _weighed(mode, coefficient, mode.real(mode.times(power, entropy)), pull_x, pull_one, pull_zero)


def focal(
    x: Any,
    y: Any,
    alpha: Any,
    gamma: float,
    names: tuple[str, str],
    reduction: str | Reduction = "none",
    clipped: ClippedAnswers | None = None,
) -> Problem[Any]:
    """Their focal loss times `alpha y + (1 - alpha) (1 - y)`, of logits or of `clipped` probabilities."""
    xp: Any = _checks.library(x, names[0], **{names[1]: _checks.given(names[1], y)}).xp
    check_target(names[0], x, names[1], y)
    weight = None
    if alpha is not None:
        if isinstance(alpha, (int, float)):
            alpha = _checks.fraction("alpha", alpha)
        one = xp.astype(y, xp.result_type(x.dtype, xp.float32))
        weight = alpha * one + (1 - alpha) * (1 - one)
    options: dict[str, Any] = {"sample_weight": weight, "reduction": reduction}
    if clipped is not None:
        problem = linked(problem_of(arrayloss.binary_cross_entropy)(x, y, **options), clipped)
    else:
        problem = problem_of(arrayloss.sigmoid_focal_loss)(x, y, gamma=gamma, **options)
    gamma = _checks.focusing(gamma)

    def change(loss: Any) -> Any:
        # Labels have one answer, whose factor is not blended.
        return _Blended(clipped, gamma, loss.dtype) if gamma and isinstance(loss, BinaryLoss) else loss

    return with_kernel(problem, change)
