"""The loss operators of ONNX (NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, opset 13), on any array.

Inputs are positional, attributes are keywords, and the class axis is 1. A label out of range is a ValueError (nan under
a tracer), where the standard leaves it undefined.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, overload

import arrayloss
from arrayloss.compat.shared import checked
from arrayloss.extending import Problem, loss, problem
from arrayloss.gradients import problem_of

A = TypeVar("A")


@loss
def NegativeLogLikelihoodLoss(
    input: A, target: Any, weight: Any = None, /, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Problem[A]:
    """The operator NegativeLogLikelihoodLoss.

    Parameters
    ----------
    input : array of floating-point numbers, (N, C) or (N, C, d1, ...)
        Log-probabilities.
    target : array of integers, (N,) or (N, d1, ...)
        Labels.
    weight : array of shape (C,), optional
        A weight for each class.
    ignore_index : int, optional
        The label of samples that don't count.
    reduction : {"none", "mean", "sum"}
        "mean" divides by the sum of the weights of the labels that count.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `target`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import onnx
    >>> log_p = np.log(np.asarray([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(onnx.NegativeLogLikelihoodLoss(log_p, np.asarray([0, 0]), reduction="sum"))
    2.0794415416798357
    """
    checked("input", input, "target", target, (1,), labels=True, weight=weight)
    named: Any = reduction
    return problem(
        arrayloss.nll_loss, input, target, axis=1, class_weight=weight, ignore_index=ignore_index, reduction=named
    )


@loss
def _softmax_cross_entropy(
    scores: A, labels: Any, weights: Any = None, /, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Problem[A]:
    checked("scores", scores, "labels", labels, (1,), labels=True, weights=weights)
    named: Any = reduction
    return problem(
        arrayloss.cross_entropy,
        scores,
        labels,
        axis=1,
        class_weight=weights,
        ignore_index=ignore_index,
        reduction=named,
    )


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
    scores : array of floating-point numbers, (N, C) or (N, C, d1, ...)
        Logits.
    labels : array of integers, (N,) or (N, d1, ...)
        Labels.
    weights : array of shape (C,), optional
        A weight for each class.
    ignore_index : int, optional
        The label of samples that don't count.
    reduction : {"none", "mean", "sum"}
        "mean" divides by the sum of the weights of the labels that count.
    log_prob : bool
        Whether the operator's second output is asked for.

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
    value = _softmax_cross_entropy(scores, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return (value, arrayloss.log_softmax(scores, axis=1)) if log_prob else value


# For `value_and_grad`, which is of the first output.
vars(SoftmaxCrossEntropyLoss)["problem"] = problem_of(_softmax_cross_entropy)
