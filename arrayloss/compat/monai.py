"""The focal loss of `monai.losses` (1.6), on any array: a function, called with the options of the class.

Classes are along axis 1, and a mean is over all elements. MONAI computes in float32; here it is the dtype of the input.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, TypeVar

from arrayloss import Mean
from arrayloss.compat.shared import along_classes, background, check_target, focal_penalty
from arrayloss.extending import Problem, backend_of, binary, categorical, check_given, loss, sigmoid, softmax

A = TypeVar("A")


@loss
def FocalLoss(
    input: A,
    target: Any,
    *,
    gamma: float = 2.0,
    alpha: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    use_softmax: bool = False,
) -> Problem[A]:
    """`monai.losses.FocalLoss(...)(input, target)`.

    There is no `include_background`, `to_onehot_y` or `ignore_index`. Instead, pass `input[:, 1:]`, one-hot targets,
    and only the classes and pixels that count.

    Parameters
    ----------
    input : array of floating-point numbers, (B, C, ...)
        Logits.
    target : array of floating-point numbers, of the shape of `input`
        0 and 1. For numbers between, the sigmoid loss is that of `arrayloss.sigmoid_focal_loss`, which is not MONAI's.
    gamma : float >= 0
        The focusing parameter: the larger it is, the less an easy element counts.
    alpha : float in [0, 1], or one for each class, optional
        With a softmax, a float is the factor of all classes but class 0, whose factor is 1 - alpha. With a sigmoid, it
        is the factor of the answer 1, and 1 - alpha that of the answer 0. If there is one for each class, it is the
        factor of this class, or with a sigmoid of its answer 1.
    weight : float, or one for each class, optional
        A factor of each class.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements; "sum" by the number of pixels, as MONAI's does. With a softmax, there
        is no "none": MONAI's gives an array of the shape of `input`, which is 0 beside each label.
    use_softmax : bool
        Whether classes exclude each other.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import monai
    >>> x, y = np.zeros((1, 2)), np.asarray([[0.0, 1.0]])
    >>> round(float(monai.FocalLoss(x, y)), 6), round(float(monai.FocalLoss(x, y, alpha=0.25, use_softmax=True)), 6)
    (0.173287, 0.021661)
    """
    x: Any = input
    backend = backend_of(x, "input", target=check_given("target", target))
    check_target("input", x, "target", target)

    def by_class(values: Any) -> Any:
        """One number for each class as an array, also from a list or a single number."""
        if values is None or hasattr(values, "ndim"):
            return values
        made = [float(values)] * x.shape[1] if isinstance(values, numbers.Real) else values
        return backend.xp.asarray(made, dtype=x.dtype, device=backend.device(x))

    over = {"mean": math.prod(x.shape), "sum": math.prod(x.shape[2:])}
    how: Any = Mean(over=over[reduction]) if reduction in over else reduction
    options: Any = {"name": "input", "reduction": how}
    weight, one = by_class(weight), alpha is None or isinstance(alpha, numbers.Real)
    if use_softmax:
        if reduction == "none":
            raise ValueError('with a softmax, reduction must be "mean" or "sum"')
        options |= {"alpha": background(backend, x, alpha) if one else by_class(alpha), "class_weight": weight}
        return categorical(softmax, focal_penalty(gamma), x, target, axis=1, **options)
    options |= {"alpha": alpha} if one else {"pos_weight": along_classes(backend, x, "alpha", by_class(alpha))}
    options["sample_weight"] = along_classes(backend, x, "weight", weight)
    return binary(sigmoid, focal_penalty(gamma), x, target, **options)
