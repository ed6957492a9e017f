"""The accuracy that the contract asks for, as data, and what conditioning adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from arrayloss.testing import FORMATS, HALF, Case, Due, Exact, Floats, spacing
from conformance.cases import ELEMENTWISE, PAIRED, TRANSFORMS

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
        name: Due(
            numbers,
            dtype_of(case, name),
            base(case, name),
            _allowance(case, name, numbers, terms),
            terms,
            _factor(case) * _seed(case, name),
        )
        for name, numbers in answer.items()
    }


def _allowance(case: Case, quantity: str, numbers: Exact, terms: int) -> Floats:
    """k; for a divergence, what rounding exponentials to multiples of the smallest subnormal number takes.

    Each of them is multiplied by a log ratio, so that it shows in results that are small normal numbers (`measure` sees
    to those that are none).
    """
    dtype = dtype_of(case, quantity)
    if case.function not in PAIRED or dtype in HALF:
        return allowance(case, quantity)
    size = np.where(np.isfinite(numbers.scale), np.maximum(numbers.scale, np.abs(numbers.high)), 0)
    form = FORMATS[dtype]
    underflow = terms / 2 * 2.0**form.subnormal_exponent / spacing(size, dtype)
    return np.where((size >= form.tiny) & (underflow > HALF_ULP / 2), np.ceil(underflow), 0)


def _terms(case: Case) -> int:
    """How many exponentials are added up in one number, each as often as it counts."""
    terms = 1 if case.function in ELEMENTWISE else case.arrays["logits"].shape[case.axis]
    return terms * math.ceil(_factor(case))


def _factor(case: Case) -> float:
    """What an exponential is multiplied by, at the most: what a compiler flushed may have been a normal number's."""
    if case.dtype == "float16":  # made of float32, far from where these end
        return 1.0
    if case.function in PAIRED:
        return -FORMATS[case.dtype].subnormal_exponent  # a log ratio
    if case.function == "asymmetric_loss":
        return 1 / (float(case.options.get("margin", 0.05)) or 1)
    return max(1.0, 1 + float(case.options.get("epsilon", 2.0))) if case.function == "poly_loss" else 1.0


def _seed(case: Case, quantity: str) -> float:
    """What a derivative is multiplied by, at the most: that of the value alone may have been flushed."""
    if quantity == "value" or case.cotangent is None or case.dtype == "float16":
        return 1.0
    return max(1.0, float(np.max(np.abs(case.cotangent), initial=0)))


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
    maximum of its row; for what a class costs (a loss, -log p), that of the largest other logit.
    For asymmetric_loss, what the answer 0 costs is a power of p - margin, which has the rounding of p and of the margin
    at its own size, the 4 ULP of a sigmoid: 4 margin / (p - margin), times 1 + gamma. kl_divergence has no k.
    """
    if case.function == "asymmetric_loss" and dtype_of(case, quantity) not in HALF:
        return _k_margin(case, quantity)
    if case.function in PAIRED:
        return np.zeros(())
    if case.function in ELEMENTWISE or case.function == "nll_loss" or dtype_of(case, quantity) in HALF:
        return np.zeros(())
    # An exponential further down is no number of the dtype: k is at most 52 in float32.
    end = -FORMATS[dtype_of(case, quantity)].subnormal_exponent * math.log(2) / 2
    return (1 + _gamma(case)) * np.minimum(_k(case, quantity), end)


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
    transform = case.function in TRANSFORMS
    if transform and "where" in case.arrays:
        mask = np.moveaxis(np.broadcast_to(case.arrays["where"], case.arrays["logits"].shape), case.axis, -1)
        x = np.where(mask != 0, x, -np.inf)
    with np.errstate(invalid="ignore"):
        top = np.max(x, axis=-1, keepdims=True)
        runner_up = np.partition(x, -2, axis=-1)[..., -2:-1] if x.shape[-1] > 1 else top
        far = _tame((top - x) / 2)
        # What each class costs: of the largest other logit, which is the maximum of all but its own row.
        cost = np.where(x == top, _tame((top - runner_up) / 2), 0)
    if quantity == "d logits" or (case.function == "softmax" and quantity == "value"):
        return np.moveaxis(far, -1, case.axis)
    if quantity == "d target" or case.function == "log_softmax":
        return np.moveaxis(cost, -1, case.axis)
    if case.function == "logsumexp":
        return np.zeros(())
    of_loss = _of_loss(case, cost)
    if quantity == "d sample_weight" or (quantity == "value" and case.options.get("reduction", "mean") == "none"):
        return of_loss
    # What is summed over samples is mostly the largest losses, and these have the least k.
    return np.asarray(np.min(of_loss))


def _of_loss(case: Case, cost: Floats) -> Floats:
    """k of each sample's loss, from that of what its classes cost: the least of those that it is made of."""
    if case.target_kind == "index" and not case.options.get("label_smoothing"):
        labels = np.maximum(case.arrays["target"], 0).astype(np.int64)[..., None]
        return np.asarray(np.take_along_axis(cost, labels, axis=-1)[..., 0])
    if case.target_kind == "index":
        return np.asarray(np.min(cost, axis=-1))
    shares = np.moveaxis(case.arrays["target"], case.axis, -1)
    least = np.min(np.where(shares != 0, cost, np.inf), axis=-1)
    return np.where(np.isfinite(least), least, 0)


def _tame(distance: Floats) -> Floats:
    """No allowance where a row isn't finite."""
    return np.where(np.isfinite(distance), distance, 0)
