"""The focal losses of `kornia.losses` (0.9), on any array: classes along axis 1, and a mean over all elements.

A pixel that is ignored costs 0 and counts in the mean. A label out of range is a ValueError (nan under a tracer).
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from arrayloss import Mean
from arrayloss.compat.shared import along_classes, background, check_target, check_weights, focal_penalty, over_all
from arrayloss.extending import (
    Problem,
    backend_of,
    binary,
    categorical,
    check_given,
    documented,
    loss,
    sigmoid,
    softmax,
)

A = TypeVar("A")

_LOSS = """
pred : array of floating-point numbers, (B, C, ...)
    Logits.
gamma : float >= 0
    The focusing parameter: the larger it is, the less an easy pixel counts.
weight : array of shape (C,), optional
    A factor of each class; it does not change the divisor of a mean.
ignore_index : int, optional
    The target of pixels that cost 0.
"""


@loss
@documented(_LOSS)
def focal_loss(
    pred: A,
    target: Any,
    alpha: float | None,
    gamma: float = 2.0,
    reduction: str = "none",
    weight: Any = None,
    ignore_index: int | None = -100,
) -> Problem[A]:
    """`kornia.losses.focal_loss`, reduced.

    Class 0 is the background: it has the factor 1 - alpha, and all others alpha.

    Parameters
    ----------
    target : array of integers, (B, ...)
        Labels.
    alpha : float in [0, 1] or None
        The factor of all classes but 0; without it, 1 for each.
    reduction : {"mean", "sum"}
        "mean" divides by the number of logits, C times that of pixels. kornia's "none" gives an array of the shape of
        `pred` that is 0 beside each label; `arrayloss.softmax_focal_loss` has the loss of each pixel.

    Returns
    -------
    array
        0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import kornia
    >>> round(float(kornia.focal_loss(np.zeros((1, 2)), np.asarray([1]), 0.25, reduction="sum")), 6)
    0.043322
    """
    backend, x = backend_of(pred, "pred", target=check_given("target", target), weight=weight), pred
    shape = x.shape  # type: ignore[attr-defined]
    if reduction == "none":
        raise ValueError(
            'reduction must be "mean" or "sum"; for "none" there is arrayloss.softmax_focal_loss, by pixel'
        )
    check_target("pred", pred, "target", target, (1,))
    check_weights("pred", pred, "weight", weight, 1)
    return categorical(
        softmax,
        focal_penalty(gamma),
        pred,
        target,
        name="pred",
        axis=1,
        alpha=background(backend, pred, alpha),
        class_weight=weight,
        ignore_index=ignore_index,
        reduction=Mean(over=math.prod(shape)) if reduction == "mean" else reduction,
    )


@loss
@documented(_LOSS)
def binary_focal_loss_with_logits(
    pred: A,
    target: Any,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    pos_weight: Any = None,
    weight: Any = None,
    ignore_index: int | None = -100,
) -> Problem[A]:
    """`kornia.losses.binary_focal_loss_with_logits`.

    Parameters
    ----------
    target : array of numbers in [0, 1], of the shape of `pred`
        Probabilities of the answer 1.
    alpha : float in [0, 1], optional
        The factor of the answer 1; that of 0 is 1 - alpha. Without it both are 1.
    reduction : {"none", "mean", "sum"}
        "mean" divides by the number of elements.
    pos_weight : array of shape (C,), optional
        A factor of the answer 1 of each class.

    Returns
    -------
    array
        The shape of `pred`, or 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import kornia
    >>> kornia.binary_focal_loss_with_logits(np.zeros((1, 2)), np.asarray([[1.0, 0.0]])).round(6).tolist()
    [[0.043322, 0.129965]]
    """
    given = {"target": check_given("target", target), "pos_weight": pos_weight, "weight": weight}
    backend = backend_of(pred, "pred", **given)
    check_target("pred", pred, "target", target)
    options: Any = {"name": "pred", "alpha": alpha, "ignore_index": ignore_index, "reduction": over_all(reduction)}
    options["pos_weight"] = along_classes(backend, pred, "pos_weight", pos_weight)
    options["sample_weight"] = along_classes(backend, pred, "weight", weight)
    return binary(sigmoid, focal_penalty(gamma), pred, target, **options)
