"""The loss operators of ONNX (NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, opset 13), on any array.

Inputs are positional, attributes are keywords, and the class axis is 1. A label out of range raises ValueError (under a
tracer, its loss is nan). The standard does not define what happens then.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeVar, overload

import arrayloss
from arrayloss.compat.shared import check_integers, check_target, check_weights
from arrayloss.extending import Problem, backend_of, check_given, documented, loss, problem

A = TypeVar("A")

_LOSS = """
input : array of floating-point numbers, (N, C) or (N, C, d1, ...)
    Log-probabilities.
scores : array of floating-point numbers, (N, C) or (N, C, d1, ...)
    Logits.
target : array of integers, (N,) or (N, d1, ...)
    Labels.
labels : array of integers, (N,) or (N, d1, ...)
    Labels.
weight : array of shape (C,), optional
    A weight for each class.
weights : array of shape (C,), optional
    A weight for each class.
ignore_index : int, optional
    The label of samples that don't count.
reduction : {"none", "mean", "sum"}
    "mean" divides by the sum of the weights of the labels that count.
Returns
    array
        0-d, or with `reduction="none"` the shape of the labels.
"""


def _problem(loss: Any, names: tuple[str, str, str], x: Any, labels: Any, weights: Any, **options: Any) -> Problem[Any]:
    """The problem of an operator; errors call its inputs by the names of the operator."""
    name, labels_name, weights_name = names
    backend = backend_of(x, name, **{labels_name: check_given(labels_name, labels), weights_name: weights})
    check_integers(labels_name, backend, labels)
    check_target(name, x, labels_name, labels, (1,))
    check_weights(name, x, weights_name, weights, 1)
    return problem(loss, x, labels, axis=1, class_weight=weights, **options)


@loss
@documented(_LOSS)
def NegativeLogLikelihoodLoss(
    input: A, target: Any, weight: Any = None, /, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Problem[A]:
    """The operator NegativeLogLikelihoodLoss.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import onnx
    >>> log_p = np.log(np.asarray([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(onnx.NegativeLogLikelihoodLoss(log_p, np.asarray([0, 0]), reduction="sum"))
    2.0794415416798357
    """
    names, options = ("input", "target", "weight"), {"ignore_index": ignore_index, "reduction": reduction}
    return _problem(arrayloss.nll_loss, names, input, target, weight, **options)


@loss
def _cross_entropy(scores: A, labels: Any, weights: Any = None, /, **options: Any) -> Problem[A]:
    return _problem(arrayloss.cross_entropy, ("scores", "labels", "weights"), scores, labels, weights, **options)


@overload
def SoftmaxCrossEntropyLoss(
    scores: A,
    labels: Any,
    weights: Any = None,
    /,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    log_prob: Literal[False] = False,
) -> A: ...
@overload
def SoftmaxCrossEntropyLoss(
    scores: A,
    labels: Any,
    weights: Any = None,
    /,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    log_prob: Literal[True],
) -> tuple[A, A]: ...
@documented(_LOSS)
def SoftmaxCrossEntropyLoss(
    scores: A,
    labels: Any,
    weights: Any = None,
    /,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    log_prob: bool = False,
) -> A | tuple[A, A]:
    """The operator SoftmaxCrossEntropyLoss.

    Parameters
    ----------
    log_prob : bool
        Whether to return the second output of the operator too.

    Returns
    -------
    array, or two
        The loss, 0-d or with `reduction="none"` of the shape of `labels`; and the log-probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import onnx
    >>> loss, log_p = onnx.SoftmaxCrossEntropyLoss(np.asarray([[0.0, np.log(3.0)]]), np.asarray([1]), log_prob=True)
    >>> round(float(loss), 6), np.exp(log_p).round(6).tolist()
    (0.287682, [[0.25, 0.75]])
    """
    value = _cross_entropy(scores, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return (value, arrayloss.log_softmax(scores, axis=1)) if log_prob else value


# For `value_and_grad`, which differentiates the first output.
vars(SoftmaxCrossEntropyLoss)["problem"] = partial(problem, _cross_entropy)  # type: ignore[arg-type]
