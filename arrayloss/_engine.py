"""The one way that every loss goes, read from top to bottom as the data does.

Check the inputs; bring them to the canonical shape; give each sample its coefficient; run the kernel; reduce; give
back the shape. A public loss says only which kernel, and hands over its arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from arrayloss import _checks
from arrayloss._kernels import (
    Answered,
    AnswerWeights,
    Assembled,
    BinaryLoss,
    ClassWeights,
    Cost,
    Diagonal,
    LabelLoss,
    RowLink,
    RowLoss,
)
from arrayloss._libraries import Library
from arrayloss._modes import Array, Namespace
from arrayloss._reductions import Hardest, Parts, Reduction, Samples, reduction_of
from arrayloss._rows import Arrays, whole

A = TypeVar("A")


# Not frozen, which takes 1 us.
@dataclass
class Problem(Generic[A]):
    """A loss with all of its arguments, ready to be computed."""

    library: Library
    kernel: Any
    arrays: Arrays
    samples: Samples
    reduction: Reduction | None
    layout: Layout
    dtype: Any


@dataclass(frozen=True)
class Layout:
    """How an array with a class axis becomes rows, and back: (outer, k, inner), or (rows, k) where inner is 1.

    `memory` is the order of the axes in memory, where it is another: nothing is copied then.
    """

    shape: tuple[int, ...]
    axis: int | None
    memory: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def samples(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.shape if self.axis is None else self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def canonical(self, xp: Namespace, x: Array, k: int = 1) -> Array:
        """`x`, of `shape` (k classes) or of the samples' shape (k = 1), as rows."""
        lengths, axis = self.shape, self.axis
        if self.memory is not None:
            x = xp.permute_dims(x, self._permutation(x.ndim))
            lengths = tuple(lengths[d] for d in self.memory)
            axis = None if axis is None else self.memory.index(axis)
        if axis is None:
            outer, inner = math.prod(lengths), 1
        else:
            outer, inner = math.prod(lengths[:axis]), math.prod(lengths[axis + 1 :])
        shape = (outer, k) if inner == 1 else (outer, k, inner)
        if x.shape == shape:
            return x
        # An index takes NumPy a fourth of the time of a reshape (and JAX, without a compiler, twice).
        return x[:, None] if k == inner == x.ndim == 1 else xp.reshape(x, shape)

    def original(self, xp: Namespace, x: Array, shape: tuple[int, ...]) -> Array:
        """Rows as an array of `shape`, with or without the class axis."""
        if self.memory is None:
            return x if x.shape == shape else xp.reshape(x, shape)
        permutation = self._permutation(len(shape))
        x = xp.reshape(x, tuple(shape[d] for d in permutation))
        return xp.permute_dims(x, tuple(permutation.index(d) for d in range(len(shape))))

    def _permutation(self, ndim: int) -> tuple[int, ...]:
        """The order in memory of all axes, or of those of the samples."""
        assert self.memory is not None
        if ndim == len(self.shape):
            return self.memory
        assert self.axis is not None
        return tuple(d - (d > self.axis) for d in self.memory if d != self.axis)


def _as(xp: Namespace, x: Array, dtype: Any) -> Array:
    return x if x.dtype == dtype else xp.astype(x, dtype)


def _compute_dtype(library: Library, given: Any, wanted: Any) -> Any:
    """float32 at least, and no less than the result is asked for."""
    if wanted is None:
        return library.compute_dtype(given)
    _checks.real_dtype(library, wanted)
    return library.compute_dtype(given, wanted)


class Asked(NamedTuple):
    """What the options come to, for logits of one shape and dtype."""

    layout: Layout
    samples: tuple[int, ...]
    smoothing: float
    compute: Any


def _asked(
    library: Library,
    shape: tuple[int, ...],
    memory: tuple[int, ...] | None,
    given: Any,
    elementwise: bool,
    axis: int,
    label_smoothing: float,
    wanted: Any,
) -> Asked:
    """The options that no array is needed for, checked."""
    layout = Layout(shape, None if elementwise else _checks.class_axis(axis, len(shape)), memory=memory)
    smoothing = _checks.fraction("label_smoothing", label_smoothing)
    return Asked(layout, layout.samples, smoothing, _compute_dtype(library, given, wanted))


def _weights(
    library: Library, layout: Layout, dtype: Any, valid: Array | None, sample_weight: Array | None
) -> Array | None:
    """The weight of each sample in canonical shape, 0 where it doesn't count; None where all weigh 1."""
    xp = library.xp
    weight = None
    if sample_weight is not None:
        _checks.broadcastable("sample_weight", sample_weight.shape, layout.samples)
        weight = _as(xp, sample_weight, dtype)
        if weight.shape != layout.samples:
            weight = xp.broadcast_to(weight, layout.samples)
        weight = layout.canonical(xp, weight)
    if valid is None:
        return weight
    if weight is None:
        return xp.astype(valid, dtype)
    return xp.where(valid, weight, xp.zeros_like(weight))


def _where(xp: Namespace, layout: Layout, where: Array | None) -> Array | None:
    if where is None:
        return None
    _checks.mask(xp, where, layout.samples)
    if where.shape != layout.samples:
        where = xp.broadcast_to(where, layout.samples)
    return layout.canonical(xp, where)


def _product(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a * b


def _both(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a & b


def _refuse(xp: Namespace, wrong: Array, labels: Array, layout: Layout, what: str, allowed: str) -> None:
    """Raise for the first label that is out of range."""
    wrong, labels = (layout.original(xp, a, layout.samples) for a in (wrong, labels))
    # Not nonzero: a namespace may have no shapes that depend on data.
    first = int(xp.argmax(xp.astype(xp.reshape(wrong, (-1,)), xp.int8)))
    value = xp.reshape(labels, (-1,))[first]
    number = bool(value) if xp.isdtype(value.dtype, "bool") else float(value)
    position: list[int] = []
    rest = first
    for n in reversed(layout.samples):
        rest, i = divmod(rest, n)
        position.insert(0, i)
    at = f" at position {tuple(position)}" if position else ""
    raise ValueError(f"{what} {number:g}{at} is out of range: {allowed}")


def _poison(xp: Namespace, wrong: Array, weight: Array | None, dtype: Any) -> Array:
    """The coefficients, nan where the label is out of range and the sample weighs anything."""
    if weight is None:
        weight = xp.ones_like(wrong, dtype=dtype)
    return xp.where(wrong & (weight != 0), xp.full_like(weight, float("nan")), weight)


def categorical(
    link: RowLink,
    cost: Cost,
    logits: Array,
    target: Array,
    *,
    name: str = "logits",
    label_smoothing: float = 0.0,
    alpha: Array | None = None,
    axis: int,
    class_weight: Array | None,
    sample_weight: Array | None,
    where: Array | None,
    ignore_index: int | None,
    reduction: str | Reduction,
    dtype: Any,
) -> Problem[Any]:
    """A loss of rows of classes."""
    library = _checks.library(
        logits,
        name,
        target=_checks.given("target", target),
        class_weight=class_weight,
        alpha=alpha,
        sample_weight=sample_weight,
        where=where,
    )
    xp = library.xp
    shape = tuple(logits.shape)
    layout, each, smoothing, compute = library.kept(
        _asked,
        library,
        shape,
        library.order(logits),
        logits.dtype,
        False,
        axis,
        label_smoothing,
        dtype,
    )
    _checks.ignored(ignore_index)
    reduced = reduction_of(reduction)
    classes = shape[layout.axis]
    if classes == 0:
        raise ValueError(f"{name} of shape {layout.shape} have no classes along axis {axis}")
    why = "there is one number for each class"
    if class_weight is not None:
        _checks.same_shape("class_weight", class_weight.shape, (classes,), shape, why)
        class_weight = _as(xp, class_weight, compute)
    if alpha is not None:
        _checks.same_shape("alpha", alpha.shape, (classes,), shape, why)
        alpha = _as(xp, alpha, compute)
        if library.looks(alpha):
            _checks.within("alpha", library, alpha)

    is_label = library.isdtype(target.dtype, "integral")
    if not is_label and not library.isdtype(target.dtype, "real floating"):
        raise TypeError(f"target must be integer labels or floating-point probabilities, not {target.dtype}")
    if is_label and target.shape != each:
        why = f"integers are labels, without the class axis (axis {axis}), and one-hot targets floats"
        _checks.same_shape("target", target.shape, each, shape, why)
    elif not is_label:
        _checks.same_shape("target", target.shape, shape, shape, "probabilities have one number for each logit")

    x = layout.canonical(xp, logits, classes)
    valid = _where(xp, layout, where)
    if is_label:
        labels = layout.canonical(xp, library.astype(target, library.index_dtype(logits)))
        valid, wrong, labels = _sanitised(library, labels, valid, ignore_index, classes)
        weight = _weights(library, layout, compute, valid, sample_weight)
        if wrong is not None:
            if library.looks(wrong, weight):
                if weight is not None:
                    wrong = wrong & (weight != 0)
                if bool(xp.any(wrong)):
                    given = layout.canonical(xp, target)
                    allowed = f"the logits have {classes} classes, so labels must be in [0, {classes})"
                    _refuse(xp, wrong, given, layout, "label", allowed)
            else:
                weight = _poison(xp, wrong, weight, compute)
        counted = _product(weight, None if class_weight is None else library.gather(class_weight, labels))
        samples = Samples(library, math.prod(each), valid, counted)
        if not smoothing:
            coefficient = _product(counted, None if alpha is None else library.gather(alpha, labels))
            kernel: Any = LabelLoss(link, cost, compute)
            return Problem(library, kernel, (x, coefficient, labels), samples, reduced, layout, dtype or logits.dtype)
        # A label of class weight 0 weighs nothing, but its smoothed target may.
        coefficient, assembled = weight, labels
    else:
        probabilities = layout.canonical(xp, target, classes)
        coefficient = _weights(library, layout, compute, valid, sample_weight)
        mass = _as(xp, probabilities, compute)
        if class_weight is not None:
            mass = mass * _per_class(xp, class_weight, x.ndim)
        mass = xp.sum(mass, axis=1, keepdims=True)
        samples = Samples(
            library, math.prod(each), valid, mass if coefficient is None else _times(xp, coefficient, mass)
        )
        assembled = probabilities
    weights = ClassWeights(smoothing, is_label, compute)
    scale = _product(class_weight, alpha)
    return Problem(
        library,
        *_assemble(
            library,
            RowLoss(link, cost, compute),
            weights,
            x,
            coefficient,
            (assembled, None if scale is None else _per_class(xp, scale, x.ndim)),
        ),
        samples,
        reduced,
        layout,
        dtype or logits.dtype,
    )


def _per_class(xp: Namespace, values: Array, ndim: int) -> Array:
    return xp.reshape(values, (1, -1) if ndim == 2 else (1, -1, 1))


def _times(xp: Namespace, weight: Array, mass: Array) -> Array:
    return xp.where(weight == 0, xp.zeros_like(mass), weight * mass)


def _sanitised(
    library: Library, labels: Array, valid: Array | None, ignore_index: int | None, classes: int
) -> tuple[Array | None, Array | None, Array]:
    """Which samples count, whose labels are out of range (None: none), and the labels, safe to index with."""
    xp = library.xp
    if (
        library.looks(labels)
        and 0 not in labels.shape
        and not (ignore_index is not None and 0 <= ignore_index < classes)
    ):
        lowest, highest = library.span(labels)
        if lowest >= 0 and highest < classes:
            return valid, None, labels
    if ignore_index is not None:
        valid = _both(valid, labels != ignore_index)
    inside = (labels >= 0) & (labels < classes)
    return valid, ~inside if valid is None else valid & ~inside, xp.where(inside, labels, xp.zeros_like(labels))


def _assemble(
    library: Library,
    loss: RowLoss | BinaryLoss,
    weights: ClassWeights | AnswerWeights,
    x: Array,
    coefficient: Array | None,
    target: Arrays,
) -> tuple[Any, Arrays]:
    """The kernel and its inputs: target weights are made on the tape where it may want derivatives by them."""
    xp = library.xp
    if not library.differentiates(*target):
        return Assembled(loss, weights), (x, coefficient, *target)
    mode = library.mode(loss.dtype, x, *target)
    made = whole(xp, lambda *rows: weights(mode, *rows), (x, *target))
    return loss, (x, coefficient, *made)


def binary(
    link: Any,
    cost: Cost,
    logits: Array,
    target: Array,
    *,
    name: str = "logits",
    label_smoothing: float = 0.0,
    pos_weight: Array | float | None = None,
    alpha: Array | float | None = None,
    cost_of_zero: Cost | None = None,
    sample_weight: Array | None,
    where: Array | None,
    ignore_index: int | None,
    reduction: str | Reduction,
    dtype: Any,
) -> Problem[Any]:
    """A loss of numbers on their own; the answer 0 costs what 1 does unless told."""
    numbers: dict[str, float] = {}
    arrays: dict[str, Any] = {}
    for factor, value in (("pos_weight", pos_weight), ("alpha", alpha)):
        if isinstance(value, (int, float)):
            numbers[factor] = _checks.real(factor, value)
        elif value is not None:
            arrays[factor] = value
    library = _checks.library(
        logits,
        name,
        target=_checks.given("target", target),
        sample_weight=sample_weight,
        where=where,
        **arrays,
    )
    xp = library.xp
    layout, each, smoothing, compute = library.kept(
        _asked,
        library,
        tuple(logits.shape),
        None,
        logits.dtype,
        True,
        0,
        label_smoothing,
        dtype,
    )
    _checks.ignored(ignore_index)
    reduced = reduction_of(reduction)
    soft = library.isdtype(target.dtype, "real floating")
    if not soft and not library.isdtype(target.dtype, ("bool", "integral")):
        raise TypeError(f"target must be an array of bool, integers or floating-point numbers, not {target.dtype}")
    _checks.same_shape("target", target.shape, layout.shape, layout.shape, "the loss is elementwise")

    positive = negative = 1.0
    at_one = at_zero = None
    if "pos_weight" in numbers:
        positive = numbers["pos_weight"]
    elif "pos_weight" in arrays:
        _checks.broadcastable("pos_weight", pos_weight.shape, layout.shape)  # type: ignore[union-attr]
        at_one = _as(xp, pos_weight, compute)
    if "alpha" in numbers:
        a = _checks.fraction("alpha", numbers["alpha"])
        positive, negative = positive * a, 1 - a
    elif "alpha" in arrays:
        if alpha.ndim != 0:  # type: ignore[union-attr]
            raise ValueError(f"alpha must be a number or a 0-d array, not an array of shape {tuple(alpha.shape)}")  # type: ignore[union-attr]
        if library.looks(alpha):
            _checks.within("alpha", library, alpha)
        a = _as(xp, alpha, compute)
        at_one, at_zero = a if at_one is None else at_one * a, 1 - a
    if arrays:
        at_one, at_zero = (
            f if f is None else layout.canonical(xp, xp.broadcast_to(f, layout.shape)) for f in (at_one, at_zero)
        )

    x = layout.canonical(xp, logits)
    y = layout.canonical(xp, target)
    valid = _where(xp, layout, where)
    if ignore_index is not None:
        valid = _both(valid, y != ignore_index)
    wrong = None
    labels = not soft
    if soft or not library.isdtype(y.dtype, "bool"):
        looks = library.looks(y)
        inside = False
        if looks and x.shape[0]:
            inside, sharp = library.answers(y)
            labels = labels or sharp
        if not inside:
            wrong = (y < 0) | (y > 1)
            if valid is not None:
                wrong = wrong & valid
            if valid is not None or not looks:
                # What doesn't count must not reach the formulas either.
                y = xp.where(wrong if valid is None else wrong | ~valid, xp.zeros_like(y), y)
    weight = _weights(library, layout, compute, valid, sample_weight)
    if wrong is not None:
        if library.looks(wrong, weight):
            if weight is not None:
                wrong = wrong & (weight != 0)
            if bool(xp.any(wrong)):
                allowed = "a binary target must be in [0, 1]" if soft else "a binary target must be 0 or 1"
                _refuse(xp, wrong, layout.canonical(xp, target), layout, "label", allowed)
        elif weight is None:
            # Each sample is still of weight 1: there are no weights to store, nor to sum.
            y = y if soft else _as(xp, y, compute)
            y = xp.where(wrong, xp.full_like(y, float("nan")), y)
        else:
            weight = _poison(xp, wrong, weight, compute)
    samples = Samples(library, math.prod(each), valid, weight)
    # Only labels that take no derivative.
    labels = labels and link.label is not None and not smoothing and not (soft and library.differentiates(y))
    if labels and positive == negative == 1 and not arrays:
        kernel: Any = LabelLoss(link, cost, compute, cost_of_zero)
        inputs: Arrays = (x, weight, y)
    else:
        weights = AnswerWeights(smoothing, positive, negative, compute)
        target_arrays = (y, at_one, at_zero)
        if labels and not library.differentiates(at_one, at_zero):
            kernel = Answered(LabelLoss(link, cost, compute, cost_of_zero), weights)
            inputs = (x, weight, *target_arrays)
        else:
            loss = BinaryLoss(link, (cost, cost_of_zero or cost), compute)
            kernel, inputs = _assemble(library, loss, weights, x, weight, target_arrays)
    return Problem(library, kernel, inputs, samples, reduced, layout, dtype or logits.dtype)


def paired(
    kernel: Any,
    logits: Array,
    target: Array,
    *,
    name: str,
    axis: int,
    sample_weight: Array | None,
    where: Array | None,
    reduction: str | Reduction,
    dtype: Any,
) -> Problem[Any]:
    """A loss of rows of classes against rows of the same kind, called `name`."""
    library = _checks.library(logits, **{name: _checks.given(name, target)}, sample_weight=sample_weight, where=where)
    xp = library.xp
    layout, each, _, compute = library.kept(
        _asked,
        library,
        tuple(logits.shape),
        library.order(logits),
        logits.dtype,
        False,
        axis,
        0.0,
        dtype,
    )
    reduced = reduction_of(reduction)
    classes = layout.shape[layout.axis or 0]
    if classes == 0:
        raise ValueError(f"logits of shape {layout.shape} have no classes along axis {axis}")
    if not _checks.is_real(library, target):
        raise TypeError(f"{name} must be an array of real floating-point numbers, not of {target.dtype}")
    _checks.same_shape(name, target.shape, layout.shape, layout.shape, "there is one for each logit")
    x, y = layout.canonical(xp, logits, classes), layout.canonical(xp, target, classes)
    valid = _where(xp, layout, where)
    weight = _weights(library, layout, compute, valid, sample_weight)
    if weight is not None:
        # What counts for nothing must not reach second derivatives either.
        y = xp.where((weight == 0) & ~(y < float("inf")), xp.zeros_like(y), y)
    samples = Samples(library, math.prod(each), valid, weight)
    return Problem(library, kernel(compute), (x, weight, y), samples, reduced, layout, dtype or logits.dtype)


def evaluate(problem: Problem[A]) -> A:
    """The value, differentiable by the library's own autodiff."""
    library, reduction = problem.library, problem.reduction
    value: A
    with library.quiet():
        if reduction is None or isinstance(reduction, Hardest):
            losses = library.apply(problem.kernel, problem.arrays)
            value = _reduced(problem, losses, reduction.parts(problem.samples, losses) if reduction else None)
        else:
            parts = reduction.parts(problem.samples, None)
            value = library.apply_reduced(
                problem.kernel,
                problem.arrays,
                lambda losses: _reduced(problem, losses, parts),
                lambda: _cotangent(problem, parts),
            )
    return value


def _reduced(problem: Problem[Any], losses: Array, parts: Parts | None) -> Array:
    library = problem.library
    xp = library.xp
    if parts is None:
        value = problem.layout.original(xp, losses, problem.layout.samples)
    else:
        share, denominator, empty = parts
        if share is not None:
            losses = xp.where(share == 0, xp.zeros_like(losses), losses * share)
        value = _divided(xp, library.sum(losses), denominator, empty)
    return library.astype(value, problem.dtype)


def _divided(xp: Namespace, value: Array, denominator: Array | float, empty: float) -> Array:
    if isinstance(denominator, (int, float)):
        # A float: torch takes 1 us more for an int.
        return value / float(denominator) if denominator else value * 0 + empty
    denominator = _as(xp, denominator, value.dtype)
    none = denominator == 0
    quotient = value / xp.where(none, xp.ones_like(denominator), denominator)
    return xp.where(none, xp.full_like(quotient, empty), quotient)


def evaluate_with_gradient(problem: Problem[A], cotangent: Array | None) -> tuple[A, A]:
    """The value and its derivative by the logits, in closed form: one pass, or two where the losses rank samples."""
    library, layout = problem.library, problem.layout
    xp = library.xp
    x = problem.arrays[0]
    with library.quiet():
        if problem.reduction is None:
            if cotangent is None:
                raise TypeError(
                    'reduction="none" gives a loss for each sample, and a gradient only with cotangent=, an array that '
                    "weighs them (of ones, for the gradient of their sum)"
                )
            _checks.library(cotangent, "cotangent", logits=x)
            _checks.same_shape(
                "cotangent", cotangent.shape, layout.samples, layout.shape, "there is one loss for each sample"
            )
            parts, g = None, layout.canonical(xp, _as(xp, cotangent, problem.kernel.dtype))
        else:
            if cotangent is not None:
                raise TypeError('cotangent= goes with reduction="none"; a reduced loss is one number')
            losses = None
            if isinstance(problem.reduction, Hardest):
                losses = library.apply(problem.kernel, problem.arrays)
            parts = problem.reduction.parts(problem.samples, losses)
            g = _cotangent(problem, parts)
        summed = parts is not None and parts.share is None
        losses, gradient = library.gradient(problem.kernel, problem.arrays, g, summed=summed)
        return _reduced(problem, losses, parts), layout.original(xp, gradient, layout.shape)


def second_derivatives(problem: Problem[A], weight: Array | None, least: float | None) -> A:
    """The second derivative of each sample's loss by each of its own logits, times the samples' weights."""
    library, layout = problem.library, problem.layout
    xp = library.xp
    x, *others = problem.arrays
    if weight is not None:
        weight = layout.canonical(xp, _as(xp, weight, problem.kernel.dtype))
    with library.quiet():
        second = library.apply(Diagonal(problem.kernel, least), (x, weight, *others))
        return _as(xp, layout.original(xp, second, layout.shape), x.dtype)  # type: ignore[no-any-return]


def _cotangent(problem: Problem[Any], parts: Parts) -> Array:
    """The derivative of the reduced value by each sample's loss, or one number for all of them."""
    xp, dtype = problem.library.xp, problem.kernel.dtype
    if parts.share is None:
        x = problem.arrays[0]
        g = xp.ones_like(x[tuple(slice(0, min(n, 1)) for n in x.shape)], dtype=dtype)
    else:
        g = parts.share
    if isinstance(parts.denominator, (int, float)):
        return _divided(xp, g, parts.denominator, 0.0)
    # Divided before it is rounded to the dtype of the losses. An empty mean is a constant: its derivative is 0.
    over = parts.denominator
    over = over if xp.isdtype(over.dtype, "real floating") else xp.astype(over, dtype)
    return g * xp.astype(_divided(xp, xp.ones_like(over), over, 0.0), dtype)


def function(kernel: Any, x: Array, axis: int | None, where: Array | None, keepdims: bool = True) -> Array:
    """A function of one array: each element, or each row along `axis`."""
    library = _checks.library(x, "x", where=where)
    xp = library.xp
    class_axis = None if axis is None else _checks.class_axis(axis, x.ndim)
    compute = _compute_dtype(library, x.dtype, None)
    if where is not None:
        _checks.mask(xp, where, tuple(x.shape))
        out = xp.full_like(x, -float("inf"))
        x = xp.where(where, x, out)
    layout = Layout(tuple(x.shape), class_axis, memory=library.order(x))
    classes = 1 if layout.axis is None else layout.shape[layout.axis]
    with library.quiet():
        y = library.apply(kernel(compute), (layout.canonical(xp, x, classes),))
        if kernel.keeps_classes:
            shape = layout.shape
            if where is not None:
                # Constants, which pull nothing back.
                y = layout.original(xp, y, shape)
                y = xp.where(where, y, xp.full_like(y, kernel.left_out))
        elif keepdims and layout.axis is not None:
            shape = (*layout.shape[: layout.axis], 1, *layout.shape[layout.axis + 1 :])
        else:
            shape = layout.samples
        return _as(xp, layout.original(xp, y, shape), x.dtype)
