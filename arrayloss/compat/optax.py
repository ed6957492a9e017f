"""The losses of `optax.losses` (0.2.8), on any array: the loss of each sample, over the last axis unless told.

Labels are not broadcast: their shape must be that of the logits (for integer labels, without the class axis), else
ValueError is raised. Optax broadcasts, also (N, 1) with (N,) to (N, N). In all functions a term 0 * inf is 0, as in
Optax's `safe_softmax_cross_entropy`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import arrayloss
from arrayloss.compat.shared import blended_focal, check_integers, check_target
from arrayloss.extending import (
    GivenKullbackLeibler,
    Problem,
    backend_of,
    check_axis,
    check_given,
    check_mask,
    documented,
    loss,
    paired,
    problem,
    sigmoid,
)

A = TypeVar("A")
Axis = int | tuple[int, ...] | None

_ELEMENTS = """
logits : array of floating-point numbers, any shape
    Unbounded scores.
labels : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `logits`
    Probabilities of the answer 1.
Returns
    array
        The loss of each element.
"""
_ROWS = """
logits : array of floating-point numbers
    Unbounded scores.
labels : array, of the shape of `logits`
    Probabilities, or one-hot rows of any dtype.
axis : int, tuple of int or None
    The class axis, or several axes that are the class axis together; None for all.
where : array of bool, broadcastable to `logits` and of as many dimensions, or of the shape of the losses, optional
    Which classes take part in each sample (the loss is 0 if none does), or which samples.
Returns
    array
        The loss of each sample.
"""


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The class axes, counted from the front."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(check_axis(i, ndim) for i in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis names one axis twice: {axis}")
    return axes


def _categorical(
    function: Callable[..., A],
    logits: A,
    labels: Any,
    axis: Axis,
    where: Any,
    *,
    soft: bool = True,
    left_out: float = 0.0,
    names: tuple[str, str] = ("logits", "labels"),
    **options: Any,
) -> Problem[A]:
    """The problem of a loss over one or several class axes; the logits of classes that take no part become -inf."""
    x: Any = logits
    name, labels_name = names
    backend = backend_of(x, name, **{labels_name: check_given(labels_name, labels)}, where=where)
    xp, shape = backend.xp, x.shape
    axes = _axes(axis, len(shape))
    if not soft:
        check_integers(labels_name, backend, labels)
    check_target(name, x, labels_name, labels, () if soft else axes)
    if soft and backend.kind(labels.dtype) != "real floating":
        labels = backend.astype(labels, backend.compute_dtype(x.dtype))
    of_classes = where is not None and where.ndim == x.ndim
    if of_classes:
        check_mask(xp, where, shape)
        where = xp.broadcast_to(where, shape)
        x = xp.where(where, x, xp.full_like(x, -float("inf")))
        labels = xp.where(where, labels, xp.full_like(labels, left_out)) if soft else labels
        where = xp.any(where, axis=axes)
    options.update(where=where, reduction="none")
    if isinstance(axis, int):
        return problem(function, x, labels, axis=axis, **options)
    batch = tuple(i for i in range(len(shape)) if i not in axes)
    order = batch + axes
    moved, back = tuple(shape[i] for i in order), tuple(order.index(i) for i in range(len(order)))
    merged = (*moved[: len(batch)], math.prod(moved[len(batch) :]))
    x = xp.reshape(xp.permute_dims(x, order), merged)
    labels = xp.reshape(xp.permute_dims(labels, order), merged) if soft else labels
    made = problem(function, x, labels, **options)
    return replace(made, restore=lambda g: xp.permute_dims(xp.reshape(g, moved), back))


@loss
@documented(_ROWS)
def softmax_cross_entropy(logits: A, labels: Any, axis: Axis = -1, where: Any = None) -> Problem[A]:
    """`optax.softmax_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> x, q = np.asarray([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]), np.asarray([[1.0, 0, 0], [0, 1, 0]])
    >>> optax.softmax_cross_entropy(x, q).round(4).tolist()
    [0.2761, 2.9518]
    """
    return _categorical(arrayloss.cross_entropy, logits, labels, axis, where)


@loss
@documented(_ROWS)
def safe_softmax_cross_entropy(logits: A, labels: Any) -> Problem[A]:
    """`optax.safe_softmax_cross_entropy`.

    Parameters
    ----------
    logits : array of floating-point numbers
        Unbounded scores; -inf for a class that is masked out.

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
    return _categorical(arrayloss.cross_entropy, logits, labels, -1, None)


@loss
@documented(_ROWS)
def softmax_cross_entropy_with_integer_labels(
    logits: A, labels: Any, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Problem[A]:
    """`optax.softmax_cross_entropy_with_integer_labels`.

    A label out of range raises ValueError (under a tracer, its loss is nan). In Optax, labels from -C to -1 count from
    the end, and others give nan. If `where` leaves out the class of the label, its probability is 0 and the loss is
    inf; Optax still subtracts its logit.

    Parameters
    ----------
    labels : array of integers, of the shape of `logits` without the class axis
        Class numbers. If there are several class axes, the position in these axes taken together as one.
    axis : int or tuple of int
        The class axis, or several axes that are the class axis together.
    where : array of bool, broadcastable to `logits` and of as many dimensions, or of the shape of `labels`, optional
        Which classes take part in each sample (the loss is 0 if none does), or which samples.

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
    return _categorical(arrayloss.cross_entropy, logits, labels, axis, where, soft=False, ignore_index=None)


@loss
@documented(_ELEMENTS)
def sigmoid_binary_cross_entropy(logits: A, labels: Any) -> Problem[A]:
    """`optax.sigmoid_binary_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.sigmoid_binary_cross_entropy(np.asarray([0.0, 40.0]), np.asarray([0, 1])).tolist()
    [0.6931471805599453, 4.248354255291589e-18]
    """
    backend_of(logits, labels=check_given("labels", labels))
    check_target("logits", logits, "labels", labels)
    return problem(arrayloss.binary_cross_entropy_with_logits, logits, labels, reduction="none")


@loss
@documented(_ELEMENTS)
def sigmoid_focal_loss(logits: A, labels: Any, *, alpha: Any = None, gamma: float = 2.0) -> Problem[A]:
    """`optax.sigmoid_focal_loss`.

    For labels strictly between 0 and 1, the factor is Optax's: `(1 - p_t)^gamma` with the blended p_t.
    `arrayloss.sigmoid_focal_loss` has another factor there.

    Parameters
    ----------
    alpha : number or 0-d array, in [0, 1], optional
        The factor of the answer 1; the factor of the answer 0 is 1 - alpha. Without it, both factors are 1.
    gamma : float >= 0
        The focusing parameter: the larger it is, the less a well-classified element counts.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.sigmoid_focal_loss(np.zeros(2), np.asarray([1.0, 0.0])).round(6).tolist()
    [0.173287, 0.173287]
    """
    return blended_focal(sigmoid, logits, labels, ("logits", "labels"), gamma=gamma, alpha=alpha)


@loss
@documented(_ROWS)
def poly_loss_cross_entropy(
    logits: A, labels: Any, *, epsilon: float = 2.0, axis: Axis = -1, where: Any = None
) -> Problem[A]:
    """`optax.poly_loss_cross_entropy`.

    Parameters
    ----------
    epsilon : float >= -1
        The factor of 1 - p, which is added to -log p.
    where : array of bool, broadcastable to `logits` and of as many dimensions, or of the shape of the losses, optional
        Which classes take part in each sample (the loss is 0 if none does), or which samples. (Optax 0.2.8 broadcasts
        a mask of samples against the classes.)

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> float(optax.poly_loss_cross_entropy(np.zeros(2), np.asarray([1.0, 0.0])))  # log 2 + 2 / 2
    1.6931471805599454
    """
    return _categorical(arrayloss.poly_loss, logits, labels, axis, where, epsilon=epsilon)


@loss
def _given_divergence(
    log_p: A, target: Any, /, *, log_target: bool = False, generalized: bool = False, **options: Any
) -> Problem[A]:
    options.update(names=("log_predictions", "log_targets" if log_target else "targets"), probabilities=not log_target)
    return paired(GivenKullbackLeibler(log_target, generalized), log_p, target, **options)


@loss
@documented(_ROWS)
def kl_divergence(log_predictions: A, targets: Any, axis: Axis = -1, where: Any = None) -> Problem[A]:
    """`optax.kl_divergence`.

    A negative target is a ValueError (nan under a tracer), where Optax has nan.

    Parameters
    ----------
    log_predictions : array of floating-point numbers
        Log-probabilities.
    targets : array of floating-point numbers, of the shape of `log_predictions`
        Probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.kl_divergence(np.log(np.asarray([[0.5, 0.5]])), np.asarray([[1.0, 0.0]])).round(6).tolist()
    [0.693147]
    """
    return _categorical(_given_divergence, log_predictions, targets, axis, where, names=("log_predictions", "targets"))


@loss
@documented(_ROWS)
def generalized_kl_divergence(log_predictions: A, targets: Any, axis: Axis = -1, where: Any = None) -> Problem[A]:
    """`optax.generalized_kl_divergence`: to the divergence, the sum of p - q is added.

    Parameters
    ----------
    log_predictions : array of floating-point numbers
        Logarithms of p, which need not sum to 1.
    targets : array of floating-point numbers, of the shape of `log_predictions`
        q, which need not sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> optax.generalized_kl_divergence(np.log(np.asarray([[0.5, 1.5]])), np.asarray([[1.0, 0.0]])).round(6).tolist()
    [1.693147]
    """
    options: Any = {"names": ("log_predictions", "targets"), "generalized": True}
    return _categorical(_given_divergence, log_predictions, targets, axis, where, **options)


convex_kl_divergence = generalized_kl_divergence  # its old name, which Optax says is deprecated


@loss
@documented(_ROWS)
def kl_divergence_with_log_targets(
    log_predictions: A, log_targets: Any, axis: Axis = -1, where: Any = None
) -> Problem[A]:
    """`optax.kl_divergence_with_log_targets`.

    Parameters
    ----------
    log_predictions : array of floating-point numbers
        Log-probabilities.
    log_targets : array of floating-point numbers, of the shape of `log_predictions`
        Log-probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import optax
    >>> log_p, log_q = np.log(np.asarray([[0.5, 0.5]])), np.log(np.asarray([[0.25, 0.75]]))
    >>> optax.kl_divergence_with_log_targets(log_p, log_q).round(6).tolist()
    [0.130812]
    """
    names = ("log_predictions", "log_targets")
    options: Any = {"names": names, "left_out": -math.inf, "log_target": True}
    return _categorical(_given_divergence, log_predictions, log_targets, axis, where, **options)


def smooth_labels(labels: A, alpha: Any, *, axis: Axis = -1, where: Any = None) -> A:
    """`optax.smooth_labels`.

    Parameters
    ----------
    labels : array of floating-point numbers
        Probabilities, or one-hot rows.
    alpha : number or array
        The part of each label that is spread over all classes.
    axis : int, tuple of int or None
        The class axis, or several axes that are the class axis together; None for all.
    where : array of bool broadcastable to `labels`, optional
        True for the classes that are counted. As in Optax, all classes still get their part of alpha.

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
    xp = backend_of(x, "labels", where=where).xp
    classes: Any = math.prod([x.shape[i] for i in _axes(axis, x.ndim)])
    if where is not None:
        check_mask(xp, where, x.shape)
        classes = xp.astype(xp.sum(xp.astype(where, xp.int32), axis=axis, keepdims=True), x.dtype)
    if isinstance(alpha, numbers.Real):
        alpha = float(alpha)
    smooth: A = (1 - alpha) * x + alpha / classes
    return smooth
