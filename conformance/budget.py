"""The accuracy that the contract asks for, as data, and what conditioning adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from arrayloss.testing import FORMATS, HALF, Case, Due, Exact, Floats
from conformance.cases import ELEMENTWISE, PAIRED

HALF_ULP = 1.0
"""Half types are computed in float32 and rounded once, so conditioning doesn't show."""

BUDGET: dict[str, tuple[float, float]] = {
    "softmax": (8, 8),
    "log_softmax": (8, 8),
    "logsumexp": (8, 8),
    "sigmoid": (4, 4),
    "log_sigmoid": (4, 4),
    "nll_loss": (8, 8),
    "cross_entropy": (8, 8),
    "binary_cross_entropy": (4, 4),
    "binary_cross_entropy_with_logits": (4, 4),
    "sigmoid_focal_loss": (8, 12),
    "softmax_focal_loss": (12, 12),
    "asymmetric_loss": (8, 12),
    "poly_loss": (8, 8),
    "kl_divergence": (8, 12),
}
"""ULP allowed to the value and to the gradient, in float32 and float64; gamma up to 2 for the focal losses."""

STEEP_FOCAL = 16.0
"""The same for a focal loss with gamma above 2."""

POLY_BELOW_0 = 12.0
"""The same for poly_loss with epsilon below 0: -log p - (1 - p) goes with (1 - p)^2, as focal with gamma 1."""


def due(case: Case, answer: Mapping[str, Exact]) -> dict[str, Due]:
    """What each quantity of a case is held to, from the exact numbers."""
    terms = _terms(case)
    return {
        name: Due(numbers, dtype_of(case, name), base(case, name), allowance(case, name), terms)
        for name, numbers in answer.items()
    }


def _terms(case: Case) -> int:
    """How many exponentials are added up in one number."""
    terms = 1 if case.function in ELEMENTWISE else case.arrays["logits"].shape[case.axis]
    if case.dtype == "float16":  # made of float32, far from where these end
        return terms
    return terms * math.ceil(_factor(case))


def _factor(case: Case) -> float:
    """What an exponential is multiplied by, at the most: what a compiler flushed may have been a normal number's."""
    if case.function in PAIRED:
        return -FORMATS[case.dtype].subnormal_exponent  # a log ratio
    if case.function == "asymmetric_loss":
        return 1 / (float(case.options.get("margin", 0.05)) or 1)
    return max(1.0, 1 + float(case.options.get("epsilon", 2.0))) if case.function == "poly_loss" else 1.0


def base(case: Case, quantity: str) -> float:
    """The budget of a quantity (`"value"`, `"d logits"`, ...) in ULP, before conditioning."""
    if case.budget is not None:
        return case.budget
    if dtype_of(case, quantity) in HALF:
        return HALF_ULP
    if _gamma(case) > 2:
        return STEEP_FOCAL
    if case.function == "poly_loss" and _gamma(case):
        return POLY_BELOW_0
    return BUDGET[case.function][quantity != "value"]


def dtype_of(case: Case, quantity: str) -> str:
    """A value has the dtype asked for, a gradient that of its input."""
    return case.result_dtype if quantity == "value" else case.dtype


def allowance(case: Case, quantity: str) -> Floats:
    """What conditioning adds to the budget of each number: k, times 1 + gamma for softmax_focal_loss.

    x - max is rounded once, and exp magnifies that rounding by its size: k is half the distance of the element from the
    maximum of its row; where 1 - p or log p of the maximum itself is measured, half the distance of the runner-up.
    For asymmetric_loss, what the answer 0 costs is a power of p - margin, which has the rounding of p and of the margin
    at its own size, the 4 ULP of a sigmoid: 4 margin / (p - margin), times 1 + gamma. kl_divergence has no allowance.
    """
    if case.function == "asymmetric_loss" and dtype_of(case, quantity) not in HALF:
        return _k_margin(case, quantity)
    if case.function in PAIRED:
        return np.zeros(())
    if case.function in ELEMENTWISE or case.function == "nll_loss" or dtype_of(case, quantity) in HALF:
        return np.zeros(())
    return (1 + _gamma(case)) * _k(case, quantity)


def _gamma(case: Case) -> float:
    """The power of 1 - p in a loss."""
    if case.function == "poly_loss":
        return float(case.options.get("epsilon", 2.0) < 0)
    if case.function == "asymmetric_loss":
        return max(float(case.options.get("gamma_positive", 1.0)), float(case.options.get("gamma_negative", 4.0)))
    return float(case.options.get("gamma", 2.0)) if "focal" in case.function else 0.0


def _k_margin(case: Case, quantity: str) -> Floats:
    margin = float(case.options.get("margin", 0.05))
    alone = case.options.get("reduction", "mean") == "none" and quantity in ("value", "d sample_weight")
    if not alone and quantity not in ("d logits", "d target"):
        return np.zeros(())
    with np.errstate(all="ignore"):
        over = 1 / (1 + np.exp(-case.arrays["logits"])) - margin
        k = 4 * margin / over
    power = 1 + float(case.options.get("gamma_negative", 4.0))
    return np.where((over > 0) & (case.arrays["target"] < 1), power * k, 0)


def _k(case: Case, quantity: str) -> Floats:
    x = np.moveaxis(case.arrays["logits"], case.axis, -1)
    if x.size == 0:
        return np.zeros(())
    if case.function in ("softmax", "log_softmax", "logsumexp") and "where" in case.arrays:
        mask = np.moveaxis(np.broadcast_to(case.arrays["where"], case.arrays["logits"].shape), case.axis, -1)
        x = np.where(mask != 0, x, -np.inf)
    with np.errstate(invalid="ignore"):
        top = np.max(x, axis=-1, keepdims=True)
        far = _tame((top - x) / 2)  # 0 at the maximum
        runner_up = np.partition(x, -2, axis=-1)[..., -2:-1] if x.shape[-1] > 1 else top
        gap = _tame((top - runner_up) / 2)
    at_top = x == top
    both = np.where(at_top, gap, far)  # where 1 - p or log p of the maximum is measured too

    if case.function in ("softmax", "log_softmax", "logsumexp"):
        return _k_transform(case, quantity, far, gap, both)
    if case.target_kind == "index":
        labels = np.maximum(case.arrays["target"], 0).astype(np.int64)[..., None]
        own = np.where(np.take_along_axis(at_top, labels, axis=-1), gap, 0)
        smoothed = bool(case.options.get("label_smoothing"))
        of_loss = gap if smoothed else own
        of_logits = both if smoothed else np.where(np.arange(x.shape[-1]) == labels, own, far)
    else:
        of_loss, of_logits = gap, both
    reduced = case.options.get("reduction", "mean") != "none"
    if quantity in ("d logits", "d target"):
        return np.moveaxis(of_logits if quantity == "d logits" else both, -1, case.axis)
    if quantity == "d sample_weight" or (quantity == "value" and not reduced):
        return np.asarray(of_loss[..., 0])
    return np.asarray(np.max(of_loss, initial=0))


def _k_transform(case: Case, quantity: str, far: Floats, gap: Floats, both: Floats) -> Floats:
    if case.function == "logsumexp":
        if quantity == "value":
            return gap if case.options.get("keepdims") else np.asarray(gap[..., 0])
        return np.moveaxis(far, -1, case.axis)
    if quantity == "value":
        return np.moveaxis(far if case.function == "softmax" else both, -1, case.axis)
    if case.cotangent is None:
        return np.moveaxis(both, -1, case.axis)
    g = np.moveaxis(case.cotangent, case.axis, -1)
    alone = np.sum(g != 0, axis=-1, keepdims=True) == 1
    chosen = g != 0
    # One class pulled alone: its own element is p (1 - p) or 1 - p; the others p_j p_t (two distances) or p_j.
    pulled = np.sum(np.where(chosen, far, 0), axis=-1, keepdims=True) if case.function == "softmax" else 0
    return np.moveaxis(np.where(alone, np.where(chosen, both, far + pulled), both), -1, case.axis)


def _tame(distance: Floats) -> Floats:
    """No allowance where a row isn't finite."""
    return np.where(np.isfinite(distance), distance, 0)
