"""The losses of `keras.losses` (3.15, the functions), on any array: targets first, and the loss of each sample.

Keras clips *probabilities* to [1e-7, 1 - 1e-7], by definition, before it takes a logarithm: that is reproduced, and
`epsilon`, no argument of Keras but its `keras.config.epsilon()`, says to what; 0 takes it off. *Logits* are
never clipped here. Keras clips those too in the two focal losses, and in `binary_crossentropy` on its NumPy backend.

For a mean over the samples divide by their number: that is what the Keras classes do (`sum_over_batch_size`),
whatever the sample weights.
"""

from __future__ import annotations

from typing import Any, TypeVar

import arrayloss
from arrayloss import _checks
from arrayloss._engine import Problem
from arrayloss._gradients import loss, problem_of
from arrayloss.compat import _problems

A = TypeVar("A")


def _namespace(y_true: Any, y_pred: Any, epsilon: float) -> Any:
    if not 0 <= _checks.real("epsilon", epsilon) < 0.5:
        raise ValueError(f"epsilon must be at least 0 and less than 0.5, not {epsilon!r}")
    return _checks.library(y_pred, "y_pred", y_true=_checks.given("y_true", y_true)).xp


def _smooth(xp: Any, y_true: Any, y_pred: Any, label_smoothing: float, classes: int) -> Any:
    """The target, which must be of the shape of the predictions; of their dtype where there is anything to smooth."""
    _problems.check_target("y_pred", y_pred, "y_true", y_true)
    s = _checks.fraction("label_smoothing", label_smoothing)
    return xp.astype(y_true, y_pred.dtype) * (1.0 - s) + s / classes if s else y_true


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
    xp = _namespace(y_true, y_pred, epsilon)
    y = _smooth(xp, y_true, y_pred, label_smoothing, 2)
    if from_logits:
        problem = problem_of(arrayloss.binary_cross_entropy_with_logits)(y_pred, y, reduction="none")
    else:
        problem = problem_of(arrayloss.binary_cross_entropy)(y_pred, y, reduction="none")
        problem = _problems.linked(problem, _problems.ClippedAnswers(epsilon))
    return _problems.averaged(problem, axis)


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
    xp = _namespace(y_true, y_pred, epsilon)
    p: Any = y_pred
    y = xp.astype(_smooth(xp, y_true, p, label_smoothing, p.shape[_checks.class_axis(axis, p.ndim)]), p.dtype)
    if from_logits:
        return problem_of(arrayloss.cross_entropy)(y_pred, y, axis=axis, reduction="none")
    problem = problem_of(arrayloss.nll_loss)(y_pred, y, axis=axis, reduction="none")
    return _problems.linked(problem, _problems.ClippedRows(epsilon, True))


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
    xp = _namespace(y_true, y_pred, epsilon)
    p: Any = y_pred
    if y_true.ndim == p.ndim and y_true.shape[_checks.class_axis(axis, p.ndim)] == 1:
        y_true = xp.squeeze(y_true, axis=axis)
    if not xp.isdtype(y_true.dtype, "integral"):
        y_true = xp.astype(y_true, xp.int32)
    if ignore_class is not None and not hasattr(ignore_class, "__index__"):
        raise TypeError(f"ignore_class must be an int or None, not {ignore_class!r}")
    _problems.check_target("y_pred", p, "y_true", y_true, (axis,), labels=True)
    options: Any = {"axis": axis, "ignore_index": ignore_class, "reduction": "none"}
    if from_logits:
        return problem_of(arrayloss.cross_entropy)(y_pred, y_true, **options)
    problem = problem_of(arrayloss.nll_loss)(y_pred, y_true, **options)
    return _problems.linked(problem, _problems.ClippedRows(epsilon, True))


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
    xp = _namespace(y_true, y_pred, epsilon)
    p: Any = y_pred
    share = alpha if apply_class_balancing else None
    y = _smooth(xp, y_true, p, label_smoothing, 2)
    clipped = None if from_logits else _problems.ClippedAnswers(epsilon)
    return _problems.averaged(_problems.focal(y_pred, y, share, gamma, ("y_pred", "y_true"), clipped=clipped), axis)


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
    xp = _namespace(y_true, y_pred, epsilon)
    p: Any = y_pred
    classes = p.shape[_checks.class_axis(axis, p.ndim)]
    y = xp.astype(_smooth(xp, y_true, p, label_smoothing, classes), p.dtype)
    if isinstance(alpha, (int, float)):
        y, weight = alpha * y, None
    else:
        weight = alpha if hasattr(alpha, "ndim") else xp.asarray(alpha, dtype=p.dtype)
        _checks.library(y_pred, "y_pred", alpha=weight)
        _problems.check_weights("y_pred", p, "alpha", weight, axis)
    problem = problem_of(arrayloss.softmax_focal_loss)(
        y_pred, y, gamma=gamma, class_weight=weight, axis=axis, reduction="none"
    )
    return problem if from_logits else _problems.linked(problem, _problems.ClippedRows(epsilon, True))
