"""From the arguments of a loss to its value: what every loss has in common, and no formula.

The way of the data, from top to bottom: the arguments are checked, once; the target becomes labels that are safe to
index with, or weights for every class, and each sample gets its weight; the backend runs the kernel; the losses are
reduced, and the result is rounded once, to its dtype. A public loss says only which link and which penalty, and hands
over its arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from arrayloss import _checks
from arrayloss._backends import Backend, backend_of
from arrayloss._backends.generic import NO_CONTEXT, Arrays, Call, is_static
from arrayloss._head import Gradients, Head
from arrayloss._kernels.ops import Array, Kernel
from arrayloss._kernels.penalties import Penalty
from arrayloss._kernels.sigmoid import AnswerWeights, BinaryLink, BinaryLoss
from arrayloss._kernels.softmax import (
    FromTarget,
    LabelLoss,
    Link,
    SecondDerivatives,
    TargetLoss,
    TargetWeights,
    WithZLoss,
)
from arrayloss.reductions import NAMED, Parts, Reduction, Samples

A = TypeVar("A")


# Not frozen, which takes 1 us.
@dataclass
class Problem(Generic[A]):
    """A loss with all of its arguments, checked and ready to be computed.

    Attributes
    ----------
    arrays
        The inputs of the kernel, with the same axes: the logits as given, the weight of each sample, and the others.
    axis
        The class axis, counted from the front; None for an elementwise loss.
    dtype
        The dtype to compute in.
    result_dtype
        The dtype of the result.
    restore
        If the logits were computed from the caller's array (`x / 2`): turns the gradient with respect to the logits
        into the gradient with respect to that array.
    head
        The linear layer before the loss, if the logits are never held whole. Then `arrays` has the hidden state in
        place of the logits.
    """

    backend: Backend
    kernel: Kernel
    arrays: Arrays
    axis: int | None
    dtype: Any
    samples: Samples
    reduction: Reduction | None
    result_dtype: Any
    restore: Callable[[Array], Any] | None = None
    head: Head | None = None

    @property
    def runner(self) -> Backend | Head:
        """What runs the kernel."""
        return self.head or self.backend

    @property
    def call(self) -> Call:
        return Call(self.kernel, self.axis, self.dtype)

    @property
    def logits(self) -> Array:
        return self.arrays[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the samples."""
        return _without(self.logits.shape, self.axis)

    def losses(self, value: Array) -> Array:
        """The kernel's value, in the shape of the samples."""
        return value if self.axis is None else self.backend.xp.squeeze(value, axis=self.axis)

    def cotangent(self, g: Array) -> Array:
        """The cotangent of the kernel's value, from one number `g` for each loss."""
        aligned: Array = _along(self.backend.xp, g, self.axis)
        return aligned


@dataclass
class FunctionProblem(Problem[A]):
    """A function of one array: its result is the kernel's value. `left_out` is that of a class not in `where`."""

    where: Array | None = None
    left_out: float = 0.0
    keepdims: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.logits.shape)
        if self.kernel.keeps_classes:
            return shape
        return tuple(1 if i == self.axis else n for i, n in enumerate(shape)) if self.keepdims else super().shape

    def losses(self, value: Array) -> Array:
        if self.kernel.keeps_classes or self.keepdims:
            return self._taking_part(value, self.left_out)
        return super().losses(value)

    def cotangent(self, g: Array) -> Array:
        return self._taking_part(g, 0.0) if self.kernel.keeps_classes or self.keepdims else super().cotangent(g)

    def _taking_part(self, x: Array, left_out: float) -> Array:
        """`x`, with a constant for the classes that take no part, which has no derivative."""
        if self.where is None or not self.kernel.keeps_classes:
            return x
        return self.backend.xp.where(self.where, x, self.backend.xp.full_like(x, left_out))


# -------------------------------------------------------------------------------------------------------------------
# From arguments to a problem


def categorical(
    link: Link,
    penalty: Penalty,
    logits: A,
    target: Any,
    *,
    name: str = "logits",
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    alpha: Any = None,
    parameter: Mapping[str, Any] | None = None,
    axis: Any = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | tuple[int, ...] | None = -100,
    reduction: Any = "mean",
    dtype: Any = None,
    head: Head | None = None,
) -> Problem[A]:
    """A loss of classes along an axis: `penalty` of the probability that `link` gives to the right one.

    `parameter` is the name and the array of a parameter of the penalty (`Penalty.of`): one number for each class, or of
    a shape that broadcasts to the logits.
    With a `head`, its hidden state takes the place of the logits.
    """
    _checks.part("link", link, Link)
    _checks.part("penalty", penalty, Penalty)
    alpha = _checks.scalar(alpha)
    number = isinstance(alpha, (int, float))
    alpha_array = None if number else alpha
    options = {"class_weight": class_weight, "alpha": alpha_array, "sample_weight": sample_weight, "where": where}
    backend = _checks.backend(logits, name, target=_checks.given("target", target), **options, **(parameter or {}))
    xp = backend.xp
    task = _task(backend, logits, _class_axis(logits, name, axis), sample_weight, where, reduction, dtype, head=head)
    if number:
        alpha = backend.number(_checks.fraction("alpha", alpha), task.logits, task.dtype)
    if alpha is not None and alpha.ndim == 0:
        alpha = xp.broadcast_to(alpha, (task.logits_shape[task.axis or 0],))
    smoothing = _checks.fraction("label_smoothing", label_smoothing)
    z = _checks.at_least("z_loss", 0, z_loss)
    ignored = _checks.ignored(ignore_index)
    _checks.per_class(task.logits_shape, task.axis, class_weight=class_weight, alpha=alpha)
    if alpha is not None and backend.can_inspect(alpha):
        _checks.within("alpha", backend, alpha)
    class_weight, alpha = (None if a is None else backend.astype(a, task.dtype) for a in (class_weight, alpha))
    penalty_inputs = task.parameters(parameter)
    is_label = _checks.class_target(backend, target, task.logits_shape, task.samples_shape, axis, ignore_index)

    if is_label:
        labels = task.labels(target, ignored)
        weight, divisor = task.weights()
        weight_of_label = None if class_weight is None else backend.gather(class_weight, labels)
        divisor, mass = _product(divisor, weight_of_label), weight_of_label
        target = xp.expand_dims(labels, axis=task.axis)
        if isinstance(smoothing, (int, float)) and not smoothing and not penalty_inputs:
            factor = _product(weight_of_label, None if alpha is None else backend.gather(alpha, labels))
            loss, inputs = _with_z(z, LabelLoss(link, penalty), None, (target,), task)
            return task.problem(loss, _product(weight, factor), inputs, divisor)
    else:
        target, mass = task.probabilities(target, class_weight)
        weight, divisor = task.weights()
        divisor = mass if divisor is None else xp.where(divisor == 0, xp.zeros_like(mass), divisor * mass)
    per_class = _product(class_weight, alpha)
    given = (target, None if per_class is None else _per_class(xp, per_class, task))
    weights = TargetWeights(smoothing, is_label)
    loss, inputs = task.with_weights(TargetLoss(link, penalty), weights, given, penalty_inputs)
    loss, inputs = _with_z(z, loss, mass, inputs, task)
    return task.problem(loss, weight, inputs, divisor)


def binary(
    link: BinaryLink,
    penalty: Penalty,
    logits: A,
    target: Any,
    *,
    name: str = "logits",
    penalty_of_zero: Penalty | None = None,
    label_smoothing: Any = 0.0,
    pos_weight: Any = None,
    alpha: Any = None,
    parameter: Mapping[str, Any] | None = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | tuple[int, ...] | None = None,
    reduction: Any = "mean",
    dtype: Any = None,
) -> Problem[A]:
    """A loss of each element: `penalty` of the probability that `link` gives to the right one of the answers 1 and 0.

    The answer 0 has the same penalty unless `penalty_of_zero` is given. `parameter` is for both (`Penalty.of`).
    """
    _checks.part("link", link, BinaryLink)
    _checks.part("penalty", penalty, Penalty)
    factors = {"pos_weight": pos_weight, "alpha": alpha}
    # A 0-d array is a number, unless it is traced. Of a list, `_checks.backend` says to make it an array.
    arrays = {k: a for k, a in factors.items() if isinstance(a, (list, tuple)) or not _plain_number(_checks.scalar(a))}
    given = arrays | dict(parameter or {})
    backend = _checks.backend(
        logits, name, target=_checks.given("target", target), sample_weight=sample_weight, where=where, **given
    )
    task = _task(backend, logits, None, sample_weight, where, reduction, dtype)
    smoothing = _checks.fraction("label_smoothing", label_smoothing)
    _checks.same_shape("target", target.shape, task.samples_shape, task.samples_shape, "the loss is elementwise")
    ignored = _checks.ignored(ignore_index)
    penalty_inputs = task.parameters(parameter)
    positive = negative = 1.0
    factor_of_one = factor_of_zero = None
    for option, a in arrays.items():
        _checks.broadcastable(option, a.shape, task.samples_shape)
        a = backend.astype(a, task.dtype)
        factor_of_one = _product(factor_of_one, a)
        if option == "alpha":
            if backend.can_inspect(a):
                _checks.within("alpha", backend, a)
            factor_of_zero = 1 - a
    if pos_weight is not None and "pos_weight" not in arrays:
        positive = _checks.real("pos_weight", pos_weight)
    if alpha is not None and "alpha" not in arrays:
        share = _checks.fraction("alpha", alpha)
        positive, negative = positive * share, 1 - share
    factor_of_one, factor_of_zero = (
        a if a is None else backend.xp.broadcast_to(a, task.samples_shape) for a in (factor_of_one, factor_of_zero)
    )

    target = task.answers(target, ignored)
    if link.unit_interval:
        task.in_unit_interval(name)
    weight, divisor = task.weights()
    loss = BinaryLoss(link, penalty, penalty if penalty_of_zero is None else penalty_of_zero)
    weights = AnswerWeights(smoothing, positive, negative)
    loss, inputs = task.with_weights(loss, weights, (target, factor_of_one, factor_of_zero), penalty_inputs)
    return task.problem(loss, weight, inputs, divisor)


def paired(
    kernel: Kernel,
    logits: A,
    target: Any,
    *,
    names: tuple[str, str],
    probabilities: bool = False,
    axis: Any = -1,
    sample_weight: Any = None,
    where: Any = None,
    reduction: Any = "mean",
    dtype: Any = None,
) -> Problem[A]:
    """A loss of one array along an axis against another of its shape: logits too, or `probabilities`."""
    _checks.part("kernel", kernel, Kernel)
    first, name = names
    backend = _checks.backend(
        logits, first, **{name: _checks.given(name, target)}, sample_weight=sample_weight, where=where
    )
    xp = backend.xp
    if backend.kind(target.dtype) != "real floating":
        raise TypeError(f"{name} must be an array of real floating-point numbers, not of {target.dtype}")
    task = _task(
        backend, logits, _class_axis(logits, first, axis), sample_weight, where, reduction, dtype, target.dtype
    )
    shape = task.logits.shape
    _checks.same_shape(name, target.shape, shape, shape, "there is one number for each class", f"{first} has")
    if probabilities:
        target, _ = task.probabilities(target, None)
    weight, divisor = task.weights()
    if weight is not None:
        # Where a sample weighs 0, a target that is inf or nan becomes 0: it would make second derivatives nan.
        nothing = (xp.expand_dims(weight, axis=task.axis) == 0) & ~(target < float("inf"))
        target = xp.where(nothing, xp.zeros_like(target), target)
    return task.problem(kernel, weight, (target,), divisor)


def linear(
    link: Link,
    penalty: Penalty,
    hidden: A,
    weight: Any,
    target: Any,
    *,
    bias: Any = None,
    softcap: Any = None,
    axis: Any = -1,
    dtype: Any = None,
    **options: Any,
) -> Problem[A]:
    """A loss of the logits hidden @ weight.T + bias, whose features lie along `axis`."""
    given = (hidden, _checks.given("weight", weight), bias)
    backend = _checks.backend(hidden, "hidden", weight=weight, bias=bias)
    position = _class_axis(hidden, "hidden", axis, "features")
    _checks.layer(backend, hidden.shape, position, weight, bias)  # type: ignore[attr-defined]
    softcap = None if softcap is None else _checks.above_zero("softcap", softcap)
    if isinstance(softcap, int):
        # A compiled program can hold a float that has changed, no int (`_backends.torch_op._as_tuples`).
        softcap = float(softcap)
    product = backend.product_dtype(hidden, weight)
    result = backend.result_dtype(hidden) if dtype is None else dtype
    h, weight, bias = (None if a is None else backend.astype(a, product) for a in given)
    head = Head(backend, weight, bias, softcap)
    numbers = (softcap, *(_checks.scalar(options.get(name)) for name in ("label_smoothing", "z_loss")))
    others = (target, options.get("class_weight"), options.get("sample_weight"))

    def restored(gradients: Any) -> Gradients:
        """In the dtypes of the arrays as given."""
        pairs = zip(gradients, given, strict=True)
        return Gradients(*(None if a is None else backend.astype(d, a.dtype) for d, a in pairs))

    problem: Problem[Any] = categorical(
        link, penalty, h, target, name="hidden", axis=position, dtype=result, head=head, **options
    )
    if all(map(is_static, numbers)) and backend.runs_blocks((h, weight, bias), others):
        problem.restore = restored
    else:
        logits, gradients = head.whole(problem.arrays[0], position, backend.compute_dtype(product, result))
        problem = categorical(link, penalty, logits, target, axis=position, dtype=result, **options)
        problem.restore = lambda d: restored(gradients(d))
    return problem


def _with_z(z: Any, loss: Kernel, mass: Array | None, inputs: Arrays, task: _Task) -> tuple[Kernel, Arrays]:
    """The loss and its inputs, with the z-loss added unless z is 0. Its factor is `mass`, the sum of the target."""
    if isinstance(z, (int, float)) and not z:
        return loss, inputs
    return WithZLoss(loss, z), (_along(task.backend.xp, mass, task.axis), *inputs)


def function(
    kernel: Kernel, x: A, axis: Any, where: Any = None, *, keepdims: bool = False, left_out: float = 0.0
) -> FunctionProblem[A]:
    """A function of one array: of each element, or along `axis`."""
    backend = _checks.backend(x, "x", where=where)
    array: Any = x
    position = None if kernel.elementwise else _class_axis(array, "x", axis, "elements")
    if where is not None:
        _checks.mask(backend.xp, where, tuple(array.shape))
        array = backend.xp.where(where, array, backend.xp.full_like(array, -float("inf")))
    samples, dtype = Samples(backend, 0, None, None, ()), backend.compute_dtype(array.dtype)
    restore = None if where is None else lambda d: backend.xp.where(where, d, backend.xp.zeros_like(d))
    return FunctionProblem(
        backend,
        kernel,
        (array,),
        position,
        dtype,
        samples,
        None,
        array.dtype,
        restore,
        where=where,
        left_out=left_out,
        keepdims=keepdims,
    )


def _class_axis(logits: Any, name: str, axis: Any, what: str = "classes") -> int:
    """The class axis from the front, of one class at least."""
    position, shape = _checks.class_axis(axis, logits.ndim), tuple(logits.shape)
    if shape[position] == 0:
        raise ValueError(f"{name} of shape {shape} have no {what} along axis {axis}")
    return position


def _task(
    backend: Backend,
    logits: Any,
    axis: int | None,
    sample_weight: Any,
    where: Any,
    reduction: Any,
    dtype: Any,
    *dtypes: Any,
    head: Head | None = None,
) -> _Task:
    """The options that all losses have, checked."""
    if dtype is not None:
        _checks.real_dtype(backend, dtype)
    compute = backend.compute_dtype(logits.dtype, *dtypes, *(() if dtype is None else (dtype,)))
    samples = _without(logits.shape, axis)
    valid = None
    if where is not None:
        _checks.mask(backend.xp, where, samples)
        valid = backend.xp.broadcast_to(where, samples)
    if sample_weight is not None:
        _checks.broadcastable("sample_weight", sample_weight.shape, samples)
        sample_weight = backend.xp.broadcast_to(backend.astype(sample_weight, compute), samples)
    return _Task(
        backend,
        logits,
        axis,
        compute,
        reduction_of(reduction),
        backend.result_dtype(logits) if dtype is None else dtype,
        samples,
        sample_weight,
        valid,
        head=head,
    )


@dataclass
class _Task:
    """A problem in the making: which samples count, what they weigh, and which of them have an impossible target.

    `labels`, `probabilities` and `answers` check the target, and note in `valid` which samples count. `out_of_range`
    are the samples whose target is, where it can't be read, so that no error can be raised: their loss becomes nan.
    `weights` comes after these.
    """

    backend: Backend
    logits: Array
    axis: int | None
    dtype: Any
    reduction: Reduction | None
    result_dtype: Any
    samples_shape: tuple[int, ...]
    weight: Array | None
    valid: Array | None
    out_of_range: Array | None = None
    head: Head | None = None

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """The shape of the logits."""
        shape: tuple[int, ...] = tuple(self.logits.shape)
        return shape if self.head is None else (*shape[: self.axis], self.head.classes, *shape[self.axis :][1:])

    def labels(self, target: Array, ignored: tuple[int, ...]) -> Array:
        """Labels that are safe to index with."""
        backend, classes = self.backend, self.logits_shape[self.axis or 0]
        xp, labels = backend.xp, backend.astype(target, backend.index_dtype(self.logits))
        if self._all_within(labels, classes - 1) and not any(0 <= one < classes for one in ignored):
            return labels
        for one in ignored:
            if _checks.holds(backend, target.dtype, labels.dtype, one):
                self._leave_out(labels == one)
        inside = (labels >= 0) & (labels < classes)
        allowed = f"the logits have {classes} classes, so labels must be in [0, {classes})"
        if ignored:
            allowed += f", or {' or '.join(map(str, ignored))} to be ignored"
        self._refuse(~inside, target, allowed)
        return _where(xp, inside, labels)

    def probabilities(self, target: Array, class_weight: Array | None) -> tuple[Array, Array]:
        """A target of one number for each class, all finite and none negative, and the sum of its weights."""
        backend, xp = self.backend, self.backend.xp

        def with_mass(target: Array) -> tuple[Array, Array]:
            target = backend.astype(target, self.dtype)
            mass = target if class_weight is None else target * _per_class(xp, class_weight, self)
            return target, xp.sum(mass, axis=self.axis)

        if self._all_within(target, sys.float_info.max):
            return with_mass(target)
        inside = (target >= 0) & (target < float("inf"))
        worst = xp.min(xp.where(inside, xp.full_like(target, float("inf")), target), axis=self.axis)
        target, mass = with_mass(_where(xp, inside, target))
        wrong = xp.sum(xp.astype(~inside, self.dtype), axis=self.axis)
        wrong, mass = backend.finished(wrong, mass)
        self._refuse(wrong > 0, worst, "probabilities must be finite and not negative", "probability")
        return target, mass

    def answers(self, target: Array, ignored: tuple[int, ...]) -> Array:
        """A binary target whose elements are in [0, 1], or 0 where they don't count."""
        backend, xp = self.backend, self.backend.xp
        kind = backend.kind(target.dtype)
        soft = kind == "real floating"
        for one in ignored:
            if kind == "bool":
                if one in (0, 1):
                    self._leave_out(target if one else ~target)
            elif soft or _checks.holds(backend, target.dtype, target.dtype, one):
                self._leave_out(target == one)
        if kind == "bool":
            return target
        given, target = target, backend.comparable(target)
        if self._all_within(target, 1):
            return target
        inside = (target >= 0) & (target <= 1)
        allowed, what = ("in [0, 1]", "probability") if soft else ("0 or 1", "label")
        allowed = f"a binary target must be {allowed}; ignore_index= leaves a target out"
        self._refuse(~inside, given, allowed, what)
        return _where(xp, inside, target)

    def in_unit_interval(self, name: str) -> None:
        """The input holds probabilities."""
        x = self.logits
        if not self._all_within(x, 1):
            allowed = f"{name} must hold probabilities, in [0, 1]; for logits there is binary_cross_entropy_with_logits"
            self._refuse((x < 0) | (x > 1), x, allowed, "probability")

    def weights(self) -> tuple[Array | None, Array | None]:
        """The weight of each sample's loss, nan where its target is wrong, and its part of the divisor of a mean.

        Both are 0 where a sample doesn't count, and None if all weigh 1.
        """
        xp, weight = self.backend.xp, self.weight
        if self.valid is not None:
            if weight is None:
                weight = self.backend.astype(self.valid, self.dtype)
            else:
                weight = xp.where(self.valid, weight, xp.zeros_like(weight))
        if self.out_of_range is None:
            return weight, weight
        known = xp.ones_like(self.out_of_range, dtype=self.dtype) if weight is None else weight
        return xp.where(self.out_of_range & (known != 0), xp.full_like(known, float("nan")), known), weight

    def parameters(self, named: Mapping[str, Array] | None) -> Arrays:
        """Arrays for the penalty, in the shape of the logits."""
        made = []
        for name, x in (named or {}).items():
            if self.backend.can_inspect(x):
                _checks.not_negative(name, self.backend, x)
            if self.axis is not None and x.ndim == 1:
                _checks.per_class(self.logits_shape, self.axis, **{name: x})
                x = _per_class(self.backend.xp, x, self)
            _checks.broadcastable(name, x.shape, self.logits_shape)
            made.append(self.backend.xp.broadcast_to(self.backend.astype(x, self.dtype), self.logits_shape))
        return tuple(made)

    def with_weights(self, loss: Any, weights: Any, target: Arrays, penalty_inputs: Arrays) -> tuple[Any, Arrays]:
        """A loss and its inputs. Where a derivative by the target may be asked for, the weights are made of it here.

        Otherwise the kernel makes them, of the target as given.
        """
        if self.head is not None or not self.backend.on_tape(*target, *penalty_inputs):
            return FromTarget(loss, weights, len(penalty_inputs)), (*target, *penalty_inputs)
        call = Call(loss, self.axis, self.dtype)
        prepared = (self.backend.prepared(call, a) for a in target)
        return loss, (
            *weights.of(self.backend.ops(call), self.backend.prepared(call, self.logits), *prepared),
            *penalty_inputs,
        )

    def problem(self, kernel: Any, weight: Array | None, inputs: Arrays, divisor: Array | None) -> Problem[Any]:
        number = self.backend.size(self.samples_shape, self.logits, self.axis)
        samples = Samples(self.backend, number, self.valid, divisor, self.samples_shape)
        weight = _along(self.backend.xp, weight, self.axis)
        x, head = self.logits, self.head
        if head is not None and weight is not None:
            # A row of hidden that doesn't count must not reach the product that is the gradient of the layer's weight.
            x = self.backend.xp.where(weight == 0, self.backend.xp.zeros_like(x), x)
        arrays = (x, weight, *inputs)
        return Problem(
            self.backend, kernel, arrays, self.axis, self.dtype, samples, self.reduction, self.result_dtype, head=head
        )

    def _all_within(self, x: Array, most: float) -> bool:
        """Whether all of `x` is known to be in [0, most]: two numbers are read, where they may be, and nothing made."""
        if 0 in x.shape or not self.backend.can_inspect(x):
            return False
        lowest, highest = self.backend.span(x)
        return lowest >= 0 and highest <= most

    def _leave_out(self, ignored: Array) -> None:
        self.valid = ~ignored if self.valid is None else self.valid & ~ignored

    def _refuse(self, wrong: Array, values: Array, allowed: str, what: str = "label") -> None:
        """Raise for the first sample that is wrong, or note them where they can't be looked at."""
        backend = self.backend
        if self.valid is not None:
            wrong = wrong & self.valid
        if not backend.can_inspect(wrong, self.weight):
            self.out_of_range = wrong if self.out_of_range is None else self.out_of_range | wrong
            return
        if self.weight is not None:
            wrong = wrong & (self.weight != 0)
        _checks.refuse(backend, wrong, values, what, allowed)


def _without(shape: Any, axis: int | None) -> tuple[int, ...]:
    return tuple(shape) if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _along(xp: Any, x: Array | None, axis: int | None) -> Array | None:
    """Numbers of the samples with a class axis of length 1."""
    return x if x is None or axis is None else xp.expand_dims(x, axis=axis)


def _per_class(xp: Any, values: Array, task: _Task) -> Array:
    """One number for each class, in a shape that broadcasts with the logits."""
    return xp.reshape(values, tuple(-1 if i == task.axis else 1 for i in range(task.logits.ndim)))


def _where(xp: Any, condition: Array, x: Array) -> Array:
    """`x`, and 0 where the condition is false."""
    # Not zeros_like: of a sharded array that a jitted function closes over, JAX's is not sharded.
    return xp.where(condition, x, xp.astype(condition, x.dtype))


def _product(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a * b


def reduction_of(reduction: Any) -> Reduction | None:
    """The reduction that is asked for; None for "none"."""
    if isinstance(reduction, str) and reduction in NAMED:
        return NAMED[reduction]
    if not isinstance(reduction, Reduction):
        raise ValueError(
            'reduction must be "none", "mean" or "sum", or one such as Mean(), Sum() or Hardest(k=3), not '
            f"{reduction!r}"
        )
    return reduction


# -------------------------------------------------------------------------------------------------------------------
# From a problem to numbers


def context(args: Sequence[Any], kwargs: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """What a whole call runs in, from its checks to its result: the context of the first array among the arguments."""
    for x in (*args, *kwargs.values()):
        backend = backend_of(x)
        if backend is not None:
            return backend.context(x)
    return NO_CONTEXT


def value(problem: Problem[A]) -> A:
    """The value, differentiable by the library's own autodiff."""
    reduction = problem.reduction
    result: A
    if reduction is None or reduction.ranks:
        value = problem.runner.value(problem.call, problem.arrays)
        parts = None if reduction is None else reduction.parts(problem.samples, problem.losses(value))
        result = _reduced(problem, value, parts)
        return result
    reduced = reduction.parts(problem.samples, None)
    if reduced.axis is not None:
        result = _reduced(problem, problem.runner.value(problem.call, problem.arrays), reduced)
        return result
    result = problem.runner.reduced(
        problem.call,
        problem.arrays,
        lambda value: _reduced(problem, value, reduced),
        lambda: _cotangent(problem, reduced),
    )
    return result


def value_with_gradient(problem: Problem[A], cotangent: Array | None = None) -> tuple[A, Any]:
    """The value and its derivative by the logits, in closed form: one pass, or two where the reduction ranks losses."""
    backend, reduction, call, arrays = problem.backend, problem.reduction, problem.call, problem.arrays
    parts = None
    if reduction is not None:
        losses = problem.losses(problem.runner.value(call, arrays)) if reduction.ranks else None
        parts = reduction.parts(problem.samples, losses)
    if parts is None or parts.axis is not None:
        axis = () if parts is None else parts.axis or ()
        shape = tuple(n for i, n in enumerate(problem.shape) if i not in axis)
        if cotangent is None:
            raise TypeError(
                f"the result has the shape {shape}: for a gradient, pass cotangent=, an array of that shape (ones, for "
                "the gradient of the sum)"
            )
        _checks.backend(cotangent, "cotangent", logits=problem.logits)
        _checks.same_shape("cotangent", cotangent.shape, shape, problem.logits.shape, "it weighs the result")
        cotangent = backend.astype(cotangent, call.dtype)
    elif cotangent is not None:
        raise TypeError('cotangent= goes with reduction="none" or Mean(axis=...); this result is one number')
    g = problem.cotangent(cotangent) if parts is None else _cotangent(problem, parts, cotangent)
    summed = parts is not None and parts.share is None and parts.axis is None
    value, gradient = problem.runner.value_and_gradient(call, arrays, g, summed=summed)
    if problem.restore is not None:
        gradient = problem.restore(gradient)
    return _reduced(problem, value, parts), gradient


def second_derivatives(problem: Problem[A], weight: Array | None, least: float | None) -> A:
    """The second derivative of each sample's loss by each of its own logits, times the samples' weights."""
    if problem.restore is not None:
        raise TypeError("second derivatives are there by the logits themselves, and these were made of another array")
    if problem.reduction not in (None, NAMED["sum"]):
        raise TypeError("second derivatives are there for the sum of the losses, and this loss is divided by a number")
    backend, (kernel, axis, dtype) = problem.backend, problem.call
    loss: Any = kernel.loss if isinstance(kernel, FromTarget) else kernel
    if not hasattr(loss, "second"):
        raise TypeError(f"{type(loss).__name__}, the formula of this loss, has no second derivatives in closed form")
    x, *others = problem.arrays
    if weight is not None:
        weight = _along(backend.xp, backend.astype(weight, dtype), axis)
    second = backend.value(Call(SecondDerivatives(kernel, least), axis, dtype), (x, weight, *others))
    return backend.astype(second, x.dtype)  # type: ignore[no-any-return]


def _reduced(problem: Problem[Any], value: Array, parts: Parts | None) -> Array:
    """Reduce the kernel's value, which may be one partial sum for each block if all samples have the same share."""
    backend, xp = problem.backend, problem.backend.xp
    if parts is None:
        return backend.astype(problem.losses(value), problem.result_dtype)
    if parts.share is not None or parts.axis is not None:
        value = problem.losses(value)
    if parts.share is not None:
        value = xp.where(parts.share == 0, xp.zeros_like(value), value * parts.share)
    total, denominator = backend.finished(backend.sum(value, parts.axis), parts.denominator)
    return backend.astype(_divided(xp, total, denominator, parts.empty), problem.result_dtype)


def _plain_number(x: Any) -> bool:
    """Whether `x` is a Python or symbolic number; np.float64 is a float, but doesn't count."""
    # isinstance comes first: torch.compile can't trace hasattr of a symbolic number.
    return isinstance(x, int) or type(x) is float or not hasattr(x, "dtype")


def _divided(xp: Any, total: Array, denominator: Any, empty: float) -> Array:
    if _plain_number(denominator):
        # A number, or a length that only the program knows (torch.export, jax.export).
        return total * 0 + empty if denominator == 0 else total / denominator
    denominator = xp.astype(denominator, total.dtype)
    none = denominator == 0
    quotient = total / xp.where(none, xp.ones_like(denominator), denominator)
    return xp.where(none, xp.full_like(quotient, empty), quotient)


def _cotangent(problem: Problem[Any], parts: Parts, outer: Array | None = None) -> Array:
    """The derivative of the reduced value by each sample's loss, or one number for all of them.

    With several results, it is that of sum(outer * results).
    """
    backend, xp, dtype = problem.backend, problem.backend.xp, problem.dtype
    denominator: Any = parts.denominator
    if _plain_number(denominator):
        # An empty mean is a constant: its derivative is 0.
        factor = _divided(xp, backend.number(1.0, problem.logits, dtype), denominator, 0.0)
    else:
        (denominator,) = backend.finished(denominator)
        # Divided before it is rounded to the dtype of the losses.
        real = xp.isdtype(denominator.dtype, "real floating")
        over = backend.astype(denominator, backend.compute_dtype(denominator.dtype, dtype) if real else dtype)
        factor = xp.astype(_divided(xp, xp.ones_like(over), over, 0.0), dtype)
    if parts.axis is not None:
        factor = outer * factor
        for axis in parts.axis:
            factor = xp.expand_dims(factor, axis=axis)
        factor = _along(xp, xp.broadcast_to(factor, problem.shape), problem.axis)
    return factor if parts.share is None else _along(xp, xp.astype(parts.share, dtype), problem.axis) * factor
