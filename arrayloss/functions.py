"""The functions that turn logits into probabilities and their logarithms, and labels into weights of the classes."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from arrayloss import _checks
from arrayloss._kernels.sigmoid import LogSigmoid, Sigmoid
from arrayloss._kernels.softmax import LogSoftmax, LogSumExp, Softmax
from arrayloss._options import documented
from arrayloss._problem import Problem, function
from arrayloss.gradients import loss, with_suggestions

A = TypeVar("A")
_ELEMENTS = """
x : array of floating-point numbers
    The input.
Returns
    array
        The shape, dtype, library and device are those of `$array`. float16 and bfloat16 are computed in float32.
Raises
    TypeError
        If `$array` is not an array of real floating-point numbers."""
_ROWS = f"""
axis : int
    The axis to compute along.
where : array of bool, optional
    True for the elements that take part. Its shape must broadcast to that of `$array`.{_ELEMENTS}
    ValueError
        If `axis` is out of range, or the shape of `where` does not broadcast."""


@loss
@documented(_ROWS)
def softmax(x: A, /, *, axis: int = -1, where: Any = None) -> Problem[A]:
    r"""Probabilities, in [0, 1], from logits: :math:`p_c = e^{x_c} / \sum_j e^{x_j}`.

    An element that `where` leaves out has probability 0. One +inf in a row has probability 1. A row is nan if it has
    more than one +inf, if all of it is -inf, or if it has a nan.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import softmax
    >>> softmax(np.asarray([0.0, np.log(3.0)]))
    array([0.25, 0.75])
    """
    return function(Softmax(), x, axis, where)


@loss
@documented(_ROWS)
def log_softmax(x: A, /, *, axis: int = -1, where: Any = None) -> Problem[A]:
    r"""Log-probabilities, at most 0, from logits: :math:`\log p_c = x_c - \log \sum_j e^{x_j}`.

    The result is accurate also if :math:`p_c` is close to 1. (There, ``x - logsumexp(x)`` would be rounded to 0.) An
    element that `where` leaves out has log-probability -inf.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import log_softmax
    >>> [f"{log_p:.6g}" for log_p in log_softmax(np.asarray([0.0, 50.0]))]
    ['-50', '-1.92875e-22']
    """
    return function(LogSoftmax(), x, axis, where, left_out=-float("inf"))


@loss
@documented(_ROWS)
def logsumexp(x: A, /, *, axis: int = -1, where: Any = None, keepdims: bool = False) -> Problem[A]:
    r"""The logarithm of a sum of exponentials: :math:`\log \sum_c e^{x_c}`.

    If `where` leaves out all elements, the result is -inf.

    Parameters
    ----------
    keepdims : bool
        Whether the result keeps the axis, with length 1.

    Returns
    -------
    array
        The shape of `x` without `axis`. The dtype, library and device are those of `x`.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import logsumexp
    >>> float(logsumexp(np.asarray([1000.0, 1000.0])))
    1000.6931471805599
    """
    return function(LogSumExp(), x, axis, where, keepdims=keepdims)


@loss
@documented(_ELEMENTS)
def sigmoid(x: A, /) -> Problem[A]:
    r"""The logistic function of each element, in [0, 1]: :math:`1 / (1 + e^{-x})`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import sigmoid
    >>> sigmoid(np.asarray([-100.0, 0.0])).tolist()
    [3.720075976020836e-44, 0.5]
    """
    return function(Sigmoid(), x, None)


@loss
@documented(_ELEMENTS)
def log_sigmoid(x: A, /) -> Problem[A]:
    r"""The logarithm of the logistic function of each element, at most 0: :math:`-\log(1 + e^{-x})`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import log_sigmoid
    >>> log_sigmoid(np.asarray([-300.0, 100.0])).tolist()
    [-300.0, -3.720075976020836e-44]
    """
    return function(LogSigmoid(), x, None)


@with_suggestions
def balanced_class_weight(labels: A, /, classes: int, *, dtype: Any = None) -> A:
    r"""A weight for each class by inverse frequency: :math:`n / (C\, n_c)`, as `class_weight` takes it.

    Of the n labels, :math:`n_c` are c, and C is the number of classes: all classes that occur have the same total
    weight. The weights are those of scikit-learn's `compute_class_weight("balanced")`, with one difference: a class
    that does not occur is an error there. Here it is counted as one label, so that no weight is infinite.

    Parameters
    ----------
    labels : array of integers, any shape
        The labels. Those outside 0 to classes - 1, such as an `ignore_index`, do not count.
    classes : int
        The number of classes.
    dtype : dtype, optional
        The floating-point dtype of the weights; without it, the library's default.

    Returns
    -------
    array
        The weights, of shape (classes,). The library and device are those of `labels`.

    Raises
    ------
    TypeError
        If `labels` is not an array of integers, `classes` not an int or `dtype` not a floating-point dtype.
    ValueError
        If `classes` is below 1.

    References
    ----------
    King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9 (2001).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import balanced_class_weight
    >>> balanced_class_weight(np.asarray([0, 0, 0, 1, 2, 2, -100]), 3).tolist()
    [0.6666666666666666, 2.0, 1.0]
    """
    backend = _checks.integers("labels", labels)
    count = _checks.integer("classes", classes)
    if count < 1:
        raise ValueError(f"classes must be an int of at least 1, not {classes!r}")
    if dtype is not None:
        _checks.real_dtype(backend, dtype)
    xp, x = backend.xp, cast(Any, labels)
    with backend.context(x):
        defaults = xp.__array_namespace_info__().default_dtypes(device=backend.device(x))
        result = defaults["real floating"] if dtype is None else dtype
        ordered = xp.sort(xp.reshape(backend.astype(x, backend.index_dtype(x)), (-1,)))
        # How many labels are below 0, 1, ..., C, by binary search: each label is not compared with each class.
        below = xp.searchsorted(ordered, backend.arange(count + 1, ordered))
        wide = backend.compute_dtype(result)
        all_of_them, each = (backend.astype(n, wide) for n in (below[-1] - below[0], below[1:] - below[:-1]))
        weights = all_of_them / (count * xp.maximum(each, xp.ones_like(each)))
        return backend.astype(weights, result)  # type: ignore[no-any-return]
