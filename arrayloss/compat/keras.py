"""The losses of `keras.losses` (3.15, the functions), on any array: targets first, and the loss of each sample.

Keras clips *probabilities* to [1e-7, 1 - 1e-7], by definition, before it takes a logarithm: that is reproduced, and
`epsilon`, no argument of Keras but its `keras.config.epsilon()`, says to what; 0 takes it off. *Logits* are
never clipped here. Keras clips those too in the two focal losses, and in `binary_crossentropy` on its NumPy backend.

For a mean over the samples divide by their number: that is what the Keras classes do (`sum_over_batch_size`),
whatever the sample weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from arrayloss.compat.shared import checked, clipped_answers, clipped_rows, focal, focal_penalty
from arrayloss.extending import (
    BinaryLink,
    CrossEntropy,
    Forward,
    Kernel,
    Link,
    Ops,
    Penalty,
    Problem,
    Vjp,
    backend_of,
    binary,
    categorical,
    check_axis,
    check_fraction,
    check_given,
    loss,
    sigmoid,
    softmax,
)

A = TypeVar("A")


def _epsilon(epsilon: Any) -> float:
    least = check_fraction("epsilon", epsilon)
    if least >= 0.5:
        raise ValueError(f"epsilon must be at least 0 and less than 0.5, not {epsilon!r}")
    return float(least)


def _answers(from_logits: bool, epsilon: Any) -> BinaryLink:
    clipped = clipped_answers(_epsilon(epsilon))
    return sigmoid if from_logits else clipped


def _classes(from_logits: bool, epsilon: Any) -> Link:
    clipped = clipped_rows(_epsilon(epsilon), True)
    return softmax if from_logits else clipped


def _of_classes(link: Link, penalty: Penalty, y_true: Any, y_pred: A, **options: Any) -> Problem[A]:
    """The loss of a target of probabilities, or of one-hot rows of any dtype."""
    backend = checked("y_pred", y_pred, "y_true", y_true)
    if not backend.isdtype(y_true.dtype, "real floating"):
        y_true = backend.astype(y_true, backend.compute_dtype(y_pred.dtype))  # type: ignore[attr-defined]
    return categorical(link, penalty, y_pred, y_true, name="y_pred", reduction="none", **options)


@dataclass(frozen=True)
class _Averaged:
    """The mean of elementwise losses over an axis."""

    loss: Kernel
    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def forward(self, ops: Ops, x: Any, /, *inputs: Any) -> Forward:
        value, vjps, _ = self.loss.forward(ops, x, *inputs)
        n = x.shape[ops.axis]

        def mean(vjp: Vjp | None) -> Vjp | None:
            return vjp and (lambda g: vjp(ops.xp.broadcast_to(g / n, x.shape)))

        return Forward(ops.sum(value) / n, tuple(map(mean, vjps)))


def _averaged(problem: Problem[A], axis: int) -> Problem[A]:
    shape = problem.shape
    axis = check_axis(axis, len(shape))
    if not shape[axis]:
        raise ValueError(f"y_pred of shape {shape} has nothing along axis {axis} to take the mean of")
    return replace(problem, kernel=_Averaged(problem.kernel), axis=axis)


@loss
def binary_crossentropy(
    y_true: Any,
    y_pred: A,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.binary_crossentropy`.

    Parameters
    ----------
    y_true : array of numbers in [0, 1] or of bool, of the shape of `y_pred`
        Probabilities of the answer 1.
    y_pred : array of floating-point numbers
        Probabilities, or logits.
    from_logits : bool
        Whether `y_pred` are logits.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) y + s / 2.
    axis : int
        The axis to take the mean over.
    epsilon : float
        To where probabilities are clipped.

    Returns
    -------
    array
        The shape of `y_pred` without `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.binary_crossentropy(np.asarray([[0, 1]]), np.asarray([[0.0, 0.0]])).round(6).tolist()
    [8.059048]
    """
    checked("y_pred", y_pred, "y_true", y_true)
    options: Any = {"name": "y_pred", "label_smoothing": label_smoothing, "reduction": "none"}
    return _averaged(binary(_answers(from_logits, epsilon), CrossEntropy(), y_pred, y_true, **options), axis)


@loss
def categorical_crossentropy(
    y_true: Any,
    y_pred: A,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.categorical_crossentropy`.

    Probabilities are first divided by their sum, as Keras does. With smoothing and an `axis` that is not the last,
    Keras divides s by the size of the last axis; here it is by the number of classes.

    Parameters
    ----------
    y_true : array of the shape of `y_pred`
        Probabilities, or one-hot rows of any dtype.
    y_pred : array of floating-point numbers
        Probabilities, or logits.
    from_logits : bool
        Whether `y_pred` are logits.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) y + s / C.
    axis : int
        The class axis.
    epsilon : float
        To where probabilities are clipped.

    Returns
    -------
    array
        The shape of `y_pred` without `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.categorical_crossentropy(np.asarray([[0, 1, 0]]), np.asarray([[0.05, 0.95, 0]])).round(6).tolist()
    [0.051293]
    """
    link = _classes(from_logits, epsilon)
    return _of_classes(link, CrossEntropy(), y_true, y_pred, label_smoothing=label_smoothing, axis=axis)


@loss
def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: A,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.sparse_categorical_crossentropy`.

    A label out of range is a ValueError (nan under a tracer); on Keras's JAX and NumPy backends it is 0 or an error,
    by sign and backend.

    Parameters
    ----------
    y_true : array of integers, or of floats that are such, of the shape of `y_pred` without `axis`, or with a 1 there
        Labels.
    y_pred : array of floating-point numbers
        Probabilities, or logits.
    from_logits : bool
        Whether `y_pred` are logits.
    ignore_class : int, optional
        The label of samples that cost 0. They count in Keras's mean.
    axis : int
        The class axis.
    epsilon : float
        To where probabilities are clipped.

    Returns
    -------
    array
        The shape of `y_pred` without `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> y_true, y_pred = np.asarray([1, 2, 0]), np.asarray([[0.05, 0.95, 0], [0.1, 0.8, 0.1], [0.5, 0.5, 0]])
    >>> keras.sparse_categorical_crossentropy(y_true, y_pred, ignore_class=0).round(6).tolist()
    [0.051293, 2.302585, 0.0]
    """
    p: Any = y_pred
    backend = backend_of(p, "y_pred", y_true=check_given("y_true", y_true))
    if y_true.ndim == p.ndim and y_true.shape[check_axis(axis, p.ndim)] == 1:
        y_true = backend.xp.squeeze(y_true, axis=axis)
    if not backend.isdtype(y_true.dtype, "integral"):
        y_true = backend.astype(y_true, backend.xp.int32)
    if ignore_class is not None and not hasattr(ignore_class, "__index__"):
        raise TypeError(f"ignore_class must be an int or None, not {ignore_class!r}")
    checked("y_pred", p, "y_true", y_true, (axis,), labels=True)
    options: Any = {"axis": axis, "ignore_index": ignore_class, "reduction": "none"}
    return categorical(_classes(from_logits, epsilon), CrossEntropy(), y_pred, y_true, name="y_pred", **options)


@loss
def binary_focal_crossentropy(
    y_true: Any,
    y_pred: A,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.binary_focal_crossentropy`.

    Logits keep their digits; Keras makes probabilities of them and clips those, which bounds the loss at 16.1.

    Parameters
    ----------
    y_true : array of numbers in [0, 1] or of bool, of the shape of `y_pred`
        Probabilities of the answer 1.
    y_pred : array of floating-point numbers
        Probabilities, or logits.
    apply_class_balancing : bool
        Whether `alpha` counts at all.
    alpha : float in [0, 1]
        The share of the answer 1; that of 0 is 1 - alpha.
    gamma : float >= 0
        How much less an easy element counts.
    from_logits : bool
        Whether `y_pred` are logits.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) y + s / 2.
    axis : int
        The axis to take the mean over.
    epsilon : float
        To where probabilities are clipped.

    Returns
    -------
    array
        The shape of `y_pred` without `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.binary_focal_crossentropy(np.asarray([[0, 1]]), np.asarray([[0.5, 0.5]])).round(6).tolist()
    [0.173287]
    """
    share, link = alpha if apply_class_balancing else None, _answers(from_logits, epsilon)
    names = ("y_pred", "y_true")
    return _averaged(focal(y_pred, y_true, share, gamma, names, link=link, label_smoothing=label_smoothing), axis)


@loss
def categorical_focal_crossentropy(
    y_true: Any,
    y_pred: A,
    alpha: Any = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.categorical_focal_crossentropy`.

    Logits keep their digits; Keras makes probabilities of them and clips those. Probabilities are first divided by
    their sum. With an `axis` that is not the last, Keras takes the number of classes for smoothing, and a list of
    `alpha`, along the last one; here it is along `axis`.

    Parameters
    ----------
    y_true : array of the shape of `y_pred`
        Probabilities, or one-hot rows of any dtype.
    y_pred : array of floating-point numbers
        Probabilities, or logits.
    alpha : float, or a list or array of one for each class
        A factor, in full also of the terms of all other classes.
    gamma : float >= 0
        How much less an easy sample counts.
    from_logits : bool
        Whether `y_pred` are logits.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) y + s / C.
    axis : int
        The class axis.
    epsilon : float
        To where probabilities are clipped.

    Returns
    -------
    array
        The shape of `y_pred` without `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.categorical_focal_crossentropy(np.asarray([[0, 1]]), np.asarray([[0.5, 0.5]])).round(6).tolist()
    [0.043322]
    """
    p: Any = y_pred
    backend = backend_of(p, "y_pred")
    if not hasattr(alpha, "ndim"):
        alpha = backend.xp.asarray(alpha, dtype=p.dtype, device=backend.device(p))
    if alpha.ndim == 0:
        alpha = backend.xp.broadcast_to(alpha, (p.shape[check_axis(axis, p.ndim)],))
    checked("y_pred", p, "y_true", y_true, (axis,), alpha=alpha)
    options = {"label_smoothing": label_smoothing, "class_weight": alpha, "axis": axis}
    return _of_classes(_classes(from_logits, epsilon), focal_penalty(gamma), y_true, y_pred, **options)
