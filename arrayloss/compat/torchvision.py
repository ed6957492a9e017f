"""The loss of `torchvision.ops` (0.28) that `arrayloss` has too, on any array."""

from __future__ import annotations

from typing import Any, TypeVar

from arrayloss.compat.shared import blended_focal, over_all
from arrayloss.extending import Problem, check_at_least, loss, sigmoid

A = TypeVar("A")


@loss
def sigmoid_focal_loss(
    inputs: A, targets: Any, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Problem[A]:
    """`torchvision.ops.sigmoid_focal_loss`.

    For targets strictly between 0 and 1, the factor is torchvision's: `(1 - p_t)^gamma` with the blended p_t.
    `arrayloss.sigmoid_focal_loss` has another factor there.

    Parameters
    ----------
    inputs : array of floating-point numbers, any shape
        Logits.
    targets : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `inputs`
        Probabilities of the answer 1.
    alpha : float in [0, 1], or -1
        The factor of the answer 1; the factor of the answer 0 is 1 - alpha. If alpha is -1, both factors are 1.
    gamma : float >= 0
        The focusing parameter: the larger it is, the less a well-classified element counts.
    reduction : {"none", "mean", "sum"}
        "mean" divides by the number of elements.

    Returns
    -------
    array
        The shape of `inputs`, or 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat.torchvision import sigmoid_focal_loss
    >>> sigmoid_focal_loss(np.zeros(2), np.asarray([1.0, 0.0])).round(6).tolist()
    [0.043322, 0.129965]
    """
    share = check_at_least("alpha", -1, alpha)
    if isinstance(share, (int, float)) and share == -1:
        share = None
    names = ("inputs", "targets")
    return blended_focal(sigmoid, inputs, targets, names, gamma=gamma, alpha=share, reduction=over_all(reduction))
