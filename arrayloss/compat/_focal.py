"""The focal loss of torchvision, Optax and Keras where a target is between 0 and 1.

`arrayloss` weighs the loss of either answer by the target, `y (1 - p)^g (-log p) + (1 - y) p^g (-log(1 - p))`; these
three multiply the cross-entropy by one factor, `(1 - p_t)^g` with `p_t = y p + (1 - y) (1 - p)`. For 0 and 1 the two
are the same.
"""

from __future__ import annotations

from typing import Any, TypeVar

import arrayloss
from arrayloss import _checks
from arrayloss._reductions import Reduction

A = TypeVar("A")


def power(xp: Any, miss: Any, gamma: float) -> Any:
    """`miss ** gamma`, with a derivative of 0 at 0."""
    gamma = _checks.focusing(gamma)
    if gamma == 0:
        return xp.ones_like(miss)
    base = xp.where(miss > 0, miss, xp.ones_like(miss))
    return xp.where(miss == 0, xp.zeros_like(miss), base**gamma)


def weight(xp: Any, y: Any, p: Any, not_p: Any, alpha: Any, gamma: float) -> Any:
    """`(1 - p_t)^gamma`, times `alpha y + (1 - alpha) (1 - y)`."""
    factor = power(xp, y * not_p + (1 - y) * p, gamma)
    return factor if alpha is None else factor * (alpha * y + (1 - alpha) * (1 - y))


def sigmoid_focal_loss(x: A, y: Any, alpha: Any, gamma: float, reduction: str | Reduction) -> A:
    library = _checks.library(x, target=_checks.given("target", y))
    xp: Any = library.xp
    if alpha is not None and not hasattr(alpha, "ndim"):
        alpha = _checks.fraction("alpha", alpha)
    if not xp.isdtype(y.dtype, "real floating"):
        return arrayloss.sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma, reduction=reduction)
    _checks.same_shape("target", y.shape, x.shape, x.shape, "the loss is elementwise")  # type: ignore[attr-defined]
    dtype = xp.result_type(x.dtype, xp.float32)  # type: ignore[attr-defined]
    wide, target = xp.astype(x, dtype), xp.astype(y, dtype)
    factor = weight(xp, target, arrayloss.sigmoid(wide), arrayloss.sigmoid(-wide), alpha, gamma)
    return arrayloss.binary_cross_entropy_with_logits(x, y, sample_weight=factor, reduction=reduction)
