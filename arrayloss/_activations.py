"""The functions that turn logits into probabilities and their logarithms."""

from __future__ import annotations

from typing import Any, TypeVar

from arrayloss import _engine, _kernels

A = TypeVar("A")


def softmax(x: A, /, *, axis: int = -1, where: Any = None) -> A:
    r"""Probabilities from logits: :math:`p_c = e^{x_c} / \sum_j e^{x_j}`.

    Parameters
    ----------
    x : array of floating-point numbers, at least 1-D
        Logits. float16 and bfloat16 are computed in float32 and rounded once.
    axis : int
        The class axis.
    where : array of bool, broadcastable to `x`, optional
        Which classes take part; the others get probability 0.

    Returns
    -------
    array
        The shape, dtype, library and device of `x`; in [0, 1]. A single +inf in a row has probability 1; a row with
        several, or all -inf, or a nan, is nan.

    Raises
    ------
    TypeError
        If `x` is not an array of real floating-point numbers.
    ValueError
        If `axis` is out of range.

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
    return _engine.function(_kernels.Softmax, x, axis, where)  # type: ignore[no-any-return]


def log_softmax(x: A, /, *, axis: int = -1, where: Any = None) -> A:
    r"""Log-probabilities from logits: :math:`\log p_c = x_c - \log \sum_j e^{x_j}`.

    Right to a few units in the last place also where :math:`p_c` is next to 1 and the result next to 0, where
    `x - logsumexp(x)` has no digit left.

    Parameters
    ----------
    x : array of floating-point numbers, at least 1-D
        Logits.
    axis : int
        The class axis.
    where : array of bool, broadcastable to `x`, optional
        Which classes take part; the others get -inf.

    Returns
    -------
    array
        The shape, dtype, library and device of `x`; at most 0.

    Raises
    ------
    TypeError
        If `x` is not an array of real floating-point numbers.
    ValueError
        If `axis` is out of range.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import log_softmax
    >>> log_softmax(np.asarray([0.0, 50.0])).tolist()
    [-50.0, -1.928749847963918e-22]
    """
    return _engine.function(_kernels.LogSoftmax, x, axis, where)  # type: ignore[no-any-return]


def logsumexp(x: A, /, *, axis: int = -1, where: Any = None, keepdims: bool = False) -> A:
    r"""The logarithm of a sum of exponentials: :math:`\log \sum_c e^{x_c}`.

    Parameters
    ----------
    x : array of floating-point numbers, at least 1-D
        Exponents.
    axis : int
        The axis to sum along.
    where : array of bool, broadcastable to `x`, optional
        Which elements take part.
    keepdims : bool
        Whether the axis stays, with length 1.

    Returns
    -------
    array
        `x` without `axis`; -inf for a sum of nothing.

    Raises
    ------
    TypeError
        If `x` is not an array of real floating-point numbers.
    ValueError
        If `axis` is out of range.

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
    return _engine.function(_kernels.LogSumExp, x, axis, where, keepdims)  # type: ignore[no-any-return]


def sigmoid(x: A, /) -> A:
    r"""The logistic function, elementwise: :math:`1 / (1 + e^{-x})`.

    Parameters
    ----------
    x : array of floating-point numbers, any shape
        Logits.

    Returns
    -------
    array
        The shape, dtype, library and device of `x`; in [0, 1].

    Raises
    ------
    TypeError
        If `x` is not an array of real floating-point numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import sigmoid
    >>> sigmoid(np.asarray([-100.0, 0.0])).tolist()
    [3.720075976020836e-44, 0.5]
    """
    return _engine.function(_kernels.Sigmoid, x, None, None)  # type: ignore[no-any-return]


def log_sigmoid(x: A, /) -> A:
    r"""The logarithm of the logistic function, elementwise: :math:`-\log(1 + e^{-x})`.

    Parameters
    ----------
    x : array of floating-point numbers, any shape
        Logits.

    Returns
    -------
    array
        The shape, dtype, library and device of `x`; at most 0.

    Raises
    ------
    TypeError
        If `x` is not an array of real floating-point numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import log_sigmoid
    >>> log_sigmoid(np.asarray([-300.0, 100.0])).tolist()
    [-300.0, -3.720075976020836e-44]
    """
    return _engine.function(_kernels.LogSigmoid, x, None, None)  # type: ignore[no-any-return]
