"""The losses of `optax.losses` (0.2.8), on any array: the loss of each sample, over the last axis unless told.

Labels are not broadcast: their shape is that of the logits (without the class axis, where they are integers), else
ValueError. Optax broadcasts, (N, 1) with (N,) to (N, N) included. A term 0 * inf is 0 in all of them, as in Optax's
`safe_softmax_cross_entropy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import arrayloss
from arrayloss.compat.shared import checked, focal
from arrayloss.extending import Problem, backend_of, check_axis, check_given, check_mask, loss, problem

A = TypeVar("A")
Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The class axes, counted from the front."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(check_axis(i, ndim) for i in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis names one axis twice: {axis}")
    return axes


def _stated(
    function: Callable[..., Any], logits: Any, labels: Any, axis: Axis, where: Any, soft: bool, **options: Any
) -> Problem[Any]:
    """The problem of the core's `function`: over several axes, and among some of the classes, the others at -inf."""
    shape = tuple(check_given("logits", logits).shape)
    axes = _axes(axis, len(shape))
    backend = checked("logits", logits, "labels", labels, axes, labels=not soft)
    backend_of(logits, where=where)
    xp, order = backend.xp, None
    if soft and not backend.isdtype(labels.dtype, "real floating"):
        labels = backend.astype(labels, backend.compute_dtype(logits.dtype))
    of_classes = where is not None and where.ndim == logits.ndim
    if of_classes:
        check_mask(xp, where, shape)
        where = xp.broadcast_to(where, shape)
        logits = xp.where(where, logits, xp.full_like(logits, -float("inf")))
        labels = xp.where(where, labels, xp.zeros_like(labels)) if soft else labels
        where = xp.any(where, axis=axes)
    if not isinstance(axis, int):
        batch = tuple(i for i in range(len(shape)) if i not in axes)
        order, axis = batch + axes, -1
        moved = tuple(shape[i] for i in order)
        merged = (*moved[: len(batch)], math.prod(moved[len(batch) :]))
        logits = xp.reshape(xp.permute_dims(logits, order), merged)
        labels = xp.reshape(xp.permute_dims(labels, order), merged) if soft else labels
    stated = problem(function, logits, labels, axis=axis, where=where, reduction="none", **options)
    if order is None:
        return stated
    back = tuple(order.index(i) for i in range(len(order)))
    return replace(stated, restore=lambda gradient: xp.permute_dims(xp.reshape(gradient, moved), back))


@loss
def softmax_cross_entropy(logits: A, labels: Any, axis: Axis = -1, where: Any = None) -> Problem[A]:
    """`optax.softmax_cross_entropy`.

    Parameters
    ----------
    logits : array of floating-point numbers
        Unbounded scores.
    labels : array, of the shape of `logits`
        Probabilities, or one-hot rows of any dtype.
    axis : int, tuple of int or None
        The class axis, or several that are one together; None for all.
    where : array of bool, broadcastable to `logits` and of as many dimensions, or of the shape of the losses, optional
        Which classes take part in each sample (one of none costs 0), or which samples.

    Returns
    -------
    array
        The loss of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> x, q = np.asarray([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]), np.asarray([[1.0, 0, 0], [0, 1, 0]])
    >>> optax.softmax_cross_entropy(x, q).round(4).tolist()
    [0.2761, 2.9518]
    """
    return _stated(arrayloss.cross_entropy, logits, labels, axis, where, soft=True)


@loss
def safe_softmax_cross_entropy(logits: A, labels: Any) -> Problem[A]:
    """`optax.safe_softmax_cross_entropy`.

    Parameters
    ----------
    logits : array of floating-point numbers
        Unbounded scores; -inf for a class that is masked out.
    labels : array, of the shape of `logits`
        Probabilities, or one-hot rows of any dtype.

    Returns
    -------
    array
        The loss of each sample, over the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.safe_softmax_cross_entropy(np.asarray([0.0, 0.0, -np.inf]), np.asarray([1.0, 0.0, 0.0])).round(6)
    np.float64(0.693147)
    """
    return _stated(arrayloss.cross_entropy, logits, labels, -1, None, soft=True)


@loss
def softmax_cross_entropy_with_integer_labels(
    logits: A, labels: Any, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Problem[A]:
    """`optax.softmax_cross_entropy_with_integer_labels`.

    A label out of range is a ValueError (nan under a tracer); Optax counts -C to -1 from the end, and gives nan for
    the others. A label that `where` leaves out costs inf, as one of probability 0 does; Optax subtracts its logit.

    Parameters
    ----------
    logits : array of floating-point numbers
        Unbounded scores.
    labels : array of integers, of the shape of `logits` without the class axis
        With several class axes, the index into them as one.
    axis : int or tuple of int
        The class axis, or several that are one together.
    where : array of bool, broadcastable to `logits` and of as many dimensions, or of the shape of `labels`, optional
        Which classes take part in each sample (one of none costs 0), or which samples.

    Returns
    -------
    array
        The loss of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> x = np.asarray([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> optax.softmax_cross_entropy_with_integer_labels(x, np.asarray([0, 1])).round(4).tolist()
    [0.2761, 2.9518]
    """
    if axis is None:
        raise TypeError("axis must be an int or a tuple of them, not None, where labels are integers")
    return _stated(arrayloss.cross_entropy, logits, labels, axis, where, soft=False, ignore_index=None)


@loss
def sigmoid_binary_cross_entropy(logits: A, labels: Any) -> Problem[A]:
    """`optax.sigmoid_binary_cross_entropy`.

    Parameters
    ----------
    logits : array of floating-point numbers, any shape
        Unbounded scores.
    labels : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `logits`
        Probabilities of the answer 1.

    Returns
    -------
    array
        The loss of each element.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.sigmoid_binary_cross_entropy(np.asarray([0.0, 40.0]), np.asarray([0, 1])).tolist()
    [0.6931471805599453, 4.248354255291589e-18]
    """
    checked("logits", logits, "labels", labels)
    return problem(arrayloss.binary_cross_entropy_with_logits, logits, labels, reduction="none")


@loss
def sigmoid_focal_loss(logits: A, labels: Any, *, alpha: Any = None, gamma: float = 2.0) -> Problem[A]:
    """`optax.sigmoid_focal_loss`.

    Labels strictly between 0 and 1 get Optax's factor, `(1 - p_t)^gamma` of the blended p_t, which is not that of
    `arrayloss.sigmoid_focal_loss`.

    Parameters
    ----------
    logits : array of floating-point numbers, any shape
        Unbounded scores.
    labels : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `logits`
        Probabilities of the answer 1.
    alpha : number or 0-d array, in [0, 1], optional
        The share of the answer 1; that of 0 is 1 - alpha. Without it both count in full.
    gamma : float >= 0
        How much less an easy element counts.

    Returns
    -------
    array
        The loss of each element.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.sigmoid_focal_loss(np.zeros(2), np.asarray([1.0, 0.0])).round(6).tolist()
    [0.173287, 0.173287]
    """
    return focal(logits, labels, alpha, gamma, ("logits", "labels"))


@loss
def poly_loss_cross_entropy(
    logits: A, labels: Any, *, epsilon: float = 2.0, axis: Axis = -1, where: Any = None
) -> Problem[A]:
    """`optax.poly_loss_cross_entropy`.

    Parameters
    ----------
    logits : array of floating-point numbers
        Unbounded scores.
    labels : array, of the shape of `logits`
        Probabilities, or one-hot rows of any dtype.
    epsilon : float >= -1
        What 1 - p counts beside -log p.
    axis : int, tuple of int or None
        The class axis, or several that are one together; None for all.
    where : array of bool, broadcastable to `logits` and of as many dimensions, or of the shape of the losses, optional
        Which classes take part in each sample (one of none costs 0), or which samples (Optax 0.2.8 broadcasts the
        latter against the classes).

    Returns
    -------
    array
        The loss of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> float(optax.poly_loss_cross_entropy(np.zeros(2), np.asarray([1.0, 0.0])))  # log 2 + 2 / 2
    1.6931471805599454
    """
    return _stated(arrayloss.poly_loss, logits, labels, axis, where, soft=True, epsilon=epsilon)


def smooth_labels(labels: A, alpha: Any, *, axis: Axis = -1, where: Any = None) -> A:
    """`optax.smooth_labels`.

    Parameters
    ----------
    labels : array of floating-point numbers
        Probabilities, or one-hot rows.
    alpha : number or array
        How much of each is spread over all classes.
    axis : int, tuple of int or None
        The class axis, or several that are one together; None for all.
    where : array of bool broadcastable to `labels`, optional
        Which classes there are; they only count here, and all of them get their share, as in Optax.

    Returns
    -------
    array
        The shape of `labels`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.smooth_labels(np.asarray([0.0, 1.0]), 0.5).tolist()
    [0.25, 0.75]
    """
    x: Any = labels
    xp: Any = backend_of(x, "labels", where=where).xp
    axes = _axes(axis, x.ndim)
    classes: Any = math.prod([x.shape[i] for i in axes])
    if where is not None:
        check_mask(xp, where, x.shape)
        classes = xp.astype(xp.sum(xp.astype(where, xp.int32), axis=axis, keepdims=True), x.dtype)
    smooth: A = (1 - alpha) * x + alpha / classes
    return smooth
